"""Training steps side by side: both twins and, given a clone of it, karpathy/nanoGPT.

    python -m benchmarks.training --nanogpt path/to/nanoGPT

Every contender lives in a process of its own and takes its turns A B C A B C, so that whatever else the
machine does hits all of them. A step is a whole one: batch, forward, backward, clipping, AdamW.
"""

import contextlib
import importlib.util
import io
import json
import multiprocessing
import multiprocessing.connection
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from nanogpt.backend import TrainingState, load_backend
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.randomness import dropout_keys, words
from nanogpt.weights import count_parameters


@dataclass(frozen=True)
class Benchmark:
    """Time training steps on this machine's CPU, in float32."""

    nanogpt: Path | None = None
    """A clone of karpathy/nanoGPT to measure beside."""
    compile: bool = False
    """Also torch.compile, ours and nanoGPT's."""
    batch_size: int = 64
    block_size: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.2
    rounds: int = 5
    """Turns of every contender."""
    steps: int = 2
    """Steps of a turn."""
    json: Path | None = None
    """Also write the figures there."""

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(65, self.block_size, self.n_layer, self.n_head, self.n_embd, self.dropout)

    def batch(self, step: int) -> np.ndarray:
        """Random tokens `[B, T+1]`."""
        shape = (self.batch_size, self.block_size + 1)
        return (words(1, "benchmark", step, shape[0] * shape[1]) % 65).astype(np.int32).reshape(shape)


def twin(benchmark: Benchmark, name: str, compile: bool) -> Callable[[int], None]:
    """One of our training steps."""
    training = TrainingConfig(batch_size=benchmark.batch_size)
    state = TrainingState.initial(benchmark.model, 0)
    backend = load_backend(name)(benchmark.model, training, state, device="cpu", compile=compile)

    def step(number: int) -> None:
        keys_B2 = dropout_keys(1, number, np.arange(benchmark.batch_size))
        backend.train(benchmark.batch(number)[None], keys_B2[None], np.full(1, 1e-3, np.float32))()

    return step


def nanogpt(benchmark: Benchmark, compile: bool) -> Callable[[int], None]:
    """A training step with karpathy/nanoGPT's model and optimizer, as its train.py uses them."""
    import torch

    assert benchmark.nanogpt is not None
    spec = importlib.util.spec_from_file_location("nanogpt_model", benchmark.nanogpt / "model.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    config = benchmark.model
    with contextlib.redirect_stdout(io.StringIO()):
        model = module.GPT(
            module.GPTConfig(
                config.block_size,
                65,
                config.n_layer,
                config.n_head,
                config.n_embd,
                config.dropout,
                bias=False,
            )
        )
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    forward = torch.compile(model) if compile else model

    def step(number: int) -> None:
        tokens_BT1 = torch.from_numpy(benchmark.batch(number)).long()
        _, loss = forward(tokens_BT1[:, :-1].contiguous(), tokens_BT1[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def matrix_product(benchmark: Benchmark) -> Callable[[int], None]:
    """The machine's own limit: as many operations as a step takes, in large products."""
    import torch

    operations = step_operations(benchmark)
    x = torch.ones(2048, 2048)

    def step(number: int) -> None:
        for _ in range(round(operations / (2 * 2048**3))):
            torch.mm(x, x)

    return step


def step_operations(benchmark: Benchmark) -> float:
    """Floating-point operations of a step: 6 a weight and token, 12 L C T a token for attention (PaLM, B)."""
    config = benchmark.model
    matrices = count_parameters(config) - (65 + config.block_size) * config.n_embd
    tokens = benchmark.batch_size * benchmark.block_size
    return tokens * (6.0 * matrices + 12 * config.n_layer * config.n_embd * config.block_size)


def contenders(benchmark: Benchmark) -> dict[str, tuple[Callable[..., Callable[[int], None]], tuple]]:
    """Name, maker and its arguments of everything that is measured."""
    chosen: dict[str, tuple[Callable[..., Callable[[int], None]], tuple]] = {
        "large products": (matrix_product, ()),
        "jax": (twin, ("jax", False)),
        "torch": (twin, ("torch", False)),
    }
    if benchmark.compile:
        chosen["torch --compile"] = (twin, ("torch", True))
    if benchmark.nanogpt:
        chosen["nanoGPT"] = (nanogpt, (False,))
        if benchmark.compile:
            chosen["nanoGPT compiled"] = (nanogpt, (True,))
    return chosen


def work(connection: multiprocessing.connection.Connection, benchmark: Benchmark, name: str) -> None:
    """A contender's process: takes a turn whenever it is told to, and tells what it took."""
    begun = time.perf_counter()
    make, arguments = contenders(benchmark)[name]
    step = make(benchmark, *arguments)
    step(0)
    connection.send(time.perf_counter() - begun)
    for turn in iter(connection.recv, None):
        begun = time.perf_counter()
        for number in range(benchmark.steps):
            step(1 + turn * benchmark.steps + number)
        connection.send((time.perf_counter() - begun) / benchmark.steps)
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(benchmark: Benchmark, console: Console) -> dict[str, dict]:
    """Seconds a step of every turn, seconds to the first step, and peak memory in MB, by contender."""
    spawn = multiprocessing.get_context("spawn")
    connections, results = {}, {}
    for name in contenders(benchmark):
        connections[name], theirs = spawn.Pipe()
        spawn.Process(target=work, args=(theirs, benchmark, name), daemon=True).start()
        # One after the other: nobody's start is to be measured against another's.
        results[name] = {"first_step": connections[name].recv(), "seconds": []}
        console.print(f"{name}: first step after {results[name]['first_step']:.1f} s")
    for turn in range(benchmark.rounds):
        for name, connection in connections.items():
            connection.send(turn)
            results[name]["seconds"].append(connection.recv())
    for name, connection in connections.items():
        connection.send(None)
        results[name]["peak_mb"] = connection.recv()
    return results


def main() -> None:
    benchmark = tyro.cli(Benchmark, use_underscores=True)
    console = Console(stderr=True)
    results = measure(benchmark, console)
    tokens = benchmark.batch_size * benchmark.block_size
    limit = statistics.median(results["large products"]["seconds"])
    table = Table("", "s a step: min", "median", "max", "tokens/s", "of the limit", "first step", "peak MB")
    if benchmark.nanogpt:
        table.add_column("nanoGPT takes")
    for name, result in results.items():
        low, median, high = (f(result["seconds"]) for f in (min, statistics.median, max))
        row = [name, f"{low:.2f}", f"{median:.2f}", f"{high:.2f}", f"{tokens / median:,.0f}"]
        row += [f"{limit / median:.0%}", f"{result['first_step']:.1f} s", f"{result['peak_mb']:,.0f}"]
        if benchmark.nanogpt:
            pairs = zip(results["nanoGPT"]["seconds"], result["seconds"], strict=True)
            ratios = [theirs / ours for theirs, ours in pairs]
            row.append(f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")
        table.add_row(*row)
    Console(width=130).print(table)
    if benchmark.json:
        machine = {"machine": platform.platform(), "python": platform.python_version()}
        figures = {"benchmark": asdict(benchmark), **machine, "results": results}
        benchmark.json.write_text(json.dumps(figures, indent=2, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
