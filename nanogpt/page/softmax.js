// The softmax, of attention scores and of logits.

/** The softmax of numbers, in their place. */
export function softmax(scores) {
  const largest = scores.reduce((most, score) => Math.max(most, score));
  let total = 0;
  for (let i = 0; i < scores.length; i++) {
    const power = Math.exp(scores[i] - largest);
    scores[i] = power;
    total += power;
  }
  for (let i = 0; i < scores.length; i++) scores[i] /= total;
  return scores;
}
