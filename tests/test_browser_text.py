"""The text of the attention page in a real browser: pointing, clicking and typing."""

from pathlib import Path

from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from nanogpt.page.colours import colour_maps
from nanogpt.page.figures import coded
from tests.browser import attention_of, needs_browser, one, state_of
from tests.conftest import STRANGE

pytest_plugins = ["tests.browser_fixtures"]
pytestmark = needs_browser


def test_pointing_at_the_text_shows_what_it_attends_to(
    pages: dict[str, str], browser: Chrome, strange_run: Path
) -> None:
    browser.get(pages["strange text"])
    ActionChains(browser).move_to_element(one(browser, "#piece-20")).perform()
    one_place = state_of(browser)
    assert one_place["at"] == "piece-20"
    assert one_place["attends"].startswith(f"\u2018{STRANGE[20]}\u2019 attends to")
    chosen = browser.find_elements(By.CSS_SELECTOR, "#thumbnails button")
    head = [button.get_attribute("aria-pressed") for button in chosen].index("true")
    weights_S = attention_of(strange_run, STRANGE).reshape(-1, *2 * [len(STRANGE)])[head, 20]
    expected = [f"rgb({r}, {g}, {b})" for r, g, b in colour_maps()["light"][coded(weights_S[:21])]]
    assert one_place["colours"] == expected + [""] * (len(STRANGE) - 21)

    ActionChains(browser).move_to_element(one(browser, "#piece-10")).perform()
    another = state_of(browser)
    assert another["at"] == "piece-10"
    for what in ("colours", "attends", "guesses", "next", "row"):
        assert another[what] != one_place[what]

    # After a click, pointing elsewhere changes nothing until a second click.
    one(browser, "#piece-10").click()
    ActionChains(browser).move_to_element(one(browser, "#piece-20")).perform()
    assert state_of(browser)["at"] == "piece-10"
    one(browser, "#piece-10").click()
    ActionChains(browser).move_to_element(one(browser, "#piece-20")).perform()
    assert state_of(browser)["at"] == "piece-20"


def test_the_text_can_be_coloured_in_both_directions_and_by_surprise(
    pages: dict[str, str], browser: Chrome
) -> None:
    browser.get(pages["strange text"])
    one(browser, "#piece-20").click()
    colours = [state_of(browser)["colours"]]
    for mode in (2, 3):
        one(browser, f"#modes button:nth-of-type({mode})").click()
        colours.append(state_of(browser)["colours"])
    attends_to, attended_by, surprise = colours
    assert not any(attended_by[:20])
    assert all(attended_by[20:])
    assert attended_by[20] == attends_to[20]
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


def test_hostile_text_is_shown_as_it_is(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["strange text"])
    shown = one(browser, "#text").get_attribute("textContent")
    assert shown.startswith("</script><img·src=x·onerror=alert(1)><!--⇥\t")
    assert "\u27e8202E\u27e9" in shown
    assert "\u27e82028\u27e9" in shown
    assert browser.find_elements(By.CSS_SELECTOR, "img, iframe, object, [onerror]") == []
    for example in browser.find_elements(By.CSS_SELECTOR, ".example"):
        assert "\u202e" not in example.get_attribute("textContent")
