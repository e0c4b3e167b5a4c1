// Elements of the page, and `choose`, which makes every change to it. Text enters the page here, as text.

/** An element with properties and children; strings become text, never markup. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** An SVG element with attributes and children. */
function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** An element with a piece of text, made visible. */
function pieceElement(piece, properties) {
  const made = element("span", properties, visible(piece));
  made.classList.toggle("sign", visible(piece) !== piece);
  return made;
}

const byId = (id) => document.getElementById(id);
const put = (id, ...children) => byId(id).replaceChildren(...children);

const followers = [];

/** Call `follow` whenever one of the `keys` of the state changes, or at every change if `keys` is empty. */
function whenever(keys, follow) {
  followers.push((change) => {
    if (!keys.length || keys.some((key) => key in change)) follow();
  });
}

function choose(change) {
  Object.assign(state, change);
  for (const follow of followers) follow(change);
}

/** Buttons of which one is pressed: `choices` maps the values of `state[key]` to labels. */
function choiceButtons(id, key, choices) {
  put(id, ...Object.entries(choices).map(([value, label]) => {
    const button = element("button", { onclick: () => choose({ [key]: value }) }, label);
    whenever([key], () => button.setAttribute("aria-pressed", state[key] === value));
    return button;
  }));
}

/** Steps to the right and down for each arrow key. */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const within = (least, value, most) => Math.min(most, Math.max(least, value));
