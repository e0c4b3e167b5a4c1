// The state of the page. Every change goes through `choose`, and the parts of the page follow it by `whenever`.

export const state = {
  reading: 0, // how often the text was renewed
  policy: 0, // how often the settings of sampling were changed
  head: 0, // layer * heads + head
  second: null, // a head shown beside it
  at: 0, // the chosen piece
  held: false, // true after a click: pointing elsewhere then changes nothing
  cell: null, // [query, key] under the pointer in the large picture
  mode: "to", // source of the text's colours: to, from or surprise
  scale: "root", // scale of the colours: root or linear
  view: "mine", // mine, other or difference
  curve: null, // the chosen name in the chart of how the head formed
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
};

const followers = [];

/** Call `follow` with each change of one of the `keys` of the state, or with every change if `keys` is empty. */
export function whenever(keys, follow) {
  followers.push((change) => {
    if (!keys.length || keys.some((key) => key in change)) follow(change);
  });
}

export function choose(change) {
  Object.assign(state, change);
  for (const follow of followers) follow(change);
}
