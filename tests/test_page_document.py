"""The page as a file: it begins at the validation text, stays small, and needs nothing from outside."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nanogpt.page.contents import contents
from nanogpt.page.document import page
from nanogpt.page.live import pack
from nanogpt.state import TrainingState
from tests.conftest import STRANGE
from tests.page import default_model, figures_of, visualize


@pytest.fixture(scope="module")
def own_page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run without further flags. Tests must not write to it."""
    file = tmp_path_factory.mktemp("page") / "own.html"
    assert visualize(finished_run, f"--html={file}") == 0
    return file


def test_without_a_text_the_validation_split_begins_the_page(own_page: Path, text_file: Path) -> None:
    figures, text = figures_of(own_page), text_file.read_text()
    begin = int(0.9 * len(text))
    assert "".join(figures["pieces"]) == text[begin : begin + 8]  # half a window: there is room to write
    heads = [(head["layer"], head["head"]) for head in figures["report"]["heads"]]
    assert heads == [(0, 0), (0, 1)]
    assert figures["notice"] == ""


def test_the_page_of_the_default_model_stays_small(own_page: Path) -> None:
    model, report = default_model(), figures_of(own_page)["report"]
    text = model.tokenizer.decode(np.arange(256) * 31 % 65)
    figures = contents(
        Path("run"), model, text=text, compare=None, live=False, report=True, device="cpu", tell=print
    )
    example = {"text": ["a"] * 128, "query": 100, "weights": [0.12345] * 101}
    heads = [head | {"example": example} for head in 12 * report["heads"]]
    figures["report"] = report | {"heads": heads}
    assert len(page(figures, title="")) < 1.5e6
    state = TrainingState.initial(model.config, seed=1)
    figures["live"] = {"weights": pack(state.weights, "int8")}
    assert len(page(figures, title="")) < 3e6
    figures["live"] = None
    figures["comparison"] = {"difference": figures["attention"], "losses": figures["losses"]}
    assert len(page(figures, title="")) < 3e6


class Elements(HTMLParser):
    """The elements of a page, with the contents of its style, script and policy."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.policy = ""
        self.texts: dict[str, str] = {}
        self._open = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style")]
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"] or ""
        self.tags.append(tag)
        self._open = attributes.get("type") or tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._open] = self.texts.get(self._open, "") + data


@pytest.mark.parametrize("live", [True, False])
def test_the_policy_allows_only_the_pages_own_script_and_style(live: bool, own_page: Path) -> None:
    """A page that holds its model may also start its worker, from a blob that its script makes."""
    content = own_page.read_text(encoding="utf-8")
    if not live:
        content = page(figures_of(own_page) | {"live": None}, title="")
    elements = Elements(content)
    hashes = {
        kind: "sha256-" + base64.b64encode(hashlib.sha256(elements.texts[kind].encode()).digest()).decode()
        for kind in ("module", "style")
    }
    assert " ".join(elements.policy.split()) == (
        f"default-src 'none'; script-src '{hashes['module']}'; style-src '{hashes['style']}'; "
        f"{'worker-src blob:; ' if live else ''}base-uri 'none'; form-action 'none'"
    )
    # The namespace of SVG is the one address, and it is never fetched.
    assert set(re.findall(r"\w+://[^\s\"']*", content)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in content


def test_a_text_never_becomes_markup(strange_run: Path) -> None:
    assert visualize(strange_run, f"--text={STRANGE}") == 0
    content = Path("attention.html").read_text(encoding="utf-8")
    assert "".join(figures_of("attention.html")["pieces"]) == STRANGE
    elements = Elements(content)
    assert "img" not in elements.tags
    assert elements.tags.count("script") == 3
    assert not re.search(
        r"<img|onerror|\u2028|\u05e9", content.replace(elements.texts["application/json"], "")
    )
    assert "<" not in elements.texts["application/json"]


def test_names_and_sentences_never_become_markup(own_page: Path) -> None:
    figures = figures_of(own_page)
    figures["report"]["heads"][0]["sentence"] = "</noscript><img src=x>"
    assert "img" not in Elements(page(figures, title="</title><img>")).tags


def test_without_javascript_the_heads_are_described_in_words(own_page: Path) -> None:
    elements = Elements(own_page.read_text(encoding="utf-8"))
    sentences = [head["sentence"] for head in figures_of(own_page)["report"]["heads"]]
    for head, sentence in enumerate(sentences):
        assert f"Layer 0, head {head}: {sentence}" in elements.texts["li"]
