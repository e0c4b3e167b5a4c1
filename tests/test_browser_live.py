"""The model in the page, in a real browser: what a person does with it."""

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import nanogpt
from nanogpt.cli.huggingface import export_main
from nanogpt.page.document import page
from nanogpt.page.live import pack
from tests.browser import needs_browser, one, pixels
from tests.conftest import STRANGE
from tests.page import figures_of

pytest_plugins = ["tests.browser_fixtures"]
pytestmark = [needs_browser, pytest.mark.long]


def written(browser: Chrome, count: int | None = None) -> str:
    """The text in the box, once the model has no more to write, and has `count` characters."""

    def is_done(_: Chrome) -> bool:
        text = one(browser, "#box").get_property("value")
        return one(browser, "#write").text == "Write" and (count is None or len(text) == count)

    WebDriverWait(browser, 60).until(is_done)
    return one(browser, "#box").get_property("value")


def shown(browser: Chrome) -> str:
    """The text whose attention is shown."""
    # At once, for the page may replace the elements at any time.
    spans = "[...document.querySelectorAll('#text > span')].map((span) => span.textContent).join('')"
    return browser.execute_script(f"return {spans}").replace("·", " ").replace("↵", "\n")


def link(address: str, **fragment: object) -> str:
    return address + "#" + "&".join(f"{name}={value}" for name, value in fragment.items())


@pytest.fixture(scope="module")
def address(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page without a report, and with weights that are not rounded."""
    file = tmp_path_factory.mktemp("live") / "model.html"
    assert export_main(["page", f"--out_dir={finished_run}", "--backend=torch", f"--html={file}"]) == 0
    figures = figures_of(file)
    assert figures["report"] is None
    assert figures["live"]["losses"][1] - figures["live"]["losses"][0] < 0.005
    weights = nanogpt.language_model.read_checkpoint(finished_run)[0].weights
    figures["live"]["weights"] = pack(weights, "float32")
    file.write_text(page(figures, title=""), encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.8}, {"temperature": 0}, {"temperature": 1.5, "top_k": 5, "top_p": 0.8}]
)
def test_a_link_gives_the_text_of_its_seed(
    settings: dict[str, float], address: str, browser: Chrome, finished_run: Path
) -> None:
    """The same text as Python's, beyond the window of 16 characters too."""
    browser.get(link(address, prompt="the", count=30, seed=7, **settings))
    text = written(browser, 33)
    model = nanogpt.load(finished_run, backend="torch")
    assert text == model.generate("the", max_tokens=30, seed=7, **settings)
    assert shown(browser) == text[-16:]
    # Sharing gives the same link again.
    one(browser, "#share").click()
    fragment = {name: value[0] for name, value in parse_qs(urlsplit(browser.current_url).fragment).items()}
    expected = {"prompt": "the", "count": 30, "seed": 7, **settings}
    assert fragment == {name: str(value) for name, value in expected.items()}


def test_one_types_and_it_writes_and_steps_and_branches(address: str, browser: Chrome) -> None:
    browser.get(address)
    box = one(browser, "#box")
    assert len(box.get_property("value")) == 8  # half a window
    box.send_keys(Keys.CONTROL, "a", Keys.NULL, "the k")
    WebDriverWait(browser, 20).until(lambda _: shown(browser) == "the k")
    box.send_keys(Keys.CONTROL, Keys.ENTER, Keys.NULL)
    whole = written(browser, 16)
    assert whole.startswith("the k")
    assert shown(browser) == whole
    # Back, and on again: the same character.
    one(browser, "#back").click()
    assert written(browser, 15) == whole[:15]
    one(browser, "#forward").click()
    assert written(browser, 16) == whole
    # Another branch at the tenth character: the model goes on from it, to the same length.
    one(browser, "#piece-8").click()
    bars = browser.find_elements(By.CSS_SELECTOR, "#chances button")
    letters = [bar.text.replace("·", " ").replace("↵", "\n") for bar in bars]
    assert whole[9] in letters
    assert "next" in bars[letters.index(whole[9])].get_attribute("class")
    other = next(letter for letter in letters if letter != whole[9])
    bars[letters.index(other)].click()
    branched = written(browser, 16)
    assert branched[:10] == whole[:9] + other


def test_the_chances_follow_the_settings(address: str, browser: Chrome, finished_run: Path) -> None:
    browser.get(link(address, prompt="the king"))
    written(browser, 8)
    model = nanogpt.load(finished_run, backend="torch")
    logits_V = model.logits(model.tokenizer.encode("the king")[None])[0, -1].astype(np.float64)

    def bars() -> list[float]:
        heights = browser.execute_script(
            "return [...document.querySelectorAll('#chances i:first-child')].map((bar) => bar.style.height)"
        )
        return [float(height.removesuffix("%")) for height in heights]

    cold = np.exp(np.sort(logits_V)[::-1][:12] / 0.8)
    before = bars()
    np.testing.assert_allclose(np.array(before) / before[0], cold / cold[0], rtol=1e-3)
    for _ in range(4):
        one(browser, "#temperature").send_keys(Keys.ARROW_LEFT)
    assert one(browser, "#temperature + span").text == "0.6"
    assert bars()[1] < before[1]
    one(browser, "#top_k").send_keys(Keys.HOME)
    assert [height > 0 for height in bars()] == [True] + 11 * [False]


def test_a_head_that_is_switched_off_changes_pictures_and_loss(address: str, browser: Chrome) -> None:
    browser.get(link(address, prompt="the king speaks", count=0))
    written(browser, 15)
    browser.find_elements(By.CSS_SELECTOR, "#thumbnails button")[1].click()
    one(browser, "#off").click()
    WebDriverWait(browser, 20).until(lambda _: "without 0.1" in one(browser, "#told").text)
    assert "off" in browser.find_elements(By.CSS_SELECTOR, "#thumbnails button")[1].get_attribute("class")
    assert one(browser, "#off").get_attribute("aria-pressed") == "true"
    assert "with all heads" in one(browser, "#told").text
    one(browser, "#off").click()
    WebDriverWait(browser, 20).until(lambda _: "without" not in one(browser, "#told").text)


def test_two_heads_stand_side_by_side(address: str, browser: Chrome) -> None:
    browser.get(address)
    browser.find_elements(By.CSS_SELECTOR, "#thumbnails button")[1].click()
    colours = "return [...document.querySelectorAll(arguments[0])].map((one) => one.style.backgroundColor)"
    second = browser.execute_script(colours, "#text > span")
    browser.find_elements(By.CSS_SELECTOR, "#thumbnails button")[0].click()
    one(browser, "#second option[value='1']").click()
    assert browser.execute_script(colours, "#second-text > span") == second
    assert browser.execute_script(colours, "#text > span") != second


def test_unknown_characters_are_shown_and_kept(address: str, browser: Chrome) -> None:
    browser.get(link(address, prompt="%3Cimg%20src%3Dx%3E%C3%A9the", count=3))
    prompt = "<img src=x>\u00e9the"
    text = written(browser, len(prompt) + 3)
    assert text.startswith(prompt)
    assert "\u00e9" in one(browser, "#unknown").text
    assert one(browser, "#text s").is_displayed()
    assert browser.find_elements(By.CSS_SELECTOR, "img") == []
    browser.get("about:blank")
    browser.get(link(address, prompt="%C3%A9"))
    assert not one(browser, "#write").is_enabled()


def test_a_link_of_nonsense_takes_the_defaults(address: str, browser: Chrome) -> None:
    nonsense = {"count": "-3", "seed": "x", "temperature": "nan", "top_k": "0", "top_p": "7", "off": "99 a"}
    browser.get(link(address, prompt="the", **nonsense))
    assert written(browser, 3) == "the"
    one(browser, "#share").click()
    assert unquote(urlsplit(browser.current_url).fragment) == "prompt=the&count=0&seed=1337&temperature=0.8"


def test_a_strange_vocabulary_is_text(pages: dict[str, str], browser: Chrome) -> None:
    browser.get(pages["strange text"])
    one(browser, "#write").click()
    WebDriverWait(browser, 60).until(lambda _: len(shown(browser)) > len(STRANGE))
    assert browser.find_elements(By.CSS_SELECTOR, "img, iframe, object, [onerror]") == []


def test_hostile_weights_are_told_in_a_line(address: str, browser: Chrome, tmp_path: Path) -> None:
    figures = figures_of(unquote(address).removeprefix("file://"))
    weights = figures["live"]["weights"]
    weights["head.kernel"] = pack({"head.kernel": np.full((16, 1), np.nan, np.float32)}, "float32")[
        "head.kernel"
    ]
    (tmp_path / "page.html").write_text(page(figures, title=""), encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    WebDriverWait(browser, 20).until(lambda _: one(browser, "#notice").is_displayed())
    assert one(browser, "#notice").text == (
        "The model in this page can\u2019t be run: the weight head.kernel is not finite."
    )
    assert not one(browser, "#live").is_displayed()
    # The pictures do not need it.
    assert pixels(browser, "#picture canvas").any()
