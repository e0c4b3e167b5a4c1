// A guided tour in five steps. The dialog is modal: focus stays in it, Escape leaves, and focus returns.

const STEPS = [
  ["heads", "Heads look back",
    `The model reads from left to right and guesses the next ${unit} at every step. Before it guesses, each `
    + `head spreads 100\u00a0% of its attention over the ${unit}s so far. ${layers} layers work one after the `
    + `other, with ${heads} heads side by side in each: every small picture is one head.`],
  ["reading", "From one place",
    `Point at a ${unit}, and the text takes the colours of where the chosen head looks from there. Below `
    + "are those it looks at most, and the model’s five best guesses of what comes next. “Surprise” colours "
    + "what it did not expect: its loss, in nats."],
  ["whole", "A whole head at once",
    `Each row is one ${unit}, and its colours show where it looks. A line beside the diagonal: always the one `
    + "just before. A vertical line: one place that all look back to."],
  [report ? "cards" : "limits", "What a head does, in numbers",
    report
      ? "A picture can mislead, so every head is measured: how much more it looks somewhere than chance "
        + "would, and how much worse the model gets without it. Where the numbers carry no claim, none is made."
      : "A picture can mislead, so heads should be measured. This page does it where the text that the model "
        + "was trained on is at hand, which it was not here."],
  ["limits", "What attention can’t tell",
    "Attention is not an explanation. It says where a head looks, not what it takes from there (its value "
    + "vectors), nor what the feed-forward networks make of it. That is why the loss without the head is "
    + "there."],
];

function tour() {
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
    // On the side where it hides less.
    const onTheLeft = box.left + box.right > 1.1 * dialog.clientWidth;
    card.style.left = `${onTheLeft ? 16 : dialog.clientWidth - card.offsetWidth - 16}px`;
  };
  const show = (next) => {
    step = next;
    const [target, title, content] = STEPS[step];
    put("tour-count", `${step + 1} of ${STEPS.length}`);
    put("tour-title", title);
    put("tour-text", content);
    put("tour-next", step === STEPS.length - 1 ? "Done" : "Next");
    byId("tour-back").disabled = step === 0;
    byId(target).scrollIntoView({ behavior: "instant" });
    light();
  };
  const forward = () => (step === STEPS.length - 1 ? dialog.close() : show(step + 1));
  byId("tour-begin").hidden = false;
  byId("tour-begin").onclick = () => {
    dialog.showModal();
    show(0);
  };
  byId("tour-next").onclick = forward;
  byId("tour-back").onclick = () => show(step - 1);
  byId("tour-close").onclick = () => dialog.close();
  dialog.onkeydown = ({ key }) => {
    if (key === "ArrowRight") forward();
    if (key === "ArrowLeft" && step) show(step - 1);
  };
  for (const moved of ["resize", "scroll"]) addEventListener(moved, () => dialog.open && light());
}
