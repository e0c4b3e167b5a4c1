// The figures in the page, unpacked, and the numbers and words made from them. Nothing is fetched.

const data = JSON.parse(document.getElementById("data").textContent);
const { pieces, layers, heads, unit, comparison, report, formation } = data;
const length = pieces.length;
const triangle = (length * (length + 1)) / 2;

const unpack = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const attention = unpack(data.attention);
const difference = comparison && unpack(comparison.difference);
const maps = Object.fromEntries(Object.entries(data.maps).map(([name, map]) => [name, unpack(map)]));

/** The state of the page. Every change goes through `choose` (elements.js). */
const state = {
  head: 0, // layer * heads + head
  at: 0, // the chosen piece
  held: false, // true after a click: pointing elsewhere then changes nothing
  cell: null, // [query, key] under the pointer in the large picture
  mode: "to", // source of the text's colours: to, from or surprise
  scale: "root", // scale of the colours: root or linear
  view: "mine", // mine, other or difference
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
};

const isDifference = () => state.view === "difference";
const cellOf = (query, key) => (query * (query + 1)) / 2 + key;
const weightOf = (code) => (code / 255) ** 2;
const differenceOf = (code) => Math.sign(code - 128) * ((code - 128) / 127) ** 2 * comparison.scale;

/** The value of a byte in the current view. */
const valueOf = (code) => (isDifference() ? differenceOf(code) : weightOf(code));

/** Bytes of the other model's weights, which are this model's weights minus the difference. */
const other = comparison && attention.map((code, i) => {
  return Math.round(255 * Math.sqrt(Math.max(0, weightOf(code) - differenceOf(difference[i]))));
});

/** The bytes of a head's triangle in the current view, row after row. */
function codesOf(head) {
  const all = { mine: attention, other, difference }[state.view];
  return all.subarray(head * triangle, (head + 1) * triangle);
}

const theme = () => (state.dark ? "dark" : "light");

/** RGB for each byte in the current view. Bytes hold square roots, and so does the usual scale of the map. */
function palette() {
  const map = maps[theme() + (isDifference() ? "_difference" : "")];
  return Array.from({ length: 256 }, (_, code) => {
    const linear = isDifference()
      ? 128 + Math.round((127 * differenceOf(code)) / comparison.scale)
      : Math.round(255 * weightOf(code));
    return colourAt(map, state.scale === "root" ? code : linear);
  });
}

const colourAt = (map, entry) => map.subarray(3 * entry, 3 * entry + 3);

const layerAndHead = (head) => [Math.floor(head / heads), head % heads];
const nameOf = (head) => `layer ${layerAndHead(head)[0]}, head ${layerAndHead(head)[1]}`;
const shortName = (head) => layerAndHead(head).join(".");

/** The measurements of a head in words. */
const sentenceOf = (head) => minus(report.heads[head].sentence).replaceAll(" %", "\u00a0%");

/** The largest difference of any weight of a head, not rounded to a byte. */
function largest(head) {
  const [layer, one] = layerAndHead(head);
  return comparison.largest[layer][one];
}

/** A piece made visible: blanks become signs, control characters and invisible ones their code points. */
function visible(piece) {
  const signs = { "\n": "↵", "\t": "⇥", " ": "·" };
  return piece.replace(/[\p{C}\p{Z}]/gu, (character) => {
    const number = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return signs[character] ?? `⟨${number}⟩`;
  });
}

const quoted = (piece) => `‘${visible(piece)}’`;
const percent = (share) => `${(100 * share).toFixed(Math.abs(share) < 0.0995 ? 1 : 0)}\u00a0%`;
const minus = (figure) => figure.replaceAll("-", "−");
const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);

/** A share of attention, or a difference of two. Tiny values, which rounding can cause, keep their exponent. */
function shown(share) {
  const tiny = share !== 0 && Math.abs(share) < 5e-4;
  return minus(tiny ? share.toExponential(1) : percent(share));
}
