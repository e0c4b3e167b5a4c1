"""The speed of the model in its page, in headless Chromium: `python -m benchmarks.page --html model.html`.

The first character: from the opening of a link until it stands in the box. Typing: from a key after 99
characters until the frame that shows the new text. Pace: from the 64th character to the end of the window.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

WHEN_WRITTEN = """
const timer = setInterval(() => {
    const box = document.getElementById("box");
    if (!box || box.value.length <= PROMPT || document.getElementById("live").hidden) return;
    window.firstAt = performance.now();
    clearInterval(timer);
}, 1);
"""
TYPE = """
const [character, done] = arguments, box = document.getElementById("box"), begun = performance.now();
new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)));
}).observe(document.getElementById("text"), { childList: true });
box.value += character;
box.dispatchEvent(new Event("input"));
"""


@dataclass(frozen=True)
class Page:
    """Measure a page that `nanogpt export page` wrote."""

    html: Path = Path("model.html")
    """The page."""
    turns: int = 15
    """Times that everything is measured."""


@contextmanager
def browser() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium") or shutil.which("google-chrome"))
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def told(driver: Chrome) -> str:
    return driver.execute_script("return document.getElementById('told').textContent")


def main() -> None:
    wanted = tyro.cli(Page, config=(tyro.conf.OmitArgPrefixes,), use_underscores=True)
    content = wanted.html.read_text(encoding="utf-8")
    figures = json.loads(re.findall(r'id="data">(.*?)</script>', content)[0])
    text = "".join(figures["pieces"])
    text = (text * 100)[:100]
    window = figures["live"]["config"]["block_size"]
    found: dict[str, list[float]] = {"first character, ms": [], "typing, ms": [], "characters/s": []}
    with browser() as driver:
        source = {"source": WHEN_WRITTEN.replace("PROMPT", "64")}
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
        for turn in range(wanted.turns):
            driver.get("about:blank")
            prompt = "".join(f"%{byte:02x}" for byte in text[:64].encode())
            driver.get(f"{wanted.html.resolve().as_uri()}#prompt={prompt}&seed={turn}&count={window - 64}")
            while not (pace := re.search(r"(\d+) a second", told(driver))):
                time.sleep(0.05)
            found["characters/s"].append(float(pace[1]))
            found["first character, ms"].append(driver.execute_script("return firstAt"))
            driver.execute_script("document.getElementById('box').value = arguments[0]", text[:99])
            latencies = [driver.execute_async_script(TYPE, character) for character in text[-2:]]
            found["typing, ms"].append(latencies[1])
    print(f"{len(content) / 1e6:.2f} MB; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, values in found.items():
        values.sort()
        print(
            f"{name:22} median {values[len(values) // 2]:7.1f}   from {values[0]:7.1f} to {values[-1]:7.1f}"
        )


if __name__ == "__main__":
    main()
