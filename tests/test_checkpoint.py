"""A checkpoint comes back to the last bit, or is refused."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint._src.metadata.checkpoint
import pytest

from nanogpt.checkpoint import KEEP_LATEST, Checkpoints
from nanogpt.choice import load_backend
from nanogpt.config import Config, ModelConfig, TrainingConfig
from nanogpt.errors import InputError
from nanogpt.files import free_name
from nanogpt.metadata import Metadata
from nanogpt.randomness import dropout_keys
from nanogpt.record import Evaluation
from nanogpt.state import TrainingState
from tests.conftest import BACKENDS, assert_same_weights

CONFIG = ModelConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8)


def state_at(step: int) -> TrainingState:
    state = TrainingState.initial(CONFIG, seed=step)
    return TrainingState(step, state.weights, state.second_moment, state.weights)


def described(step: int, loss: float | None) -> Metadata:
    evaluation = loss and Evaluation(step=step, train_loss=loss, val_loss=loss, sample="")
    return Metadata(Config(CONFIG), vocabulary=f"step {step}, ä\ud800", metrics=evaluation or None)


def saved(tmp_path: Path, losses: dict[int, float | None]) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step, loss in losses.items():
        checkpoints.save(state_at(step), described(step, loss))
    checkpoints.wait()
    return checkpoints


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    saved(tmp_path, {7: 1.0}).close()
    state, metadata = Checkpoints(tmp_path / "checkpoints", read_only=True).restore(7)
    assert state.step == metadata.step == 7
    assert replace(metadata, step=0, checksums={}, versions={}) == described(7, 1.0)
    assert set(metadata.versions) == {"jax", "flax", "optax", "orbax-checkpoint", "torch", "numpy"}
    expected = state_at(7)
    for part in ("weights", "first_moment", "second_moment"):
        assert_same_weights(getattr(state, part), getattr(expected, part))


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 1.5, 6: None})
    assert checkpoints.steps == [2, 5, 6]
    assert checkpoints.best_step == 2
    assert len(checkpoints.steps) == KEEP_LATEST + 1
    reopened = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert (reopened.steps, reopened.best_step) == ([2, 5, 6], 2)


def test_a_save_waits_for_all_of_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orbax describes each step in a small file, which a thread of its own writes."""
    store = orbax.checkpoint._src.metadata.checkpoint._MetadataStoreImpl
    write = store.write

    def late(*arguments: Any, **options: Any) -> None:
        time.sleep(0.3)
        write(*arguments, **options)

    monkeypatch.setattr(store, "write", late)
    checkpoints = saved(tmp_path, {3: 1.0})
    assert checkpoints.steps == [3]
    assert (tmp_path / "checkpoints/3/_CHECKPOINT_METADATA").stat().st_size
    checkpoints.close()


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, {3: 1.0})
    checkpoints.save(TrainingState(3, *[state_at(4).weights] * 3), described(3, 0.5))
    checkpoints.wait()
    assert_same_weights(checkpoints.restore(3)[0].weights, state_at(3).weights)


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    checkpoints, good = saved(tmp_path, {3: 1.0}), state_at(5)
    for part in ("weights", "first_moment", "second_moment"):
        for value in (np.nan, np.inf):
            name = "head.kernel"
            array = getattr(good, part)[name] + np.float32(value)
            state = replace(good, **{part: getattr(good, part) | {name: array}})
            with pytest.raises(InputError, match="not finite at step 5"):
                checkpoints.save(state, described(5, 1.0))
    assert checkpoints.steps == [3]


def test_a_checkpoint_under_another_step_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, {3: 1.0}).close()
    (tmp_path / "checkpoints/3").rename(tmp_path / "checkpoints/4")
    with pytest.raises(InputError, match="it was saved as step 3"):
        Checkpoints(tmp_path / "checkpoints", read_only=True).restore(4)


def read_or_refused(checkpoints: Checkpoints, step: int, expected: dict[str, np.ndarray]) -> str | None:
    """Tell why a checkpoint was refused; one that was not must hold exactly what was saved."""
    try:
        state, _ = checkpoints.restore(step)
    except InputError as error:
        return str(error)
    assert_same_weights(state.weights, expected)
    return None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # It is Orbax's.
def test_every_damaged_file_is_noticed(tmp_path: Path) -> None:
    """Flip one bit in the middle of each file of a checkpoint, then cut each short."""
    checkpoints = saved(tmp_path, {3: 1.0})
    folder = tmp_path / "checkpoints/3"
    harmless = {"commit_success.txt", "_CHECKPOINT_METADATA"}
    files = [f for f in folder.rglob("*") if f.is_file() and f.stat().st_size and f.name not in harmless]
    expected = state_at(3).weights
    refused = 0
    for file in files:
        content = file.read_bytes()
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        for damaged in (content[:middle] + flipped + content[middle + 1 :], content[:middle]):
            file.write_bytes(damaged)
            refusal = read_or_refused(checkpoints, 3, expected)
            if refusal:
                assert "checkpoint" in refusal
                assert "\n" not in refusal
                refused += 1
        file.write_bytes(content)
    assert refused >= 4
    assert_same_weights(checkpoints.restore(3)[0].weights, expected)


def test_a_half_written_save_makes_way_for_the_next_one(tmp_path: Path) -> None:
    saved(tmp_path, {3: 1.0}).close()
    half = tmp_path / "checkpoints/5.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "part").write_bytes(b"half")
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps == [3]
    assert half.exists(), "a reader removes nothing"
    checkpoints = saved(tmp_path, {5: 1.0})
    assert not half.exists()
    assert checkpoints.steps == [3, 5]
    assert_same_weights(checkpoints.restore(5)[0].weights, state_at(5).weights)


def test_a_save_that_fails_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(tmp_path, {3: 1.0})

    def full(*_: object, **__: object) -> None:
        raise ValueError("RESOURCE_EXHAUSTED: no space left\nand much more")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(
        InputError, match=r"no checkpoint can be written to .*: RESOURCE_EXHAUSTED: no space left$"
    ):
        checkpoints.save(state_at(5), described(5, 1.0))
    assert checkpoints.steps == [3]


def test_a_free_name_is_never_taken(tmp_path: Path) -> None:
    for name in ("run", "run.1", "run.2"):
        assert free_name(tmp_path / "run") == tmp_path / name
        (tmp_path / name).mkdir()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_state_is_a_copy_that_training_leaves_alone(name: str) -> None:
    """An alias of live weights would be torn by the step that runs while it is saved."""
    initial = TrainingState.initial(CONFIG, 0)
    backend = load_backend(name)(CONFIG, TrainingConfig(), initial, device="cpu")
    batch = (
        np.ones((1, 2, 5), np.int32),
        dropout_keys(0, 0, np.arange(2))[None],
        np.full(1, 0.1, np.float32),
    )
    backend.train(*batch)()
    state = backend.state()
    copies = [{n: a.copy() for n, a in part.items()} for part in (state.weights, state.first_moment)]
    for _ in range(3):
        backend.train(*batch)()
    assert_same_weights(state.weights, copies[0])
    assert_same_weights(state.first_moment, copies[1])
    # Training does not write to the state it was given either, although it reuses memory.
    assert_same_weights(initial.weights, TrainingState.initial(CONFIG, 0).weights)
    assert not any(moment.any() for moment in initial.first_moment.values())
    # A caller who writes to a state does not reach the model.
    logits = backend.logits(np.ones((1, 4), np.int32))
    for array in backend.state().weights.values():
        array[...] = 0
    np.testing.assert_array_equal(backend.logits(np.ones((1, 4), np.int32)), logits)
