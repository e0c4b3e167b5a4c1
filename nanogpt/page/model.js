// The model in plain JavaScript, beside nanogpt_torch/model.py: the same names in the same order.
//
// Suffixes are shapes: T query position, S key position, C channels, H heads, D channels of a head, V vocabulary, I inputs
// and O outputs of a linear layer. Arrays are flat, row after row, in float32; sums are in float64. There is one text,
// and no dropout.

import { softmax } from "./softmax.js";

/** A decoder-only transformer: embeddings, n_layer blocks, a LayerNorm, a linear head. */
export class GPT {
  /** `weights` has the names of nanogpt/weights.py; its kernels are transposed, (out, in). */
  constructor(config, weights) {
    this.config = config;
    this.tokenEmbedding = weights["token_embedding.embedding"];
    this.positionEmbedding = weights["position_embedding.embedding"];
    this.blocks = Array.from({ length: config.n_layer }, (_, layer) => new Block(config, weights, `blocks.${layer}`));
    this.finalNorm = layerNorm(weights, "final_norm");
    const head = config.tie_weights ? { "head.kernel": this.tokenEmbedding } : weights;
    this.head = linear(head, "head", config.n_embd);
  }

  /** Logits `[T, V]` of the token after each one of `tokens_T`, which stand at `first` and after. */
  forward(tokens_T, first, caches) {
    let x_TC = this.embed(tokens_T, first);
    this.blocks.forEach((block, layer) => {
      x_TC = block.forward(x_TC, first, caches[layer]);
    });
    return this.unembed(x_TC);
  }

  /** Sum of each token's and its position's embedding, positions counted from `first`: `[T, C]`. */
  embed(tokens_T, first) {
    const C = this.config.n_embd, x_TC = new Float32Array(tokens_T.length * C);
    tokens_T.forEach((token, t) => {
      for (let c = 0; c < C; c++) {
        x_TC[t * C + c] = this.tokenEmbedding[token * C + c] + this.positionEmbedding[(first + t) * C + c];
      }
    });
    return x_TC;
  }

  /** Logits `[T, V]` from the output of the last block. */
  unembed(x_TC) {
    return this.head(this.finalNorm(x_TC));
  }
}

/** Attention, then a feed-forward network, each behind a LayerNorm and added to the stream. */
class Block {
  constructor(config, weights, name) {
    this.attentionNorm = layerNorm(weights, `${name}.attention_norm`);
    this.attention = new MultiHeadAttention(config, weights, `${name}.attention`);
    this.feedForwardNorm = layerNorm(weights, `${name}.feed_forward_norm`);
    this.feedForward = new FeedForward(config, weights, `${name}.feed_forward`);
  }

  forward(x_TC, first, cache) {
    x_TC = sum(x_TC, this.attention.forward(this.attentionNorm(x_TC), first, cache));
    return sum(x_TC, this.feedForward.forward(this.feedForwardNorm(x_TC)));
  }
}

class MultiHeadAttention {
  constructor(config, weights, name) {
    [this.C, this.H] = [config.n_embd, config.n_head];
    this.queryKeyValue = linear(weights, `${name}.query_key_value`, this.C);
    this.output = linear(weights, `${name}.output`, this.C);
  }

  forward(x_TC, first, cache) {
    // In each row the heads stand side by side: C = H * D.
    return this.output(this.heads(x_TC, first, cache));
  }

  /** The output of every head: `[T, C]`. The cache gets their attention weights too. */
  heads(x_TC, first, cache) {
    const [query_TC, key_TC, value_TC] = this.project(x_TC);
    const { key_SC, value_SC } = cache.extend(first, key_TC, value_TC);
    const [heads_TC, weights_HTS] = attend(query_TC, key_SC, value_SC, first, this);
    cache.weights_HTS = weights_HTS;
    return heads_TC;
  }

  /** Queries, keys and values of every head: each `[T, C]`. */
  project(x_TC) {
    const { C } = this, T = x_TC.length / C;
    // One matmul computes all three for all heads.
    const qkv_T3C = this.queryKeyValue(x_TC);
    return [0, 1, 2].map((which) => {
      const one_TC = new Float32Array(T * C);
      for (let t = 0; t < T; t++) {
        const begin = (3 * t + which) * C;
        one_TC.set(qkv_T3C.subarray(begin, begin + C), t * C);
      }
      return one_TC;
    });
  }
}

/** A hidden layer four times as wide, at each position alone. */
class FeedForward {
  constructor(config, weights, name) {
    const C = config.n_embd;
    this.expand = linear(weights, `${name}.expand`, C);
    this.contract = linear(weights, `${name}.contract`, 4 * C);
    this.activation = config.activation === "gelu" ? gelu : relu;
  }

  forward(x_TC) {
    return this.contract(this.expand(x_TC).map(this.activation));
  }
}

/** The values that each query gathers, `[T, C]`, and the attention by which they are weighted, `[H, T, S]`.
 *
 * Keys stand at positions 0 to S - 1, queries at `first` and after. */
function attend(query_TC, key_SC, value_SC, first, { H, C }) {
  const weights_HTS = attentionWeights(query_TC, key_SC, first, { H, C });
  const D = C / H, T = query_TC.length / C, S = first + T;
  const heads_TC = new Float32Array(T * C), gathered_D = new Float64Array(D);
  for (let h = 0; h < H; h++) {
    for (let t = 0; t < T; t++) {
      gathered_D.fill(0);
      for (let s = 0; s <= first + t; s++) {
        const weight = weights_HTS[(h * T + t) * S + s], value = s * C + h * D;
        for (let d = 0; d < D; d++) gathered_D[d] += weight * value_SC[value + d];
      }
      heads_TC.set(gathered_D, t * C + h * D);
    }
  }
  return [heads_TC, weights_HTS];
}

/** softmax(QK^T / sqrt(D)) under a causal mask: `[H, T, S]` (Vaswani et al. 2017, eq. 1). */
function attentionWeights(query_TC, key_SC, first, { H, C }) {
  const D = C / H, T = query_TC.length / C, S = first + T;
  const weights_HTS = new Float32Array(H * T * S);
  for (let h = 0; h < H; h++) {
    for (let t = 0; t < T; t++) {
      const query = t * C + h * D, row = (h * T + t) * S;
      // A query sees the keys up to its own position; the weights of the later ones stay 0.
      const seen = weights_HTS.subarray(row, row + first + t + 1);
      for (let s = 0; s < seen.length; s++) {
        const key = s * C + h * D;
        let score = 0;
        for (let d = 0; d < D; d++) score += query_TC[query + d] * key_SC[key + d];
        seen[s] = score / Math.sqrt(D);
      }
      softmax(seen);
    }
  }
  return weights_HTS;
}

/** The keys and values of past positions in one layer, with room for block_size of them (cache.py). */
export class Cache {
  constructor({ block_size, n_embd }) {
    this.C = n_embd;
    this.key_SC = new Float32Array(block_size * n_embd);
    this.value_SC = new Float32Array(block_size * n_embd);
    this.weights_HTS = null; // the attention of the newest positions
  }

  /** Put T positions at `first` and after. Returns all keys and values from 0 on. */
  extend(first, key_TC, value_TC) {
    this.key_SC.set(key_TC, first * this.C);
    this.value_SC.set(value_TC, first * this.C);
    const length = first * this.C + key_TC.length;
    return { key_SC: this.key_SC.subarray(0, length), value_SC: this.value_SC.subarray(0, length) };
  }
}

/** A linear layer `[T, I]` to `[T, O]`, as a function. */
function linear(weights, name, I) {
  const kernel_OI = weights[`${name}.kernel`], bias_O = weights[`${name}.bias`], O = kernel_OI.length / I;
  return (x_TI) => {
    const y_TO = product(x_TI, kernel_OI, I, O);
    if (bias_O) y_TO.forEach((y, i) => (y_TO[i] = y + bias_O[i % O]));
    return y_TO;
  };
}

/** Each row of x times each row of the kernel: `[T, O]`. */
function product(x_TI, kernel_OI, I, O) {
  const T = x_TI.length / I, y_TO = new Float32Array(T * O);
  // Four outputs at a time share what is read of x; past the last output, it is computed again.
  for (let o = 0; o < O; o += 4) {
    const row1 = o * I, row2 = Math.min(o + 1, O - 1) * I;
    const row3 = Math.min(o + 2, O - 1) * I, row4 = Math.min(o + 3, O - 1) * I;
    for (let t = 0; t < T; t++) {
      let sum1 = 0, sum2 = 0, sum3 = 0, sum4 = 0;
      for (let i = 0; i < I; i++) {
        const x = x_TI[t * I + i];
        sum1 += x * kernel_OI[row1 + i];
        sum2 += x * kernel_OI[row2 + i];
        sum3 += x * kernel_OI[row3 + i];
        sum4 += x * kernel_OI[row4 + i];
      }
      const y = t * O + o;
      y_TO[y] = sum1;
      if (o + 1 < O) y_TO[y + 1] = sum2;
      if (o + 2 < O) y_TO[y + 2] = sum3;
      if (o + 3 < O) y_TO[y + 3] = sum4;
    }
  }
  return y_TO;
}

/** A LayerNorm of rows of C channels, as a function; 1e-5 is the twins' epsilon. */
function layerNorm(weights, name) {
  const scale_C = weights[`${name}.scale`], bias_C = weights[`${name}.bias`], C = scale_C.length;
  return (x_TC) => {
    const y_TC = new Float32Array(x_TC.length);
    for (let row = 0; row < x_TC.length; row += C) {
      let mean = 0, variance = 0;
      for (let c = 0; c < C; c++) mean += x_TC[row + c] / C;
      for (let c = 0; c < C; c++) variance += (x_TC[row + c] - mean) ** 2 / C;
      const deviation = Math.sqrt(variance + 1e-5);
      for (let c = 0; c < C; c++) {
        y_TC[row + c] = ((x_TC[row + c] - mean) / deviation) * scale_C[c] + (bias_C ? bias_C[c] : 0);
      }
    }
    return y_TC;
  };
}

const sum = (x, y) => x.map((value, i) => value + y[i]);
const relu = (x) => Math.max(x, 0);
const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))); // GPT-2's tanh form
