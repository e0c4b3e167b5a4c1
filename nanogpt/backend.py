"""What the core asks of a backend, and the choice of one."""

import importlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.errors import InputError
from nanogpt.sampling import SamplingPolicy
from nanogpt.weights import Weights, initial_weights

# Steps of one call at most: more would hide a Ctrl-C and the log for too long, and gain nothing.
MAX_STEPS_PER_CALL = 64


@dataclass(frozen=True)
class TrainingState:
    """All that training carries from step to step, as numpy arrays by canonical name (weights.py)."""

    step: int
    """Optimizer steps done."""
    weights: Weights
    first_moment: Weights
    """AdamW's running mean of the gradient."""
    second_moment: Weights
    """AdamW's running mean of the squared gradient."""

    @classmethod
    def initial(cls, config: ModelConfig, seed: int) -> "TrainingState":
        """Step 0 of fresh weights."""
        return cls.of_weights(initial_weights(config, seed))

    @classmethod
    def of_weights(cls, weights: Weights) -> "TrainingState":
        """Step 0 of given weights: moments of zero."""
        return cls(0, weights, *({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2)))


class Backend(Protocol):
    """One model on one device. Numpy at the border; tokens are int32, everything else float32."""

    name: str
    """jax or torch."""
    device: str
    """cpu, cuda or mps."""
    device_name: str
    """What the maker calls it, where the framework knows."""
    model: Any
    """The framework's own module, with the present weights."""

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingConfig | None,
        state: TrainingState,
        *,
        device: str = "auto",
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        """Build the model and load `state`; without `training` the model can't be trained.

        Raises InputError when this machine lacks `device`.
        """

    def train(
        self, tokens_KBT1: np.ndarray, keys_KB2: np.ndarray, learning_rate_K: np.ndarray
    ) -> Callable[[], np.ndarray]:
        """Take K optimizer steps, K <= MAX_STEPS_PER_CALL, without waiting for the device.

        `tokens_KBT1` are windows of T + 1 tokens, `keys_KB2` their dropout keys (randomness.py). Calling
        what is returned waits for the steps and gives their mean losses in nats, `[K]`.
        """

    def state(self) -> TrainingState:
        """A copy of the training state, never an alias of live weights."""

    def load(self, state: TrainingState) -> None:
        """Put the training state in place of the present one."""

    def gradients(self, tokens_BT1: np.ndarray, keys_B2: np.ndarray) -> tuple[float, Weights]:
        """Mean loss of a batch and its gradient by every weight, unclipped."""

    def losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        """Loss in nats of each token after the first, without dropout: `[B, T]`."""

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Scores of every next token: `[B, T, V]`."""

    def attention(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Attention weights of every layer and head, without dropout: `[L, B, H, T, T]`."""

    def head_outputs(self, tokens_BT: np.ndarray) -> np.ndarray:
        """What each head takes in, before the output projection, without dropout: `[L, B, H, T, D]`."""

    def generate(
        self, prompt_BT: np.ndarray, uniforms_BN: np.ndarray, policy: SamplingPolicy
    ) -> Iterator[np.ndarray]:
        """Continue each prompt by N tokens, yielding them as they come: `[B, n]`, n tokens at a time.

        `uniforms_BN` in [0, 1) decide the tokens. The model sees the last block_size tokens.
        """


def load_backend(name: str) -> type[Backend]:
    """Import the twin called `jax` or `torch`, or the one that suits this machine for `auto`."""
    if name == "auto":
        name = "torch" if _mps_is_available() else "jax"
    backend = importlib.import_module(f"nanogpt_{name}.backend").Backend
    if name == "jax" and shutil.which("nvidia-smi"):
        _warn_without_cuda()
    return backend


def micro_batch_rows(batch_size: int, block_size: int, device: str, tokens: int) -> int:
    """Rows of a micro-batch: the largest share of the batch, of about so many tokens at most.

    On a CPU, where its activations then stay near the caches; elsewhere the whole batch.
    """
    if device != "cpu":
        return batch_size
    at_most = max(1, tokens // block_size)
    return max(rows for rows in range(1, batch_size + 1) if batch_size % rows == 0 and rows <= at_most)


def _mps_is_available() -> bool:
    # torch is imported only where it could say yes.
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return False
    import torch

    return torch.backends.mps.is_available()


def _warn_without_cuda() -> None:
    import jax

    if jax.default_backend() == "cpu":
        print(
            "This machine has an NVIDIA card that jax can't use: "
            'pip install -c constraints.txt -e ".[cuda]" mends that',
            file=sys.stderr,
        )


def unavailable_device(backend: str, device: str, available: list[str]) -> InputError:
    """The error of a backend that is asked for a device it can't find."""
    return InputError(f"{backend} finds no device {device!r} here; it has {', '.join(available)}")
