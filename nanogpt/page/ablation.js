// Heads switched off: the output of each is its mean, as in nanogpt/heads/ablation.py.

/** Weights of a model in which the heads of a list (layer * n_head + head) have their mean outputs at every position.
 *
 * A constant output fits into the bias of the projection. `means_LC` are the mean outputs of all heads. */
export function withoutHeads(config, weights, means_LC, heads) {
  const { n_embd: C, n_head: H } = config, D = C / H, changed = { ...weights };
  for (const head of heads) {
    const layer = Math.floor(head / H), name = `blocks.${layer}.attention.output`, begin = (head % H) * D;
    const kernel_OI = Float32Array.from(changed[`${name}.kernel`]);
    const bias_O = Float32Array.from(changed[`${name}.bias`] ?? new Float32Array(C));
    for (let o = 0; o < C; o++) {
      for (let i = begin; i < begin + D; i++) bias_O[o] += means_LC[layer * C + i] * kernel_OI[o * C + i];
      kernel_OI.fill(0, o * C + begin, o * C + begin + D);
    }
    Object.assign(changed, { [`${name}.kernel`]: kernel_OI, [`${name}.bias`]: bias_O });
  }
  return changed;
}
