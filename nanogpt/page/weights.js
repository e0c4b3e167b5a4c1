// The weights in the page, as nanogpt/page/live.py packs them, unpacked to float32.

import { bytesOf } from "./base64.js";

/** A number of 16 bits as IEEE 754 has it: a sign, five bits of exponent, ten of fraction. */
function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
  if (exponent === 31) return sign * (fraction ? NaN : Infinity);
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
}

const READERS = {
  float32: ({ values }) => new Float32Array(bytesOf(values).buffer),
  float16: ({ values }) => Float32Array.from(new Uint16Array(bytesOf(values).buffer), half),
  int8: ({ values, scales, shape: [rows, columns] }) => {
    const numbers = new Int8Array(bytesOf(values).buffer), scales_O = new Float32Array(bytesOf(scales).buffer);
    const weight = new Float32Array(numbers);
    for (let o = 0; o < rows; o++) {
      for (let i = o * columns; i < (o + 1) * columns; i++) weight[i] *= scales_O[o];
    }
    return weight;
  },
};

/** The weights by name: each is flat, a row for each output. Throws an error if a number is not finite. */
export function unpacked(packed) {
  return Object.fromEntries(Object.entries(packed).map(([name, weight]) => {
    const values = READERS[weight.dtype](weight);
    if (!values.every(Number.isFinite)) throw new Error(`the weight ${name} is not finite`);
    return [name, values];
  }));
}
