// The text in colours, the strongest attention of the chosen piece, and the model's guesses of the next one.

import { colourAt, palette, theme, tint } from "./colours.js";
import { cellOf, codesOf, comparison, heads, isDifference, layers, maps, reading, unit, valueOf } from "./data.js";
import { ARROWS, byId, element, pieceElement, put, within } from "./elements.js";
import { choose, state, whenever } from "./state.js";
import { nameOf, percent, quoted, shown, spoken, visible } from "./words.js";

const STRONGEST = 5;
const surpriseAt = (index) => (index ? reading.losses[index - 1] : 0); // the first piece is not predicted
const greatest = () => Math.max(...reading.losses, 1e-9);

/** The byte of a piece in the row or column of the chosen piece; null for a future key. */
function codeFor(index, head = state.head) {
  const [query, key] = state.mode === "from" ? [index, state.at] : [state.at, index];
  return key <= query ? codesOf(head)[cellOf(query, key)] : null;
}

/** Elements of the pieces and of the unknown characters between them. */
function withBreaks(options) {
  const unknown = (index) => [...(reading.unknown[index] ?? "")].map((character) => {
    return element("s", { title: "The model does not know this character, and skips it." }, visible(character));
  });
  // A sign replaces a line break or tab, so the character itself must follow it.
  const all = options.flatMap((option, index) => {
    return [...unknown(index), option, ...(reading.pieces[index].match(/[\n\t]+$/) ?? [])];
  });
  return [...all, ...unknown(options.length)];
}

export function text() {
  const box = byId("text");
  let options = [];
  whenever(["reading"], () => {
    options = reading.pieces.map((piece, index) => {
      return pieceElement(piece, { id: `piece-${index}`, role: "option", ariaLabel: spoken(piece) });
    });
    box.replaceChildren(...withBreaks(options));
  });
  const indexOf = (event) => options.indexOf(event.target.closest("#text span"));
  box.onpointerover = (event) => {
    const at = indexOf(event);
    if (at >= 0 && !state.held) choose({ at, cell: null });
  };
  box.onclick = (event) => {
    const at = indexOf(event);
    if (at >= 0) choose({ at, cell: null, held: !(state.held && state.at === at) });
  };
  box.onkeydown = (event) => {
    const at = reached(event.key, options);
    if (at === undefined) return;
    event.preventDefault();
    choose({ at, cell: null, held: true });
    options[at].scrollIntoView({ block: "nearest" });
  };
  whenever([], () => colour(options));
  whenever(["at"], () => box.setAttribute("aria-activedescendant", options[state.at].id));
}

/** The index of the piece that a keyboard key moves to; undefined for other keys. */
function reached(key, options) {
  const last = options.length - 1;
  if (key === "Home") return 0;
  if (key === "End") return last;
  const [across, down] = ARROWS[key] ?? [0, 0];
  if (across) return within(0, state.at + across, last);
  if (!down) return undefined;
  // Up and down go to the nearest piece in the next line on this screen.
  const places = options.map((option) => option.getClientRects()[0]);
  const here = places[state.at];
  const isBeyond = (place) => down * (place.top - here.top) > here.height / 2;
  const line = places[down > 0 ? "find" : "findLast"](isBeyond)?.top;
  const distance = (index) => Math.abs(places[index].left - here.left);
  const inLine = [...places.keys()].filter((index) => places[index].top === line);
  return inLine.reduce((best, index) => (distance(index) < distance(best) ? index : best), inLine[0]);
}

function colour(options, head) {
  const colours = palette(), most = greatest();
  options.forEach((option, index) => {
    const code = codeFor(index, head);
    const byLoss = () => colourAt(maps[theme()], Math.round((255 * surpriseAt(index)) / most));
    const rgb = state.mode === "surprise" ? byLoss() : colours[code];
    tint(option, rgb);
    option.classList.toggle("out-of-sight", !rgb);
    option.classList.toggle("pointed", state.cell?.[1] === index);
    option.ariaSelected = index === state.at;
  });
}

/** The same text in the colours of a second head. */
export function secondText() {
  const names = Array.from({ length: layers * heads }, (_, head) => element("option", { value: head }, nameOf(head)));
  put("second", element("option", { value: "" }, "no other head"), ...names);
  byId("second").onchange = ({ target }) => choose({ second: target.value === "" ? null : Number(target.value) });
  whenever([], () => {
    byId("second-text").hidden = state.second === null;
    if (state.second === null) return;
    const spans = reading.pieces.map((piece) => pieceElement(piece));
    put("second-text", ...withBreaks(spans));
    colour(spans, state.second);
  });
}

export function legend() {
  const bar = element("canvas", { width: 256, height: 1, ariaHidden: true });
  const [low, high, hold] = ["span", "span", "span"].map((tag) => element(tag));
  put("text-legend", low, bar, high, hold);
  whenever(["mode", "scale", "view", "dark", "held", "reading"], () => {
    const surprise = state.mode === "surprise", apart = isDifference() && !surprise;
    const ends = surprise ? ["0", `${greatest().toFixed(1)} nats`]
      : apart ? [-comparison.scale, comparison.scale].map(shown) : ["0 %", "100 %"];
    [low.textContent, high.textContent] = ends;
    hold.textContent = state.held ? "held; click it again to release it" : "a click holds it";
    const map = maps[theme() + (apart ? "_difference" : "")];
    const image = new ImageData(256, 1);
    for (let i = 0; i < 256; i++) image.data.set([...colourAt(map, entryAt(i, surprise, apart)), 255], 4 * i);
    bar.getContext("2d").putImageData(image, 0, 0);
  });
}

/** Entry of the colour map at one of 256 even steps of the values. */
function entryAt(step, surprise, apart) {
  const value = apart ? (step - 128) / 127 : step / 255;
  const scaled = state.scale === "root" && !surprise ? Math.sign(value) * Math.sqrt(Math.abs(value)) : value;
  return within(0, Math.round(apart ? 128 + 127 * scaled : 255 * scaled), 255);
}

/** Tables for the chosen piece: its strongest attention (to others or from others), and guesses of the next one. */
export function tables() {
  whenever([], () => {
    const { attends, strongest, expects, guesses, next } = findings(quoted);
    rows("strongest", attends, strongest);
    rows("guesses", expects, guesses);
    put("next", next);
  });
}

/** The same in one paragraph, as it is read aloud. */
export function tablesInWords() {
  const { attends, strongest, expects, guesses, next } = findings(spoken);
  const list = (entries) => {
    return entries.map(({ piece, note, figure }) => `${spoken(piece)}${note && `, ${note}`}, ${figure}`).join("; ");
  };
  return `${attends}: ${list(strongest)}. ${expects}: ${list(guesses)}. ${next}`;
}

/** What is found at the chosen piece: rows of tables, and sentences in which `name` writes a piece. */
function findings(name) {
  const { at } = state, { pieces, likeliest } = reading;
  const piece = name(pieces[at]), next = pieces[at + 1], loss = surpriseAt(at + 1);
  const codes = pieces.map((_, index) => [index, codeFor(index)]).filter(([, code]) => code !== null);
  const values = codes.map(([index, code]) => [index, valueOf(code)]);
  values.sort(([, a], [, b]) => Math.abs(b) - Math.abs(a));
  const whole = isDifference() ? comparison.scale : 1;
  return {
    attends: `${piece} ${state.mode === "from" ? "is attended to by" : "attends to"}`,
    strongest: values.slice(0, STRONGEST).map(([index, value]) => ({
      piece: pieces[index], note: distance(index - at), figure: shown(value), share: Math.abs(value) / whole,
    })),
    expects: `After ${piece} the model expects`,
    guesses: likeliest[at].map(([guess, share]) => ({
      piece: guess, note: guess === next ? "came next" : "", figure: percent(share), share,
    })),
    next: next === undefined
      ? "The text ends here."
      : `The next ${unit} was ${name(next)}: probability ${percent(Math.exp(-loss))}, loss ${loss.toFixed(2)} nats.`,
  };
}

function distance(offset) {
  return offset === 0 ? "itself" : `${Math.abs(offset)} ${offset < 0 ? "before" : "after"}`;
}

function rows(id, caption, entries) {
  byId(id).caption.textContent = caption;
  byId(id).tBodies[0].replaceChildren(...entries.map(({ piece, note, figure, share }) => {
    const head = element("th", { scope: "row" }, visible(piece));
    const row = element("tr", {}, head, element("td", {}, note), element("td", {}, figure));
    row.style.setProperty("--share", share);
    return row;
  }));
}
