// The figures in the page, unpacked, and what the state chooses of them. Nothing is fetched.

import { bytesOf } from "./base64.js";
import { state } from "./state.js";

export const data = JSON.parse(document.getElementById("data").textContent);
export const { layers, heads, unit, comparison, report, formation, live } = data;

const attention = bytesOf(data.attention);

/** What is read: a text in pieces, and what the model makes of it. Where the page holds the model, live.js renews it. */
export const reading = {
  pieces: data.pieces,
  unknown: {}, // characters that the model does not know, by the index of the piece that follows them
  losses: data.losses, // of every piece but the first
  likeliest: data.likeliest, // guesses after each piece
  attention, // bytes of a triangle for each head, one after the other
  room: data.pieces.length, // pieces for which a triangle has room
  start: 0, // tokens of a long text that stand before its first piece
  logits: null, // of the token after each piece, where the page holds the model
};
const difference = comparison && bytesOf(comparison.difference);
export const maps = Object.fromEntries(Object.entries(data.maps).map(([name, map]) => [name, bytesOf(map)]));

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
  const all = { mine: reading.attention, other, difference }[state.view], triangle = cellOf(reading.room, 0);
  return all.subarray(head * triangle, (head + 1) * triangle);
}

export const layerAndHead = (head) => [Math.floor(head / heads), head % heads];

/** The largest difference of any weight of a head, not rounded to a byte. */
export function largest(head) {
  const [layer, one] = layerAndHead(head);
  return comparison.largest[layer][one];
}
