"""Results of contests, printed as tables."""

import statistics

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import COPIED
from benchmarks.contest import Result, both_starts
from benchmarks.shape import Shape

WIDTH = 130


def show(title: str, results: dict[str, Result], *, tokens: int = 0, limit: str = "", peer: str = "") -> None:
    """Print a row for each contender.

    `tokens` per step add tokens per second. A contender named `limit` adds each row's share of its speed. A
    contender named `peer` adds how many times as long the peer takes: the median of the turns, and the range.
    """
    table = Table("", "seconds: min", "median", "max", title=title, title_justify="left")
    if tokens:
        table.add_column("tokens/s")
    if limit in results:
        table.add_column("share of limit")
    table.add_column("first step")
    table.add_column("peak MB")
    if peer in results:
        table.add_column(f"{peer} takes")
    for name, result in results.items():
        low, median, high = (f(result.seconds) for f in (min, statistics.median, max))
        row = [name, *(f"{seconds:.3g}" for seconds in (low, median, high))]
        if tokens:
            row.append(f"{tokens / median:,.0f}")
        if limit in results:
            row.append(f"{statistics.median(results[limit].seconds) / median:.0%}")
        row += [both_starts(result.first), f"{result.peak_mb:,.0f}"]
        if peer in results:
            pairs = zip(results[peer].seconds, result.seconds, strict=True)
            ratios = [theirs / ours for theirs, ours in pairs]
            row.append(f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")
        table.add_row(*row)
    Console(width=WIDTH).print(table)


def show_limits(shape: Shape, results: dict[str, Result]) -> None:
    """Print the machine's upper bounds on compute and on memory bandwidth."""
    matmuls, copy = (statistics.median(results[name].seconds) for name in ("large matmuls", "memory copy"))
    Console(width=WIDTH).print(
        f"This machine: {shape.flops / matmuls / 1e9:,.0f} GFLOP/s in large matmuls, "
        f"{2 * COPIED / copy / 1e9:.1f} GB/s read and written in a copy"
    )


def show_sweep(found: dict[str, dict[str, Result]]) -> None:
    """Print how the cost of a step grows when a size doubles."""
    names = list(next(iter(found.values())))
    table = Table(
        "", *names, title="Seconds per step, and how many times those of the row above", title_justify="left"
    )
    before: dict[str, float] = {}
    for size, results in found.items():
        medians = {name: statistics.median(results[name].seconds) for name in names}
        growth = {name: f" ({medians[name] / before[name]:.2f}x)" if before else "" for name in names}
        table.add_row(size, *(f"{medians[name]:.3g}{growth[name]}" for name in names))
        before = medians
    Console(width=WIDTH).print(table)
