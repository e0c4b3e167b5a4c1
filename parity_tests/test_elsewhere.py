"""The torch twin on another device computes nothing on the CPU, and waits for the device only where stated.

PyTorch's `meta` device, whose tensors have shapes and no numbers, stands for the device.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.sampling import TOKENS_PER_BLOCK, SamplingPolicy
from nanogpt.state import TrainingState
from nanogpt_torch.backend import Backend
from nanogpt_torch.kernels import attend_fused
from nanogpt_torch.model import Kernels, attend

pytestmark = pytest.mark.thorough

# These give a CPU tensor another name, or move it to the device.
PASSING = {"alias", "detach", "lift_fresh", "_to_copy"}


class Elsewhere(TorchDispatchMode):
    """Notes what the CPU computes, and counts the waits: copies to the CPU, which give zeros here."""

    def __init__(self) -> None:
        super().__init__()
        self.on_cpu: set[str] = set()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            result = function.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        name = str(function).removeprefix("aten.").removesuffix(".default")
        first = next((x for x in args if isinstance(x, Tensor)), None)
        if first is not None and first.is_meta:
            if name == "_local_scalar_dense":
                self.waits["item"] += 1
                return 0
            if name == "_to_copy" and str(kwargs.get("device")) == "cpu":
                self.waits["copy"] += 1
                return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        result = function(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        # A tensor without axes is a number, which every kernel takes as it is.
        if name not in PASSING and any(x.device.type == "cpu" and x.ndim for x in tensors):
            self.on_cpu.add(name)
        return result


class Meta(Backend):
    """The backend on the device `meta`."""

    @staticmethod
    def devices() -> list[str]:
        return ["meta"]


CONFIGS = {
    "default": ModelConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8),
    "attention dropout": ModelConfig(11, 8, 2, 2, 8, dropout=0.2, attention_dropout=0.2),
    "gpt2": ModelConfig(11, 8, 2, 2, 8, dropout=0, bias=True, activation="gelu", tie_weights=True),
}
STEPS, B, T = 3, 4, 8
TOKENS = np.ones((STEPS, B, T + 1), np.int32)
TRAIN = (TOKENS, np.ones((STEPS, B, 2), np.uint32), np.full(STEPS, 1e-3, np.float32))
POLICY = SamplingPolicy(0.8, top_k=3, top_p=0.5)
# The uses of a backend, and how often each one waits for the device.
USES: dict[str, tuple[Callable[[Backend], object], int]] = {
    "train": (lambda backend: backend.train(*TRAIN), 0),
    "train, and read the losses": (lambda backend: backend.train(*TRAIN)(), 1),
    "evaluate": (lambda backend: backend.losses(TOKENS[0]), 1),
    "logits": (lambda backend: backend.logits(TOKENS[0, :, :T]), 1),
    "attention": (lambda backend: backend.attention(TOKENS[0, :, :T]), 1),
    "head outputs": (lambda backend: backend.head_outputs(TOKENS[0, :, :T]), 1),
    # Once for each block of tokens, which is shown: T are inside the window.
    "generate": (
        lambda backend: list(
            backend.generate(TOKENS[0, :, :1], np.ones((B, T + 2 * TOKENS_PER_BLOCK), np.float32), POLICY)
        ),
        3,
    ),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_is_computed_on_the_cpu_and_only_results_are_waited_for(
    dtype: str, config: str, use: str
) -> None:
    state = TrainingState.initial(CONFIGS[config], 0)
    kernels = Kernels(attend=partial(attend_fused, otherwise=attend))
    backend = Meta(CONFIGS[config], TrainingConfig(), state, device="meta", dtype=dtype, kernels=kernels)
    act, waits = USES[use]
    with Elsewhere() as elsewhere:
        act(backend)
    assert elsewhere.on_cpu == set()
    assert elsewhere.waits == Counter({"copy": waits} if waits else {})


@pytest.mark.parametrize(
    ("act", "on_cpu", "waits"),
    [
        (lambda x: x + torch.ones(2).to("meta"), {"ones"}, {}),
        (lambda x: x.cpu(), set(), {"copy": 1}),
        (lambda x: x.sum().item(), set(), {"item": 1}),
        (lambda x: x * 2 if x.sum() > 0 else x, set(), {"item": 1}),
    ],
    ids=["on the CPU", "copy", "item", "branch"],
)
def test_a_breach_is_noticed(
    act: Callable[[Tensor], object], on_cpu: set[str], waits: dict[str, int]
) -> None:
    x = torch.empty(2, device="meta")
    with Elsewhere() as elsewhere:
        act(x)
    assert (elsewhere.on_cpu, elsewhere.waits) == (on_cpu, Counter(waits))
