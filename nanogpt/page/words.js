// Pieces, heads and numbers in words.

import { layerAndHead, report } from "./data.js";

export const nameOf = (head) => `layer ${layerAndHead(head)[0]}, head ${layerAndHead(head)[1]}`;
export const shortName = (head) => layerAndHead(head).join(".");

/** The measurements of a head in words. */
export const sentenceOf = (head) => minus(report.heads[head].sentence).replaceAll(" %", "\u00a0%");

/** A piece made visible: blanks become signs, control characters and invisible ones their code points. */
export function visible(piece) {
  const signs = { "\n": "↵", "\t": "⇥", " ": "·" };
  return piece.replace(/[\p{C}\p{Z}]/gu, (character) => {
    const number = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return signs[character] ?? `⟨${number}⟩`;
  });
}

/** A piece as it is read aloud. */
export function spoken(piece) {
  const names = { "↵": "line break", "⇥": "tab", "·": "space" };
  const signs = visible(piece);
  return signs === piece ? piece : signs.replace(/[↵⇥·]/g, (sign) => ` ${names[sign]} `).trim();
}

export const quoted = (piece) => `‘${visible(piece)}’`;
export const percent = (share) => `${(100 * share).toFixed(Math.abs(share) < 0.0995 ? 1 : 0)}\u00a0%`;
export const minus = (figure) => figure.replaceAll("-", "−");
export const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);

/** A share of attention, or a difference of two. Tiny values, which rounding can cause, keep their exponent. */
export function shown(share) {
  const tiny = share !== 0 && Math.abs(share) < 5e-4;
  return minus(tiny ? share.toExponential(1) : percent(share));
}
