// The figures in the page, unpacked, and what the state chooses of them. Nothing is fetched.

import { state } from "./state.js";

export const data = JSON.parse(document.getElementById("data").textContent);
export const { pieces, layers, heads, unit, comparison, report, formation } = data;
export const length = pieces.length;
const triangle = (length * (length + 1)) / 2;

const unpack = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const attention = unpack(data.attention);
const difference = comparison && unpack(comparison.difference);
export const maps = Object.fromEntries(Object.entries(data.maps).map(([name, map]) => [name, unpack(map)]));

export const isDifference = () => state.view === "difference";
export const cellOf = (query, key) => (query * (query + 1)) / 2 + key;
export const weightOf = (code) => (code / 255) ** 2;
export const differenceOf = (code) => Math.sign(code - 128) * ((code - 128) / 127) ** 2 * comparison.scale;

/** The value of a byte in the current view. */
export const valueOf = (code) => (isDifference() ? differenceOf(code) : weightOf(code));

/** Bytes of the other model's weights, which are this model's weights minus the difference. */
const other = comparison && attention.map((code, i) => {
  return Math.round(255 * Math.sqrt(Math.max(0, weightOf(code) - differenceOf(difference[i]))));
});

/** The bytes of a head's triangle in the current view, row after row. */
export function codesOf(head) {
  const all = { mine: attention, other, difference }[state.view];
  return all.subarray(head * triangle, (head + 1) * triangle);
}

export const layerAndHead = (head) => [Math.floor(head / heads), head % heads];

/** The largest difference of any weight of a head, not rounded to a byte. */
export function largest(head) {
  const [layer, one] = layerAndHead(head);
  return comparison.largest[layer][one];
}
