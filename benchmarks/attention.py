"""Attention of whole windows, forward and backward, by its definition and by the fused kernel."""

import time
from collections.abc import Callable

import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.randomness import normals

Act = Callable[[], object]
"""Does the work and returns when it is finished."""


def attention(name: str, device: str, B: int, T: int, H: int, D: int) -> dict[str, float]:
    """Milliseconds by kind, in bfloat16: "plain" and, if the device has such a kernel, "fused"."""
    config = ModelConfig(65, T, 1, H, H * D, dropout=0.0)
    arrays = [normals(1, label, 0, B * H * T * D).reshape(B, H, T, D) for label in ("q", "k", "v")]
    makers = {"jax": jax_kinds, "torch": torch_kinds}
    return {kind: least_ms(act) for kind, act in makers[name](config, device, arrays).items()}


def jax_kinds(config: ModelConfig, device: str, arrays: list[np.ndarray]) -> dict[str, Act]:
    import jax
    import jax.numpy as jnp

    from nanogpt_jax.dropout import Dropout
    from nanogpt_jax.kernels import attend_fused, fused_attention_is_right
    from nanogpt_jax.model import attend

    kinds: dict[str, Callable[..., jax.Array]] = {"plain": attend}
    if fused_attention_is_right(config, device, jnp.dtype("bfloat16")):
        kinds["fused"] = attend_fused
    inputs = [jnp.asarray(array, jnp.bfloat16) for array in arrays]

    def forward_and_backward(attend: Callable[..., jax.Array]) -> Act:
        def total(*query_key_value: jax.Array) -> jax.Array:
            return attend(*query_key_value, 0, Dropout(0.0), None).astype(jnp.float32).sum()

        gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
        return lambda: jax.block_until_ready(gradients(*inputs))

    return {kind: forward_and_backward(attend) for kind, attend in kinds.items()}


def torch_kinds(config: ModelConfig, device: str, arrays: list[np.ndarray]) -> dict[str, Act]:
    import torch

    from nanogpt_torch.dropout import Dropout
    from nanogpt_torch.kernels import attend_fused, fused_attention_is_right
    from nanogpt_torch.model import attend

    kinds: dict[str, Callable[..., torch.Tensor]] = {"plain": attend}
    if fused_attention_is_right(config, device, torch.bfloat16):
        kinds["fused"] = attend_fused
    inputs = [torch.from_numpy(array).to(device, torch.bfloat16).requires_grad_() for array in arrays]

    def forward_and_backward(attend: Callable[..., torch.Tensor]) -> Act:
        def act() -> float:
            total = attend(*inputs, 0, Dropout(0.0), None).float().sum()
            # item() waits for the device.
            return torch.autograd.grad(total, inputs)[0].sum().item()

        return act

    return {kind: forward_and_backward(attend) for kind, attend in kinds.items()}


def least_ms(act: Act) -> float:
    """Milliseconds of the fastest of ten repetitions, after a warm-up."""
    act()
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return 1e3 * min(seconds)
