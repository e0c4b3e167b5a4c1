// The colours of weights, of differences and of losses.

import { comparison, differenceOf, isDifference, maps, weightOf } from "./data.js";
import { state } from "./state.js";

export const theme = () => (state.dark ? "dark" : "light");

/** RGB for each byte in the current view. Bytes hold square roots, and so does the usual scale of the map. */
export function palette() {
  const map = maps[theme() + (isDifference() ? "_difference" : "")];
  return Array.from({ length: 256 }, (_, code) => {
    const linear = isDifference()
      ? 128 + Math.round((127 * differenceOf(code)) / comparison.scale)
      : Math.round(255 * weightOf(code));
    return colourAt(map, state.scale === "root" ? code : linear);
  });
}

export const colourAt = (map, entry) => map.subarray(3 * entry, 3 * entry + 3);

/** Colour an element, and its text so that it can be read; `rgb` is undefined for none. */
export function tint(coloured, rgb) {
  coloured.style.backgroundColor = rgb ? `rgb(${rgb.join(" ")})` : "";
  coloured.style.setProperty("--ink", rgb ? inkOn(rgb) : "");
}

/** Black or white, whichever has more contrast. On any colour it is 4.58 : 1 at least, as only these two can be. */
function inkOn(rgb) {
  const [red, green, blue] = [...rgb].map((value) => ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue; // of WCAG
  return (luminance + 0.05) ** 2 > 1.05 * 0.05 ? "#000" : "#fff";
}
