"""A run with a damaged folder goes on from exactly what was saved, or a line says what is damaged."""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import ANY

import pytest

import nanogpt.checkpoint
from nanogpt.huggingface import export_run, import_folder
from nanogpt.lock import LOCK
from tests.conftest import tiny_flags
from tests.corruptions import KINDS, Corruption, drawn, parts
from tests.forks import Forks
from tests.judge import judged, work

pytest_plugins = ["tests.reliability_fixtures"]
pytestmark = pytest.mark.long

SEED = 1


@pytest.fixture(scope="module")
def folder(forks: Forks, text_file: Path, memory: Path) -> Path:
    """A folder with a run of 20 steps, and with the same run at step 24."""
    folder = memory / "ours"
    folder.mkdir()
    train_two(forks, folder, text_file)
    return folder


def train_two(forks: Forks, folder: Path, text_file: Path) -> None:
    """Train `run` for 20 steps, and a copy of it, `longer`, for 4 more."""
    flags = all_flags(text_file)
    train(forks, folder, [*flags, "--out_dir=run"])
    shutil.copytree(folder / "run", folder / "longer")
    train(forks, folder, [*flags, "--out_dir=longer", "--max_iters=24"])
    (folder / "run" / LOCK).write_text("process 1 on another machine")  # as a kill leaves it


def all_flags(text_file: Path) -> list[str]:
    # The rate stays where it is: no step asks how many follow.
    return ["--backend=torch", *tiny_flags(text_file), "--learning_rate=0.02", "--min_lr=0.02"]


def train(forks: Forks, folder: Path, flags: list[str]) -> None:
    fork = forks.start([*flags, "--quiet"], folder, folder / "stderr.txt")
    assert fork.wait(600) == 0, (folder / "stderr.txt").read_text()


def check(results: list[tuple[Corruption, str, str]], seed: int) -> None:
    """Print what became of each part and kind, and raise AssertionError for every fault."""
    print(
        f"{len(results):,} corruptions by seed {seed}: {dict(Counter(outcome for _, outcome, _ in results))}"
    )
    for name in ("kind", "part"):
        met: dict[str, Counter[str]] = defaultdict(Counter)
        for corruption, outcome, _ in results:
            met[getattr(corruption, name)][outcome] += 1
        print(f"    each {name} at least {min(counts.total() for counts in met.values())} times")
        for value, counts in sorted(met.items()):
            print(f"    {name} {value}: {dict(counts)}")
    faults = [f"{corruption}: {reason}" for corruption, outcome, reason in results if outcome == "fault"]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        (60, 1),
        *(pytest.param(4_750, seed, marks=pytest.mark.slow) for seed in (2, 3)),
    ],
)
def test_a_damaged_run_goes_on_or_says_so(
    count: int, seed: int, forks: Forks, text_file: Path, folder: Path
) -> None:
    corruptions = drawn(folder / "run", count, seed)
    assert {corruption.kind for corruption in corruptions} == set(KINDS)
    assert {corruption.part for corruption in corruptions} == set(parts(folder / "run"))
    check(judged(forks, folder, all_flags(text_file), corruptions, seed), seed)


@pytest.mark.parametrize("count", [10, pytest.param(500, marks=pytest.mark.slow)])
def test_a_run_with_a_damaged_tokenizer_goes_on_or_says_so(
    count: int, forks: Forks, text_file: Path, finished_run: Path, memory_folder: Path
) -> None:
    export_run(finished_run, memory_folder / "exported")
    file = memory_folder / "exported/tokenizer.json"
    # With a normalizer it is a tokenizer of another maker, which the run's folder keeps.
    file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "NFC"}}))
    import_folder(memory_folder / "exported", memory_folder / "run")
    train_two(forks, memory_folder, text_file)
    corruptions = drawn(memory_folder / "run", count, SEED, only="tokenizer.json")
    check(judged(forks, memory_folder, all_flags(text_file), corruptions, SEED), SEED)


def work_without_checksums(argv: Sequence[str]) -> int:
    nanogpt.checkpoint._checksums = lambda arrays: ANY
    return work(argv)


def test_arrays_of_another_step_would_be_noticed(forks: Forks, text_file: Path, folder: Path) -> None:
    """Without its checksums, a checkpoint with the arrays of another one is taken for a good one."""
    corruptions = [Corruption(1, "checkpoints/20/state", "copy_of_other")]
    main = f"{__name__}:{work_without_checksums.__name__}"
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        check(judged(forks, folder, all_flags(text_file), corruptions, SEED, main), SEED)
