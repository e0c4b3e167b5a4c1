"""Who takes part: each function here makes one contender's step, in its own process."""

import ast
import contextlib
import importlib.util
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import Step
from nanogpt.backend import Backend, TrainingState, load_backend
from nanogpt.checkpoint import Checkpoints
from nanogpt.config import Config, ModelConfig, RunConfig, TrainingConfig
from nanogpt.hardware import flops_per_token
from nanogpt.metrics import Reporter
from nanogpt.randomness import dropout_keys, words
from nanogpt.run import open_run
from nanogpt.sampling import SamplingPolicy, sampling_uniforms
from nanogpt.training import Training

ROOT = Path(__file__).parents[1]
LOOP_STEPS = 4
COPIED = 2**29  # bytes: far more than any cache holds
POLICY = SamplingPolicy(0.8)


@dataclass(frozen=True)
class Shape:
    """What is trained, by default the reference shape at dropout 0.2; float32, on the CPU."""

    batch_size: int = 64
    block_size: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.2

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(65, self.block_size, self.n_layer, self.n_head, self.n_embd, self.dropout)

    @property
    def tokens(self) -> int:
        """Of one batch."""
        return self.batch_size * self.block_size

    @property
    def operations(self) -> float:
        """Floating-point operations of a training step."""
        return self.tokens * flops_per_token(self.model)

    def batch(self, number: int) -> np.ndarray:
        """Random tokens `[B, T+1]`."""
        tokens = words(1, "benchmark", number, self.batch_size * (self.block_size + 1)) % 65
        return tokens.astype(np.int32).reshape(self.batch_size, -1)

    def prompt(self, length: int) -> np.ndarray:
        """Random tokens `[1, length]`."""
        return (words(2, "benchmark", 0, length) % 65).astype(np.int32)[None]


def backend(shape: Shape, name: str, compile: bool = False) -> Backend:
    training = TrainingConfig(batch_size=shape.batch_size)
    state = TrainingState.initial(shape.model, 0)
    return load_backend(name)(shape.model, training, state, device="cpu", compile=compile)


def train(shape: Shape, name: str, compile: bool = False, framework_dropout: bool = False) -> Step:
    """One of our training steps; with the framework's own dropout, to see what the shared hash costs."""
    if framework_dropout:
        use_framework_dropout(name)
    model = backend(shape, name, compile)

    def step(number: int) -> None:
        keys_B2 = dropout_keys(1, number, np.arange(shape.batch_size))
        model.train(shape.batch(number)[None], keys_B2[None], np.full(1, 1e-3, np.float32))()

    return step


def use_framework_dropout(name: str) -> None:
    """Put jax.random.bernoulli or torch's dropout in the place of ours."""
    if name == "torch":
        from torch.nn import functional

        from nanogpt_torch import dropout

        def of_torch(self: Any, x: Any, keys_B2: Any = None, index: Any = None) -> Any:
            return functional.dropout(x, self.rate, training=keys_B2 is not None)

        dropout.Dropout.forward = of_torch  # type: ignore[method-assign]
    else:
        import jax

        from nanogpt_jax import dropout as jax_dropout

        def of_jax(self: Any, x: Any, keys_B2: Any = None, index: Any = None) -> Any:
            if keys_B2 is None:
                return x
            keep = jax.random.bernoulli(jax.random.wrap_key_data(keys_B2[0]), 1 - self.rate, x.shape)
            return jax.numpy.where(keep, x / (1 - self.rate), 0)

        jax_dropout.Dropout.__call__ = of_jax  # type: ignore[method-assign]


class Loop(Training):
    """The training loop without evaluations and checkpoints: dispatches and log lines alone."""

    def _evaluate(self) -> None:
        pass

    def _save(self) -> None:
        pass


def loop(shape: Shape, name: str) -> Step:
    """LOOP_STEPS training steps through the loop of train.py, on a corpus of random characters."""
    folder = Path(tempfile.mkdtemp())
    characters = words(3, "benchmark", 0, 100_000) % 65 + 32
    (folder / "text.txt").write_text("".join(map(chr, characters)), encoding="utf-8")
    recipe = TrainingConfig(batch_size=shape.batch_size, eval_interval=10**9)
    config = Config(shape.model, recipe, RunConfig(data=str(folder / "text.txt"), device="cpu"))
    reporter = Reporter(quiet=True)
    run = open_run(config, folder / "run", resume="auto", backend=name, reporter=reporter)
    model = load_backend(name)(run.config.model, recipe, run.state, device="cpu")
    training = Loop(run, model, reporter)

    def step(number: int) -> None:
        training.config = replace(recipe, max_iters=training.step + LOOP_STEPS)
        training.to_the_end()

    return step


def bare(shape: Shape, name: str) -> Step:
    """As many training steps in one call of the backend, with nothing around them."""
    model = backend(shape, name)
    tokens_KBT1 = np.stack([shape.batch(k) for k in range(LOOP_STEPS)])
    keys_KB2 = np.stack([dropout_keys(1, k, np.arange(shape.batch_size)) for k in range(LOOP_STEPS)])
    rate_K = np.full(LOOP_STEPS, 1e-3, np.float32)

    def step(number: int) -> None:
        model.train(tokens_KBT1, keys_KB2, rate_K)()

    return step


def evaluation(shape: Shape, name: str) -> Step:
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


def large_products(shape: Shape) -> Step:
    """The machine's limit for arithmetic: as many operations as a training step takes, in large products."""
    import torch

    x = torch.ones(2048, 2048)

    def step(number: int) -> None:
        for _ in range(max(1, round(shape.operations / (2 * 2048**3)))):
            torch.mm(x, x)

    return step


def memory_copy(shape: Shape) -> Step:
    """The machine's limit for memory: COPIED bytes read, and as many written."""
    source = np.ones(COPIED // 8)
    target = np.empty_like(source)
    return lambda number: np.copyto(target, source)


def nanogpt(shape: Shape, path: Path) -> tuple[Any, Any]:
    """karpathy/nanoGPT's model and optimizer, as its train.py makes them."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", path / "model.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    config = module.GPTConfig(
        shape.block_size, 65, shape.n_layer, shape.n_head, shape.n_embd, shape.dropout, bias=False
    )
    with contextlib.redirect_stdout(io.StringIO()):
        model = module.GPT(config)
        return model, model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")


def lecture(shape: Shape, path: Path) -> tuple[Any, Any]:
    """The model and optimizer of karpathy/ng-video-lecture's gpt.py, a script that trains when imported."""
    import torch

    source = ast.parse((path / "gpt.py").read_text(encoding="utf-8"))
    wanted = (ast.Import, ast.ImportFrom, ast.ClassDef)
    source.body = [node for node in source.body if isinstance(node, wanted)]
    names: dict[str, Any] = asdict(shape) | {"vocab_size": 65, "device": "cpu"}
    exec(compile(source, "gpt.py", "exec"), names)
    model = names["GPTLanguageModel"]()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def peer_training(shape: Shape, peer: Callable[..., Any], path: Path, compiled: bool = False) -> Step:
    """A peer's training step; gradients are clipped where its train.py does."""
    import torch

    model, optimizer = peer(shape, path)
    forward = torch.compile(model) if compiled else model

    def step(number: int) -> None:
        tokens_BT1 = torch.from_numpy(shape.batch(number)).long()
        _, loss = forward(tokens_BT1[:, :-1].contiguous(), tokens_BT1[:, 1:].contiguous())
        loss.backward()
        if peer is nanogpt:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peer_evaluation(shape: Shape, peer: Callable[..., Any], path: Path) -> Step:
    import torch

    model = peer(shape, path)[0].eval()

    def step(number: int) -> None:
        tokens_BT1 = torch.from_numpy(shape.batch(number)).long()
        with torch.no_grad():
            model(tokens_BT1[:, :-1].contiguous(), tokens_BT1[:, 1:].contiguous())[1].item()

    return step


def peer_generation(shape: Shape, peer: Callable[..., Any], path: Path, prompt: int, count: int) -> Step:
    import torch

    model = peer(shape, path)[0].eval()

    def step(number: int) -> None:
        with torch.no_grad():
            model.generate(torch.from_numpy(shape.prompt(prompt)).long(), count)

    return step


def checkpoint(shape: Shape, load: bool) -> Step:
    """A whole training state to the disk, waited for, or back from it."""
    checkpoints = Checkpoints(Path(tempfile.mkdtemp()) / "checkpoints")
    state = TrainingState.initial(shape.model, 0)

    def save(number: int) -> None:
        checkpoints.save(replace(state, step=number), {})
        checkpoints.wait()

    def restore(number: int) -> None:
        checkpoints.restore(0)

    save(0)
    return restore if load else lambda number: save(number + 1)


def command(shape: Shape, *arguments: str) -> Step:
    """A Python command from the key press to its end; `RUN` stands for a folder with a model in it."""
    folder = tempfile.mkdtemp()
    checkpoints = Checkpoints(Path(folder) / "checkpoints")
    vocabulary = "".join(map(chr, [10, *range(32, 96)]))
    metadata = {"config": asdict(Config(shape.model)), "vocabulary": vocabulary}
    checkpoints.save(TrainingState.initial(shape.model, 0), metadata)
    checkpoints.close()

    def step(number: int) -> None:
        words = [sys.executable, *(argument.replace("RUN", folder) for argument in arguments)]
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True)

    return step
