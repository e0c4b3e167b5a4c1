"""The tests make their texts and runs themselves: they need no corpus and no network."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from nanogpt.cli.train import train_main
from nanogpt.randomness import random_bits

ROOT = Path(__file__).parents[1]
# A busy machine is no error.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
BACKENDS = ["jax", "torch"]

Train = Callable[..., int]
Finished = Callable[..., Path]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 6,547 characters with some structure: words of a small language, in lines."""
    vocabulary = ["the", "king", "speaks", "ROMEO:", "and", "to", "night,", "o'er", "sleep."]
    picks = random_bits(11, "corpus", 0, 1_200) % len(vocabulary)
    text = "\n".join(" ".join(vocabulary[i] for i in row) for row in picks.reshape(-1, 6))
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def _no_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the user's cache or working folder is read or written."""
    monkeypatch.setenv("NANOGPT_DATA_DIR", str(tmp_path / "no-data"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def train(text_file: Path) -> Train:
    """Run `train.py` on a tiny model, in this process: the function returns its exit code."""

    def run(out_dir: Path | str, *flags: str) -> int:
        return train_main([f"--out_dir={out_dir}", *tiny_flags(text_file), *flags])

    return run


def tiny_flags(text_file: Path) -> list[str]:
    return [
        *(f"--data={text_file}", "--block_size=16", "--n_layer=1", "--n_head=2", "--n_embd=16"),
        *("--batch_size=4", "--max_iters=20", "--eval_interval=10", "--warmup_iters=5", "--log_interval=4"),
    ]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Finished:
    """Train a run of each backend and further flags once: several tests read it, none may write to it."""

    @cache
    def run(backend: str, *flags: str) -> Path:
        out_dir = tmp_path_factory.mktemp("finished") / "run"
        flags = (f"--out_dir={out_dir}", *tiny_flags(text_file), f"--backend={backend}", *flags, "--quiet")
        assert train_main(list(flags)) == 0
        return out_dir

    return run


@pytest.fixture(scope="session")
def finished_run(finished: Finished) -> Path:
    """Train 20 steps with torch. No test may write to this run."""
    return finished("torch")


# A page must show this as it stands: markup, both directions of writing, blanks and separators of all kinds.
STRANGE = (
    "</script><img src=x onerror=alert(1)><!--\t\u05e9\u05dc\u05d5\u05dd &amp;"
    "\u202e\u2028\u00a0\r\n\U0001f600'\"{{}}"
)


@pytest.fixture(scope="session")
def strange_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train 4 heads that see 80 characters on STRANGE again and again. No test may write to this run."""
    folder = tmp_path_factory.mktemp("strange")
    (folder / "text.txt").write_text(STRANGE * 40, encoding="utf-8", newline="")
    flags = [*tiny_flags(folder / "text.txt"), "--block_size=80", "--n_layer=2", "--max_iters=10"]
    assert train_main([f"--out_dir={folder / 'run'}", *flags, "--backend=torch", "--quiet"]) == 0
    return folder / "run"


def assert_same_weights(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
