// Elements of the page. Text enters the page here, as text.

import { choose, state, whenever } from "./state.js";
import { visible } from "./words.js";

/** An element with properties and children; strings become text, never markup. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** An SVG element with attributes and children. */
export function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** An element with a piece of text, made visible. */
export function pieceElement(piece, properties) {
  const made = element("span", properties, visible(piece));
  made.classList.toggle("sign", visible(piece) !== piece);
  return made;
}

export const byId = (id) => document.getElementById(id);
export const put = (id, ...children) => byId(id).replaceChildren(...children);

/** Let a screen reader say this, after what it is saying. */
export const say = (words) => put("said", words);

/** Buttons of which one is pressed: `choices` maps the values of `state[key]` to labels. */
export function choiceButtons(id, key, choices) {
  put(id, ...Object.entries(choices).map(([value, label]) => {
    const button = element("button", { onclick: () => choose({ [key]: value }) }, label);
    whenever([key], () => button.setAttribute("aria-pressed", state[key] === value));
    return button;
  }));
}

/** Steps to the right and down for each arrow key. */
export const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export const within = (least, value, most) => Math.min(most, Math.max(least, value));
