"""The folder of a run that an older version of the program made is read, and gone on with."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

import nanogpt
from nanogpt.language_model import read_checkpoint
from nanogpt.training.metrics import evaluations, read_metrics
from nanogpt.training.run import saved_config
from nanogpt.weights import Weights
from tests.conftest import BACKENDS, ROOT, Train
from tests.runs import PARTS, final_state, json_lines

# The version before nanogpt/ was cut into rooms trained it for 20 steps with jax, `tiny_flags` and OLD_FLAGS.
# Its paths and its platform were made neutral by hand.
OLD_RUN = ROOT / "tests/data/old_run"
OLD_FLAGS = ["--n_embd=8", "--dropout=0.2"]
# Each is the SHA-256 of all arrays, each one after its name.
OLD_ARRAYS = {
    "weights": "e4d72ec9e7b544105ea6e9525247c7e63dab0ab9c762d8c22a1111b55285dc7a",
    "first_moment": "f57c714d3b943713bf40e6afc4e523182772762eb72382034b0ccf71bb843780",
    "second_moment": "43a78ff65923d07909346b2d1f09775e3d9e5a2f1186c32ce1fea09526673809",
}


def checksum(arrays: Weights) -> str:
    return hashlib.sha256(
        b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))
    ).hexdigest()


def test_the_arrays_of_an_old_run_are_read_as_they_were() -> None:
    state, metadata = read_checkpoint(OLD_RUN)
    assert state.step == metadata.step == 20
    assert {part: checksum(getattr(state, part)) for part in PARTS} == OLD_ARRAYS


def test_what_an_old_run_did_not_write_means_what_it_did() -> None:
    """Its optimizer was AdamW, its schedule a cosine, and its one dropout acted everywhere."""
    _, metadata = read_checkpoint(OLD_RUN)
    for config in (saved_config(OLD_RUN), metadata.config):
        assert config
        assert config.model.attention_dropout == config.model.dropout == 0.2
        assert (config.training.optimizer, config.training.schedule) == ("adamw", "cosine")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_model_of_an_old_run_writes_what_it_wrote(backend: str, text_file: Path) -> None:
    model = nanogpt.load(OLD_RUN, backend, device="cpu")
    last = evaluations(read_metrics(OLD_RUN / "metrics.jsonl"))[-1]
    assert model.metadata.metrics == last
    assert model.generate("\n", max_tokens=100, seed=1337) == last.sample
    tokens_N = model.tokenizer.encode(text_file.read_text())
    validation_N = tokens_N[len(tokens_N) * 9 // 10 :]
    assert model.loss(validation_N) == pytest.approx(last.val_loss, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_old_run_goes_on(
    backend: str, train: Train, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(OLD_RUN, tmp_path / "run")
    assert train("run", *OLD_FLAGS, "--max_iters=30", f"--backend={backend}") == 0
    out = capsys.readouterr().out
    assert "from step 20 of 30" in out
    assert f"changed  data: text.txt -> {text_file}" in out
    for name in ("metrics.jsonl", "heads.jsonl"):
        before, after = ((folder / name).read_bytes() for folder in (OLD_RUN, run))
        assert after.startswith(before), name
        added = [json.loads(line) for line in after.removeprefix(before).splitlines()]
        assert added[-1].keys() == json_lines(OLD_RUN / name)[-1].keys()
        assert [line["step"] for line in added] == ([24, 28, 30] if name == "metrics.jsonl" else [30])
    assert final_state(run).step == 30
    first, *_, last = evaluations(read_metrics(run / "metrics.jsonl"))
    assert last.val_loss < first.val_loss
