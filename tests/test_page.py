"""The attention page: its figures are the model's, its file needs nothing else, and bad input is told."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanogpt
from nanogpt.cli.visualize import visualize_main
from nanogpt.config import Config, ModelConfig
from nanogpt.language_model import LanguageModel
from nanogpt.metadata import Metadata
from nanogpt.page.colours import colour_maps
from nanogpt.page.contents import contents
from nanogpt.page.document import page
from nanogpt.page.figures import Reading, coded, decoded, decoded_difference
from nanogpt.state import TrainingState
from nanogpt.text.tokenizer import CharTokenizer, FileTokenizer, NoTokenizer
from nanogpt_torch.backend import Backend
from tests.conftest import STRANGE, Train


def figures_of(file: Path | str) -> dict[str, Any]:
    """What a page was given, from the file itself."""
    content = Path(file).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', content, flags=re.S)
    assert found
    return json.loads(found[1])


def unpacked(figures: dict[str, Any], triangles: str) -> np.ndarray:
    """Bytes of triangles as `[L, H, T, T]`, zero above the diagonal."""
    T = len(figures["pieces"])
    codes = np.zeros((figures["layers"], figures["heads"], T, T), np.uint8)
    codes[..., *np.tril_indices(T)] = np.frombuffer(base64.b64decode(triangles), np.uint8).reshape(
        *codes.shape[:2], -1
    )
    return codes


def visualize(run: Path, *flags: str) -> int:
    return visualize_main([f"--out_dir={run}", "--backend=torch", *flags])


@pytest.fixture(scope="module")
def own_page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run without any further wish. Not to be written to."""
    file = tmp_path_factory.mktemp("page") / "own.html"
    assert visualize(finished_run, f"--html={file}") == 0
    return file


def test_the_page_shows_what_the_model_computes(finished_run: Path) -> None:
    text = "the king speaks"
    assert visualize(finished_run, f"--text={text}") == 0
    figures, model = figures_of("attention.html"), nanogpt.load(finished_run, backend="torch")
    tokens_BT = model.tokenizer.encode(text)[None]
    weights_LHTS = model.attention(tokens_BT)[:, 0]
    shown_LHTS = decoded(unpacked(figures, figures["attention"]))
    assert np.abs(shown_LHTS - weights_LHTS).max() == pytest.approx(figures["error"], rel=1e-4)
    assert 0 < figures["error"] < 0.004

    logits_TV = model.logits(tokens_BT)[0].astype(np.float64)
    probabilities_TV = np.exp(logits_TV) / np.exp(logits_TV).sum(1, keepdims=True)
    losses = model.backend.losses(tokens_BT)[0]
    np.testing.assert_allclose(figures["losses"], losses, rtol=1e-4)
    for likeliest, probabilities_V in zip(figures["likeliest"], probabilities_TV, strict=True):
        best = np.argsort(-probabilities_V)[:5]
        assert "".join(piece for piece, _ in likeliest) == model.tokenizer.decode(best)
        np.testing.assert_allclose([share for _, share in likeliest], probabilities_V[best], rtol=1e-4)


def test_without_a_text_the_validation_split_begins_the_page(own_page: Path, text_file: Path) -> None:
    figures, text = figures_of(own_page), text_file.read_text()
    begin = int(0.9 * len(text))
    assert "".join(figures["pieces"]) == text[begin : begin + 16]
    heads = [(head["layer"], head["head"]) for head in figures["report"]["heads"]]
    assert heads == [(0, 0), (0, 1)]
    assert figures["notice"] == ""


def test_a_long_text_is_read_to_its_end(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert visualize(finished_run, "--text=the king speaks to ROMEO:") == 0
    figures = figures_of("attention.html")
    assert "".join(figures["pieces"]) == "speaks to ROMEO:"
    notice = "The model sees 16 tokens: these are the last of 25."
    assert notice in capsys.readouterr().err
    assert figures["notice"] == notice


@pytest.mark.parametrize("other", ["jax", "10", "best", "folder"])
def test_a_comparison_is_of_the_two_models(other: str, finished_run: Path, train: Train) -> None:
    run, backend, checkpoint = finished_run, "torch", "latest"
    if other == "folder":
        assert train("other", "--backend=torch", "--seed=5", "--quiet") == 0
        other, run = "other", Path("other")
    elif other == "jax":
        backend = "jax"
    else:
        checkpoint = other
    assert visualize(finished_run, "--text=the king speaks", f"--compare={other}") == 0
    figures = figures_of("attention.html")
    mine = nanogpt.load(finished_run, backend="torch")
    theirs = nanogpt.load(run, backend=backend, checkpoint=checkpoint)
    tokens_BT = mine.tokenizer.encode("the king speaks")[None]
    difference_LHTS = mine.attention(tokens_BT)[:, 0] - theirs.attention(tokens_BT)[:, 0]
    compared = figures["comparison"]
    np.testing.assert_allclose(compared["largest"], np.abs(difference_LHTS).max((2, 3)), rtol=1e-4)
    codes = unpacked(figures, compared["difference"])
    shown_LHTS = np.tril(decoded_difference(codes) * compared["scale"])
    # The page has its scale to five digits, which alone may err where differences are few roundings.
    rounding = 5e-5 * compared["scale"]
    assert np.abs(shown_LHTS - difference_LHTS).max() <= compared["error"] * 1.001 + rounding
    # A byte is a step of 1/127 of a root, whose square moves by twice that at most.
    assert compared["error"] <= compared["scale"] / 127
    assert (
        compared["names"]
        == {
            "jax": ["torch", "jax"],
            "10": ["step 20", "step 10"],
            "best": [f"{finished_run}, step 20, torch"] * 2,
            "other": [str(finished_run), "other"],
        }[other]
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text="], "the text is empty"),
        (["--text=the kinG"], "character 'G' at position 7 is not in the model's vocabulary"),
        (["--text=the \ud800"], r"character '\ud800' at position 4"),
        (["--text=@nowhere"], "there is no file or folder nowhere"),
        (["--out_dir=nowhere"], "nowhere holds no run"),
        (["--checkpoint=15"], "there is no checkpoint '15' in"),
        (["--compare=15"], "there is no checkpoint '15' in"),
        (["--compare=nonsense"], "--compare 'nonsense' is neither a backend (jax, torch) nor the folder"),
        (["--compare=."], ". holds no run"),
        (["--html=nowhere/page.html"], "--html nowhere/page.html must be a file in a folder that is there"),
        (["--html=."], "--html . must be a file in a folder that is there"),
    ],
)
def test_bad_input_gets_one_line_and_no_page(
    flags: list[str], message: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "attention.html").write_text("an older page")
    assert visualize(finished_run, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in error
    assert [file.name for file in tmp_path.iterdir()] == ["attention.html"]
    assert (tmp_path / "attention.html").read_text() == "an older page"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n_layer=2"], "n_layer is 1 in the one and 2 in the other"),
        (["--n_head=4"], "n_head is 2 in the one and 4 in the other"),
        (["--block_size=8"], "the text has 15 tokens, and the other sees 8"),
        (["--data=other.txt"], "vocab_size is "),
        (["--data=same.txt"], "their vocabularies differ"),
    ],
)
def test_models_that_do_not_fit_are_not_compared(
    flags: list[str],
    message: str,
    finished_run: Path,
    text_file: Path,
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "other.txt").write_text("abc\n" * 500)
    (tmp_path / "same.txt").write_text(text_file.read_text().replace("k", "j"))
    assert train("other", "--backend=torch", "--quiet", "--max_iters=1", *flags) == 0
    assert visualize(finished_run, "--text=the king speaks", "--compare=other") == 2
    error = capsys.readouterr().err
    assert "can't be compared" in error
    assert message in error


@pytest.mark.parametrize("loss", ["gone", "changed"])
def test_without_the_runs_data_heads_are_not_measured(
    loss: str, train: Train, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shutil.copy(text_file, tmp_path / "mine.txt")
    assert train("run", "--backend=torch", "--quiet", f"--data={text}") == 0
    if loss == "gone":
        text.unlink()
        reason = f"there is no file or folder {text}"
    else:
        text.write_text(text_file.read_text() + "!")
        reason = "is no longer the text that this model was trained on"
    assert visualize(Path("run")) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "give a --text" in error
    assert visualize(Path("run"), "--text=the king") == 0
    figures = figures_of("attention.html")
    assert figures["report"] is None
    assert figures["notice"].startswith("The heads are not measured: ")
    assert reason in figures["notice"]


def test_how_heads_formed_is_shown_up_to_the_checkpoint(train: Train, tmp_path: Path) -> None:
    assert train("run", "--backend=torch", "--quiet") == 0
    records = [
        {"step": step, "scores": {"induction": [[step / 40, 0.5]]}, "uniform": {"induction": 0.25}}
        for step in (0, 10, 20, 30)
    ]
    (tmp_path / "run/heads.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert visualize(Path("run"), "--checkpoint=10") == 0
    excess = {"induction": [[[-0.25, 0.25]], [[0.0, 0.25]]]}
    assert figures_of("attention.html")["formation"] == {"steps": [0, 10], "excess": excess}


class Elements(HTMLParser):
    """The elements of a page, and what its style, its script and its policy say."""

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


def test_nothing_but_the_pages_own_script_and_style_may_act(own_page: Path) -> None:
    content = own_page.read_text(encoding="utf-8")
    elements = Elements(content)
    hashes = {
        kind: "sha256-" + base64.b64encode(hashlib.sha256(elements.texts[kind].encode()).digest()).decode()
        for kind in ("module", "style")
    }
    assert " ".join(elements.policy.split()) == (
        f"default-src 'none'; script-src '{hashes['module']}'; style-src '{hashes['style']}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # The name of SVG is the one address, and nobody goes there.
    assert set(re.findall(r"\w+://[^\s\"']*", content)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in content


def test_a_text_never_becomes_markup(strange_run: Path) -> None:
    assert visualize(strange_run, f"--text={STRANGE}") == 0
    content = Path("attention.html").read_text(encoding="utf-8")
    assert "".join(figures_of("attention.html")["pieces"]) == STRANGE
    elements = Elements(content)
    assert "img" not in elements.tags
    assert elements.tags.count("script") == 2
    assert not re.search(
        r"<img|onerror|\u2028|\u05e9", content.replace(elements.texts["application/json"], "")
    )
    assert "<" not in elements.texts["application/json"]


def test_names_and_sentences_never_become_markup(own_page: Path) -> None:
    figures = figures_of(own_page)
    figures["report"]["heads"][0]["sentence"] = "</noscript><img src=x>"
    assert "img" not in Elements(page(figures, title="</title><img>")).tags


def test_without_javascript_the_heads_are_told_in_words(own_page: Path) -> None:
    elements = Elements(own_page.read_text(encoding="utf-8"))
    sentences = [head["sentence"] for head in figures_of(own_page)["report"]["heads"]]
    for head, sentence in enumerate(sentences):
        assert f"Layer 0, head {head}: {sentence}" in elements.texts["li"]


def default_model() -> LanguageModel:
    """The reference recipe's model, not trained, with characters of its own."""
    config = ModelConfig()
    state = TrainingState.initial(config, seed=1)
    characters = "".join(map(chr, range(40, 40 + config.vocab_size)))
    metadata = Metadata(Config(config), characters)
    return LanguageModel(Backend(config, None, state), config, CharTokenizer(characters), metadata)


def test_the_page_of_the_default_model_stays_small(own_page: Path) -> None:
    model, report = default_model(), figures_of(own_page)["report"]
    text = model.tokenizer.decode(np.arange(256) * 31 % 65)
    figures = contents(Path("run"), model, text=text, compare=None, device="cpu", tell=print)
    example = {"text": ["a"] * 128, "query": 100, "weights": [0.12345] * 101}
    heads = [head | {"example": example} for head in 12 * report["heads"]]
    figures["report"] = report | {"heads": heads}
    assert len(page(figures, title="")) < 1.5e6
    figures["comparison"] = {"difference": figures["attention"], "losses": figures["losses"]}
    assert len(page(figures, title="")) < 3e6


def test_pieces_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(["the king speaks "] * 9, trainers.BpeTrainer(vocab_size=40, show_progress=False))
    bpe.save(str(tmp_path / "tokenizer.json"))
    model = default_model()
    model.tokenizer = FileTokenizer(tmp_path / "tokenizer.json")
    figures = contents(Path("run"), model, text="the king", compare=None, device="cpu", tell=print)
    assert figures["pieces"] == ["the", " king"]
    assert figures["unit"] == "token"


def test_a_model_without_a_tokenizer_is_refused() -> None:
    model = default_model()
    model.tokenizer = NoTokenizer()
    with pytest.raises(nanogpt.InputError, match=r"without a tokenizer\.json"):
        contents(Path("run"), model, text="the", compare=None, device="cpu", tell=print)


# How colours look without one kind of cone (Machado et al. 2009, severity 1), in linear light.
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
TRITANOPIA = [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
]
EYES = {"three cones": np.eye(3), "no M": DEUTERANOPIA, "no L": PROTANOPIA, "no S": TRITANOPIA}


def linear_light(map_: np.ndarray) -> np.ndarray:
    return ((map_ / 255 + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("name", ["light", "dark"])
def test_the_colours_of_weights_grow_steadily_for_every_eye(name: str, eye: str) -> None:
    light = linear_light(colour_maps()[name]) @ np.transpose(EYES[eye])
    lightness = np.cbrt(np.maximum(light @ [0.2126, 0.7152, 0.0722], 0))[::8]
    steps = np.diff(lightness) * (-1 if name == "light" else 1)
    assert (steps > 0.25 * steps.mean()).all()


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("name", ["light_difference", "dark_difference"])
def test_more_and_less_are_told_apart_by_every_eye(name: str, eye: str) -> None:
    light = np.cbrt(np.clip(linear_light(colour_maps()[name]) @ np.transpose(EYES[eye]), 0, 1))
    less, more = light[127:0:-1], light[129:]
    apart = np.linalg.norm(less - more, axis=1)
    assert (apart[32:] > 0.15).all()
    from_none = np.linalg.norm(light - light[128], axis=1)
    assert (np.diff(from_none[128::8]) > 0).all()
    assert (np.diff(from_none[128:0:-8]) > 0).all()


def test_codes_keep_small_weights_apart() -> None:
    weights = np.array([0, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1], np.float32)
    assert (np.diff(coded(weights).astype(int)) > 0).all()
    assert np.abs(decoded(coded(weights)) - weights).max() < 0.004


def test_the_reading_of_one_token_has_no_loss(finished_run: Path) -> None:
    model = nanogpt.load(finished_run, backend="torch")
    figures = Reading(finished_run, model, model.tokenizer.encode("t")).figures()
    assert figures["losses"] == []
    assert len(figures["likeliest"]) == 1
    assert base64.b64decode(figures["attention"]) == b"\xff\xff"  # of two heads
