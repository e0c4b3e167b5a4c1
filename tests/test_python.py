"""`nanogpt.train` has the power of `train.py`, and takes nothing from the program that calls it."""

import io
import json
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanogpt
from nanogpt.cli.flags import train_flags
from nanogpt.cli.sample import sample_main
from nanogpt.config import Config, configured
from nanogpt.presets import PRESETS
from nanogpt.session import read_settings
from tests.conftest import BACKENDS, Finished, Train
from tests.runs import assert_same_run

TINY = {
    **{"block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16, "batch_size": 4, "max_iters": 20},
    **{"eval_interval": 10, "warmup_iters": 5, "log_interval": 4},
}
TOML = """
preset = "quick"
batch_size = 7
[model]
n_layer = 1
[training]
learning_rate = 1
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_trains_as_the_command_does(backend: str, finished: Finished, text_file: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        model = nanogpt.train("run", data=str(text_file), backend=backend, **TINY)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert_same_run(Path("run"), finished(backend))
    assert "step     20  train" in out.getvalue()
    assert ".py" not in out.getvalue()
    assert err.getvalue() == ""
    assert (model.metadata.step, model.backend.name) == (20, backend)
    saved = nanogpt.load("run", backend)
    tokens_BT = np.arange(16)[None]
    np.testing.assert_array_equal(model.logits(tokens_BT), saved.logits(tokens_BT))


def test_it_goes_on_with_a_run_and_returns_a_finished_one(finished_run: Path, text_file: Path) -> None:
    options: dict[str, Any] = {"data": str(text_file), "backend": "torch", "quiet": True}
    nanogpt.train("run", **options, **TINY | {"max_iters": 10})
    assert nanogpt.train("run", max_iters=20, quiet=True).metadata.step == 20
    assert nanogpt.train("run", quiet=True).metadata.step == 20


def test_an_interrupt_is_the_callers(
    monkeypatch: pytest.MonkeyPatch, text_file: Path, finished_run: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"data": str(text_file), "backend": "torch", "quiet": True, **TINY}
    with monkeypatch.context() as patched:
        patched.setattr("nanogpt.training.log.Log.evaluation", interrupt)
        with pytest.raises(KeyboardInterrupt):
            nanogpt.train("run", **options)
    nanogpt.train("run", **options)
    assert_same_run(Path("run"), finished_run)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1e-3}, "there is no setting 'learning_rat': is it 'learning_rate'?"),
        ({"vocab_size": 3}, "there is no setting 'vocab_size'"),
        ({"batch_size": 0}, "batch_size 0 is out of range"),
        ({"batch_size": "8"}, "batch_size '8' must be of type int"),
        ({"preset": "fast"}, "there is no preset 'fast'"),
        ({"config": "nowhere.toml"}, "--config nowhere.toml can't be read: "),
        ({"data": "nowhere"}, "there is no file or folder /"),
    ],
)
def test_bad_input_is_an_input_error(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(nanogpt.InputError, match="^" + message):
        nanogpt.train("run", **settings)
    assert not any(tmp_path.iterdir())


@given(st.sampled_from(sorted(PRESETS)), st.sampled_from(sorted(PRESETS)))
def test_settings_by_name_turn_any_configuration_into_any_other(one: str, other: str) -> None:
    settings = {name: value for part in asdict(PRESETS[other]).values() for name, value in part.items()}
    del settings["vocab_size"]
    assert configured(PRESETS[one], settings) == PRESETS[other]


def test_a_file_of_settings_is_below_the_flags_and_above_the_run(
    finished_run: Path, train: Train, text_file: Path
) -> None:
    Path("mine.toml").write_text(TOML, encoding="utf-8")
    flags = train_flags(["--config=mine.toml", "--batch_size=9"])
    settings = {"batch_size": 9, "n_layer": 1, "learning_rate": 1}
    assert flags.settings == configured(PRESETS["quick"], settings)
    assert flags.out_dir == Path("out/quick")
    # The file that a run writes begins the same run.
    assert read_settings(finished_run / "config.json")["data"] == str(text_file)
    assert nanogpt.train("again", config=finished_run / "config.json", quiet=True).metadata.step == 20
    assert_same_run(Path("again"), finished_run)
    Path("more.toml").write_text("max_iters = 30", encoding="utf-8")
    assert train_flags(["--out_dir=again", "--config=more.toml"]).settings.training.max_iters == 30


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "batch_size = ", "--config a.toml can't be read: "),
        ("a.toml", "batch_sise = 3", "there is no setting 'batch_sise': is it 'batch_size'?"),
        ("a.toml", "batch_size = 0", "batch_size 0 is out of range"),
        ("a.toml", "model = 3", "there is no setting 'model'"),
        ("a.json", "[1]", "--config a.json can't be read: "),
        ("a.json", json.dumps(asdict(Config()) | {"model": {"n_layer": -1}}), "a.json: n_layer -1 is out"),
        ("a.toml", b"\xff", "--config a.toml can't be read: "),
    ],
)
def test_a_wrong_file_of_settings_gets_one_line(
    name: str, content: str | bytes, message: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert train("run", f"--config={name}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flag", "told"),
    [("--dataset=x", "--data takes"), ("--lr-decay-iters=9", "--max_iters"), ("--wandb_log=True", "--log")],
)
def test_a_flag_of_nanogpts_is_told_ours(
    flag: str, told: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", flag) == 2
    error = capsys.readouterr().err
    assert f"{flag.partition('=')[0]} is nanoGPT's: " in error
    assert told in error


def test_a_stream_of_any_kind_takes_the_text(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert sample_main([f"--out_dir={finished_run}", "--backend=torch", "--max_tokens=3"]) == 0
    assert isinstance(sys.stdout, io.StringIO)
    assert len(sys.stdout.getvalue()) == 5
