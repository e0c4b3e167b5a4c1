"""Our contenders and the machine's limits. Each function makes one contender's step, in its own process."""

import atexit
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.contest import Step
from benchmarks.framework_dropout import use_framework_dropout
from benchmarks.shape import Shape
from nanogpt.backend import Backend
from nanogpt.checkpoint import Checkpoints
from nanogpt.choice import load_backend
from nanogpt.config import Config, RunConfig, TrainingConfig
from nanogpt.metadata import Metadata
from nanogpt.randomness import random_bits
from nanogpt.sampling import SamplingPolicy, sampling_uniforms
from nanogpt.state import TrainingState
from nanogpt.training.batches import step_inputs
from nanogpt.training.loop import Training
from nanogpt.training.run import open_run

ROOT = Path(__file__).parents[1]
Optimizer = Literal["muon", "adamw"]
LOOP_STEPS = 4
COPIED = 2**29  # bytes: far more than any cache holds
POLICY = SamplingPolicy(0.8)


def backend(
    shape: Shape,
    name: str,
    compile: bool = False,
    optimizer: Optimizer = "adamw",
    dtype: str = "float32",
) -> Backend:
    recipe = TrainingConfig(optimizer=optimizer, batch_size=shape.batch_size)
    state = TrainingState.initial(shape.model, 0)
    return load_backend(name)(shape.model, recipe, state, device="cpu", dtype=dtype, compile=compile)


def training(
    shape: Shape,
    name: str,
    compile: bool = False,
    framework_dropout: bool = False,
    optimizer: Optimizer = "adamw",
    dtype: str = "float32",
) -> Step:
    """One of our training steps; `framework_dropout` shows what the shared hash costs."""
    if framework_dropout:
        use_framework_dropout(name)
    model = backend(shape, name, compile, optimizer, dtype)

    def step(number: int) -> None:
        model.train(*step_inputs(shape.batch, [number], TrainingConfig()))()

    return step


def loop(shape: Shape, name: str) -> Step:
    """LOOP_STEPS training steps through the loop of train.py, without evaluations and checkpoints."""
    folder = Path(tempfile.mkdtemp())
    characters = random_bits(3, "benchmark", 0, 100_000) % 65 + 32
    (folder / "text.txt").write_text("".join(map(chr, characters)), encoding="utf-8")
    recipe = TrainingConfig(optimizer="adamw", batch_size=shape.batch_size, eval_interval=10**9)
    config = Config(shape.model, recipe, RunConfig(data=str(folder / "text.txt"), device="cpu"))
    opened = ExitStack()  # as long as the process
    atexit.register(opened.close)
    run = opened.enter_context(
        open_run(config, folder / "run", resume="auto", backend=name, say=print, warn=print)
    )
    model = load_backend(name)(run.config.model, recipe, run.state, device="cpu")
    trainer = Training(run, model)
    return lambda number: trainer.steps_to(trainer.step + LOOP_STEPS)


def bare(shape: Shape, name: str) -> Step:
    """LOOP_STEPS training steps in one call of the backend, with nothing around them."""
    model = backend(shape, name)
    inputs = step_inputs(shape.batch, range(LOOP_STEPS), TrainingConfig())

    def step(number: int) -> None:
        model.train(*inputs)()

    return step


def evaluation(shape: Shape, name: str) -> Step:
    """The losses of a batch."""
    model = backend(shape, name)

    def step(number: int) -> None:
        model.losses(shape.batch(number))

    return step


def generation(shape: Shape, name: str, prompt: int, count: int) -> Step:
    """`count` tokens after a prompt of `prompt` tokens, at batch 1."""
    model = backend(shape, name)

    def step(number: int) -> None:
        uniforms_BN = sampling_uniforms(number, [0], count)
        for _ in model.generate(shape.prompt(prompt), uniforms_BN, POLICY):
            pass

    return step


def large_matmuls(shape: Shape) -> Step:
    """An upper bound on compute: the FLOPs of a training step, in matmuls of 2048 x 2048."""
    import torch

    x = torch.ones(2048, 2048)

    def step(number: int) -> None:
        for _ in range(max(1, round(shape.flops / (2 * 2048**3)))):
            torch.mm(x, x)

    return step


def memory_copy(shape: Shape) -> Step:
    """An upper bound on memory bandwidth: COPIED bytes read, and as many written."""
    source = np.ones(COPIED // 8)
    target = np.empty_like(source)
    return lambda number: np.copyto(target, source)


def checkpoint(shape: Shape, load: bool) -> Step:
    """Save a whole training state and wait until it is on the disk, or load it from there."""
    checkpoints = Checkpoints(Path(tempfile.mkdtemp()) / "checkpoints")
    state = TrainingState.initial(shape.model, 0)

    def save(number: int) -> None:
        checkpoints.save(replace(state, step=number), Metadata(Config(shape.model), None))
        checkpoints.wait()

    def restore(number: int) -> None:
        checkpoints.restore(0)

    save(0)
    return restore if load else lambda number: save(number + 1)


def command(shape: Shape, *arguments: str) -> Step:
    """A Python command in a fresh process, until it exits; `RUN` stands for a folder with a model in it."""
    folder = tempfile.mkdtemp()
    checkpoints = Checkpoints(Path(folder) / "checkpoints")
    vocabulary = "".join(map(chr, [10, *range(32, 96)]))
    checkpoints.save(TrainingState.initial(shape.model, 0), Metadata(Config(shape.model), vocabulary))
    checkpoints.close()

    def step(number: int) -> None:
        command = [sys.executable, *(argument.replace("RUN", folder) for argument in arguments)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    return step
