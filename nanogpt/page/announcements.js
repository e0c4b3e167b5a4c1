// What a screen reader says when something else is chosen. Everything goes through one polite live region.

import { report } from "./data.js";
import { say } from "./elements.js";
import { tablesInWords } from "./explore.js";
import { readout } from "./pictures.js";
import { state, whenever } from "./state.js";
import { nameOf, sentenceOf, spoken } from "./words.js";

export function announcements() {
  whenever(["head", "at", "cell", "mode", "view"], (change) => {
    if ("reading" in change) return; // live.js tells what was written
    const head = "head" in change ? `${nameOf(state.head)}. ${report ? sentenceOf(state.head) : ""} ` : "";
    say(head + (state.cell ? readout(state.cell, spoken).join("") : tablesInWords()));
  });
}
