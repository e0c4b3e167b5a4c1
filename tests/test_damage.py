"""One damaged file of a checkpoint makes neither the folder nor the other checkpoints unusable."""

import shutil
from pathlib import Path

import pytest

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
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's event loop
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
