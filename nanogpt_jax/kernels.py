"""Faster parts for the model, each with the signature of its definition in model.py; backend.py chooses.

model = GPT(config, Kernels(attend=attend_in_chunks), rngs=rngs)
"""

import sys
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from nanogpt.config import ModelConfig
from nanogpt.micro_batches import LOGITS_AT_ONCE, micro_batch_rows
from nanogpt.randomness import normals
from nanogpt_jax.cache import Cache
from nanogpt_jax.dropout import Dropout, fold_in, positions
from nanogpt_jax.model import GPT, Block, attend, attention_weights, token_losses

# Each query chunk attends only to the keys up to its end: most pairs that the causal mask hides are never
# computed. More chunks save little more, and make the matmuls too small.
# Differs from torch: its best number is another.
CHUNKS = 4


def attend_in_chunks(
    query_BHTD: jax.Array,
    key_BHSD: jax.Array,
    value_BHSD: jax.Array,
    first: int | jax.Array,
    dropout: Dropout,
    keys_B2: jax.Array | None,
) -> jax.Array:
    """`attend` for whole windows, chunk by chunk; the definition computes everything else."""
    (H, T), S = query_BHTD.shape[1:3], key_BHSD.shape[2]
    if T != S or T < 8 * CHUNKS:
        return attend(query_BHTD, key_BHSD, value_BHSD, first, dropout, keys_B2)
    index_1HTS = positions((H, T, S))
    heads_BHTD = []
    for chunk in range(CHUNKS):
        start, stop = T * chunk // CHUNKS, T * (chunk + 1) // CHUNKS
        weights_BHTS = attention_weights(query_BHTD[:, :, start:stop], key_BHSD[:, :, :stop], start)
        weights_BHTS = dropout(weights_BHTS, keys_B2, index_1HTS[:, :, start:stop, :stop])
        heads_BHTD.append(weights_BHTS @ value_BHSD[:, :, :stop])
    return jnp.concatenate(heads_BHTD, axis=2)


def attend_fused(
    query_BHTD: jax.Array,
    key_BHSD: jax.Array,
    value_BHSD: jax.Array,
    first: int | jax.Array,
    dropout: Dropout,
    keys_B2: jax.Array | None,
    otherwise: Callable[..., jax.Array] = attend,
) -> jax.Array:
    """`attend` by cuDNN's fused kernel for whole windows without dropout; `otherwise` computes the rest."""
    T, S = query_BHTD.shape[2], key_BHSD.shape[2]
    # Differs from torch: a single query is no case, for the kernel would see the empty room of its cache.
    if T != S or (keys_B2 is not None and dropout.rate > 0):
        return otherwise(query_BHTD, key_BHSD, value_BHSD, first, dropout, keys_B2)
    return _fused(query_BHTD, key_BHSD, value_BHSD)


def _fused(query_BHTD: jax.Array, key_BHSD: jax.Array, value_BHSD: jax.Array) -> jax.Array:
    """Attention of whole windows under the causal mask."""
    # Differs from torch: the function wants heads behind positions, and never chooses cuDNN by itself.
    query_BTHD, key_BSHD, value_BSHD = (x.swapaxes(1, 2) for x in (query_BHTD, key_BHSD, value_BHSD))
    heads_BTHD = jax.nn.dot_product_attention(
        query_BTHD, key_BSHD, value_BSHD, is_causal=True, implementation="cudnn"
    )
    return heads_BTHD.swapaxes(1, 2)


def fused_attention_is_right(config: ModelConfig, device: str, dtype: jnp.dtype) -> bool:
    """True if cuDNN's kernel runs here, equals the definition, and lets no position see a later one.

    Otherwise a line on standard error says why the definition computes instead.
    """
    # Differs from torch: cuDNN's kernel is for half precision on CUDA alone.
    if device != "cuda" or dtype != jnp.bfloat16:
        return False
    T, D = config.block_size, config.n_embd // config.n_head
    query, key, value = (
        jnp.asarray(normals(0, f"self-test/{name}", 0, T * D), dtype).reshape(1, 1, T, D)
        for name in ("query", "key", "value")
    )
    try:
        problem = _problem(query, key, value, tolerance=5e-2)
    except (RuntimeError, ValueError, NotImplementedError) as error:  # no cuDNN, or an old one
        problem = f"is not available ({str(error).splitlines()[0]})"
    if problem:
        print(f"cuDNN's attention {problem} on {device}: using the plain one", file=sys.stderr)
    return not problem


def _problem(query: jax.Array, key: jax.Array, value: jax.Array, tolerance: float) -> str | None:
    """The first way in which the fused kernel is wrong for `[1, 1, T, D]`, if there is one."""
    T = query.shape[2]
    before = _fused(query, key, value)
    plain = attention_weights(query, key) @ value
    if not abs(before - plain).max() <= tolerance:  # a NaN is no more right than a large number
        return "differs from the definition"
    for t in (1, T // 2, T - 1):
        # A change of all keys and values from t on must change nothing before t.
        is_later_T1 = (jnp.arange(T) >= t)[:, None]
        after = _fused(query, jnp.where(is_later_T1, key + 1, key), jnp.where(is_later_T1, value - 1, value))
        if (after[:, :, :t] != before[:, :, :t]).any():
            return "lets positions see later ones"
    return None


class SummedEmbed(nnx.Embed):
    """An embedding whose gradient is summed up in float32, for a few rows by a matmul.

    XLA's own sums in the type of the computation, and on a GPU by atomic additions: they wait for each other
    where many tokens share a row, and their order is another in every run.
    """

    # Differs from torch: its gradient is summed so.
    def __call__(self, tokens: jax.Array) -> jax.Array:
        return _look_up(self.num_embeddings, self.embedding[...], tokens)


FEW_ROWS = 1024  # one-hot rows of as many columns are cheaper than the additions


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _look_up(V: int, embedding_VC: jax.Array, tokens: jax.Array) -> jax.Array:
    # Differs from torch: its gradient is summed so.
    return embedding_VC[tokens]


def _look_up_forward(V: int, embedding_VC: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Differs from torch: its gradient is summed so.
    return embedding_VC[tokens], tokens


def _look_up_backward(V: int, tokens: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    # Differs from torch: its gradient is summed so.
    tokens_N, gradient_NC = tokens.reshape(-1), gradient.reshape(-1, gradient.shape[-1]).astype(jnp.float32)
    if V <= FEW_ROWS:
        total_VC = jax.nn.one_hot(tokens_N, V).T @ gradient_NC
    else:
        total_VC = jnp.zeros((V, gradient_NC.shape[1])).at[tokens_N].add(gradient_NC)
    return total_VC.astype(gradient.dtype), None


_look_up.defvjp(_look_up_forward, _look_up_backward)


class KeptBlock(Block):
    """A block whose output, and so whose output's gradient, is computed once and kept.

    That gradient is a sum over all later layers, cheap enough for XLA to fuse it anew into every matmul that
    reads it: on a CPU the cost of a step would grow with the square of the depth.
    """

    # Differs from torch: eager torch keeps every output anyhow.
    def __call__(
        self, x_BTC: jax.Array, keys_B2: jax.Array | None = None, cache: Cache | None = None
    ) -> jax.Array:
        return jax.lax.optimization_barrier(super().__call__(x_BTC, keys_B2, cache))


def recomputed_losses(
    model: GPT, tokens_BT1: jax.Array, keys_B2: jax.Array | None, devices: int = 1
) -> jax.Array:
    """Loss in nats of each token after the first, with little memory: `[B, T]`.

    The forward pass keeps the input of each block, and the backward pass computes the rest again (Chen et al.
    2016, https://arxiv.org/abs/1604.06174). Logits exist for a chunk of the tokens at a time, on each of the
    `devices` that share the rows.
    """
    x_BTC, targets_BT = model.embed(tokens_BT1[:, :-1]), tokens_BT1[:, 1:]
    for layer, block in enumerate(model.blocks):
        x_BTC = jax.checkpoint(block)(x_BTC, fold_in(keys_B2, layer))

    @jax.checkpoint
    def losses(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_BtC, targets_Bt = chunk
        return token_losses(model.unembed(x_BtC), targets_Bt)

    # Differs from torch: a loop inside the program goes through N chunks of t positions, for rows stay on the
    # device that has them.
    B, T = targets_BT.shape
    logits = B * model.token_embedding.num_embeddings / devices
    t = micro_batch_rows(T, logits, LOGITS_AT_ONCE)
    chunks_NBt = [a.reshape(B, -1, t, *a.shape[2:]).swapaxes(0, 1) for a in (x_BTC, targets_BT)]
    return jax.lax.map(losses, chunks_NBt).swapaxes(0, 1).reshape(B, T)
