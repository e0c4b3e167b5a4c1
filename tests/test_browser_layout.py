"""The attention page in a real browser, as a whole: loading, layout, light and dark, cards and the tour."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from nanogpt.page.document import page
from tests.browser import PAGES, needs_browser, one, prefer, resize
from tests.page import figures_of

pytest_plugins = ["tests.browser_fixtures"]
pytestmark = needs_browser


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_a_message_or_a_request(
    name: str, pages: dict[str, str], browser: Chrome
) -> None:
    browser.get(pages[name])
    assert one(browser, "#chosen-name").text.startswith("layer ")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    # The worker's blob is a part of the page: it comes from the memory of the browser.
    assert [url for url in requests if not url.startswith("blob:null/")] == [pages[name]]
    assert len(requests) <= 2
    painted_at = browser.execute_async_script("""const done = arguments[0];
        new PerformanceObserver((list) => done(list.getEntries()[0].startTime)).observe(
            { type: "paint", buffered: true })""")
    assert 0 < painted_at < 1000  # ms


def test_nothing_can_be_fetched_even_if_asked(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["one character"])
    violated = browser.execute_async_script("""const done = arguments[0];
        addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
        document.body.append(Object.assign(new Image(), { src: "https://example.invalid/x.png" }));""")
    assert violated == "img-src"
    assert len(browser.get_log("browser")) == 1  # the browser logs the violation


def test_without_javascript_the_page_has_sentences(pages: dict[str, str], browser: Chrome) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(pages["own text"])
        text = browser.execute_cdp_cmd("DOM.getDocument", {"depth": -1})
        assert "Layer 1, head 1: " in json.dumps(text)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


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
def test_no_text_of_a_chart_is_cut_off(
    width: int, pages: dict[str, str], browser: Chrome, tmp_path: Path
) -> None:
    figures = figures_of(unquote(pages["own text"]).removeprefix("file://"))
    # These figures give the longest bars and the longest labels.
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
    labels = [text.text for text in browser.find_elements(By.CSS_SELECTOR, ".bars > text")]
    assert labels == ["threshold 0.2"] * len(figures["report"]["heads"])


def test_the_tour_takes_all_its_steps_and_gives_the_focus_back(
    pages: dict[str, str], browser: Chrome
) -> None:
    browser.get(pages["own text"])
    begin, tour = one(browser, "#tour-begin"), one(browser, "#tour")
    begin.send_keys(Keys.ENTER)
    assert begin.text == "Take the tour, seven steps"
    titles = []
    for _ in range(7):
        titles.append(one(browser, "#tour-title").text)
        assert browser.switch_to.active_element == one(browser, "#tour-next")
        browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert len(set(titles)) == 7
    assert not tour.is_displayed()
    assert browser.switch_to.active_element == begin
    begin.send_keys(Keys.ENTER)
    assert tour.is_displayed()
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not tour.is_displayed()
    assert browser.switch_to.active_element == begin
