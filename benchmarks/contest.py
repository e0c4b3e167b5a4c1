"""Contenders side by side: each has a process of its own, and they take turns, A B C A B C.

Turns spread whatever else the machine does over all contenders. Processes keep their memory apart.
"""

import multiprocessing
import multiprocessing.connection
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Step = Callable[[int], None]
"""Does the piece of work with this number, and returns when it is finished."""


@dataclass
class Result:
    """The measurements of one contender."""

    first: list[float] = field(default_factory=list)
    """Seconds from the start of its process to the end of its first step: cold, then with warm caches."""
    seconds: list[float] = field(default_factory=list)
    """Seconds per step, a number for each turn."""
    peak_mb: float = 0.0
    """Peak memory of its process, in MB."""


def contest(makers: dict[str, Callable[[], Step]], rounds: int, steps: int) -> dict[str, Result]:
    """Let the contenders take `rounds` turns of `steps` steps each; the first step is timed apart."""
    spawn = multiprocessing.get_context("spawn")
    results, connections = {}, {}
    with tempfile.TemporaryDirectory(prefix="nanogpt-benchmarks-") as scratch:
        for name, make in makers.items():
            results[name] = Result()
            for warm in (False, True):
                ours, theirs = spawn.Pipe()
                arguments = (theirs, make, steps, scratch, time.time())
                process = spawn.Process(target=work, args=arguments, daemon=True)
                process.start()
                theirs.close()  # so that recv() raises EOFError if the process dies
                # One start at a time, so that no start slows another.
                try:
                    results[name].first.append(ours.recv())
                except EOFError:
                    sys.exit(f"{name} failed: see above")
                if warm:
                    connections[name] = ours
                else:
                    ours.send(None)
                    process.join()
            print(f"{name}: first step after {both_starts(results[name].first)}", file=sys.stderr)
        for turn in range(rounds):
            for name, connection in connections.items():
                connection.send(turn)
                results[name].seconds.append(connection.recv())
        for name, connection in connections.items():
            connection.send(None)
            results[name].peak_mb = connection.recv()
    return results


def work(
    connection: multiprocessing.connection.Connection,
    make: Callable[[], Step],
    steps: int,
    scratch: str,
    begun: float,
) -> None:
    """Be one contender's process: make its step, take the turns that `connection` asks for, send seconds."""
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


def both_starts(first: list[float]) -> str:
    """Both times to the first step, in words."""
    cold, warm = first
    return f"{cold:.1f} s, warm {warm:.1f} s"
