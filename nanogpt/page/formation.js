// The chart of how the chosen head formed: one line for each detector, and a list of their names to choose from.

import { formation, layerAndHead } from "./data.js";
import { ARROWS, byId, drawn, within } from "./elements.js";
import { choose, state, whenever } from "./state.js";
import { minus, nameOf, percent } from "./words.js";

const MARGIN = { left: 48, right: 176, top: 12, bottom: 24 };
const NAME = 24; // height of a name, so that a finger can choose it
const LOWEST = 240; // least height of the lines

export function formationChart() {
  const box = byId("chart");
  let curves, options;
  const draw = () => {
    curves = curvesOf(state.head);
    options = curves.map(([name], rank) => drawn("g", { class: "curve", id: `curve-${rank}`, role: "option" }));
    options.forEach((option, rank) => {
      option.onclick = () => choose({ curve: curves[rank][0] });
    });
    box.replaceChildren(chart(curves, options, box.clientWidth));
    box.ariaLabel = `How ${nameOf(state.head)} formed`;
    mark();
  };
  const chosen = () => Math.max(0, curves.findIndex(([name]) => name === state.curve));
  const mark = () => {
    options.forEach((option, rank) => option.setAttribute("aria-selected", rank === chosen()));
    box.setAttribute("aria-activedescendant", options[chosen()].id);
  };
  box.onkeydown = (event) => {
    const [across, down] = ARROWS[event.key] ?? [0, 0];
    if (!across && !down) return;
    event.preventDefault();
    choose({ curve: curves[within(0, chosen() + across + down, curves.length - 1)][0] });
  };
  whenever(["head"], draw);
  whenever(["curve"], mark);
  addEventListener("resize", draw);
}

/** Name and excess over uniform attention at each step, for every detector, the largest last value first. */
function curvesOf(head) {
  const [layer, one] = layerAndHead(head);
  const curves = Object.entries(formation.excess).map(([name, all]) => [name, all.map((values) => values[layer][one])]);
  return curves.sort(([, a], [, b]) => b.at(-1) - a.at(-1));
}

/** The drawing of the curves into the `options`, which it holds. */
function chart(curves, options, width) {
  const { left, right, top, bottom } = MARGIN, { steps } = formation, [first, last] = [steps[0], steps.at(-1)];
  const end = width - right, height = top + bottom + Math.max(LOWEST, NAME * curves.length);
  const least = Math.min(0, ...curves.flatMap(([, values]) => values));
  const x = (step) => left + ((step - first) / (last - first || 1)) * (end - left);
  const y = (value) => top + ((1 - value) / (1 - least)) * (height - bottom - top);
  const words = (x, y, anchor, content) => drawn("text", { x, y, "text-anchor": anchor }, content);
  const share = (value) => minus(percent(value)), stepOf = (step) => `step ${step.toLocaleString("en")}`;
  const axes = drawn("g", { "aria-hidden": true },
    words(left, height - 8, "start", stepOf(first)),
    words(end, height - 8, "end", last.toLocaleString("en")));
  for (const value of [0, 0.5, 1]) {
    axes.append(drawn("line", { x1: left, x2: end, y1: y(value), y2: y(value), class: "grid" }));
    axes.append(words(left - 8, y(value), "end", `${100 * value}\u00a0%`));
  }
  let place = -Infinity;
  curves.forEach(([name, values], rank) => {
    // Names must not overlap, nor leave the chart.
    const lowest = y(least) - NAME * (curves.length - 1 - rank);
    place = Math.min(Math.max(place + NAME, y(values.at(-1))), lowest);
    const points = values.map((value, i) => `${x(steps[i]).toFixed(1)} ${y(value).toFixed(1)}`);
    options[rank].setAttribute("aria-label",
      `${name}: ${share(values[0])} at ${stepOf(first)}, ${share(values.at(-1))} at ${stepOf(last)}`);
    options[rank].append(
      drawn("path", { d: `M${points.join("L")}` }),
      drawn("rect", { x: end, y: place - NAME / 2, width: right, height: NAME, class: "catch" }),
      words(end + 8, place, "start", `${name} ${share(values.at(-1))}`));
  });
  return drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "none" }, axes, ...options);
}
