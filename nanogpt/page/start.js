// The start of the page: it builds every part once; parts redraw themselves at each change.

import { announcements } from "./announcements.js";
import { cards, method, scoreTable } from "./cards.js";
import { theme } from "./colours.js";
import { comparison, data, formation, heads, largest, layers, live, reading, report } from "./data.js";
import { byId, choiceButtons, put } from "./elements.js";
import { legend, secondText, tables, text } from "./explore.js";
import { formationChart } from "./formation.js";
import { startLive } from "./live.js";
import { picture, thumbnails } from "./pictures.js";
import { choose, state, whenever } from "./state.js";
import { tour } from "./tour.js";
import { nameOf, sentenceOf, shown } from "./words.js";

const MODES = { to: "what it attends to", from: "what attends to it", surprise: "surprise" };
const SCALES = { root: "square root: shows small weights", linear: "linear" };

function facts() {
  put("facts", data.facts);
  put("notice", data.notice);
  byId("notice").hidden = !data.notice;
  const dots = report ? " A dot marks a head with a measured role." : "";
  put("heads-hint", `${layers} layers from top to bottom, ${heads} heads in each.${dots}`);
  const compared = comparison ? ` (${shown(comparison.other_error)} for ${comparison.names[1]}, and `
    + `${shown(comparison.error)} for differences)` : "";
  put("precision", "The page stores attention weights as square roots in 256 steps, with an error of "
    + `${shown(data.error)} at most${compared}. Probabilities, losses, largest differences and all measurements `
    + "of heads do not have this error.");
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
  const losses = `The losses on this text are ${mean(data.losses)} and ${mean(comparison.losses)} nats.`;
  put("compared", `The difference is ${mine} minus ${other}: no weight differs by more than `
    + `${shown(largest(most))} (${nameOf(most)}). ${data.pieces.length > 1 ? losses : ""}`);
}

function lightAndDark() {
  byId("theme").hidden = false;
  byId("theme").onclick = () => choose({ dark: !state.dark });
  matchMedia("(prefers-color-scheme: dark)").onchange = ({ matches }) => choose({ dark: matches });
  whenever(["dark"], () => {
    document.documentElement.style.colorScheme = theme();
    put("theme", state.dark ? "Light" : "Dark");
    byId("theme").ariaLabel = `${byId("theme").textContent} colours`;
  });
}

/** The head shown first: the one with a role and the largest mean distance, else the one that the loss needs most. */
function firstHead() {
  const worth = (report?.heads ?? []).map((head) => (head.role ? 100 + head.distance.mean : head.loss_increase.mean));
  return Math.max(0, worth.indexOf(Math.max(...worth)));
}

byId("main").hidden = false;
lightAndDark();
facts();
if (comparison) comparing();
thumbnails();
choiceButtons("modes", "mode", MODES);
text();
secondText();
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
choose({ ...state, head: firstHead(), at: Math.floor(0.6 * reading.pieces.length) });
announcements(); // of changes alone: a page that opens is read without them
if (live) startLive();
