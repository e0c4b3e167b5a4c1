"""The contract of a backend: everything that the core asks of a twin, in numpy.

Tokens are int32, dropout keys uint32, everything else is float32. A backend holds one model, on one device or
on a mesh of them, and hands out copies, never its live arrays.

    backend = load_backend("jax")(config, training, TrainingState.initial(config, seed=1337))
    losses_K = backend.train(tokens_KBT1, keys_KB2, learning_rate_K)()
    logits_BTV = backend.logits(tokens_BT)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import numpy as np

from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.mesh import ONE_DEVICE, Mesh
from nanogpt.processes import ALONE, Processes
from nanogpt.sampling import SamplingPolicy
from nanogpt.state import TrainingState
from nanogpt.weights import Weights

# Upper bound for the steps of one call. More would delay Ctrl-C and the log, and gain nothing.
MAX_STEPS_PER_CALL = 64


class Backend(Protocol):
    """One model on one device, or on a mesh of equal ones."""

    name: str
    """jax or torch."""
    device: str
    """cpu, cuda or mps."""
    device_name: str
    """The maker's name of the device, where the framework knows it."""
    mesh: Mesh
    """How many of the device there are, by axis."""
    processes: Processes
    """Those that train the model together; in each of them a backend has the devices of its own."""
    kernels: Any
    """The parts that the model is built of: the twin's own `Kernels` (its model.py)."""

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingConfig | None,
        state: TrainingState,
        *,
        device: str = "auto",
        mesh: Mesh = ONE_DEVICE,
        dtype: str = "float32",
        compile: bool = False,
        micro_batch_size: int | Literal["auto"] = "auto",
        remat: bool = False,
        kernels: Any = None,
        processes: Processes = ALONE,
    ) -> None:
        """Build the model and load `state`; without `training` the model can't be trained.

        Without `kernels` the backend chooses the fastest that are right on its device.
        Raises InputError when this machine lacks `device`.
        """

    @staticmethod
    def devices() -> list[str]:
        """The kind of each device that the framework finds for this process, the best first."""

    @staticmethod
    def memory(device: str) -> int | None:
        """Bytes of memory that each device of this kind has, where the framework can tell."""

    @staticmethod
    def join() -> AbstractContextManager[Processes]:
        """Join the processes that were started to train together, until the block ends.

        Raises InputError where one does not come. Where one is lost, process 0 says so, and all end.
        """

    @property
    def model(self) -> Any:
        """The framework's module as it computes: built of `kernels`, with the present weights in `dtype`."""

    def train(
        self, tokens_KBT1: np.ndarray, keys_KB2: np.ndarray, learning_rate_K: np.ndarray
    ) -> Callable[[], np.ndarray]:
        """Take K optimizer steps, K <= MAX_STEPS_PER_CALL, without waiting for the device.

        `tokens_KBT1` are windows of T + 1 tokens, `keys_KB2` their dropout keys (randomness.py). The devices
        of a mesh share the rows out evenly. Returns a function that waits for the steps and gives their mean
        losses in nats, `[K]`.
        """

    def state(self) -> TrainingState:
        """A copy of the training state, never an alias of live weights."""

    def load(self, state: TrainingState) -> None:
        """Replace the present training state."""

    def gradients(self, tokens_BT1: np.ndarray, keys_B2: np.ndarray) -> tuple[float, Weights]:
        """Mean loss of a batch and its gradient by every weight, unclipped."""

    def losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        """Loss in nats of each token after the first, without dropout: `[B, T]`."""

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Scores of every next token: `[B, T, V]`."""

    def attention(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Attention weights of every layer and head, without dropout: `[L, B, H, T, T]`."""

    def head_outputs(self, tokens_BT: np.ndarray) -> np.ndarray:
        """The output of every head, before the output projection, without dropout: `[L, B, H, T, D]`."""

    def generate(
        self, prompt_BT: np.ndarray, uniforms_BN: np.ndarray, policy: SamplingPolicy
    ) -> Iterator[np.ndarray]:
        """Continue each prompt by N tokens, yielding them as they come: `[B, n]`, n tokens at a time.

        `uniforms_BN` in [0, 1) decide the tokens. The model sees the last block_size tokens.
        """
