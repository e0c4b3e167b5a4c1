// The measurements of the heads: a card for each, the same as a table, and a chart of how the chosen head formed.

import { colourAt, theme, tint } from "./colours.js";
import { formation, layerAndHead, maps, report, unit } from "./data.js";
import { byId, drawn, element, pieceElement, put } from "./elements.js";
import { choose, state, whenever } from "./state.js";
import { minus, nameOf, percent, sentenceOf, shortName, signed } from "./words.js";

const BARS = { width: 260, row: 13, label: 104, right: 40 };
const CURVES = { height: 280, left: 48, right: 176, top: 8, bottom: 24, label: 17 };
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
    example(head.example));
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
    const { share, uniform, shuffled, excess } = scores[name], y = (index + 0.5) * row;
    const [from, to] = [0, excess.mean].map(x).sort((a, b) => a - b);
    const strong = excess.low > threshold;
    const exact = `${name}: ${excess.mean.toFixed(3)} (${interval(excess, 3)}); `
      + `share ${share.mean.toFixed(3)}, uniform attention ${uniform.toFixed(3)}, `
      + `over another text ${shuffled.toFixed(3)}`;
    chart.append(drawn("g", { class: strong ? "strong" : "" },
      drawn("title", {}, exact),
      drawn("rect", { x: 0, y: index * row, width, height: row, class: "catch" }),
      drawn("text", { x: label - 8, y, "text-anchor": "end" }, name),
      drawn("rect", { x: from, y: y - 3.5, width: to - from, height: 7, class: "value" }),
      drawn("path", { d: `M${x(excess.low)} ${y}H${x(excess.high)}`, class: "whisker" }),
      strong ? drawn("text", { x: x(excess.high) + 5, y }, signed(excess.mean, 2)) : ""));
  });
  return chart;
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
    return element("td", { title: interval(estimate, digits) }, minus(estimate.mean.toFixed(digits)));
  };
  const others = ["loss increase", "entropy", "distance", "induction on repeats"];
  const titles = ["head", "role", ...names, ...others].map((name) => element("th", { scope: "col" }, name));
  const lines = report.heads.map((head, index) => element("tr", {},
    element("th", { scope: "row" }, shortName(index)),
    element("td", {}, head.role ?? "no claim"),
    ...names.map((name) => cell(head.scores[name].excess, 3)),
    cell(head.loss_increase, 4), cell(head.entropy, 2), cell(head.distance, 1), cell(head.repeats, 3)));
  byId("scores").lastElementChild.append(element("table", {},
    element("caption", {}, "Excess over the baselines, and the other measurements"),
    element("thead", {}, element("tr", {}, ...titles)),
    element("tbody", {}, ...lines)));
}

/** Chart of the chosen head's excess over uniform attention by training step, one line for each detector. */
export function formationChart() {
  const { height, left, right, top, bottom, label } = CURVES, { steps, excess } = formation;
  const box = document.querySelector("#formation .chart"), [first, last] = [steps[0], steps.at(-1)];
  const words = (x, y, anchor, content) => drawn("text", { x, y, "text-anchor": anchor }, content);
  const draw = () => {
    const [layer, head] = layerAndHead(state.head), width = box.clientWidth, end = width - right;
    const curves = Object.entries(excess).map(([name, all]) => [name, all.map((values) => values[layer][head])]);
    curves.sort(([, a], [, b]) => b.at(-1) - a.at(-1));
    const least = Math.min(0, ...curves.flatMap(([, values]) => values));
    const x = (step) => left + ((step - first) / (last - first || 1)) * (end - left);
    const y = (value) => top + ((1 - value) / (1 - least)) * (height - bottom - top);
    const spoken = `Excess of ${nameOf(state.head)} from step ${first} to ${last}`;
    const chart = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken });
    for (const value of [0, 0.5, 1]) {
      chart.append(drawn("line", { x1: left, x2: end, y1: y(value), y2: y(value), class: "grid" }));
      chart.append(words(left - 8, y(value), "end", `${100 * value}\u00a0%`));
    }
    chart.append(words(left, height - 8, "start", `step ${first.toLocaleString("en")}`));
    chart.append(words(end, height - 8, "end", last.toLocaleString("en")));
    let place = -Infinity;
    curves.forEach(([name, values], rank) => {
      // Names must not overlap, nor leave the chart.
      const lowest = y(least) - label * (curves.length - 1 - rank);
      place = Math.min(Math.max(place + label, y(values.at(-1))), lowest);
      const points = values.map((value, i) => `${x(steps[i]).toFixed(1)} ${y(value).toFixed(1)}`);
      chart.append(drawn("g", { class: rank ? "curve" : "curve first" },
        drawn("path", { d: `M${points.join("L")}` }),
        words(end + 8, place, "start", `${name} ${minus(percent(values.at(-1)))}`)));
    });
    box.replaceChildren(chart);
  };
  whenever(["head"], draw);
  addEventListener("resize", draw);
}
