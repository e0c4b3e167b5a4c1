"""Fit for Apple's MPS and for CUDA, as far as that shows without them: every operation of the torch twin.

PyTorch lists which of its operations have a kernel for MPS and for CUDA. One without would raise, or run on
the CPU where that fall-back is turned on; so would a float64 tensor, which MPS does not have. What moves
between a device and the CPU is in test_elsewhere.py.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchgen
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.randomness import dropout_keys
from nanogpt.sampling import SamplingPolicy, sampling_uniforms
from nanogpt.state import TrainingState
from nanogpt_torch.backend import Backend

pytestmark = pytest.mark.thorough

# Operations without a kernel of their own on any device: they move no numbers, or leave the work to the one
# named here, whose kernel is looked up in their place.
VIEWS = {
    *("_has_compatible_shallow_copy_type", "_unsafe_view", "alias", "detach", "expand", "lift_fresh"),
    *("select.int", "slice.Tensor", "split.Tensor", "t", "transpose.int", "unbind.int", "unsqueeze"),
}
COMPOSITES = {
    "_to_copy": "_copy_from",
    "clone": "_copy_from",
    "copy_": "_copy_from",
    "ones": "fill_.Scalar",
    "ones_like": "fill_.Scalar",
    "scalar_tensor": "fill_.Scalar",
    "zeros": "zero_",
    "zeros_like": "zero_",
    "arange": "arange.start_out",
    "abs": "abs.out",
    "bitwise_and_.Scalar": "bitwise_and.Tensor_out",
    "div.Scalar": "div.out",
    "embedding": "index_select",
    "masked_fill.Scalar": "masked_fill_.Scalar",
    "mean": "mean.out",
    "mul.Scalar": "mul.out",
    "_safe_softmax": "_softmax.out",
    "sort": "sort.values_stable",
    "stack": "cat.out",
    "_foreach_add_.Scalar": "add.out",
    "_foreach_mul_.Tensor": "mul.out",
    "_foreach_norm.Scalar": "linalg_vector_norm.out",
}


# Operations of CUDA that the list does not name: one goes by a stub, and the other one is a view on CUDA.
OF_CUDA = {"_copy_from", "permute"}


@cache
def kernels() -> dict[str, set[str]]:
    """The devices, and other dispatch keys, for which each ATen operation has a kernel."""
    file = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    found, delegates = {}, {}
    for entry in file.read_text(encoding="utf-8").split("\n- func: ")[1:]:
        name = entry.split("(")[0]
        dispatch = re.search(r"\n  dispatch:\n((?:    .*\n?)+)", entry)
        rows = dispatch[1].splitlines() if dispatch else []
        found[name] = {key.strip() for row in rows for key in row.split("#")[0].split(":")[0].split(",")}
        if "\n  ufunc_inner_loop:" in entry:  # of which torchgen makes both kernels
            found[name] |= {"CPU", "CUDA"}
        if delegate := re.search(r"\n  structured_delegate: (\S+)", entry):
            delegates[name] = delegate[1]
    return found | {name: found[delegate] for name, delegate in delegates.items()}


def has_kernel(name: str, device: str) -> bool:
    part = COMPOSITES.get(name, name)
    return device in kernels()[name] | kernels()[part] or (device == "CUDA" and part in OF_CUDA)


class Recorder(TorchDispatchMode):
    """Notes whatever MPS or CUDA could not do."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()
        self.problems: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        with self:
            result = function.decompose(*args, **(kwargs or {}))
        if result is not NotImplemented:
            return result
        result = function(*args, **(kwargs or {}))
        if function.namespace == "nanogpt":  # one of our own, for CPUs
            self.problems.add(f"{function} is for CPUs alone")
        elif function.namespace == "aten":
            self._note(str(function).removeprefix("aten.").removesuffix(".default"), (args, kwargs, result))
        return result

    def _note(self, name: str, values: Any) -> None:
        self.operations.add(name)
        tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
        for device in ("MPS", "CUDA"):
            if name not in VIEWS and not has_kernel(name, device):
                self.problems.add(f"{name} has no {device} kernel")
        if any(tensor.dtype == torch.float64 for tensor in tensors):
            self.problems.add(f"{name} meets a float64 tensor")
        # Adam was wrong on such (pytorch#118115).
        if name == "_fused_adamw_" and not all(tensor.is_contiguous() for tensor in tensors):
            self.problems.add(f"{name} meets a tensor that is not contiguous")


@pytest.fixture
def attention_inputs(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Everything that the fused attention kernel is given."""
    inputs: list[Tensor] = []
    original = F.scaled_dot_product_attention

    def noting(*query_key_value: Tensor, is_causal: bool) -> Tensor:
        inputs.extend(query_key_value)
        return original(*query_key_value, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noting)
    return inputs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.2),
        ModelConfig(11, 8, 2, 2, 8, dropout=0, bias=True, activation="gelu", tie_weights=True),
    ],
    ids=["default", "gpt2"],
)
def test_every_operation_has_a_kernel_for_mps_and_for_cuda(
    config: ModelConfig, dtype: str, attention_inputs: list[Tensor]
) -> None:
    B, T = 4, config.block_size
    tokens_BT1 = np.ones((B, T + 1), np.int32)
    # Instead of the CPU's own attention kernel, the operations that a training step takes on MPS.
    with Recorder() as recorder, sdpa_kernel(SDPBackend.MATH):
        state = TrainingState.initial(config, 0)
        backend = Backend(config, TrainingConfig(), state, device="cpu", dtype=dtype)
        keys_B2 = dropout_keys(1, 0, np.arange(B))
        backend.train(tokens_BT1[None], keys_B2[None], np.full(1, 1e-3, np.float32))()
        backend.losses(tokens_BT1)
        backend.logits(tokens_BT1[:, :T])
        backend.attention(tokens_BT1[:, :T])
        backend.head_outputs(tokens_BT1[:, :T])
        for policy in (SamplingPolicy(0.0), SamplingPolicy(0.8, top_k=3), SamplingPolicy(1.0, top_p=0.5)):
            list(backend.generate(tokens_BT1[:2, :3], sampling_uniforms(1, range(2), 2 * T), policy))
        backend.load(backend.state())
    assert recorder.problems == set()
    assert {"_fused_adamw_", "bitwise_xor_.Tensor", "bmm", "cumsum"} <= recorder.operations
    assert attention_inputs
    assert all(x.is_contiguous() for x in attention_inputs)
    # MPS has a kernel of its own for it, where no gradient is needed.
    assert has_kernel("_scaled_dot_product_attention_math_for_mps", "MPS")


def test_the_list_tells_the_devices_apart() -> None:
    assert has_kernel("geqrf", "CUDA") > has_kernel("geqrf", "MPS")
    name = "_scaled_dot_product_attention_math_for_mps"
    assert has_kernel(name, "MPS") > has_kernel(name, "CUDA")


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (lambda: torch.geqrf(torch.ones(2, 2)), "geqrf has no MPS kernel"),
        (lambda: torch.ones(2).double(), "_to_copy meets a float64 tensor"),
        (lambda: adamw_on(torch.ones(3, 2).T), "_fused_adamw_ meets a tensor that is not contiguous"),
    ],
    ids=["no kernel", "float64", "not contiguous"],
)
def test_the_recorder_notices(act: Callable[[], object], problem: str) -> None:
    with Recorder() as recorder:
        act()
    assert recorder.problems == {problem}


def adamw_on(parameter: Tensor) -> None:
    parameter.requires_grad_().grad = torch.ones_like(parameter)
    torch.optim.AdamW([parameter], fused=True).step()
