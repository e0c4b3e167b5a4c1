// The page's side of the worker: it asks for a text, and makes what the model computed a reading of the page.

import { cellOf, heads, layers, live, reading } from "./data.js";
import { byId } from "./elements.js";
import { chances } from "./generation.js";

const LIKELIEST = 5; // guesses kept for each piece
const AS_IT_IS = { temperature: 1 }; // the policy that changes nothing

const vocabulary = [...(live?.vocabulary ?? "")];
const tokens = new Map(vocabulary.map((character, token) => [character, token]));

/** The characters of a text that the model knows, and the others by the index of the known one that follows. */
export function split(text) {
  const known = [], unknown = {};
  for (const character of text) {
    if (tokens.has(character)) known.push(character);
    else unknown[known.length] = (unknown[known.length] ?? "") + character;
  }
  return { known, unknown };
}

/** The beginning of a text with the first `count` characters that the model knows. */
export function beginning(text, count) {
  let [taken, left] = ["", count];
  for (const character of text) {
    if (tokens.has(character) && left-- === 0) break;
    taken += character;
  }
  return taken;
}

/** Each next character with its chance under a policy and its chance as it is, the likeliest first. */
export function expected(at, policy) {
  const logits_V = reading.logits[at], mine_V = chances(logits_V, policy), plain_V = chances(logits_V, AS_IT_IS);
  const all = vocabulary.map((character, token) => ({ character, mine: mine_V[token], plain: plain_V[token] }));
  return all.sort((a, b) => b.plain - a.plain);
}

/** The likeliest characters after a position, and their probabilities. */
function guessesAfter(logits_V) {
  const all = Array.from(chances(logits_V, AS_IT_IS), (share, token) => [vocabulary[token], share]);
  return all.sort(([, a], [, b]) => b - a).slice(0, LIKELIEST);
}

/** Start the worker. Returns a function that asks it for a text; `show` gets each answer to the newest question. */
export function openModel(show, fail) {
  const { block_size: room, vocab_size: V } = live.config;
  const logits = [], likeliest = [], attention = new Uint8Array(layers * heads * cellOf(room, 0));
  const source = new Blob([byId("worker").textContent], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(source));
  const given = { ...reading };
  let asked = { id: 0 };

  /** Keep what was computed of the window from the position `first` on. */
  const keep = ({ first, logits_TV, weights_LHTS }) => {
    const T = logits_TV.length / V, S = first + T;
    for (let t = 0; t < T; t++) {
      const at = first + t;
      logits[at] = logits_TV.subarray(t * V, (t + 1) * V);
      likeliest[at] = guessesAfter(logits[at]);
      for (let head = 0; head < layers * heads; head++) {
        const weights_HTS = weights_LHTS[Math.floor(head / heads)], row = ((head % heads) * T + t) * S;
        const triangle = head * cellOf(room, 0);
        for (let key = 0; key <= at; key++) {
          attention[triangle + cellOf(at, key)] = Math.round(255 * Math.sqrt(weights_HTS[row + key]));
        }
      }
    }
  };

  /** Make the window of a text the reading of the page. */
  const read = (text, start) => {
    const pieces = text.slice(start).map((token) => vocabulary[token]);
    // The page came with figures of its first text, by weights that are not rounded.
    const isGiven = !start && !asked.off.length && pieces.join("") === given.pieces.join("");
    if (isGiven) return Object.assign(reading, given, { logits });
    const losses = text.slice(start + 1).map((token, at) => -Math.log(chances(logits[at], AS_IT_IS)[token]));
    const unknown = Object.fromEntries(Object.entries(asked.unknown).map(([index, some]) => [index - start, some]));
    return Object.assign(reading, { pieces, start, logits, likeliest, losses, attention, room, unknown });
  };

  let newest = null; // the answer that the next frame shows
  const frame = () => {
    const { id, tokens: text, start, done, losses } = newest;
    newest = null;
    if (id !== asked.id) return; // a newer question is on its way
    read(text, start);
    show({ written: text.slice(asked.known).map((token) => vocabulary[token]), done, losses });
  };

  worker.addEventListener("error", ({ message }) => fail(message));
  worker.onmessage = ({ data: answer }) => {
    if (answer.error) return fail(answer.error);
    answer.parts.forEach(keep);
    if (!newest) requestAnimationFrame(frame); // answers may come faster than they can be drawn
    newest = answer;
    return undefined;
  };
  worker.postMessage({ model: live });

  return ({ prompt, count, seed, temperature, top_k, top_p, off }) => {
    const { known, unknown } = split(prompt);
    asked = { id: asked.id + 1, known: known.length, unknown, off };
    const policy = { temperature, top_k, top_p };
    worker.postMessage({ id: asked.id, prompt: known.map((one) => tokens.get(one)), count, seed, policy, off });
  };
}
