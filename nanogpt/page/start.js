// The page begins: everything is built once, and drawn at every change.

const MODES = { to: "where it looks", from: "who looks at it", surprise: "surprise" };
const SCALES = { root: "square root: shows faint looks", linear: "in proportion" };

function facts() {
  put("facts", data.facts);
  put("notice", data.notice);
  byId("notice").hidden = !data.notice;
  const dots = report ? " A dot marks a measured role." : "";
  put("heads-hint", `${layers} layers from top to bottom, ${heads} heads in each.${dots}`);
  const compared = comparison ? `, those of ${comparison.names[1]} by ${shown(comparison.other_error)}, and `
    + `differences by ${shown(comparison.error)}` : "";
  put("precision", "Weights are kept as square roots in 256 steps, which makes them wrong by "
    + `${shown(data.error)} at most${compared}; probabilities, losses, largest differences and all that is said `
    + "of heads are not rounded so.");
  byId("evidence").hidden = byId("chosen-sentence").hidden = !report;
  whenever(["head"], () => {
    const apart = comparison ? `, differs by ${shown(largest(state.head))} at most` : "";
    put("chosen-name", nameOf(state.head) + apart);
    put("chosen-sentence", report ? sentenceOf(state.head) : "");
    byId("evidence").href = `#card-${state.head}`;
  });
}

function comparing() {
  const [mine, other] = comparison.names;
  byId("comparing").hidden = false;
  choiceButtons("views", "view", { mine, other, difference: "difference" });
  const differences = comparison.largest.flat();
  const most = differences.indexOf(Math.max(...differences));
  const mean = (losses) => (losses.reduce((sum, loss) => sum + loss, 0) / losses.length).toFixed(4);
  const losses = `Loss on this text: ${mean(data.losses)} and ${mean(comparison.losses)} nats.`;
  put("compared", `The difference is ${mine} less ${other}: no weight differs by more than `
    + `${shown(largest(most))} (${nameOf(most)}). ${length > 1 ? losses : ""}`);
}

function lightAndDark() {
  byId("theme").hidden = false;
  byId("theme").onclick = () => choose({ dark: !state.dark });
  matchMedia("(prefers-color-scheme: dark)").onchange = ({ matches }) => choose({ dark: matches });
  whenever(["dark"], () => {
    document.documentElement.style.colorScheme = theme();
    put("theme", state.dark ? "Light" : "Dark");
  });
}

/** The head to begin with: of those with a role the one that looks farthest; else what would be missed most. */
function firstHead() {
  const worth = (report?.heads ?? []).map((head) => (head.role ? 100 + head.distance.mean : head.ablation.mean));
  return Math.max(0, worth.indexOf(Math.max(...worth)));
}

byId("main").hidden = false;
lightAndDark();
facts();
if (comparison) comparing();
thumbnails();
choiceButtons("modes", "mode", MODES);
text();
legend();
tables();
picture();
choiceButtons("scales", "scale", SCALES);
if (formation) {
  byId("formation").hidden = false;
  formationChart();
}
if (report) {
  byId("cards").hidden = false;
  method();
  cards();
  scoreTable();
}
tour();
addEventListener("keydown", ({ key }) => key === "Escape" && choose({ held: false }));
choose({ ...state, head: firstHead(), at: Math.floor(0.6 * length) });
