"""The attention page in a real browser, opened from the disk: what is seen, pointed at and typed."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

import nanogpt
from nanogpt.cli.visualize import visualize_main
from nanogpt.page.colours import colour_maps
from nanogpt.page.document import page
from nanogpt.page.figures import coded, coded_difference, decoded
from tests.conftest import STRANGE
from tests.test_page import figures_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium and chromedriver here (Debian: chromium chromium-driver)"
)

FLAGS = """
    --headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --window-size=1280,900
"""
PAGES = {
    "own text": [],
    "strange text": [f"--text={STRANGE}"],
    "one character": ["--text=<"],
    "compared": [f"--text={STRANGE}", "--compare=0"],
}


@pytest.fixture(scope="module")
def pages(strange_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Address of each page."""
    folder = tmp_path_factory.mktemp("pages")
    for name, flags in PAGES.items():
        command = [f"--out_dir={strange_run}", "--backend=torch", *flags, f"--html={folder / name}.html"]
        assert visualize_main(command) == 0
    return {name: (folder / f"{name}.html").as_uri() for name in PAGES}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}", "about:blank"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(started: Chrome) -> Iterator[Chrome]:
    """The browser without a trace of the test before; at the end, nothing may have been logged."""
    resize(started, 1280)
    prefer(started, "light")
    started.get("about:blank")
    for log in ("browser", "performance"):
        started.get_log(log)
    yield started
    assert started.get_log("browser") == []


def resize(driver: Chrome, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(driver: Chrome, scheme: str) -> None:
    wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def one(driver: Chrome, selector: str) -> WebElement:
    return driver.find_element(By.CSS_SELECTOR, selector)


def pixels(driver: Chrome, canvas: str) -> np.ndarray:
    """RGBA of a canvas, as it was painted: uint8 `[height, width, 4]`."""
    script = """
        const { width, height } = document.querySelector(arguments[0]);
        // A copy: Chromium complains of a canvas that is read again and again.
        const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(document.querySelector(arguments[0]), 0, 0);
        return [width, ...copy.getImageData(0, 0, width, height).data]"""
    width, *values = driver.execute_script(script, canvas)
    return np.array(values, np.uint8).reshape(-1, width, 4)


def painted(codes_TS: np.ndarray, cells: int, colours: np.ndarray, none: int = 0) -> np.ndarray:
    """What a head's picture must be: each pixel the strongest of its block, clear above the diagonal."""
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


def attention_of(run: Path, text: str, checkpoint: str = "latest") -> np.ndarray:
    """`[L, H, T, T]`."""
    model = nanogpt.load(run, backend="torch", checkpoint=checkpoint)
    return model.attention(model.tokenizer.encode(text)[None])[:, 0]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_a_message_or_a_request(
    name: str, pages: dict[str, str], browser: Chrome
) -> None:
    browser.get(pages[name])
    assert one(browser, "#chosen-name").text.startswith("layer ")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert requests == [pages[name]]
    painted_at = browser.execute_async_script("""const done = arguments[0];
        new PerformanceObserver((list) => done(list.getEntries()[0].startTime)).observe(
            { type: "paint", buffered: true })""")
    assert 0 < painted_at < 1000  # ms


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
    # The other model's own attention is ours less the difference, to within what the page says of it.
    one(browser, "#views button:nth-of-type(2)").click()
    shown = pixels(browser, "#picture canvas")
    expected = painted(coded(early_LHTS[0, 0]), len(STRANGE), colour_maps()["light"])
    assert np.abs(shown.astype(int) - expected).max() < 16


def state_of(browser: Chrome) -> dict[str, Any]:
    """What a person sees of a choice: colours of the text, tables, the line along the picture."""
    return browser.execute_script("""return {
        colours: [...document.querySelectorAll("#text > span")].map((span) => span.style.backgroundColor),
        at: document.querySelector("#text").getAttribute("aria-activedescendant"),
        looks: document.querySelector("#strongest").innerText,
        guesses: document.querySelector("#guesses").innerText,
        next: document.querySelector("#next").innerText,
        row: document.querySelector("#picture .row").style.top,
        head: document.querySelector("#chosen-name").innerText,
        readout: document.querySelector("#readout").innerText,
    }""")


def test_pointing_at_the_text_shows_where_it_looks(
    pages: dict[str, str], browser: Chrome, strange_run: Path
) -> None:
    browser.get(pages["strange text"])
    ActionChains(browser).move_to_element(one(browser, "#piece-20")).perform()
    one_place = state_of(browser)
    assert one_place["at"] == "piece-20"
    assert one_place["looks"].startswith(f"\u2018{STRANGE[20]}\u2019 looks at")
    chosen = browser.find_elements(By.CSS_SELECTOR, "#thumbnails button")
    head = [button.get_attribute("aria-pressed") for button in chosen].index("true")
    weights_S = attention_of(strange_run, STRANGE).reshape(-1, *2 * [len(STRANGE)])[head, 20]
    expected = [f"rgb({r}, {g}, {b})" for r, g, b in colour_maps()["light"][coded(weights_S[:21])]]
    assert one_place["colours"] == expected + [""] * (len(STRANGE) - 21)

    ActionChains(browser).move_to_element(one(browser, "#piece-10")).perform()
    another = state_of(browser)
    assert another["at"] == "piece-10"
    for what in ("colours", "looks", "guesses", "next", "row"):
        assert another[what] != one_place[what]

    # A click holds; pointing elsewhere changes nothing until a second click lets go.
    one(browser, "#piece-10").click()
    ActionChains(browser).move_to_element(one(browser, "#piece-20")).perform()
    assert state_of(browser)["at"] == "piece-10"
    one(browser, "#piece-10").click()
    ActionChains(browser).move_to_element(one(browser, "#piece-20")).perform()
    assert state_of(browser)["at"] == "piece-20"


def test_the_text_can_be_coloured_by_who_looks_and_by_surprise(
    pages: dict[str, str], browser: Chrome
) -> None:
    browser.get(pages["strange text"])
    one(browser, "#piece-20").click()
    colours = [state_of(browser)["colours"]]
    for mode in (2, 3):
        one(browser, f"#modes button:nth-of-type({mode})").click()
        colours.append(state_of(browser)["colours"])
    looks, looked_at, surprise = colours
    assert not any(looked_at[:20])
    assert all(looked_at[20:])
    assert looked_at[20] == looks[20]
    assert all(surprise)


def test_the_keyboard_reaches_everything(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["strange text"])
    one(browser, "#thumbnails button").click()
    assert state_of(browser)["head"] == "layer 0, head 0"
    one(browser, "#thumbnails button").send_keys(Keys.ARROW_DOWN)
    assert state_of(browser)["head"] == "layer 1, head 0"
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert state_of(browser)["head"] == "layer 1, head 1"
    assert browser.switch_to.active_element.get_attribute("aria-pressed") == "true"
    text = one(browser, "#text")
    text.send_keys(Keys.HOME)
    assert state_of(browser)["at"] == "piece-0"
    text.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert state_of(browser)["at"] == "piece-2"
    text.send_keys(Keys.ARROW_DOWN)
    below = int(state_of(browser)["at"].removeprefix("piece-"))
    assert below > 3
    text.send_keys(Keys.ARROW_UP)
    assert int(state_of(browser)["at"].removeprefix("piece-")) < below
    text.send_keys(Keys.END)
    assert state_of(browser)["at"] == f"piece-{len(STRANGE) - 1}"
    canvas = one(browser, "#picture canvas")
    canvas.send_keys(Keys.ARROW_LEFT, Keys.ARROW_UP)
    state = state_of(browser)
    assert state["at"] == f"piece-{len(STRANGE) - 2}"
    assert "of the attention of" in state["readout"]
    text.send_keys(Keys.ESCAPE)
    ActionChains(browser).move_to_element(one(browser, "#piece-1")).perform()
    assert state_of(browser)["at"] == "piece-1"


def test_a_cell_of_the_picture_tells_its_weight(
    pages: dict[str, str], browser: Chrome, strange_run: Path
) -> None:
    browser.get(pages["strange text"])
    one(browser, "#thumbnails button").click()
    canvas = one(browser, "#picture canvas")
    side, T = canvas.size["width"], len(STRANGE)
    query, key = T - 1, 3
    offset = [round((index + 0.5) * side / T - side / 2) for index in (key, query)]
    ActionChains(browser).move_to_element_with_offset(canvas, *offset).perform()
    weight = attention_of(strange_run, STRANGE)[0, 0, query, key]
    told = state_of(browser)["readout"].replace("\u00a0", " ")
    assert told.split(" %")[0] == f"{100 * weight:.{1 if weight < 0.0995 else 0}f}"
    assert f"\u2018{STRANGE[key]}\u2019, {query - key} before" in told


def test_hostile_text_is_shown_as_it_is(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["strange text"])
    shown = one(browser, "#text").get_attribute("textContent")
    assert shown.startswith("</script><img·src=x·onerror=alert(1)><!--⇥\t")
    assert "\u27e8202E\u27e9" in shown
    assert "\u27e82028\u27e9" in shown
    assert browser.find_elements(By.CSS_SELECTOR, "img, iframe, object, [onerror]") == []
    for example in browser.find_elements(By.CSS_SELECTOR, ".example"):
        assert "\u202e" not in example.get_attribute("textContent")


def test_nothing_can_be_fetched_even_if_asked(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["one character"])
    violated = browser.execute_async_script("""const done = arguments[0];
        addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
        document.body.append(Object.assign(new Image(), { src: "https://example.invalid/x.png" }));""")
    assert violated == "img-src"
    assert len(browser.get_log("browser")) == 1  # the browser's own note of it


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1280])
def test_no_layout_scrolls_sideways(width: int, scheme: str, pages: dict[str, str], browser: Chrome) -> None:
    resize(browser, width)
    prefer(browser, scheme)
    for name in ("own text", "compared"):
        browser.get(pages[name])
        wide = browser.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide == 0, name


def test_dark_and_light_are_the_systems_choice_and_a_button(pages: dict[str, str], browser: Chrome) -> None:
    prefer(browser, "dark")
    browser.get(pages["own text"])
    background = "return getComputedStyle(document.body).backgroundColor"
    dark = browser.execute_script(background)
    one(browser, "#theme").click()
    light = browser.execute_script(background)
    assert dark == "rgb(16, 17, 34)"
    assert light == "rgb(255, 255, 253)"


def test_every_head_has_its_card_and_its_row(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["own text"])
    cards = browser.find_elements(By.CSS_SELECTOR, "#cards article")
    assert [card.find_element(By.TAG_NAME, "h3").text for card in cards] == ["0.0", "0.1", "1.0", "1.1"]
    one(browser, "#scores summary").click()
    rows = browser.find_elements(By.CSS_SELECTOR, "#scores tbody tr")
    assert [row.find_element(By.TAG_NAME, "th").text for row in rows] == ["0.0", "0.1", "1.0", "1.1"]
    cards[2].find_element(By.CSS_SELECTOR, "h3 button").click()
    assert one(browser, "#chosen-name").text == "layer 1, head 0"


def test_how_the_chosen_head_formed_is_drawn(
    pages: dict[str, str], browser: Chrome, strange_run: Path
) -> None:
    browser.get(pages["own text"])
    last = json.loads((strange_run / "heads.jsonl").read_text().splitlines()[-1])
    curves = browser.find_elements(By.CSS_SELECTOR, "#formation .curve text")
    names = [re.sub(r"\s\u2212?[\d.]+\s%$", "", curve.text) for curve in curves]
    assert sorted(names) == sorted(last["scores"])
    drawings = set()
    for button in browser.find_elements(By.CSS_SELECTOR, "#thumbnails button"):
        button.click()
        drawings.add(one(browser, "#formation .chart").get_attribute("innerHTML"))
    assert len(drawings) == 4


@pytest.mark.parametrize("width", [390, 1280])
def test_no_word_of_a_chart_is_cut_off(
    width: int, pages: dict[str, str], browser: Chrome, tmp_path: Path
) -> None:
    figures = figures_of(unquote(pages["own text"]).removeprefix("file://"))
    # The longest bars and the longest names.
    figures["report"]["heads"][0]["scores"]["vowels"]["excess"] = {"mean": 0.99, "low": 0.98, "high": 1}
    figures["formation"]["excess"]["previous character"][-1][0][0] = -0.099
    (tmp_path / "page.html").write_text(page(figures, title=""), encoding="utf-8")
    resize(browser, width)
    browser.get((tmp_path / "page.html").as_uri())
    one(browser, "#thumbnails button").click()
    cut_off = browser.execute_script("""return [...document.querySelectorAll("svg text")].filter((text) => {
        const [inner, outer] = [text, text.ownerSVGElement].map((element) => element.getBoundingClientRect());
        return inner.left < outer.left || inner.right > outer.right || inner.bottom > outer.bottom;
    }).map((text) => text.textContent)""")
    assert cut_off == []


def test_the_tour_takes_five_steps_and_gives_the_focus_back(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["own text"])
    begin, tour = one(browser, "#tour-begin"), one(browser, "#tour")
    begin.send_keys(Keys.ENTER)
    titles = []
    for _ in range(5):
        titles.append(one(browser, "#tour-title").text)
        assert browser.switch_to.active_element == one(browser, "#tour-next")
        browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert len(set(titles)) == 5
    assert not tour.is_displayed()
    assert browser.switch_to.active_element == begin
    begin.send_keys(Keys.ENTER)
    assert tour.is_displayed()
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not tour.is_displayed()
    assert browser.switch_to.active_element == begin


def test_without_javascript_the_page_still_speaks(pages: dict[str, str], browser: Chrome) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(pages["own text"])
        text = browser.execute_cdp_cmd("DOM.getDocument", {"depth": -1})
        assert "Layer 1, head 1: " in json.dumps(text)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
