"""Contenders side by side: each in a process of its own, taking turns A B C A B C.

So whatever else the machine does hits all of them, and nobody's memory is anybody else's.
"""

import multiprocessing
import multiprocessing.connection
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

Step = Callable[[int], None]
"""Does the numbered piece of work, whole and waited for."""


@dataclass
class Result:
    """What was measured of one contender."""

    first: list[float] = field(default_factory=list)
    """Seconds from the start of its process to the end of its first step: cold, then with compiled caches."""
    seconds: list[float] = field(default_factory=list)
    """Of a step, turn by turn."""
    peak_mb: float = 0.0
    """Most memory that its process ever held."""


def contest(makers: dict[str, Callable[[], Step]], rounds: int, steps: int) -> dict[str, Result]:
    """Let the contenders take `rounds` turns of `steps` steps, after a first step that is not in them."""
    spawn = multiprocessing.get_context("spawn")
    results, connections = {}, {}
    with tempfile.TemporaryDirectory(prefix="nanogpt-benchmarks-") as scratch:
        for name, make in makers.items():
            results[name] = Result()
            for last in (False, True):
                ours, theirs = spawn.Pipe()
                arguments = (theirs, make, steps, scratch, time.time())
                process = spawn.Process(target=_work, args=arguments, daemon=True)
                process.start()
                theirs.close()  # so that its death ends our waiting
                # One after the other: nobody's start is to be measured against another's.
                try:
                    results[name].first.append(ours.recv())
                except EOFError:
                    sys.exit(f"{name} failed: see above")
                if last:
                    connections[name] = ours
                else:
                    ours.send(None)
                    process.join()
            print(f"{name}: first step after {_both(results[name].first)}", file=sys.stderr)
        for turn in range(rounds):
            for name, connection in connections.items():
                connection.send(turn)
                results[name].seconds.append(connection.recv())
        for name, connection in connections.items():
            connection.send(None)
            results[name].peak_mb = connection.recv()
    return results


def _work(
    connection: multiprocessing.connection.Connection,
    make: Callable[[], Step],
    steps: int,
    scratch: str,
    begun: float,
) -> None:
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": f"{scratch}/jax",
        "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/torch",
        "TMPDIR": scratch,
    }
    step = make()
    step(0)
    connection.send(time.time() - begun)
    for turn in iter(connection.recv, None):
        start = time.perf_counter()
        for number in range(steps):
            step(1 + turn * steps + number)
        connection.send((time.perf_counter() - start) / steps)
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def show(title: str, results: dict[str, Result], *, tokens: int = 0, limit: str = "", peer: str = "") -> None:
    """Print a table: `tokens` a step, the contender that marks the machine's `limit`, and a `peer`."""
    table = Table("", "seconds: min", "median", "max", title=title, title_justify="left")
    if tokens:
        table.add_column("tokens/s")
    if limit in results:
        table.add_column("of the limit")
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
        row += [_both(result.first), f"{result.peak_mb:,.0f}"]
        if peer in results:
            pairs = zip(results[peer].seconds, result.seconds, strict=True)
            ratios = [theirs / ours for theirs, ours in pairs]
            row.append(f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")
        table.add_row(*row)
    Console(width=130).print(table)


def _both(first: list[float]) -> str:
    cold, warm = first
    return f"{cold:.1f} s, warm {warm:.1f} s"
