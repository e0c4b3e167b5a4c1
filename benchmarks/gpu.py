"""One GPU measured in one command of at most ten minutes: `python -m benchmarks.gpu --json gpu.json`.

Each item runs in a process of its own, so that an item that fails or hangs does not stop the others
(gpu_items.py). The items of a wave compile and warm up side by side, for that is the CPU's work; then they
measure one after another, while the others wait. The parity suite runs all the while, and stands still
whenever an item measures. The figures are written to disk after each item. Without a GPU the items run at
toy size on the CPU, which tests the command and measures nothing.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_items import NANOGPT, Figures, has_gpu, waves

ROOT = Path(__file__).parents[1]
# jax would else take three quarters of the memory for each process.
SHARED_MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Gpu:
    """Measure this machine's GPU, item by item."""

    json: Path | None = None
    """Write the results to this file, anew after each item."""
    seconds: float = 580.0
    """Time limit: what has not ended by then is stopped or left out."""
    only: str = ""
    """Run the items whose names this regular expression finds."""
    predicted: Path | None = None
    """File of `python -m benchmarks.cuda --json`, to show its least times and its kernels beside ours."""
    nanogpt: Path | None = None
    """A clone of karpathy/nanoGPT, to be measured beside ours."""
    item: str | None = None
    """Run this item alone, in this process: say that it is ready, wait for a line, print its figures."""


# Items, and the programs of benchmarks/cuda that they run.
PROGRAMS = {
    **{f"default step, jax, {dtype}": f"training step, {dtype}" for dtype in ("float32", "tf32", "bfloat16")},
    **{f"GPT-2 124M, jax, batch {B}": f"training step, GPT-2 124M, batch {B}" for B in (16, 32)},
    "reference step at batch 64, jax, bfloat16": "training step, reference",
}


class Results:
    """The figures so far: each item's are printed and written as soon as they are there."""

    def __init__(self, console: Console, file: Path | None, predicted: Path | None) -> None:
        self.figures: dict[str, Figures] = {}
        self._console, self._file = console, file
        self._predicted: dict[str, Figures] = {}
        if predicted:
            self._predicted = json.loads(predicted.read_text(encoding="utf-8"))

    def add(self, name: str, figures: Figures) -> None:
        if program := self._predicted.get(PROGRAMS.get(name, "")):
            figures |= {"at least, ms": 1e3 * program["roofline seconds"], "predicted": program["kernels"]}
        self.figures[name] = figures
        self._console.print(name, figures, markup=False)
        if self._file:
            self._file.write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """The figures that most items have."""
        times = ["ms a step", "at least, ms", "busy ms", "ready after, s"]
        columns = [*times, "kernels", "predicted", "tokens/s", "MFU", "memory, GB"]
        table = Table("", *columns)
        for name, figures in self.figures.items():
            if any(column in figures for column in columns):
                cells = [figures.get(column) for column in columns]
                texts = [f"{cell:,.4g}" if isinstance(cell, float) else str(cell or "") for cell in cells]
                table.add_row(name, *texts)
        return table


class ParitySuite:
    """The doctor's tests on this device, in the background; without a GPU, on the CPU."""

    name = "parity"

    def __init__(self) -> None:
        device, workers = ("cuda", 6) if has_gpu() else ("cpu", 1)
        left_out = "not slow and not repository and not thorough"
        command = [sys.executable, "-m", "pytest", "parity_tests", "-q", f"-n{workers}", "-m", left_out]
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, f"--device={device}", "--dist=worksteal", "-Wdefault"],
            cwd=ROOT,
            env=os.environ | SHARED_MEMORY,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)  # pytest and its workers

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        self._signal(signal.SIGSTOP)
        yield
        self._signal(signal.SIGCONT)

    def figures(self, end: float) -> Figures:
        """Its exit code, table and failures; those so far if it does not end in time."""
        try:
            self._process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGINT)  # so that pytest prints what it has
            time.sleep(5)
        self._signal(signal.SIGKILL)
        self._output.seek(0)
        lines = self._output.read().splitlines()
        first = next((i for i, line in enumerate(lines) if line.startswith("largest error of")), -20)
        errors = [line for line in lines if line.startswith(("FAILED", "ERROR", "E   "))]
        return {"exit code": self._process.poll(), "failures": errors[:40], "table": lines[first:]}


def measure_wave(names: list[str], parity: ParitySuite | None, end: float, results: Results) -> None:
    """Prepare all items at once; measure them one by one."""
    all_ready, turn = threading.Barrier(len(names)), threading.Lock()

    def run(name: str) -> None:
        command = [sys.executable, "-m", "benchmarks.gpu", f"--item={name}"]
        begun = time.monotonic()
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | SHARED_MEMORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            timer = threading.Timer(max(0.0, end - begun), process.kill)
            timer.start()
            assert process.stdout
            process.stdout.readline()
            ready = time.monotonic() - begun
            all_ready.wait()
            with turn, parity.standing_still() if parity else nullcontext():
                output, _ = process.communicate("go\n")
                timer.cancel()
                errors.seek(0)
                lines = errors.read().strip().splitlines()
                if process.returncode:
                    late = time.monotonic() >= end
                    results.add(name, {"failed": "no time was left" if late else lines[-3:]})
                else:
                    results.add(name, json.loads(output.splitlines()[-1]) | {"ready after, s": ready})

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(run, names))


def main() -> None:
    gpu = tyro.cli(Gpu, use_underscores=True)
    if gpu.nanogpt:
        os.environ[NANOGPT] = str(gpu.nanogpt.absolute())
    if gpu.item:
        measure = {name: prepare for wave in waves() for name, prepare in wave.items()}[gpu.item]()
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(measure()))
        return
    console = Console(width=150)
    results = Results(console, gpu.json, gpu.predicted)
    console.print("An item that fails shows the end of its errors. Run it again alone: --only 'its name'.")
    end = time.monotonic() + gpu.seconds
    parity = ParitySuite() if re.search(gpu.only, ParitySuite.name) else None
    for wave in waves():
        if names := [name for name in wave if re.search(gpu.only, name)]:
            measure_wave(names, parity, end, results)
    if parity:
        results.add(parity.name, parity.figures(end))
    console.print(results.table())


if __name__ == "__main__":
    main()
