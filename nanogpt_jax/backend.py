"""The model at work in JAX: devices, precision, compilation, micro-batches. See nanogpt.backend.Backend."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import platformdirs
from flax import nnx

from nanogpt.backend import MAX_STEPS_PER_CALL, TrainingState, micro_batch_rows, unavailable_device
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.sampling import TOKENS_PER_BLOCK, SamplingPolicy, token_blocks
from nanogpt.weights import Weights
from nanogpt_jax.generation import continue_text, fill
from nanogpt_jax.model import GPT, Block, token_losses
from nanogpt_jax.optimizer import Arrays, Optimizer
from nanogpt_jax.speed import attend_fused, attend_in_chunks, fused_attention_is_right

Carry = tuple[Arrays, optax.ScaleByAdamState, jax.Array]
Sum = tuple[jax.Array, Arrays]


class Backend:
    """GPT on one JAX device, every method compiled once for each shape."""

    name = "jax"

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingConfig | None,
        state: TrainingState,
        *,
        device: str = "auto",
        dtype: str = "float32",
        compile: bool = False,  # jax always compiles
    ) -> None:
        _configure(tf32=dtype == "tf32")
        self.config, self.dtype = config, jnp.dtype("float32" if dtype == "tf32" else dtype)
        self._device = _find(device)
        self.device = {"gpu": "cuda"}.get(self._device.platform, self._device.platform)
        self.device_name = self._device.device_kind
        self._fused = fused_attention_is_right(config, self.device, self.dtype)
        # The structure alone, without computing weights that are replaced at once.
        model = nnx.eval_shape(lambda: GPT(config, rngs=nnx.Rngs(0)))
        self._graph, shapes = nnx.split(model)
        self._paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(shapes)}
        self._optimizer = Optimizer(training) if training else None
        self.load(state)

        # XLA's CPU compiler drops barriers before it fuses: see _Barrier.
        options = {"xla_disable_hlo_passes": "cse_barrier_expander"} if self.device == "cpu" else None
        self._train = jax.jit(self._train_steps, donate_argnums=(0, 1), compiler_options=options)
        self._gradients = jax.jit(self._loss_and_gradients, compiler_options=options)
        self._losses = jax.jit(self._token_losses)
        self._logits = jax.jit(lambda weights, tokens_BT: self._fast_model(weights)(tokens_BT))
        self._attention = jax.jit(lambda weights, tokens_BT: self._model(weights).attention(tokens_BT))
        self._head_outputs = jax.jit(
            lambda weights, tokens_BT: self._fast_model(weights).head_outputs(tokens_BT)
        )
        self._fill = jax.jit(lambda weights, *args: fill(self._fast_model(weights), config, *args))
        self._continue = jax.jit(
            lambda weights, policy, *args: continue_text(self._fast_model(weights), policy, *args),
            static_argnums=1,
            donate_argnums=(2, 4),
        )

    @property
    def model(self) -> GPT:
        return self._model(self._weights)

    def load(self, state: TrainingState) -> None:
        # Never an alias: training donates its buffers, and would write into the caller's arrays.
        put = partial(jax.device_put, device=self._device, may_alias=False)
        self._weights: Arrays = put({name: state.weights[name] for name in self._paths})
        self._moments = None
        if self._optimizer:
            first, second = (
                {name: m[name] for name in self._paths} for m in (state.first_moment, state.second_moment)
            )
            self._moments = put(optax.ScaleByAdamState(np.int32(state.step), first, second))

    def state(self) -> TrainingState:
        assert self._moments is not None, "a model loaded for inference has no training state"
        # np.array copies: on a CPU, device_get alone may give a view of memory that is about to be donated.
        weights, moments = jax.tree.map(np.array, (self._weights, self._moments))
        return TrainingState(int(moments.count), weights, moments.mu, moments.nu)

    def train(
        self, tokens_KBT1: np.ndarray, keys_KB2: np.ndarray, learning_rate_K: np.ndarray
    ) -> Callable[[], np.ndarray]:
        count = len(tokens_KBT1)
        # A buffer of one length for any number of steps: compiled once.
        padded = [_pad_rows(a, MAX_STEPS_PER_CALL) for a in (tokens_KBT1, keys_KB2, learning_rate_K)]
        self._weights, self._moments, losses_K = self._train(self._weights, self._moments, *padded, count)
        return lambda: np.asarray(losses_K)[:count]

    def gradients(self, tokens_BT1: np.ndarray, keys_B2: np.ndarray) -> tuple[float, Weights]:
        loss, gradients = jax.device_get(self._gradients(self._weights, tokens_BT1, keys_B2))
        return float(loss), gradients

    def losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        rows = min(len(tokens_BT1), max(1, 2**14 // tokens_BT1.shape[1]))
        padded = _pad_rows(tokens_BT1, -(-len(tokens_BT1) // rows) * rows)
        chunks = [self._losses(self._weights, padded[i : i + rows]) for i in range(0, len(padded), rows)]
        return np.concatenate(jax.device_get(chunks))[: len(tokens_BT1)]

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        return np.asarray(self._logits(self._weights, tokens_BT), np.float32)

    def attention(self, tokens_BT: np.ndarray) -> np.ndarray:
        return np.asarray(self._attention(self._weights, tokens_BT), np.float32)

    def head_outputs(self, tokens_BT: np.ndarray) -> np.ndarray:
        return np.asarray(self._head_outputs(self._weights, tokens_BT), np.float32)

    def generate(
        self, prompt_BT: np.ndarray, uniforms_BN: np.ndarray, policy: SamplingPolicy
    ) -> Iterator[np.ndarray]:
        block_size = self.config.block_size
        prompt_BT = prompt_BT[:, -block_size:]
        length = prompt_BT.shape[1]
        window_BT = np.pad(prompt_BT, ((0, 0), (0, block_size - length)))
        caches = self._fill(self._weights, window_BT, length - 1)
        for block, is_inside in token_blocks(uniforms_BN.shape[1], block_size - length + 1):
            uniforms = uniforms_BN[:, block]
            count = uniforms.shape[1]
            # A buffer of one length for any number of tokens: compiled once.
            uniforms = np.pad(uniforms, ((0, 0), (0, TOKENS_PER_BLOCK - count)))
            window_BT, length, caches, tokens_BN = self._continue(
                self._weights, policy, window_BT, length, caches if is_inside else None, uniforms, count
            )
            yield np.asarray(tokens_BN)[:, :count]

    def _model(self, weights: Arrays) -> GPT:
        """The module with these weights in the dtype of the computation."""
        flat = [(self._paths[name], nnx.Param(w.astype(self.dtype))) for name, w in weights.items()]
        return nnx.merge(self._graph, nnx.from_flat_state(flat))

    def _fast_model(self, weights: Arrays) -> GPT:
        model = self._model(weights)
        for block in model.blocks:
            attention = block.attention
            if self.device == "cpu":
                attention.attend = partial(attend_in_chunks, attention.attend, attention.weights_dropout)
            if self._fused:
                attention.attend = partial(attend_fused, attention.attend, attention.weights_dropout)
        return model

    def _token_losses(
        self, weights: Arrays, tokens_BT1: jax.Array, keys_B2: jax.Array | None = None
    ) -> jax.Array:
        model = self._fast_model(weights)
        model.blocks = nnx.List([_Barrier(block) for block in model.blocks])
        logits_BTV = model(tokens_BT1[:, :-1], keys_B2)
        return token_losses(logits_BTV, tokens_BT1[:, 1:])

    def _train_steps(
        self,
        weights: Arrays,
        moments: optax.ScaleByAdamState,
        tokens_KBT1: jax.Array,
        keys_KB2: jax.Array,
        learning_rate_K: jax.Array,
        count: jax.Array,
    ) -> Carry:
        """`count` optimizer steps; what the buffers hold beyond them is not looked at."""

        optimizer = self._optimizer
        assert optimizer is not None, "a model loaded for inference can't be trained"

        def step(k: jax.Array, carry: Carry) -> Carry:
            weights, moments, losses_K = carry
            loss, gradients = self._loss_and_gradients(weights, tokens_KBT1[k], keys_KB2[k])
            weights, moments = optimizer.update(weights, moments, gradients, learning_rate_K[k])
            return weights, moments, losses_K.at[k].set(loss)

        losses_K = jnp.zeros(len(learning_rate_K), jnp.float32)
        return jax.lax.fori_loop(0, count, step, (weights, moments, losses_K))

    def _loss_and_gradients(
        self, weights: Arrays, tokens_BT1: jax.Array, keys_B2: jax.Array
    ) -> tuple[jax.Array, Arrays]:
        """Mean loss and its gradients; by micro-batches: activations stay small."""
        B, T1 = tokens_BT1.shape
        rows = micro_batch_rows(B, T1 - 1, self.device, tokens=1024)
        mean_loss = jax.value_and_grad(lambda *args: self._token_losses(*args).mean() * (rows / B))

        def add(total: Sum, micro_batch: tuple[jax.Array, ...]) -> tuple[Sum, None]:
            return jax.tree.map(jnp.add, total, mean_loss(weights, *micro_batch)), None

        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, weights))
        micro_batches = jax.tree.map(lambda a: a.reshape(-1, rows, *a.shape[1:]), (tokens_BT1, keys_B2))
        return jax.lax.scan(add, zero, micro_batches)[0]


class _Barrier(nnx.Module):
    """A block whose output, and so whose output's gradient, is computed once and kept.

    That gradient is a sum over all later layers, cheap enough for XLA to fuse it anew into every product that
    reads it: on a CPU the cost of a step would grow with the square of the depth.
    """

    def __init__(self, block: Block) -> None:
        self.block = block

    def __call__(self, x_BTC: jax.Array, keys_B2: jax.Array | None = None) -> jax.Array:
        return jax.lax.optimization_barrier(self.block(x_BTC, keys_B2))


def _configure(tf32: bool) -> None:
    # float32 means float32: on CUDA, jax would else take TF32 for products unasked.
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32 else "highest")
    # Programs are kept from run to run, so that the second start takes no compilation.
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", platformdirs.user_cache_dir("nanogpt") + "/jax")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _find(device: str) -> jax.Device:
    devices = {"cuda" if d.platform == "gpu" else d.platform: d for d in reversed(jax.devices())}
    devices["cpu"] = jax.devices("cpu")[0]
    if device == "auto":
        return jax.devices()[0]
    if device not in devices:
        raise unavailable_device("jax", device, sorted(devices))
    return devices[device]


def _pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])
