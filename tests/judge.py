"""Go on with damaged runs in one process, one after the other, and judge what the program makes of each.

A run goes on from exactly what was saved, or a line says what is damaged: everything else is a fault. The
process writes a result at a time: one that dies or hangs shows by which corruption.
"""

import faulthandler
import gc
import json
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nanogpt.session
from nanogpt.checkpoint import Checkpoints
from nanogpt.cli.sample import sample_main
from nanogpt.cli.train import train_main
from nanogpt.config import differences
from nanogpt.lock import LOCK
from nanogpt.state import TrainingState
from nanogpt.training.run import Run, open_run
from tests.conftest import assert_same_weights
from tests.corruptions import Corruption, corrupt
from tests.forks import Forks
from tests.runs import PARTS, TIMES, final_state, json_lines, timeless

LINES = ("metrics.jsonl", "heads.jsonl")
SECONDS = 60  # Nothing that a damaged run of this size needs takes as long.
BATCH = 500  # So many corruptions are judged by one process.
BYTES = 16 * 2**30  # of virtual memory, of which the frameworks take a part


class Told(NamedTuple):
    """The end of a command: its exit code, and the lines that it wrote."""

    code: int
    output: list[str]
    errors: list[str]


def judged(
    forks: Forks,
    folder: Path,
    flags: list[str],
    corruptions: list[Corruption],
    seed: int,
    main: str = f"{__name__}:work",
) -> list[tuple[Corruption, str, str]]:
    """Damage copies of `run` in a folder, and go on with them in forks that are called by `main`.

    Returns each corruption, what happened, and the reason of a fault.
    """
    results: list[tuple[Corruption, str, str]] = []
    job, done = folder / "job.json", folder / "results.jsonl"
    while len(results) < len(corruptions):
        batch = corruptions[len(results) : len(results) + BATCH]
        job.write_text(json.dumps([seed, flags, batch]))
        done.write_text("")
        fork = forks.start([str(job), str(done)], folder, folder / "stderr.txt", main)
        while (code := fork.poll()) is None:
            time.sleep(0.05)
        results += [(Corruption(*values), *told) for values, *told in json_lines(done)]
        if left := batch[len(json_lines(done)) :]:
            said = "".join((folder / name).read_text() for name in ("stderr.txt", "errors.txt"))
            results.append((left[0], "fault", f"the process ended with {code}: {said}"))
    return results


def work(argv: Sequence[str]) -> int:
    """Judge the corruptions of a job. Each result is a line of a file."""
    job, done = map(Path, argv)
    seed, flags, batch = json.loads(job.read_text())
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    judge = Judge(flags)
    with done.open("a") as file:
        for values in batch:
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                outcome, reason = judge.outcome(Corruption(*values), seed), ""
            except Exception as error:
                outcome, reason = "fault", f"{type(error).__name__}: {error}"
            print(json.dumps([values, outcome, reason]), file=file, flush=True)
    faulthandler.cancel_dump_traceback_later()
    return 0


class Judge:
    """It knows what a run saved and measured, and how it goes on when nothing is damaged."""

    def __init__(self, flags: list[str]) -> None:
        """Read the run of 20 steps in `run`, and the same run at step 24 in `longer`."""
        run, longer = Path(shutil.copytree("run", "undamaged")), Path("longer")
        self.flags = flags
        checkpoints = Checkpoints(run / "checkpoints", read_only=True)
        self.saved = {step: checkpoints.restore(step) for step in checkpoints.steps}
        self.end = final_state(longer)
        self.lines = {name: {line["step"]: line for line in json_lines(longer / name)} for name in LINES}
        texts = [sampled(run, step) for step in self.saved]
        self.samples = {text.errors[0].partition(",")[2]: text.output for text in texts}
        self.tokens_N = opened([f"--out_dir={run}", *flags])[1].splits.train_N
        shutil.rmtree(run)

    def outcome(self, corruption: Corruption, seed: int) -> str:
        """Damage a copy of the run, go on with it, and tell in a word what happened.

        Raises AssertionError for a fault.
        """
        case = Path("case")
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree("run", case)
        corrupt(case, corruption, seed)
        if corruption.number % 3 == 0:
            self.check_sample(sampled(case, [None, 10, 20][corruption.number // 3 % 3]))
        # Every tenth one is trained on, by a command that names all flags.
        whole = corruption.number % 10 == 0
        flags = [*self.flags, "--max_iters=24"] if whole else self.flags[:2]
        before = contents(case)
        told, run = opened([f"--out_dir={case}", *flags], train=whole)
        check_told(told)
        if told.code == 2:
            assert contents(case) == before, "it was refused, but the folder is changed"
            return "refused"
        assert run, "nothing was opened"
        self.check_state(run, told)
        if run.state.step < 20 and Path("checkpoints/20") in before:
            assert any("step 10" in line for line in told.errors), "it fell back without a word"
        changed = any(line.startswith("changed  ") and "max_iters" not in line for line in told.output)
        self.check_lines(run, told, run.state.step if changed or not whole else 24, LINES[: 1 + whole])
        if whole and not changed:
            assert_same_state(final_state(case), self.end)
            assert told.errors or timeless(case) == timeless(Path("longer")), "the reports differ"
        if not run.resumed:
            return "begun anew"
        return "fell back" if run.state.step < 20 else "told" if told.errors or changed else "unharmed"

    def check_sample(self, told: Told) -> None:
        """A text is that of the checkpoint it is said to be of."""
        check_told(told)
        if told.code == 2:
            assert not told.output
        else:
            (status,) = told.errors
            assert told.output == self.samples[status.partition(",")[2]], "it wrote another text"

    def check_state(self, run: Run, told: Told) -> None:
        """Weights, moments and settings are those of the step, and so are the tokens of the text."""
        assert np.array_equal(run.splits.train_N, self.tokens_N), "the tokens differ"
        if not run.resumed:
            assert told.errors, "it began anew without a word"
            return
        state, metadata = self.saved[run.state.step]
        assert_same_state(run.state, state)
        assert run.elapsed == metadata.elapsed
        for part in ("model", "training", "run"):
            for difference in differences(getattr(metadata.config, part), getattr(run.config, part)):
                assert f"changed  {difference}" in told.output, f"{difference} without a word"

    def check_lines(self, run: Run, told: Told, last_step: int, names: Sequence[str]) -> None:
        """The lines up to a step are those that were measured; else an error says that they are not."""
        for name in names:
            actual = [line for line in json_lines(run.out_dir / name) if line["step"] <= last_step]
            steps = [line["step"] for line in actual]
            assert steps == sorted(set(steps)), f"{name} has the steps {steps}"
            expected = [line for step, line in self.lines[name].items() if step <= last_step]
            new = run.state.step if run.resumed else -1
            actual, expected = ([without_times(line, new) for line in lines] for lines in (actual, expected))
            assert actual == expected or any(name in error for error in told.errors), f"{name} tells {actual}"


def assert_same_state(actual: TrainingState, expected: TrainingState) -> None:
    assert actual.step == expected.step
    for part in PARTS:
        assert_same_weights(getattr(actual, part), getattr(expected, part))


def check_told(told: Told) -> None:
    """A command ends well, or with one line of an error; all of its warnings name the run's folder."""
    assert told.code in (0, 2), f"exit code {told.code}: {told.errors}"
    assert not told.code or told.errors[-1].startswith("error: "), f"exit code {told.code}: {told.errors}"
    warnings = told.errors[:-1] if told.code else told.errors
    assert all("case" in warning for warning in warnings), f"noise: {warnings}"
    assert not re.search("Traceback|Exception", "\n".join(told.output + told.errors))


def contents(folder: Path) -> dict[Path, bytes | None]:
    """All that is below a folder but the lock: the bytes of each file, and None for everything else."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != LOCK
    }


def without_times(line: dict[str, Any], last_step: int) -> dict[str, Any]:
    """A line of a run's file, without the times if it was measured after `last_step`, anew."""
    return {key: line[key] for key in line.keys() - TIMES} if line["step"] > last_step else line


class NotTrained(BaseException):
    """Ends train.py where the run was opened."""


def opened(flags: list[str], train: bool = False) -> tuple[Told, Run | None]:
    """Call train.py, and let it train or not. Returns also the run that it opened, if it did."""
    runs: list[Run] = []

    @contextmanager
    def noted(*arguments: Any, **options: Any) -> Iterator[Run]:
        with open_run(*arguments, **options) as run:
            runs.append(run)
            if not train:
                raise NotTrained
            yield run

    nanogpt.session.open_run = noted
    code = 0
    with captured() as (output, errors), suppress(NotTrained):
        code = train_main(flags)
    return Told(code, output, errors), runs[0] if runs else None


def sampled(run: Path, step: int | None) -> Told:
    """Call sample.py with a checkpoint, or with the latest."""
    with captured() as (output, errors):
        code = sample_main(
            [f"--out_dir={run}", f"--checkpoint={step or 'latest'}", "--max_tokens=8", "--backend=torch"]
        )
    return Told(code, output, errors)


@contextmanager
def captured() -> Iterator[tuple[list[str], list[str]]]:
    """Collect the lines that anything in this process writes, C++ included."""
    names, lines = ("output.txt", "errors.txt"), ([], [])
    before = [os.dup(number) for number in (1, 2)]
    for number, name in enumerate(names, 1):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    try:
        yield lines
        # Errors that nobody took are told when they are collected; what is left is not looked at again.
        gc.collect()
        gc.freeze()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, (old, name, said) in enumerate(zip(before, names, lines, strict=True), 1):
            os.dup2(old, number)
            os.close(old)
            said.extend(Path(name).read_text(encoding="utf-8", errors="replace").splitlines())
