// The measurements of the heads: a card for each, and the same as a table.

import { colourAt, theme, tint } from "./colours.js";
import { maps, report, unit } from "./data.js";
import { byId, drawn, element, pieceElement, put } from "./elements.js";
import { choose, state, whenever } from "./state.js";
import { minus, sentenceOf, shortName, signed } from "./words.js";

const BARS = { width: 260, row: 13, label: 104, right: 40 };
const interval = ({ low, high }, digits) => minus(`${low.toFixed(digits)} to ${high.toFixed(digits)}`);

export function method() {
  const roles = report.heads.filter(({ role }) => role).length, all = report.heads.length;
  const [first, second] = report.repeats_loss;
  const claims = `. Nothing is claimed about the other ${all - roles}. A head gets a role if two intervals lie above `
    + `their thresholds: its excess above ${report.excess_threshold}, and the rise of the loss without it `
    + `above ${report.loss_increase_threshold} nats a ${unit}.`;
  const how = `The heads were measured on ${report.windows} windows of text that the model was not trained on. A bar `
    + "shows the share of its attention that a head gives to the named targets, minus the larger of two baselines: "
    + "uniform attention, and the head’s own attention laid over another text. Whiskers and ranges are "
    + "95\u00a0% intervals.";
  const repeats = `On random ${unit}s written twice, the loss is ${first.mean.toFixed(2)} nats the first time `
    + `and ${second.mean.toFixed(2)} nats the second. The second is lower if heads copy what followed before.`;
  const meanings = Object.entries(report.detectors).flatMap(([name, meaning]) => {
    return [element("dt", {}, name), element("dd", {}, meaning)];
  });
  put("method",
    element("p", {}, element("b", {}, `${roles} of ${all} heads have a role`), claims),
    element("p", {}, how),
    element("details", {},
      element("summary", {}, "What the names mean"),
      element("dl", {}, ...meanings),
      element("p", {}, repeats)));
}

export function cards() {
  const excesses = report.heads.flatMap(({ scores }) => Object.values(scores).map(({ excess }) => excess));
  const low = Math.min(0, ...excesses.map((excess) => excess.low));
  const high = Math.max(report.excess_threshold, ...excesses.map((excess) => excess.high));
  const made = report.heads.map((head, index) => card(head, index, [low, high]));
  document.querySelector("#cards .cards").append(...made);
  whenever(["head"], () => {
    made.forEach((one, index) => one.classList.toggle("current", index === state.head));
  });
}

function card(head, index, range) {
  const showHead = () => {
    choose({ head: index });
    byId("main").scrollIntoView();
    byId("thumbnails").querySelectorAll("button")[index].focus({ preventScroll: true });
  };
  const show = element("button", { onclick: showHead, title: "Show this head above" }, shortName(index));
  const name = element("p", { className: "label" }, head.role ?? "no claim");
  return element("article", { className: head.role ? "role" : "", id: `card-${index}` },
    element("header", {}, element("h3", {}, show), name),
    element("p", { className: "sentence" }, sentenceOf(index)),
    bars(head.scores, range),
    element("dl", { className: "figures" },
      ...figure("loss increase", signed(head.loss_increase.mean, 4), interval(head.loss_increase, 4)),
      ...figure("entropy, bits", head.entropy.mean.toFixed(2), interval(head.entropy, 2)),
      ...figure("mean distance", head.distance.mean.toFixed(1), interval(head.distance, 1))),
    example(head.example),
    exact(head.scores));
}

function figure(name, value, range) {
  return [element("dt", {}, name), element("dd", {}, value), element("dd", {}, element("small", {}, range))];
}

/** Bars of the excess for every detector, with intervals, and a dashed line at the threshold for a role. */
function bars(scores, [low, high]) {
  const { width, row, label, right } = BARS, names = Object.keys(scores), height = names.length * row;
  const x = (value) => label + ((value - low) / (high - low)) * (width - label - right);
  const upright = (value, name) => {
    return drawn("line", { x1: x(value), x2: x(value), y1: 0, y2: height, class: name });
  };
  const spoken = names.map((name) => `${name} ${scores[name].excess.mean.toFixed(2)}`).join(", ");
  const viewBox = `0 0 ${width} ${height + row}`, threshold = report.excess_threshold;
  const chart = drawn("svg", { viewBox, class: "bars", role: "img", "aria-label": spoken });
  const place = { x: x(threshold), y: height + row / 2, "text-anchor": "middle" };
  chart.append(upright(threshold, "threshold"), drawn("text", place, `threshold ${threshold}`), upright(0, "axis"));
  names.forEach((name, index) => {
    const { excess } = scores[name], y = (index + 0.5) * row;
    const [from, to] = [0, excess.mean].map(x).sort((a, b) => a - b);
    const strong = excess.low > threshold;
    chart.append(drawn("g", { class: strong ? "strong" : "" },
      drawn("text", { x: label - 8, y, "text-anchor": "end" }, name),
      drawn("rect", { x: from, y: y - 3.5, width: to - from, height: 7, class: "value" }),
      drawn("path", { d: `M${x(excess.low)} ${y}H${x(excess.high)}`, class: "whisker" }),
      strong ? drawn("text", { x: x(excess.high) + 5, y }, signed(excess.mean, 2)) : ""));
  });
  return chart;
}

/** The numbers behind the bars: the excess, and what it is the difference of. */
function exact(scores) {
  const names = ["detector", "excess", "share", "uniform", "other text"];
  const titles = names.map((name) => element("th", { scope: "col" }, name));
  const rows = Object.entries(scores).map(([name, { excess, share, uniform, shuffled }]) => element("tr", {},
    element("th", { scope: "row" }, name),
    ...[excess.mean, share.mean, uniform, shuffled].map((value) => element("td", {}, minus(value.toFixed(3))))));
  return element("details", {},
    element("summary", {}, "the numbers"),
    element("table", {}, element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...rows)));
}

/** The strongest example of the head's main behaviour, in the colours of the text above. */
function example({ text, query, weights }) {
  const spans = text.map((piece, index) => {
    return pieceElement(piece, { className: index === query ? "query" : "" });
  });
  whenever(["dark"], () => weights.forEach((weight, index) => {
    tint(spans[index], colourAt(maps[theme()], Math.round(255 * Math.sqrt(weight))));
  }));
  return element("p", { className: "example", dir: "auto" }, ...spans);
}

export function scoreTable() {
  const names = Object.keys(report.heads[0].scores);
  const cell = (estimate, digits) => {
    return element("td", {}, minus(estimate.mean.toFixed(digits)), element("small", {}, interval(estimate, digits)));
  };
  const others = ["loss increase", "entropy", "distance", "induction on repeats"];
  const titles = ["head", "role", ...names, ...others].map((name) => element("th", { scope: "col" }, name));
  const lines = report.heads.map((head, index) => element("tr", {},
    element("th", { scope: "row" }, shortName(index)),
    element("td", {}, head.role ?? "no claim"),
    ...names.map((name) => cell(head.scores[name].excess, 3)),
    cell(head.loss_increase, 4), cell(head.entropy, 2), cell(head.distance, 1), cell(head.repeats, 3)));
  byId("scores").lastElementChild.append(element("table", {},
    element("caption", {}, "Excess over the baselines, and the other measurements, with 95\u00a0% intervals"),
    element("thead", {}, element("tr", {}, ...titles)),
    element("tbody", {}, ...lines)));
}
