// The worker of a page that holds its model: it reads a text, writes on, and tells what it computed on the way.
//
// It is sent `{ model }` once, and then wishes: `{ id, prompt, count, seed, policy, off }`, the tokens of a prompt, how many
// shall follow it, how they are chosen, and the heads that are switched off. A wish takes the place of an earlier one.
// The answers to a wish are `{ id, tokens, start, parts, done, losses }`: the text so far; where its window begins; for
// each part of the window that was computed, its `first` position, logits `[T, V]` and attention `[L][H, T, S]`; and,
// with heads switched off, the prompt's loss with all heads and without those. `{ error }` is the last answer.

import { withoutHeads } from "./ablation.js";
import { chooseToken } from "./generation.js";
import { Cache, GPT } from "./model.js";
import { uniform } from "./randomness.js";
import { softmax } from "./softmax.js";
import { unpacked } from "./weights.js";

const FRAME = 16; // milliseconds between answers

/** A model and the text that it has read; of a long text, it sees a window of the last block_size tokens. */
class Reader {
  constructor(config, weights) {
    this.config = config;
    this.model = new GPT(config, weights);
    this.caches = this.model.blocks.map(() => new Cache(config));
    this.tokens = [];
    this.start = 0; // of the window
    this.next = []; // next[N]: logits [V] of the token after the first N
    this.parts = []; // what was computed since it was last told
  }

  /** Read a text; what it has in common with the last one is not computed again. */
  read(tokens) {
    const { block_size, vocab_size: V } = this.config, start = Math.max(0, tokens.length - block_size);
    const same = this.common(tokens), first = start === this.start ? same - start : 0;
    this.next.length = Math.min(this.next.length, same + 1);
    [this.tokens, this.start] = [tokens, start];
    if (start + first === tokens.length) return;
    const logits_TV = this.model.forward(tokens.slice(start + first), first, this.caches);
    if (!logits_TV.every(Number.isFinite)) throw new Error("its weights are so large that its logits are not finite");
    // Positions are learned: the window of a shorter text has others, unless both begin with the text.
    for (let N = start ? tokens.length : first + 1; N <= tokens.length; N++) {
      this.next[N] = logits_TV.slice((N - start - first - 1) * V, (N - start - first) * V);
    }
    this.parts.push({ first, logits_TV, weights_LHTS: this.caches.map((cache) => cache.weights_HTS) });
  }

  /** How many tokens a text has in common with the one that was read, from the beginning. */
  common(tokens) {
    let same = 0;
    while (same < tokens.length && tokens[same] === this.tokens[same]) same++;
    return same;
  }

  /** The token that a policy and a number choose after a text. */
  choose(tokens, number, policy) {
    if (this.common(tokens) < tokens.length || !this.next[tokens.length]) this.read(tokens);
    return chooseToken(this.next[tokens.length], number, policy);
  }

  /** Mean loss in nats of every token of a text but its first; null for fewer than two. */
  loss(tokens) {
    this.read(tokens);
    const losses = tokens.map((token, N) => N && -Math.log(softmax(Float64Array.from(this.next[N]))[token]));
    return tokens.length > 1 ? losses.reduce((sum, loss) => sum + loss) / (tokens.length - 1) : null;
  }
}

let model, wish, reader;

/** A reader of the model in which some heads are switched off. */
function readerWithout(off) {
  const { config, weights, means_LC } = model;
  return new Reader(config, withoutHeads(config, weights, means_LC, off));
}

async function grant({ id, prompt, count, seed, policy, off }) {
  if (String(reader?.off) !== String(off)) reader = Object.assign(readerWithout(off), { off });
  let tokens = prompt, told = performance.now();
  for (let n = 0; n < count; n++) {
    tokens = [...tokens, reader.choose(tokens, uniform(seed, n), policy)];
    if (performance.now() - told < FRAME || !reader.parts.length) continue;
    tell(id, tokens.slice(0, -1), false);
    await pause();
    if (id !== wish.id) return; // for a newer one
    told = performance.now();
  }
  reader.read(tokens);
  const window = prompt.slice(-model.config.block_size);
  const losses = off.length ? [[], off].map((heads) => readerWithout(heads).loss(window)) : null;
  tell(id, tokens, true, losses);
}

function tell(id, tokens, done, losses = null) {
  const parts = reader.parts.splice(0);
  const moved = parts.flatMap(({ logits_TV, weights_LHTS }) => [logits_TV, ...weights_LHTS]);
  postMessage({ id, tokens, start: reader.start, parts, done, losses }, moved.map(({ buffer }) => buffer));
}

/** Let messages in. */
function pause() {
  return new Promise((resume) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resume(port1.close());
    port2.postMessage(null);
  });
}

onmessage = async ({ data }) => {
  try {
    if (data.model) {
      const { config, weights, means } = data.model;
      model = { config, weights: unpacked(weights), means_LC: unpacked({ means }).means };
    } else {
      wish = data;
      await grant(data);
    }
  } catch (error) {
    postMessage({ error: error.message });
    close();
  }
};
