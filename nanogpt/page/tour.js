// A guided tour. The dialog is modal: it keeps the focus, and gives it back when Escape closes it.

import { heads, layers, live, report, unit } from "./data.js";
import { byId, put, say } from "./elements.js";

const STEPS = [
  ["heads", "Heads attend to earlier text",
    `The model reads from left to right and guesses the next ${unit} at every step. Before it guesses, each `
    + `head spreads 100\u00a0% of its attention over the ${unit}s so far. ${layers} layers work one after the `
    + `other, with ${heads} heads side by side in each: every small picture is one head.`],
  ["reading", "From one position",
    `Point at a ${unit}, and the colours of the text show what the chosen head attends to from there. Below, `
    + `tables list the strongest attention and the model’s five best guesses of the next ${unit}. “Surprise” `
    + `colours each ${unit} by its loss, in nats: how little the model expected it.`],
  ["whole", "A whole head at once",
    `Each row is one ${unit}, and its colours show what it attends to. A line beside the diagonal means that `
    + `every ${unit} attends to the one just before. A vertical line means that all attend to one position.`],
  ...(live ? [
    ["live", "Let it write",
      "The model is in this page. Type, or let it go on: each character that it writes is its guess of the next "
      + "one, and all the pictures follow. Switch a head off, and it writes the text again without that head."],
    ["choice", "What it could have written",
      "The model gives every character a chance, and a random number picks one. The settings sharpen the chances or "
      + "cut the unlikely ones off. Choose another character, anywhere in the text, and it goes on from there."],
  ] : []),
  [report ? "cards" : "limits", "What a head does, in numbers",
    report
      ? "A picture can mislead, so every head is measured: how much of its attention goes to known targets "
        + "beyond chance, and how much worse the model gets without it. A head gets a role only if the numbers "
        + "support it."
      : "A picture can mislead, so heads should be measured. This page does so if the text that the model "
        + "was trained on is available, which it was not here."],
  ["limits", "What attention can’t tell",
    "Attention is not an explanation. It says which positions a head attends to, not what it reads there (the "
    + "value vectors), nor what the feed-forward networks do with it. That is why the page also shows the loss "
    + "without each head."],
];

export function tour() {
  const dialog = byId("tour"), [spotlight, card] = dialog.children;
  let step = 0;
  const light = () => {
    const box = byId(STEPS[step][0]).getBoundingClientRect();
    const left = Math.max(4, box.left - 12), top = Math.max(4, box.top - 12);
    const width = Math.min(dialog.clientWidth - 4, box.right + 12) - left;
    const height = Math.min(dialog.clientHeight - 4, box.bottom + 12) - top;
    for (const [side, pixels] of Object.entries({ left, top, width, height })) {
      spotlight.style[side] = `${pixels}px`;
    }
    // The card goes to the side where it hides less of the page.
    const onTheLeft = box.left + box.right > 1.1 * dialog.clientWidth;
    card.style.left = `${onTheLeft ? 16 : dialog.clientWidth - card.offsetWidth - 16}px`;
  };
  const show = (next) => {
    step = next;
    const [target, title, content] = STEPS[step];
    put("tour-count", `${step + 1} of ${STEPS.length}`);
    put("tour-title", title);
    put("tour-text", content);
    say(`${title}. ${content}`);
    put("tour-next", step === STEPS.length - 1 ? "Done" : "Next");
    byId("tour-back").disabled = step === 0;
    byId(target).scrollIntoView({ behavior: "instant" });
    light();
  };
  const forward = () => (step === STEPS.length - 1 ? dialog.close() : show(step + 1));
  byId("tour-begin").hidden = false;
  put("tour-begin", `Take the tour, ${STEPS.length === 5 ? "five" : "seven"} steps`);
  // While the dialog is open, a screen reader hears nothing outside it.
  const live = byId("said"), outside = live.parentElement;
  byId("tour-begin").onclick = () => {
    dialog.append(live);
    dialog.showModal();
    show(0);
  };
  dialog.onclose = () => outside.append(live);
  byId("tour-next").onclick = forward;
  byId("tour-back").onclick = () => show(step - 1);
  byId("tour-close").onclick = () => dialog.close();
  dialog.onkeydown = ({ key }) => {
    if (key === "ArrowRight") forward();
    if (key === "ArrowLeft" && step) show(step - 1);
  };
  for (const moved of ["resize", "scroll"]) addEventListener(moved, () => dialog.open && light());
}
