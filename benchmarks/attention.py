"""Attention of whole windows, there and back: the definition, and the fused kernel in its place."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.randomness import normals

Act = Callable[[], object]
"""Does the work, waited for."""


def attention(name: str, device: str, B: int, T: int, H: int, D: int) -> dict[str, float]:
    """Milliseconds of either in bfloat16; without "fused" where there is no such kernel."""
    config = ModelConfig(65, T, 1, H, H * D, dropout=0.0)
    arrays = [normals(1, label, 0, B * H * T * D).reshape(B, H, T, D) for label in ("q", "k", "v")]
    makers = {"jax": of_jax, "torch": of_torch}
    return {kind: least_ms(act) for kind, act in makers[name](config, device, arrays).items()}


def of_jax(config: ModelConfig, device: str, arrays: list[np.ndarray]) -> dict[str, Act]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from nanogpt_jax.model import MultiHeadAttention
    from nanogpt_jax.speed import attend_fused, fused_attention_is_right

    layer = MultiHeadAttention(config, rngs=nnx.Rngs(0))
    kinds: dict[str, Callable[..., jax.Array]] = {"plain": layer.attend}
    if fused_attention_is_right(config, device, jnp.dtype("bfloat16")):
        kinds["fused"] = partial(attend_fused, layer.attend, layer.weights_dropout)
    inputs = [jnp.asarray(array, jnp.bfloat16) for array in arrays]

    def there_and_back(attend: Callable[..., jax.Array]) -> Act:
        gradients = jax.jit(jax.grad(lambda *qkv: attend(*qkv).astype(jnp.float32).sum(), argnums=(0, 1, 2)))
        return lambda: jax.block_until_ready(gradients(*inputs))

    return {kind: there_and_back(attend) for kind, attend in kinds.items()}


def of_torch(config: ModelConfig, device: str, arrays: list[np.ndarray]) -> dict[str, Act]:
    import torch

    from nanogpt_torch.model import MultiHeadAttention
    from nanogpt_torch.speed import attend_fused, fused_attention_is_right

    layer = MultiHeadAttention(config)
    kinds: dict[str, Callable[..., torch.Tensor]] = {"plain": layer.attend}
    if fused_attention_is_right(config, device, torch.bfloat16):
        kinds["fused"] = partial(attend_fused, layer.attend, layer.weights_dropout)
    inputs = [torch.from_numpy(array).to(device, torch.bfloat16).requires_grad_() for array in arrays]

    def there_and_back(attend: Callable[..., torch.Tensor]) -> Act:
        # A number that depends on the work is waited for.
        return lambda: torch.autograd.grad(attend(*inputs).float().sum(), inputs)[0].sum().item()

    return {kind: there_and_back(attend) for kind, attend in kinds.items()}


def least_ms(act: Act) -> float:
    """Of ten times, after a first one."""
    act()
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return 1e3 * min(seconds)
