// Pictures of the heads: a small one of each, and a large one of the chosen head.

import { palette } from "./colours.js";
import { cellOf, codesOf, heads, isDifference, largest, layers, reading, report, valueOf } from "./data.js";
import { ARROWS, byId, element, put, within } from "./elements.js";
import { choose, state, whenever } from "./state.js";
import { nameOf, quoted, shown, visible } from "./words.js";

const THUMBNAIL = 64; // most pixels on a side
const LABELLED = 40; // most pieces that the large picture has room to name
const EXPLAINED = 12; // fewest pieces that leave room for the explanation

/** Colour a canvas, one pixel for each block of cells; the half with future keys stays clear. */
function paint(canvas, head, block) {
  const { length } = reading.pieces, side = Math.ceil(length / block);
  const codes = codesOf(head);
  // A pixel as one number, which holds its four bytes from the last to the first.
  const colours = palette().map(([red, green, blue]) => (255 << 24) | (blue << 16) | (green << 8) | red);
  const none = isDifference() ? 128 : 0;
  // A block shows its strongest cell, so that a line one cell wide does not fade.
  const strongest = new Int16Array(side * side).fill(-1);
  for (let query = 0; query < length; query++) {
    for (let key = 0; key <= query; key++) {
      const pixel = Math.floor(query / block) * side + Math.floor(key / block);
      const code = codes[cellOf(query, key)], before = strongest[pixel];
      if (before < 0 || Math.abs(code - none) > Math.abs(before - none)) strongest[pixel] = code;
    }
  }
  const image = new ImageData(side, side), pixels = new Int32Array(image.data.buffer);
  strongest.forEach((code, pixel) => {
    if (code >= 0) pixels[pixel] = colours[code];
  });
  canvas.width = canvas.height = side;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export function thumbnails() {
  const grid = byId("thumbnails");
  grid.style.setProperty("--heads", heads);
  const buttons = Array.from({ length: layers * heads }, (_, head) => {
    const className = report?.heads[head].role ? "role" : "";
    return element("button", { className, onclick: () => choose({ head }) }, element("canvas"));
  });
  for (let layer = 0; layer < layers; layer++) {
    grid.append(element("span", { ariaHidden: true }, String(layer)));
    grid.append(...buttons.slice(layer * heads, (layer + 1) * heads));
  }
  grid.onkeydown = (event) => {
    const [across, down] = ARROWS[event.key] ?? [0, 0];
    const head = state.head + across + down * heads;
    if (head === state.head || !buttons[head]) return;
    event.preventDefault();
    choose({ head });
    buttons[head].focus();
  };
  whenever(["view", "scale", "dark", "reading"], () => buttons.forEach((button, head) => {
    paint(button.firstChild, head, Math.ceil(reading.pieces.length / THUMBNAIL));
    const role = report ? `: ${report.heads[head].role ?? "no claim"}` : "";
    const apart = isDifference() ? `, differs by ${shown(largest(head))} at most` : "";
    button.ariaLabel = button.title = nameOf(head) + role + apart;
  }));
  whenever(["head"], () => buttons.forEach((button, head) => {
    button.setAttribute("aria-pressed", head === state.head);
    button.tabIndex = head === state.head ? 0 : -1;
  }));
}

const part = (cells) => `${(100 * cells) / reading.pieces.length}%`;

export function picture() {
  const frame = byId("picture"), canvas = frame.querySelector("canvas");
  // A new size in the next frame, since an observer must not change what it observes.
  new ResizeObserver(() => requestAnimationFrame(() => fit(frame))).observe(frame.parentElement);
  const pointAt = (cell) => choose({ cell, ...(cell && !state.held ? { at: cell[0] } : {}) });
  canvas.onpointermove = (event) => pointAt(cellUnder(event));
  canvas.onpointerleave = () => pointAt(null);
  canvas.onclick = (event) => {
    const cell = cellUnder(event);
    if (cell) choose({ at: cell[0], cell, held: true });
  };
  canvas.onkeydown = (event) => {
    if (!ARROWS[event.key]) return;
    event.preventDefault();
    const [query, key] = state.cell ?? [state.at, state.at];
    const [across, down] = ARROWS[event.key];
    const at = within(0, query + down, reading.pieces.length - 1);
    choose({ at, cell: [at, within(0, key + across, at)], held: true });
  };
  let labels = [];
  whenever(["reading"], () => {
    const { pieces } = reading;
    fit(frame);
    frame.querySelector(".corner").hidden = pieces.length < EXPLAINED;
    for (const label of labels) label.remove();
    // Labels stand beside the diagonal, where a row ends and a column begins.
    labels = pieces.length > LABELLED ? [] : pieces.map((piece, index) => {
      const label = element("span", { ariaHidden: true }, visible(piece));
      Object.assign(label.style, { left: part(index + 1), top: part(index), height: part(1) });
      return label;
    });
    frame.append(...labels);
  });
  whenever(["head", "view", "scale", "dark", "reading"], () => {
    paint(canvas, state.head, 1);
    canvas.ariaLabel = `Attention of ${nameOf(state.head)}, cell by cell`;
  });
  const [row, column] = frame.querySelectorAll("i");
  whenever(["at", "cell", "mode", "head", "view", "reading"], () => {
    const [query, key] = state.cell ?? (state.mode === "from" ? [null, state.at] : [state.at, null]);
    row.hidden = query === null;
    column.hidden = key === null;
    Object.assign(row.style, { top: part(query), height: part(1), width: part(query + 1) });
    Object.assign(column.style, { left: part(key), top: part(key), width: part(1) });
    const [figure, rest] = state.cell ? readout(state.cell, quoted) : ["", "Point at a cell or use the arrow keys."];
    put("readout", element("b", {}, figure), rest);
  });
}

/** Make every cell the same whole number of screen pixels wide, if there are enough pixels. */
function fit(frame) {
  const { length } = reading.pieces, pixels = frame.parentElement.clientWidth * devicePixelRatio;
  const side = pixels < length ? pixels : pixels - (pixels % length);
  frame.style.width = frame.style.height = `${side / devicePixelRatio}px`;
}

function cellUnder({ target, clientX, clientY }) {
  const box = target.getBoundingClientRect(), { length } = reading.pieces;
  const query = within(0, Math.floor((length * (clientY - box.top)) / box.height), length - 1);
  const key = within(0, Math.floor((length * (clientX - box.left)) / box.width), length - 1);
  return key <= query ? [query, key] : null;
}

/** The weight of a cell, and the rest of a sentence about it, in which `name` writes a piece. */
export function readout([query, key], name) {
  const { pieces } = reading, value = valueOf(codesOf(state.head)[cellOf(query, key)]);
  const where = key === query ? "itself" : `${name(pieces[key])}, ${query - key} before`;
  const whose = ` of the attention of ${name(pieces[query])} (${query + 1} of ${pieces.length}) is on ${where}.`;
  return [shown(value), whose];
}
