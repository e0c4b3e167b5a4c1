// Contrast ratios (WCAG) on the page: a selector and a coloured property, or "text", give [element, contrast] pairs.

const [selector, colour] = arguments, [plain, pseudo] = selector.split("::");
const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

function rgba(name) {
  pixel.clearRect(0, 0, 1, 1);
  pixel.fillStyle = name;
  pixel.fillRect(0, 0, 1, 1);
  return [...pixel.getImageData(0, 0, 1, 1).data];
}

const over = (top, under, opacity = 1) => {
  return under.map((value, i) => value + (top[i] - value) * (top[3] / 255) * opacity);
};
const lineage = (element) => (element ? [...lineage(element.parentElement), element] : []);

/** The colours behind an element: two where one of its ancestors has a gradient from a colour to nothing. */
function behind(element) {
  return lineage(element).reduce((colours, one) => {
    const { backgroundColor, backgroundImage } = getComputedStyle(one);
    const solid = colours.map((under) => over(rgba(backgroundColor), under));
    const gradient = backgroundImage.match(/(rgba?|oklab|color)\([^)]*\)/)?.[0];
    return gradient ? [...solid, ...solid.map((under) => over(rgba(gradient), under))] : solid;
  }, [[255, 255, 255]]);
}

function luminance(rgb) {
  const [red, green, blue] = rgb.map((value) => value / 255).map((value) => {
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(one, other) {
  const [darker, lighter] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (lighter + 0.05) / (darker + 0.05);
}

function wanted(element) {
  if (!element.checkVisibility() || element.closest(":disabled, script, style")) return false;
  const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  return colour !== "text" || hasText;
}

return [...document.querySelectorAll(plain)].filter(wanted).map((element) => {
  const property = colour !== "text" ? colour : element.ownerSVGElement ? "fill" : "color";
  const own = rgba(getComputedStyle(element, pseudo && `::${pseudo}`)[property]);
  const opacity = lineage(element).reduce((all, one) => all * getComputedStyle(one).opacity, 1);
  const contrasts = behind(element).map((under) => contrast(over(own, under, opacity), under));
  return [`${element.tagName} ${element.getAttribute("class")} ${element.textContent}`, Math.min(...contrasts)];
});
