"""The inputs of training steps: tokens, dropout keys and learning rates, as `Backend.train` takes them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nanogpt.config import TrainingConfig, learning_rate_at
from nanogpt.randomness import dropout_keys


class StepInputs(NamedTuple):
    """The inputs of K steps."""

    tokens_KBT1: np.ndarray
    keys_KB2: np.ndarray
    learning_rate_K: np.ndarray


def step_inputs(
    draw: Callable[[int], np.ndarray], steps: Sequence[int], config: TrainingConfig
) -> StepInputs:
    """The inputs of `steps`; `draw` gives the windows `[B, T + 1]` of a step."""
    tokens_KBT1 = np.stack([draw(step) for step in steps])
    rows_B = np.arange(tokens_KBT1.shape[1])
    keys_KB2 = np.stack([dropout_keys(config.seed, step, rows_B) for step in steps])
    rates = [learning_rate_at(step, config) for step in steps]
    return StepInputs(tokens_KBT1, keys_KB2, np.array(rates, np.float32))
