"""The backend in JAX: devices, precision, compilation, micro-batches (contract: nanogpt/backend.py)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import platformdirs
from flax import nnx

from nanogpt.backend import MAX_STEPS_PER_CALL
from nanogpt.choice import find_device
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.mesh import ONE_DEVICE, Mesh
from nanogpt.micro_batches import evaluation_rows, micro_batch_rows, tokens_that_fit
from nanogpt.muon import is_moved_by_muon
from nanogpt.processes import ALONE, Processes
from nanogpt.sampling import TOKENS_PER_BLOCK, SamplingPolicy, token_blocks
from nanogpt.state import TrainingState
from nanogpt.weights import Weights
from nanogpt_jax.generation import continue_text, prefill
from nanogpt_jax.kernels import (
    KeptBlock,
    SummedEmbed,
    attend_fused,
    attend_in_chunks,
    fused_attention_is_right,
    recomputed_losses,
)
from nanogpt_jax.model import GPT, Block, Kernels, attend, token_losses
from nanogpt_jax.optimizer import Arrays, Optimizer
from nanogpt_jax.sharding import device_mesh, row_sharding, weight_shardings

# Differs from torch: jax has its own name for a kind of device.
PLATFORMS = {"cuda": "gpu"}
# Differs from torch: the values that loops carry have types.
Carry = tuple[Arrays, optax.ScaleByAdamState, jax.Array]
# Differs from torch: the values that loops carry have types.
Sum = tuple[jax.Array, Arrays]


class Backend:
    """GPT on one JAX device or a mesh of them, every method compiled once for each shape."""

    name = "jax"
    # Differs from torch: a subclass may put another compiler here, for a device that this machine lacks.
    _jax: Any = jax

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingConfig | None,
        state: TrainingState,
        *,
        device: str = "auto",
        mesh: Mesh = ONE_DEVICE,
        dtype: str = "float32",
        compile: bool = False,  # jax always compiles
        micro_batch_size: int | Literal["auto"] = "auto",
        remat: bool = False,
        kernels: Kernels | None = None,
        processes: Processes = ALONE,
    ) -> None:
        # Differs from torch: methods are pure functions of the weights, compiled here once for each shape.
        _configure(tf32=dtype == "tf32")
        self.config, self.dtype = config, jnp.dtype("float32" if dtype == "tf32" else dtype)
        self.device = find_device(type(self), device)
        self._mesh = device_mesh(mesh, self._jax.devices(PLATFORMS.get(self.device, self.device)))
        self.device_name = self._mesh.devices.flat[0].device_kind
        self.mesh, self.processes = mesh, processes
        self._micro_batch_size, self._remat = micro_batch_size, remat
        self.kernels = kernels or self._fastest_kernels()
        self._training_graph, _ = _structure(config, self.kernels)
        # Kept outputs are for the way back.
        self._graph, shapes = _structure(config, replace(self.kernels, block=Block))
        self._paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(shapes)}
        self._training, self._optimizer = training, Optimizer(training) if training else None
        self.load(state)

        # XLA's CPU compiler drops barriers before it fuses: see KeptBlock.
        options = {"xla_disable_hlo_passes": "cse_barrier_expander"} if self.device == "cpu" else None
        self._train = self._jax.jit(
            self._train_steps,
            donate_argnums=(0, 1),
            out_shardings=weight_shardings(self._mesh, (self._weights, self._moments, np.float32(0))),
            compiler_options=options,
        )
        self._gradients = self._jax.jit(self._loss_and_gradients, compiler_options=options)
        self._losses = self._jax.jit(self._token_losses)
        self._logits = self._jax.jit(lambda weights, tokens_BT: self._model(weights)(tokens_BT))
        self._attention = self._jax.jit(lambda weights, tokens_BT: self._model(weights).attention(tokens_BT))
        self._head_outputs = self._jax.jit(
            lambda weights, tokens_BT: self._model(weights).head_outputs(tokens_BT)
        )
        self._prefill = self._jax.jit(lambda weights, *args: prefill(self._model(weights), config, *args))
        self._continue = self._jax.jit(
            lambda weights, policy, *args: continue_text(self._model(weights), policy, *args),
            static_argnums=1,
            donate_argnums=(2, 4),
        )

    @staticmethod
    def devices() -> list[str]:
        # Differs from torch: jax lists its devices of one kind, calls cuda gpu, and always has a cpu.
        found = dict.fromkeys([*jax.devices(), *jax.devices("cpu")])
        return ["cuda" if device.platform == "gpu" else device.platform for device in found]

    @staticmethod
    def memory(device: str) -> int | None:
        # Differs from torch: a device tells its memory.
        stats = jax.local_devices(backend=PLATFORMS.get(device, device))[0].memory_stats()
        return stats and stats.get("bytes_limit")

    @staticmethod
    def join() -> AbstractContextManager[Processes]:
        return nullcontext(ALONE)

    @property
    def model(self) -> GPT:
        # Differs from torch: a module is made of the weights whenever it is asked for.
        return self._model(self._inference_weights)

    def load(self, state: TrainingState) -> None:
        # Differs from torch: weights and moments are two trees of arrays.
        self._weights: Arrays = self._share_out({name: state.weights[name] for name in self._paths})
        self._moments: optax.ScaleByAdamState | None = None
        if self._training:
            of_adam = [name for name in self._paths if not is_moved_by_muon(name, self._training)]
            first = {name: state.first_moment[name] for name in self._paths}
            second = {name: state.second_moment[name] for name in of_adam}
            self._moments = self._share_out(optax.ScaleByAdamState(np.int32(state.step), first, second))

    def state(self) -> TrainingState:
        # Differs from torch: weights and moments are two trees of arrays.
        assert self._moments is not None, "a model loaded for inference has no training state"
        weights, moments = self._copied((self._weights, self._moments))
        return TrainingState(int(moments.count), weights, moments.mu, moments.nu)

    def train(
        self, tokens_KBT1: np.ndarray, keys_KB2: np.ndarray, learning_rate_K: np.ndarray
    ) -> Callable[[], np.ndarray]:
        # Differs from torch: a loop over K steps is one program. Its buffers have one length for any number
        # of steps, so that it is compiled once.
        count = len(tokens_KBT1)
        *batches, rates = (_pad_rows(a, MAX_STEPS_PER_CALL) for a in (tokens_KBT1, keys_KB2, learning_rate_K))
        self._weights, self._moments, losses_K = self._train(
            self._weights, self._moments, *self._micro_batches(*batches), rates, count
        )
        return lambda: np.asarray(losses_K)[:count]

    def gradients(self, tokens_BT1: np.ndarray, keys_B2: np.ndarray) -> tuple[float, Weights]:
        # Differs from torch: gradients are a result, by the same names as the weights.
        micro_batches = self._micro_batches(tokens_BT1, keys_B2)
        loss, gradients = self._copied(self._gradients(self._weights, *micro_batches))
        return float(loss), gradients

    def losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        # Differs from torch: the last chunk is padded to the shape of the others.
        devices = self.mesh.size
        rows = devices * min(-(-len(tokens_BT1) // devices), evaluation_rows(self.config))
        padded = _pad_rows(tokens_BT1, -(-len(tokens_BT1) // rows) * rows)
        chunks = []
        for i in range(0, len(padded), rows):
            chunk = self._put(padded[i : i + rows], row_sharding(self._mesh, 0))
            chunks.append(self._losses(self._weights, chunk))
        return np.concatenate(self._copied(chunks))[: len(tokens_BT1)]

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        # Differs from torch: jax takes numpy arrays as they are.
        return np.asarray(self._logits(self._inference_weights, tokens_BT), np.float32)

    def attention(self, tokens_BT: np.ndarray) -> np.ndarray:
        # Differs from torch: jax takes numpy arrays as they are.
        return np.asarray(self._attention(self._inference_weights, tokens_BT), np.float32)

    def head_outputs(self, tokens_BT: np.ndarray) -> np.ndarray:
        # Differs from torch: jax takes numpy arrays as they are.
        return np.asarray(self._head_outputs(self._inference_weights, tokens_BT), np.float32)

    def generate(
        self, prompt_BT: np.ndarray, uniforms_BN: np.ndarray, policy: SamplingPolicy
    ) -> Iterator[np.ndarray]:
        # Differs from torch: windows and blocks of tokens are padded to one shape, so that each program is
        # compiled once.
        block_size, weights = self.config.block_size, self._inference_weights
        prompt_BT = prompt_BT[:, -block_size:]
        length = prompt_BT.shape[1]
        window_BT = np.pad(prompt_BT, ((0, 0), (0, block_size - length)))
        caches = self._prefill(weights, window_BT, length - 1)
        for block, is_inside in token_blocks(uniforms_BN.shape[1], block_size - length + 1):
            uniforms = uniforms_BN[:, block]
            count = uniforms.shape[1]
            uniforms = np.pad(uniforms, ((0, 0), (0, TOKENS_PER_BLOCK - count)))
            window_BT, length, caches, tokens_BN = self._continue(
                weights, policy, window_BT, length, caches if is_inside else None, uniforms, count
            )
            yield np.asarray(tokens_BN)[:, :count]

    @property
    def _inference_weights(self) -> Arrays:
        # Differs from torch: a module is made of the weights whenever it is asked for.
        return self._weights

    def _share_out(self, tree: Any) -> Any:
        """Weights or moments on the devices."""
        # Differs from torch: a mesh of devices shares each array out.
        return self._put(tree, weight_shardings(self._mesh, tree))

    def _put(self, tree: Any, sharding: Any) -> Any:
        """Copies of arrays on the devices."""
        # Differs from torch: they never alias the caller's, for training donates its buffers and writes into
        # them.
        return self._jax.device_put(tree, sharding, may_alias=False)

    def _copied(self, tree: Any) -> Any:
        """Copies of arrays on the host."""
        # Differs from torch: np.array copies, for on a CPU device_get alone may give a view of memory that is
        # about to be donated.
        return jax.tree.map(np.array, tree)

    def _fastest_kernels(self) -> Kernels:
        """The kernels for this device; each equals its definition."""
        chosen: Callable[..., jax.Array] = attend_in_chunks if self.device == "cpu" else attend
        if fused_attention_is_right(self.config, self.device, self.dtype):
            chosen = partial(attend_fused, otherwise=chosen)
        # Differs from torch: XLA has one matmul, and would round an embedding's gradient at every token.
        return Kernels(attend=chosen, embedding=SummedEmbed, block=KeptBlock)

    def _model(self, weights: Arrays, graph: nnx.GraphDef[GPT] | None = None) -> GPT:
        """The module with these weights in the dtype of the computation."""
        # Differs from torch: a module is a structure without weights, and a tree of weights.
        flat = [(self._paths[name], nnx.Param(w.astype(self.dtype))) for name, w in weights.items()]
        return nnx.merge(graph or self._graph, nnx.from_flat_state(flat))

    def _token_losses(
        self, weights: Arrays, tokens_BT1: jax.Array, keys_B2: jax.Array | None = None
    ) -> jax.Array:
        # Differs from torch: weights are an argument.
        model = self._model(weights, self._training_graph)
        if self._remat:
            return recomputed_losses(model, tokens_BT1, keys_B2, self.mesh.size)
        return token_losses(model(tokens_BT1[:, :-1], keys_B2), tokens_BT1[:, 1:])

    def _tokens_at_once(self) -> float:
        """Tokens of a micro-batch, at most."""
        # Differs from torch: fewer tokens are best on a CPU.
        if self._micro_batch_size != "auto":
            return self._micro_batch_size * self.config.block_size
        if self.device == "cpu":
            return 1024
        memory = self.memory(self.device)
        return tokens_that_fit(self.config, self.dtype.itemsize, memory, self._remat, self.mesh.fsdp)

    def _micro_batches(self, tokens_BT1: np.ndarray, keys_B2: np.ndarray) -> list[jax.Array]:
        """A batch, or those of K steps, on the devices: `[M, R, T + 1]`, M micro-batches of R rows, and keys.

        Each device has its share of the R rows.
        """
        # Differs from torch: all micro-batches are arguments of one program.
        *_, B, T1 = tokens_BT1.shape
        share = micro_batch_rows(B // self.mesh.size, T1 - 1, self._tokens_at_once())
        R = share * self.mesh.size
        arrays = [a.reshape(*a.shape[:-2], -1, R, a.shape[-1]) for a in (tokens_BT1, keys_B2)]
        return self._put(arrays, row_sharding(self._mesh, arrays[0].ndim - 2))

    def _train_steps(
        self,
        weights: Arrays,
        moments: optax.ScaleByAdamState,
        tokens_KMRT1: jax.Array,
        keys_KMR2: jax.Array,
        learning_rate_K: jax.Array,
        count: jax.Array,
    ) -> Carry:
        """Take `count` optimizer steps; the buffers' rows beyond them are not read."""
        # Differs from torch: a loop inside the program carries the weights from step to step.
        optimizer = self._optimizer
        assert optimizer is not None, "a model loaded for inference can't be trained"

        def step(k: jax.Array, carry: Carry) -> Carry:
            weights, moments, losses_K = carry
            loss, gradients = self._loss_and_gradients(weights, tokens_KMRT1[k], keys_KMR2[k])
            weights, moments = optimizer.update(weights, moments, gradients, learning_rate_K[k])
            return weights, moments, losses_K.at[k].set(loss)

        losses_K = jnp.zeros(len(learning_rate_K), jnp.float32)
        return jax.lax.fori_loop(0, count, step, (weights, moments, losses_K))

    def _loss_and_gradients(self, weights: Arrays, tokens_MRT1: jax.Array, keys_MR2: jax.Array) -> Sum:
        """Mean loss and its gradients, summed over micro-batches: activations stay small."""
        # Differs from torch: a scan inside the program sums up the gradients, which are values.
        M = len(tokens_MRT1)
        mean_loss = jax.value_and_grad(lambda *args: self._token_losses(*args).mean() * (1 / M))

        def add(total: Sum, micro_batch: tuple[jax.Array, ...]) -> tuple[Sum, None]:
            total = jax.tree.map(jnp.add, total, mean_loss(weights, *micro_batch))
            # Each device keeps the part of a gradient that belongs to its part of the weight.
            return jax.lax.with_sharding_constraint(total, weight_shardings(self._mesh, total)), None

        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, weights))
        return jax.lax.scan(add, zero, (tokens_MRT1, keys_MR2))[0]


def _configure(tf32: bool) -> None:
    # Differs from torch: the whole process has one configuration.
    # float32 means float32: on CUDA, jax would else use TF32 for matmuls unasked. Where jax is asked for
    # "tensorfloat32", XLA's own kernels compute in full float32.
    jax.config.update("jax_default_matmul_precision", "default" if tf32 else "highest")
    # Compiled programs are cached on the disk, so that the second start compiles nothing.
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", platformdirs.user_cache_dir("nanogpt") + "/jax")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _structure(config: ModelConfig, kernels: Kernels) -> tuple[nnx.GraphDef[GPT], nnx.State]:
    """The module without its weights, and their shapes."""
    # Differs from torch: a module is a structure without weights, and a tree of weights.
    return nnx.split(nnx.eval_shape(lambda: GPT(config, kernels, rngs=nnx.Rngs(0))))


def _pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    # Differs from torch: programs are compiled for one shape.
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])
