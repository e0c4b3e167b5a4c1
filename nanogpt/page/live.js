// The model in the page: a box in which one types and it writes, the choice of each character, and its settings.

import { comparison, data, heads, layers, live, reading } from "./data.js";
import { byId, element, put, say, within } from "./elements.js";
import { choose, state, whenever } from "./state.js";
import { minus, percent, shortName, signed, visible } from "./words.js";
import { beginning, expected, openModel, split } from "./writer.js";

const BARS = 12; // likeliest characters shown
const FURTHER = 100; // characters written at a time once the window is full
const LONGEST = 10_000; // characters that a link can ask for

/** The text in the box is a function of these alone, and so a link that holds them holds the text. */
const wish = { prompt: "", count: 0, seed: 1337, temperature: 0.8, top_k: null, top_p: null, off: [] };

let ask; // the model for the text of a wish
let written = []; // the characters that follow the prompt
let shown = data.pieces.join("");
let writing = false;
let begun = 0; // milliseconds

export function startLive() {
  byId("live").hidden = byId("off").hidden = false;
  put("live-facts", facts());
  ask = openModel(show, fail);
  box();
  buttons();
  settings();
  bars();
  switches();
  addEventListener("hashchange", () => fromLink() && want(fromLink()));
  byId("box").value = shown;
  want(fromLink() ?? { prompt: shown });
}

function facts() {
  const { block_size, n_layer, n_head } = live.config, [full, here] = live.losses ?? [];
  const cost = live.losses
    ? `, which costs ${minus((here - full).toFixed(4))} nats: the validation loss is ${here.toFixed(4)}, and `
      + `${full.toFixed(4)} in float32`
    : "; what that costs was not measured";
  return `The model itself is in this page, with its weights in ${live.dtype}${cost}. It sees the last ${block_size} `
    + `characters, through ${n_layer * n_head} heads, which you can watch below. Nothing that you type leaves the page.`;
}

/** Ask for another text. */
function want(change) {
  Object.assign(wish, change);
  begun = performance.now();
  const { unknown, known } = split(wish.prompt);
  byId("unknown").hidden = !Object.keys(unknown).length;
  const words = `The model does not know ${[...new Set(Object.values(unknown).join(""))].map(visible).join(" ")}: it reads `
    + "the text without.";
  put("unknown", words);
  writing = wish.count > 0;
  if (known.length) ask(wish);
  else written = [];
  refresh();
}

/** Show an answer. */
function show(answer) {
  const { done, losses } = answer, last = reading.pieces.length - 1;
  written = answer.written;
  const text = wish.prompt + written.join(""), isOther = text !== shown;
  shown = text;
  if (byId("box").value !== text) byId("box").value = text;
  byId("box").scrollTop = writing ? byId("box").scrollHeight : byId("box").scrollTop;
  if (done) writing = false;
  if (comparison) byId("comparing").hidden = reading.pieces !== data.pieces; // the other model read that text alone
  const moved = { cell: null, view: "mine", at: state.held ? within(0, state.at, last) : last };
  choose({ reading: state.reading + 1, ...(isOther ? moved : {}) });
  if (done) {
    put("told", told(losses));
    if (written.length || losses) say(`${written.join("")} ${told(losses)}`);
  }
  refresh();
}

function told(losses) {
  const seconds = (performance.now() - begun) / 1000, { length } = written;
  const pace = length > 1 ? `${length} characters in ${seconds.toFixed(2)} s, ${Math.round(length / seconds)} a second. ` : "";
  if (losses?.[0] === null) return pace;
  if (losses) {
    const [all, without] = losses, names = wish.off.map(shortName).join(", ");
    return `${pace}The loss of the prompt is ${without.toFixed(3)} nats a character without ${names}, and `
      + `${all.toFixed(3)} with all heads: ${signed(without - all, 3)}.`;
  }
  const mean = reading.losses.reduce((sum, loss) => sum + loss, 0) / reading.losses.length;
  return reading.losses.length ? `${pace}The loss of the text is ${mean.toFixed(3)} nats a character.` : pace;
}

function fail(message) {
  byId("live").hidden = byId("off").hidden = true;
  put("notice", `The model in this page can’t be run: ${message}.`);
  byId("notice").hidden = false;
}

function refresh() {
  const isEmpty = !split(wish.prompt).known.length;
  put("write", writing ? "Pause" : "Write");
  byId("write").disabled = byId("forward").disabled = isEmpty;
  byId("back").disabled = !written.length;
  if (isEmpty) put("told", "The model goes on from a text: type at least one character that it knows.");
}

function box() {
  byId("box").oninput = () => want({ prompt: byId("box").value, count: 0 });
  byId("box").onkeydown = (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    byId("write").click();
  };
}

function buttons() {
  const room = () => live.config.block_size - reading.start - reading.pieces.length;
  const more = () => (room() > 0 && !reading.start ? room() : FURTHER);
  byId("write").onclick = () => want({ count: written.length + (writing ? 0 : more()) });
  byId("back").onclick = () => want({ count: written.length - 1 });
  byId("forward").onclick = () => want({ count: written.length + 1 });
  byId("copy").onclick = () => copy(byId("box").value, "The text is copied.");
  byId("share").onclick = () => {
    history.replaceState(null, "", `#${link()}`);
    copy(location.href, "The link is copied, and in the address bar. It holds the prompt, the seed and the settings.");
  };
}

async function copy(text, copied) {
  try {
    await navigator.clipboard.writeText(text);
    put("told", copied);
  } catch {
    put("told", "This browser does not let the page copy.");
  }
}

/** The wish as the fragment of an address. */
function link() {
  const all = Object.entries({ ...wish, count: written.length, off: wish.off.join(" ") });
  return new URLSearchParams(all.filter(([, value]) => value !== null && value !== "")).toString();
}

/** The wish in the fragment of the address, or null. Numbers that make no sense take the default. */
function fromLink() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name, least, most, otherwise) => {
    const value = Number(given.get(name) ?? NaN);
    return value >= least && value <= most ? value : otherwise;
  };
  const whole = (...limits) => Math.floor(number(...limits));
  const off = (given.get("off") ?? "").split(" ").filter(Boolean).map(Number);
  return given.has("prompt") ? {
    prompt: given.get("prompt"),
    count: whole("count", 0, LONGEST, 0),
    seed: whole("seed", 0, 2 ** 32 - 1, 1337),
    temperature: number("temperature", 1e-6, 2, given.get("temperature") === "0" ? 0 : 0.8),
    top_k: whole("top_k", 1, live.config.vocab_size, 0) || null,
    top_p: number("top_p", 1e-6, 1, null),
    off: off.filter((head) => Number.isInteger(head) && head >= 0 && head < layers * heads),
  } : null;
}

/** Sliders: the chances follow them as they move, and the text once they rest. */
function settings() {
  const most = { top_k: live.config.vocab_size, top_p: 1 };
  byId("top_k").max = most.top_k;
  const move = (input) => {
    const value = Number(input.value);
    wish[input.id] = value === most[input.id] ? null : value;
    choose({ policy: state.policy + 1 });
  };
  for (const input of byId("settings").querySelectorAll("input")) {
    input.oninput = () => input.validity.valid && input.value && move(input);
    input.onchange = () => want({});
    whenever(["policy", "reading"], () => {
      const value = wish[input.id] ?? most[input.id];
      if (document.activeElement !== input) input.value = value;
      if (input.type === "range") input.nextElementSibling.textContent = wish[input.id] === null ? "all" : value;
    });
  }
}

/** The chances of the next character, as buttons: the model goes on from the one that is pressed. */
function bars() {
  const made = Array.from({ length: Math.min(BARS, live.config.vocab_size) }, (_, rank) => {
    const [bar, line, name] = [element("i"), element("i", { className: "plain" }), element("span")];
    return element("button", { onclick: () => branch(rank) }, bar, line, name);
  });
  byId("chances").append(...made);
  whenever(["reading", "at", "policy"], () => {
    if (!reading.logits) return;
    const next = reading.pieces[state.at + 1], all = expected(state.at, wish).slice(0, BARS);
    const most = Math.max(...all.map(({ mine, plain }) => Math.max(mine, plain)));
    put("chances-label", `After ‘${visible(reading.pieces[state.at])}’`, ` (${state.at + 1} of ${reading.pieces.length})`);
    all.forEach(({ character, mine, plain }, rank) => {
      const [bar, line, name] = made[rank].children;
      bar.style.height = `${(100 * mine) / most}%`;
      line.style.bottom = `${(100 * plain) / most}%`;
      name.textContent = visible(character);
      made[rank].ariaLabel = `${visible(character)}, ${percent(mine)}, and ${percent(plain)} without settings`;
      made[rank].title = made[rank].ariaLabel;
      made[rank].classList.toggle("next", character === next);
    });
  });
}

/** Go on from another character after the chosen one, to the same length. */
function branch(rank) {
  const { character } = expected(state.at, wish)[rank], text = wish.prompt + written.join("");
  const kept = reading.start + state.at + 1, { length } = split(text).known;
  want({ prompt: beginning(text, kept) + character, count: Math.max(0, length - kept - 1) });
}

/** The button that switches the chosen head off and on. */
function switches() {
  byId("off").onclick = () => {
    const isOff = wish.off.includes(state.head);
    want({ off: isOff ? wish.off.filter((head) => head !== state.head) : [...wish.off, state.head].sort((a, b) => a - b) });
  };
  whenever(["head", "reading"], () => {
    byId("off").setAttribute("aria-pressed", wish.off.includes(state.head));
    byId("thumbnails").querySelectorAll("button").forEach((button, head) => {
      button.classList.toggle("off", wish.off.includes(head));
    });
  });
}
