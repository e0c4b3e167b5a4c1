"""A start that fails leaves nothing behind that the next one would trip over."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import nanogpt.session
import nanogpt.training.loop
import nanogpt_jax.backend
import nanogpt_torch.backend
from nanogpt.cli.train import train_main
from nanogpt.errors import InputError
from nanogpt_torch.backend import Backend
from tests.conftest import BACKENDS, Train


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("no compiler")


# Where a start may fail once the run is open: its model, what follows it, its first evaluation.
PLACES = [(Backend, "__init__"), (nanogpt.session, "_followers"), (nanogpt.training.loop, "evaluate")]


@pytest.fixture(params=PLACES, ids=lambda place: place[1])
def failing(request: pytest.FixtureRequest) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*request.param, fail)
        yield patch


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_device_that_is_not_here_writes_nothing(
    backend: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("new/run", f"--backend={backend}", "--device=tpu") == 2
    assert capsys.readouterr().err == f"error: {backend} finds no device 'tpu' here; it has cpu\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder_is_there", [False, True])
def test_a_failed_start_leaves_no_run(
    folder_is_there: bool, failing: pytest.MonkeyPatch, train: Train, tmp_path: Path
) -> None:
    if folder_is_there:
        (tmp_path / "new/run").mkdir(parents=True)
    assert train("new/run", "--backend=torch") == 1
    assert list(tmp_path.rglob("*")) == ([tmp_path / "new", tmp_path / "new/run"] if folder_is_there else [])
    failing.undo()
    assert train("new/run", "--backend=torch", "--max_iters=1") == 0


def test_a_failed_start_leaves_the_files_of_others(
    failing: pytest.MonkeyPatch, train: Train, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    assert train("run", "--backend=torch") == 1
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert not (tmp_path / "run/config.json").exists()


def test_a_failed_start_leaves_a_run_its_settings(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("run", "--backend=torch", "--max_iters=10") == 0
    before = content(tmp_path / "run")
    monkeypatch.setattr(Backend, "train", fail)
    assert train("run", "--backend=torch", "--compile", "--batch_size=2") == 1
    after = content(tmp_path / "run")
    after.pop("environment.json"), before.pop("environment.json")
    assert after == before


def test_a_start_that_saved_keeps_what_it_wrote(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "train", fail)
    assert train("run", "--backend=torch", "--batch_size=2") == 1
    assert (tmp_path / "run/checkpoints/0").is_dir()
    assert json.loads((tmp_path / "run/config.json").read_text())["training"]["batch_size"] == 2


def test_a_failed_start_moves_the_old_run_back(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", "--backend=torch", "--max_iters=1") == 0
    before = content(tmp_path / "run")
    monkeypatch.setattr(nanogpt.training.loop, "evaluate", fail)
    assert train("run", "--backend=torch", "--resume=never") == 1
    assert "is back in" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_device_of_another_machine_is_not_taken_over(
    backend: str,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as another_machine:
        module = {"jax": nanogpt_jax, "torch": nanogpt_torch}[backend].backend
        another_machine.setattr(module.Backend, "devices", lambda: ["tpu", "cpu"])
        another_machine.setattr(module, "find_device", lambda *_: "cpu")
        assert train("run", f"--backend={backend}", "--max_iters=1", "--device=tpu") == 0
    before = content(tmp_path / "run")
    capsys.readouterr()
    assert train_main(["--out_dir=run", "--device=tpu", "--max_iters=2"]) == 2
    missing = f"{backend} finds no device 'tpu' here; it has cpu"
    assert capsys.readouterr().err == f"error: {missing}\n"
    assert content(tmp_path / "run") == before
    assert train_main(["--out_dir=run", "--max_iters=2"]) == 0
    told = capsys.readouterr()
    assert told.err == f"{missing}: going on with --device auto --mesh auto\n"
    assert "changed  device: tpu -> auto" in told.out
    assert train_main(["--out_dir=run", "--max_iters=3"]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_is_refused_before_its_folder_is_touched(train: Train, tmp_path: Path) -> None:
    """The control: what the tests above compare is what a start changes."""
    assert train("run", "--backend=torch", "--max_iters=1") == 0
    before = content(tmp_path / "run")
    with pytest.raises(InputError):
        train("run", "--n_layer=2", "--debug")
    assert content(tmp_path / "run") == before
    assert train("run", "--max_iters=2") == 0
    assert content(tmp_path / "run") != before
