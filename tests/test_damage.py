"""One damaged file of a checkpoint makes neither the folder nor the other checkpoints unusable."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tensorstore

from nanogpt.checkpoint import Checkpoints
from nanogpt.cli.sample import sample_main
from tests.conftest import ROOT, Train
from tests.runs import final_state

ARRAYS = "the first file of arrays"  # its name differs from save to save
# Among them metrics/metrics, in which Orbax kept a loss of its own: today's checkpoints lack it.
NAMES = [
    str(file.relative_to(ROOT / "tests/data/old_run/checkpoints/20"))
    for file in (ROOT / "tests/data/old_run/checkpoints/20").rglob("*")
    if file.is_file() and file.parent.name != "d"
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, b"") for name in sorted([*NAMES, ARRAYS])),
        *(
            (name, content)
            for name in ("metadata/metadata", "metrics/metrics")
            for content in (b"\xff{", b"{}")
        ),
    ],
)
def test_a_run_with_a_damaged_file_goes_on(
    name: str, content: bytes, finished_run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, "run")
    newest = Path("run/checkpoints/20")
    file = newest / name if name != ARRAYS else next(newest.glob("**/d/*"))
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    checkpoints = Checkpoints(Path("run/checkpoints"), read_only=True)
    assert set(checkpoints.steps) <= {10, 20}
    assert checkpoints.best_step in (10, 20)
    flags = ["--out_dir=run", "--backend=torch", "--max_tokens=3"]
    assert sample_main([*flags, "--checkpoint=10"]) == 0
    capsys.readouterr()
    code = sample_main(flags)
    (told,) = capsys.readouterr().err.splitlines()
    assert (code, told.partition(":")[0]) in [(0, "run, step 20, torch on cpu"), (2, "error")]
    assert train("run", "--max_iters=30") == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) <= 1
    assert all("is damaged" in warning for warning in warnings)
    assert final_state(Path(run)).step == 30


def test_a_damaged_checkpoint_is_set_aside_beside_another_damaged_file(
    finished_run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest checkpoint can't be used, and the one before has an old file that Orbax can't read."""
    shutil.copytree(finished_run, "run")
    Path("run/checkpoints/20/metadata/metadata").write_bytes(b"")
    metrics = Path("run/checkpoints/10/metrics/metrics")
    metrics.parent.mkdir()
    metrics.write_bytes(b"")
    assert train("run") == 0
    assert "going on from step 10" in capsys.readouterr().err
    assert final_state(Path("run")).step == 20


@pytest.mark.parametrize("part", ["weights", "second_moment"])
@pytest.mark.parametrize("claim", [{"shape": [10**9, 16]}, {"chunks": [10**9, 16]}, {"shape": [24, 17]}])
def test_an_array_that_claims_more_than_the_model_has_is_refused(
    claim: dict[str, list[int]],
    part: str,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    store = {"driver": "ocdbt", "base": f"file://{run}/checkpoints/20/state/"}
    arrays = tensorstore.KvStore.open(store).result()
    key = f"{part}.token_embedding.embedding/.zarray"
    described = json.loads(arrays.read(key).result().value) | claim
    arrays.write(key, json.dumps(described).encode()).result()
    assert sample_main(["--out_dir=run", "--backend=torch"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "checkpoints/20 is damaged: " in told


@pytest.mark.parametrize("n_layer", [5_000, 10**9])
def test_a_model_that_its_files_are_too_small_for_is_refused(
    n_layer: int, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    file = run / "checkpoints/20/metadata/metadata"
    values = json.loads(file.read_text()) | {"sha256": None}
    values["config"]["model"]["n_layer"] = n_layer
    del values["sha256"]  # as an older version wrote it
    file.write_text(json.dumps(values))
    assert sample_main(["--out_dir=run", "--backend=torch"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "checkpoints/20 is damaged: " in told


@pytest.mark.parametrize("name", ["metadata/metadata", "state/_METADATA", "state/manifest.ocdbt"])
@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_a_file_without_an_end_is_not_read(
    name: str, target: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    file = run / "checkpoints/20" / name
    file.unlink()
    if target == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(target)
    assert sample_main(["--out_dir=run", "--backend=torch"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "no plain file" in told


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(
    finished_run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, "run")
    measured = Path("run/metrics.jsonl").read_bytes()
    shutil.rmtree(Path(run) / "checkpoints")
    assert train("run") == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "trained to step 20, but its checkpoints are gone" in told
    assert Path("run/metrics.jsonl").read_bytes() == measured
    assert train("run", "--backend=torch", "--resume=never", "--quiet") == 0
