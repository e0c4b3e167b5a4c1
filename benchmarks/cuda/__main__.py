"""Every program of the JAX twin, compiled for an NVIDIA card that is not there: `python -m benchmarks.cuda`.

All figures are read from the compiled programs; none is measured (docs/cuda.md).
"""

import json
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.cuda.cards import CARDS, LAUNCH, Card
from benchmarks.cuda.collectives import collectives_of
from benchmarks.cuda.environment import run_python
from benchmarks.cuda.hlo import Program
from benchmarks.cuda.kernels import Kernel, step_of
from benchmarks.cuda.programs import CASES, ON_MESHES, chosen
from nanogpt.errors import InputError

Figures = dict[str, Any]


@dataclass(frozen=True)
class Cuda:
    """Compile the programs of the JAX twin for a card and print what they do in a step."""

    programs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of the programs, as the tables of docs/ have them; all those of one card by default."""
    card: Literal["h100", "a100", "rtx4090"] = "h100"
    json: Path | None = None
    """Also write the figures to this file."""
    folder: Path | None = None
    """Also keep the text of every compiled program in this folder."""


def seconds(kernel: Kernel, card: Card) -> float:
    """The least time of the kernel: of its memory or its arithmetic, whichever is longer, and a launch."""
    arithmetic = sum(count / card.flops_per_second(precision) for precision, count in kernel.flops.items())
    return max((kernel.read + kernel.written) / card.bandwidth, arithmetic) + LAUNCH


def figures(program: Program, card: Card) -> Figures:
    """Count what a step of the program does, and give the least time that it takes on the card."""
    step = step_of(program)
    by_source: dict[str, float] = defaultdict(float)
    written, sent = Counter[str](), Counter[str]()
    for collective in collectives_of(program):
        sent[collective.kind] += round(collective.sent)
    for kernel in step:
        # A name begins with what all have: jit(f)/while/body/...
        by_source["/".join(kernel.source.split("/")[-2:])] += seconds(kernel, card)
        for array in kernel.outputs:
            written[f"{array.dtype}{list(array.shape)}"] += array.bytes
    return {
        "kernels": len(step),
        "library calls": Counter(kernel.library for kernel in step if kernel.library),
        "matmuls": sum((kernel.matmuls for kernel in step), Counter()),
        "bytes sent": sent,
        "bytes read": sum(kernel.read for kernel in step),
        "bytes written": sum(kernel.written for kernel in step),
        "FLOPs": sum((kernel.flops for kernel in step), Counter()),
        "roofline seconds": sum(seconds(kernel, card) for kernel in step),
        "launch seconds": LAUNCH * len(step),
        "seconds by operation": dict(sorted(by_source.items(), key=lambda item: -item[1])[:10]),
        "bytes written by shape": dict(written.most_common(10)),
    }


def table(found: dict[str, Figures], card: Card) -> Table:
    columns = ["compiled, s", "kernels", "library calls", "matmuls", "read, MB", "written, MB", "GFLOP"]
    columns += ["temporary, MB", "aliased, MB", "at least, ms", "sent, MB"]
    drawn = Table("", *columns, title=f"One step on {card.name}", title_justify="left")
    for name, program in found.items():
        counts = (
            "\n".join(f"{n} {key.removeprefix('__').replace('$', ' ')}" for key, n in program[column].items())
            for column in ("library calls", "matmuls")
        )
        drawn.add_row(
            *(name, f"{program['seconds']:.0f}", f"{program['kernels']:,}", *counts),
            *(f"{program[f'bytes {kind}'] / 1e6:,.0f}" for kind in ("read", "written")),
            f"{sum(program['FLOPs'].values()) / 1e9:,.1f}",
            *(f"{program[kind] / 1e6:,.1f}" for kind in ("temporaries", "aliased")),
            f"{1e3 * program['roofline seconds']:,.3f}",
            "\n".join(f"{size / 1e6:,.1f} {kind}" for kind, size in program["bytes sent"].items()),
        )
    return drawn


def compiled(folder: Path, card: str, programs: tuple[str, ...]) -> dict[str, Figures]:
    """Compile the programs for the card into the folder, and read them.

    Raises InputError for an unknown name, and where the compiler can't be had.
    """
    names = [name for case in [*CASES, *ON_MESHES] for name in case.names]
    for name in programs:
        if name not in names:
            raise InputError(f"there is no program {name!r}; there are: {'; '.join(names)}")
    run_python("-m", "benchmarks.cuda.programs", card, str(folder), *programs)
    found = {}
    for name in (name for case in chosen(programs) for name in case.names):
        program = Program((folder / f"{name}.hlo").read_text(encoding="utf-8"))
        facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        found[name] = facts | figures(program, CARDS[card])
    return found


def main() -> None:
    flags = tyro.cli(Cuda, use_underscores=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = flags.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            found = compiled(folder, flags.card, flags.programs)
        except InputError as error:
            raise SystemExit(f"error: {error}") from None
    Console(width=200).print(table(found, CARDS[flags.card]))
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
