"""The attention page for everyone: by keyboard, by ear, with contrasts to be seen, for large fingers."""

import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from nanogpt.page.colours import colour_maps
from nanogpt.page.document import page
from nanogpt.page.figures import coded
from tests.browser import PAGES, attention_of, contrasts_of, needs_browser, one, prefer, resize, state_of
from tests.conftest import STRANGE
from tests.page import figures_of

pytest_plugins = ["tests.browser_fixtures"]
pytestmark = [needs_browser, pytest.mark.long]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["own text", "compared"])
def test_axe_finds_nothing(
    name: str, width: int, scheme: str, pages: dict[str, str], browser: Chrome
) -> None:
    resize(browser, width)
    prefer(browser, scheme)
    browser.get(pages[name])
    for change in ("", "for (const one of document.querySelectorAll('details')) one.open = true", OPEN_TOUR):
        browser.execute_script(change)
        found = Axe().run(browser)
        assert len(found["passes"]) > 20
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []


OPEN_TOUR = "document.querySelector('#tour-begin').click()"


@pytest.mark.parametrize("name", ["own text", "compared"])
def test_tab_reaches_every_part_that_is_operated(name: str, pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages[name])
    browser.execute_script("window.reached = []")
    stops = len(
        browser.find_elements(By.CSS_SELECTOR, "button, a, summary, input, select, textarea, [tabindex]")
    )
    for _ in range(stops):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        browser.execute_script("reached.push(document.activeElement)")
    missed = browser.execute_script("""
        const operated = [...document.querySelectorAll("main *, header *")].filter((element) =>
            element.checkVisibility() && !element.matches(":disabled") &&
            (element.matches("button, a[href], summary, input, select, textarea")
            || element.onclick || element.onkeydown || element.onpointermove || element.onpointerover));
        // Inside these parts the arrow keys move, from the one that Tab reaches.
        const part = (element) => element.closest("[role=listbox], #thumbnails") ?? element;
        const stops = new Set(reached.map(part));
        const missed = operated.filter((element) => !stops.has(part(element)));
        return [operated.length, missed.map((element) => element.outerHTML)]""")
    assert missed[0] > 20
    assert missed[1] == []


def test_keys_operate_every_part(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["compared"])
    one(browser, "#text").send_keys(Keys.END, Keys.ARROW_LEFT)
    for group, count in (("views", 3), ("scales", 2), ("modes", 3)):
        colours = set()
        for button in browser.find_elements(By.CSS_SELECTOR, f"#{group} button"):
            button.send_keys(Keys.SPACE)
            assert button.get_attribute("aria-pressed") == "true"
            colours.add(str(state_of(browser)["colours"]))
        assert len(colours) == count, group
    one(browser, "#theme").send_keys(Keys.ENTER)
    assert one(browser, "#theme").text == "Light"
    one(browser, "#evidence").send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#card-" + str(chosen_head(browser)))
    card = browser.find_elements(By.CSS_SELECTOR, "#cards h3 button")[2]
    card.send_keys(Keys.ENTER)
    assert state_of(browser)["head"].startswith("layer 1, head 0")
    for details in browser.find_elements(By.CSS_SELECTOR, "#cards > details, #card-2 details"):
        details.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        assert details.find_element(By.TAG_NAME, "table").is_displayed()
    scores = one(browser, "#scores .scroll")
    scores.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element == scores


def chosen_head(browser: Chrome) -> int:
    buttons = browser.find_elements(By.CSS_SELECTOR, "#thumbnails button")
    return [button.get_attribute("aria-pressed") for button in buttons].index("true")


def test_keys_and_clicks_choose_a_line_of_the_chart(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["own text"])
    chart = one(browser, "#chart")

    def chosen() -> tuple[int, str, float]:
        options = browser.find_elements(By.CSS_SELECTOR, "#chart [role=option]")
        selected = [option.get_attribute("aria-selected") for option in options]
        assert selected.count("true") == 1
        option = options[selected.index("true")]
        assert chart.get_attribute("aria-activedescendant") == option.get_attribute("id")
        width = option.find_element(By.TAG_NAME, "path").value_of_css_property("stroke-width")
        return (
            selected.index("true"),
            option.get_attribute("aria-label") or "",
            float(width.removesuffix("px")),
        )

    first = chosen()
    assert first[0] == 0
    assert re.fullmatch(r".+: \S+\s% at step 0, \S+\s% at step 10", first[1])
    chart.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    third = chosen()
    assert (third[0], third[2]) == (2, first[2])
    chart.send_keys(Keys.ARROW_UP)
    assert chosen()[0] == 1
    browser.find_elements(By.CSS_SELECTOR, "#chart [role=option] text")[3].click()
    fourth = chosen()
    assert fourth[0] == 3
    # The same name stays chosen for another head.
    one(browser, "#thumbnails button").click()
    assert chosen()[1].split(":")[0] == fourth[1].split(":")[0]


def heard(browser: Chrome) -> str:
    """The text of the live region; there is one alone, and it is polite."""
    regions = browser.find_elements(By.CSS_SELECTOR, "[aria-live], [role=status], [role=alert], [role=log]")
    assert [region.get_attribute("aria-live") for region in regions] == ["polite"]
    return regions[0].get_attribute("textContent").replace("\u00a0", " ")


def test_a_screen_reader_hears_what_is_chosen(
    pages: dict[str, str], browser: Chrome, strange_run: Path
) -> None:
    browser.get(pages["strange text"])
    assert heard(browser) == ""
    text, at = one(browser, "#text"), STRANGE.index(" ")
    text.send_keys(Keys.HOME, at * Keys.ARROW_RIGHT)
    weights_S = attention_of(strange_run, STRANGE).reshape(-1, len(STRANGE), len(STRANGE))[
        chosen_head(browser), at
    ]
    strongest = np.argsort(-coded(weights_S[: at + 1]).astype(int), kind="stable")[0]
    where = "itself" if strongest == at else f"{at - strongest} before"
    assert heard(browser).startswith(f"space attends to: {said(STRANGE[strongest])}, {where}, ")
    rows = browser.find_elements(By.CSS_SELECTOR, ".tables tbody tr")
    assert len(rows) == 10
    for row in rows:
        note, figure = (cell.text.replace("\u00a0", " ") for cell in row.find_elements(By.TAG_NAME, "td"))
        assert f", {note}, {figure}".replace(", , ", ", ") in heard(browser)
    assert f"The next character was {STRANGE[at + 1]}: probability " in heard(browser)

    text.send_keys(Keys.HOME, STRANGE.index("\t") * Keys.ARROW_RIGHT)
    assert heard(browser).startswith("tab attends to: ")
    one(browser, "#modes button:nth-of-type(2)").send_keys(Keys.SPACE)
    assert heard(browser).startswith("tab is attended to by: ")

    one(browser, "#picture canvas").send_keys(Keys.ARROW_LEFT)
    cell = state_of(browser)["readout"].replace("\u2018\u21e5\u2019", "tab").replace("\u00a0", " ")
    assert heard(browser) == re.sub("[\u2018\u2019]", "", cell)

    other = Keys.ARROW_LEFT if chosen_head(browser) else Keys.ARROW_RIGHT
    one(browser, "#thumbnails [tabindex='0']").send_keys(other)
    name, sentence = (one(browser, f"#chosen-{what}").text for what in ("name", "sentence"))
    assert heard(browser).startswith(f"{name}. {sentence} ".replace("\u00a0", " "))


def said(piece: str) -> str:
    return {" ": "space", "\t": "tab", "\n": "line break"}.get(piece, piece)


def test_a_screen_reader_hears_the_tour_and_then_the_page_again(
    pages: dict[str, str], browser: Chrome
) -> None:
    browser.get(pages["own text"])
    one(browser, "#tour-begin").send_keys(Keys.ENTER)
    for _ in range(2):
        title, words = (one(browser, f"#tour-{what}").text for what in ("title", "text"))
        assert heard(browser) == f"{title}. {words}".replace("\u00a0", " ")
        # All outside an open dialog is silent.
        assert browser.find_elements(By.CSS_SELECTOR, "#tour [aria-live]")
        browser.switch_to.active_element.send_keys(Keys.ENTER)
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert browser.find_elements(By.CSS_SELECTOR, "body > [aria-live]")


def test_what_is_operated_is_not_an_image(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["own text"])
    assert browser.find_elements(By.CSS_SELECTOR, "[role=img]")
    assert browser.find_elements(By.CSS_SELECTOR, "[role=img]:is([tabindex], :has([tabindex]))") == []
    canvas = one(browser, "#picture canvas")
    assert canvas.aria_role == "application"
    assert canvas.accessible_name.startswith("Attention of layer ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(scheme: str, pages: dict[str, str], browser: Chrome, tmp_path: Path) -> None:
    prefer(browser, scheme)
    figures = figures_of(unquote(pages["compared"]).removeprefix("file://"))
    figures["losses"] = np.linspace(0, 9, len(figures["losses"])).tolist()  # all colours of the map
    (tmp_path / "page.html").write_text(page(figures, title=""), encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    for view in (1, 3):
        one(browser, f"#views button:nth-of-type({view})").click()
        for mode in (1, 2, 3):
            one(browser, f"#modes button:nth-of-type({mode})").click()
            contrasts = contrasts_of(browser)
            assert len(contrasts) > 300
            assert {text: contrast for text, contrast in contrasts if contrast < 4.5} == {}


# Marks by selector and the property that colours them.
MARKS = {
    ".bars .value": "fill",
    ".bars .strong .value": "fill",
    ".bars .whisker": "stroke",
    ".bars .axis": "stroke",
    ".bars .threshold": "stroke",
    ".curve path": "stroke",
    ".choices [aria-pressed=true]": "borderTopColor",
    ".thumbnails [aria-pressed=true]": "outlineColor",
    ".thumbnails .role::after": "borderTopColor",
    ".cards .current": "outlineColor",
    "#text:focus-visible": "outlineColor",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_mark_can_be_seen(scheme: str, pages: dict[str, str], browser: Chrome, tmp_path: Path) -> None:
    prefer(browser, scheme)
    figures = figures_of(unquote(pages["own text"]).removeprefix("file://"))
    head = figures["report"]["heads"][0]
    head["role"] = "vowels"
    head["scores"]["vowels"]["excess"] = {"mean": 0.9, "low": 0.8, "high": 1}
    (tmp_path / "page.html").write_text(page(figures, title=""), encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    one(browser, "#text").send_keys(Keys.HOME)
    for selector, property_ in MARKS.items():
        seen = contrasts_of(browser, selector, property_)
        assert seen, selector
        assert min(contrast for _, contrast in seen) >= 3, selector
    # Two lines with 9 : 1 between them: on any colour one of them has 3 : 1.
    for selector in ("#text [aria-selected=true]", "#picture .row", "#picture .column", ".example .query"):
        outline, shadow = browser.execute_script(
            """const style = getComputedStyle(document.querySelector(arguments[0]));
            return [style.outlineColor, style.boxShadow.match(/rgb\\([^)]*\\)/)[0]]""",
            selector,
        )
        darker, lighter = sorted(map(luminance, (outline, shadow)))
        assert (lighter + 0.05) / (darker + 0.05) >= 9, selector


def luminance(rgb: str) -> float:
    values = np.array(re.findall(r"\d+", rgb), float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_forced_colours_keep_the_heat_map_and_show_what_is_chosen(
    scheme: str, pages: dict[str, str], browser: Chrome, strange_run: Path
) -> None:
    prefer(browser, scheme, forced_colors="active")
    browser.get(pages["strange text"])
    one(browser, "#text").send_keys(Keys.END)
    computed = """const [selector, property] = arguments;
        return [...document.querySelectorAll(selector)].map((one) => getComputedStyle(one)[property])"""
    weights_S = attention_of(strange_run, STRANGE).reshape(-1, len(STRANGE), len(STRANGE))[
        chosen_head(browser), -1
    ]
    expected = [f"rgb({r}, {g}, {b})" for r, g, b in colour_maps()[scheme][coded(weights_S)]]
    assert browser.execute_script(computed, "#text > span", "backgroundColor") == expected
    assert {text: contrast for text, contrast in contrasts_of(browser, "#text *") if contrast < 4.5} == {}
    assert browser.execute_script(computed, "#picture .row", "outlineStyle") == ["solid"]
    for group in ("modes", "scales"):
        for pressed in browser.find_elements(By.CSS_SELECTOR, f"#{group} button"):
            pressed.click()
            chosen, *others = (
                {*browser.execute_script(computed, f"#{group} [aria-pressed={value}]", "backgroundColor")}
                for value in ("true", "false")
            )
            assert len(chosen) == 1
            assert chosen.isdisjoint(*others)


@pytest.mark.parametrize("width", [390, 1280])
def test_targets_are_large_enough(width: int, pages: dict[str, str], browser: Chrome) -> None:
    resize(browser, width)
    browser.get(pages["compared"])
    # Characters of the text and cells of the picture are as small as they must be; keys reach each of them.
    small = browser.execute_script("""
        const targets = [...document.querySelectorAll("button, a[href], summary, #chart .catch")];
        return [targets.length, targets.filter((target) => target.checkVisibility()).filter((target) => {
            const { width, height } = target.getBoundingClientRect();
            return width < 23.99 || height < 23.99;
        }).map((target) => target.outerHTML)]""")
    assert small[0] > 20
    assert small[1] == []


def test_nothing_moves_by_itself_where_that_is_not_wanted(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["own text"])
    moving = """return [getComputedStyle(document.documentElement).scrollBehavior,
        [...document.querySelectorAll("*")].some((one) => getComputedStyle(one).transitionDuration !== "0s"
        || getComputedStyle(one).animationName !== "none")]"""
    assert browser.execute_script(moving) == ["auto", False]
    prefer(browser, "light", prefers_reduced_motion="no-preference")
    assert browser.execute_script(moving) == ["smooth", False]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_any_width_has_no_error(name: str, pages: dict[str, str], browser: Chrome) -> None:
    listening = {
        "source": "window.errors = []; addEventListener('error', ({ message }) => errors.push(message))"
    }
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", listening)
    try:
        for width in (1280, 390):
            resize(browser, width)
            browser.get(pages[name])
            for next_width in (800, 1000, width):
                resize(browser, next_width)
                painted = "const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 50))"
                browser.execute_async_script(painted)
            assert browser.execute_script("return errors") == []
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
