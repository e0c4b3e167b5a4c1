// The choice of the next token, beside nanogpt_torch/generation.py: by inverse CDF, so that one number decides it.

import { softmax } from "./softmax.js";

/** The token that a uniform number in [0, 1) picks. */
export function chooseToken(logits_V, uniform, policy) {
  const chances_V = chances(logits_V, policy);
  const total = chances_V.reduce((sum, chance) => sum + chance, 0);
  let below = 0, token = 0;
  // Rounding may lift the product to the total, but no token beyond the last possible one is taken.
  for (let next = 0; next < chances_V.length; next++) {
    below += chances_V[next];
    if (below <= uniform * total && below < total) token = next + 1;
  }
  return token;
}

/** The probability `[V]` of each token under a policy (nanogpt/sampling.py): temperature, top_k, then top_p. */
export function chances(logits_V, { temperature, top_k, top_p }) {
  if (temperature === 0) {
    const likeliest = logits_V.indexOf(Math.max(...logits_V));
    return Float64Array.from(logits_V, (_, token) => Number(token === likeliest));
  }
  return softmax(Float64Array.from(restrict(logits_V.map((logit) => logit / temperature), top_k, top_p)));
}

/** Logits with -Infinity for the tokens that top_k, then top_p, rule out: `[V]`. */
function restrict(logits_V, top_k, top_p) {
  if (top_k) {
    const least = logits_V.toSorted().at(-Math.min(top_k, logits_V.length));
    logits_V = logits_V.map((logit) => (logit < least ? -Infinity : logit));
  }
  if (top_p) {
    const sorted_V = logits_V.toSorted().reverse(), chances_V = softmax(Float64Array.from(sorted_V));
    let before = 0, count = 0;
    while (count < chances_V.length && (before < top_p || count === 0)) before += chances_V[count++];
    logits_V = logits_V.map((logit) => (logit < sorted_V[count - 1] ? -Infinity : logit));
  }
  return logits_V;
}
