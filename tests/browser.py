"""Helpers for tests of the attention page in a real browser. The fixtures are in browser_fixtures.py."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

import nanogpt
from tests.conftest import ROOT, STRANGE

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium and chromedriver here (Debian: chromium chromium-driver)"
)

PAGES = {
    "own text": [],
    "strange text": [f"--text={STRANGE}"],
    "one character": ["--text=<"],
    "compared": [f"--text={STRANGE}", "--compare=0"],
}


def resize(driver: Chrome, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(driver: Chrome, scheme: str, **wishes: str) -> None:
    """Set the colour scheme, reduced motion, and other media features by name: `forced_colors="active"`."""
    wishes = {"prefers_color_scheme": scheme, "prefers_reduced_motion": "reduce", **wishes}
    features = [{"name": name.replace("_", "-"), "value": value} for name, value in wishes.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def one(driver: Chrome, selector: str) -> WebElement:
    return driver.find_element(By.CSS_SELECTOR, selector)


def pixels(driver: Chrome, canvas: str) -> np.ndarray:
    """RGBA of a canvas: uint8 `[height, width, 4]`."""
    script = """
        const { width, height } = document.querySelector(arguments[0]);
        // Chromium logs a complaint if the canvas itself is read repeatedly, so the script reads a copy.
        const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(document.querySelector(arguments[0]), 0, 0);
        return [width, ...copy.getImageData(0, 0, width, height).data]"""
    width, *values = driver.execute_script(script, canvas)
    return np.array(values, np.uint8).reshape(-1, width, 4)


def attention_of(run: Path, text: str, checkpoint: str = "latest") -> np.ndarray:
    """Attention weights of a text: `[L, H, T, S]`."""
    model = nanogpt.load(run, backend="torch", checkpoint=checkpoint)
    return model.attention(model.tokenizer.encode(text)[None])[:, 0]


def state_of(browser: Chrome) -> dict[str, Any]:
    """The visible state of the page: colours of the text, tables, the line along the picture."""
    return browser.execute_script("""return {
        colours: [...document.querySelectorAll("#text > span")].map((span) => span.style.backgroundColor),
        at: document.querySelector("#text").getAttribute("aria-activedescendant"),
        attends: document.querySelector("#strongest").innerText,
        guesses: document.querySelector("#guesses").innerText,
        next: document.querySelector("#next").innerText,
        row: document.querySelector("#picture .row").style.top,
        head: document.querySelector("#chosen-name").innerText,
        readout: document.querySelector("#readout").innerText,
    }""")


def contrasts_of(driver: Chrome, selector: str = "*", colour: str = "text") -> list[tuple[str, float]]:
    """Contrast ratio (WCAG) of elements to what is behind them: of their text or of another property.

    Where a gradient or a transparent colour is behind, the least contrast counts.
    """
    script = (ROOT / "tests" / "contrasts.js").read_text(encoding="utf-8")
    return driver.execute_script(script, selector, colour)
