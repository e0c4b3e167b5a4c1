"""The pictures of the attention page in a real browser: their pixels are the model's attention."""

from pathlib import Path

import numpy as np
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By

from nanogpt.page.colours import colour_maps
from nanogpt.page.figures import coded, coded_difference, decoded
from tests.browser import attention_of, needs_browser, one, pixels, state_of
from tests.conftest import STRANGE

pytest_plugins = ["tests.browser_fixtures"]
pytestmark = needs_browser


def painted(codes_TS: np.ndarray, cells: int, colours: np.ndarray, none: int = 0) -> np.ndarray:
    """The expected picture of a head: a pixel is its block's strongest cell, clear above the diagonal."""
    T = len(codes_TS)
    block = -(-T // cells)
    side = -(-T // block)
    image = np.zeros((side, side, 4), np.uint8)
    for row in range(side):
        for column in range(row + 1):
            queries, keys = np.ix_(*(np.arange(i * block, min(T, (i + 1) * block)) for i in (row, column)))
            seen = codes_TS[queries, keys][keys <= queries].astype(int)
            strongest = seen[np.abs(seen - none).argmax()]
            image[row, column] = [*colours[strongest], 255]
    return image


def test_thumbnails_and_picture_are_the_attention(
    pages: dict[str, str], browser: Chrome, strange_run: Path
) -> None:
    browser.get(pages["strange text"])
    codes_LHTS = coded(attention_of(strange_run, STRANGE))
    buttons = browser.find_elements(By.CSS_SELECTOR, "#thumbnails button")
    for scheme in ("light", "dark"):
        colours = colour_maps()[scheme]
        for head, codes_TS in enumerate(codes_LHTS.reshape(-1, *codes_LHTS.shape[2:])):
            buttons[head].click()
            selector = f"#thumbnails button:nth-of-type({head + 1}) canvas"
            np.testing.assert_array_equal(pixels(browser, selector), painted(codes_TS, 64, colours))
            shown = pixels(browser, "#picture canvas")
            np.testing.assert_array_equal(shown, painted(codes_TS, len(codes_TS), colours))
        one(browser, "#theme").click()
    one(browser, "#scales button:nth-of-type(2)").click()
    by_weight = np.floor(255 * decoded(np.arange(256)) + 0.5).astype(int)
    expected = painted(codes_LHTS[-1, -1], len(STRANGE), colour_maps()["light"][by_weight])
    np.testing.assert_array_equal(pixels(browser, "#picture canvas"), expected)


def test_the_difference_is_painted_in_two_directions(
    pages: dict[str, str], browser: Chrome, strange_run: Path
) -> None:
    browser.get(pages["compared"])
    late_LHTS, early_LHTS = (attention_of(strange_run, STRANGE, step) for step in ("10", "0"))
    difference_LHTS = late_LHTS - early_LHTS
    largest = np.abs(difference_LHTS).max()
    assert largest > 1e-4
    codes_LHTS = coded_difference(difference_LHTS / largest)
    one(browser, "#views button:nth-of-type(3)").click()
    one(browser, "#thumbnails button").click()
    expected = painted(codes_LHTS[0, 0], 64, colour_maps()["light_difference"], none=128)
    np.testing.assert_array_equal(pixels(browser, "#thumbnails button canvas"), expected)
    assert "no weight differs by more than" in one(browser, "#compared").text
    assert one(browser, "#chosen-name").text.startswith("layer 0, head 0, differs by ")
    # The page computes the other model's attention from the difference, with a rounding error.
    one(browser, "#views button:nth-of-type(2)").click()
    shown = pixels(browser, "#picture canvas")
    expected = painted(coded(early_LHTS[0, 0]), len(STRANGE), colour_maps()["light"])
    assert np.abs(shown.astype(int) - expected).max() < 16


def test_pointing_at_a_cell_shows_its_weight(
    pages: dict[str, str], browser: Chrome, strange_run: Path
) -> None:
    browser.get(pages["strange text"])
    one(browser, "#thumbnails button").click()
    canvas = one(browser, "#picture canvas")
    side, T = canvas.size["width"], len(STRANGE)
    query, key = T - 1, 3
    offset = [round((index + 0.5) * side / T - side / 2) for index in (key, query)]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(browser).move_to_element_with_offset(canvas, *offset).perform()
    weight = attention_of(strange_run, STRANGE)[0, 0, query, key]
    told = state_of(browser)["readout"].replace("\u00a0", " ")
    assert told.split(" %")[0] == f"{100 * weight:.{1 if weight < 0.0995 else 0}f}"
    assert f"\u2018{STRANGE[key]}\u2019, {query - key} before" in told
