"""The backend in torch: devices, precision, compilation, micro-batches (contract: nanogpt/backend.py)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from nanogpt.choice import find_device
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.mesh import ONE_DEVICE, Mesh
from nanogpt.micro_batches import evaluation_rows, micro_batch_rows, tokens_that_fit
from nanogpt.processes import ALONE, Processes
from nanogpt.sampling import SamplingPolicy, token_blocks
from nanogpt.state import TrainingState
from nanogpt.weights import Weights
from nanogpt_torch.generation import continue_text, prefill
from nanogpt_torch.kernels import (
    CompiledBlock,
    OneDnnLinear,
    attend_fused,
    attend_in_chunks,
    fused_attention_is_right,
    onednn_is_faster,
    recomputed_losses,
)
from nanogpt_torch.model import GPT, Block, Kernels, attend, token_losses
from nanogpt_torch.optimizer import OnWhole, Optimizer


class Backend:
    """GPT on one torch device."""

    name = "torch"

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
        kernels: Kernels | None = None,
        processes: Processes = ALONE,
    ) -> None:
        # Differs from jax: the precision of float32 is one setting, by which CUDA's matmuls may use TF32.
        torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
        self.config, self.dtype = config, getattr(torch, "float32" if dtype == "tf32" else dtype)
        self.device = find_device(type(self), device)
        self.device_name = torch.cuda.get_device_name() if self.device == "cuda" else self.device
        self.mesh, self.processes = mesh, processes
        self._micro_batch_size, self._remat = micro_batch_size, remat
        # Differs from jax: a module holds its parameters, and an optimizer its moments.
        self._compiled = compile
        self.kernels = kernels or self._fastest_kernels()
        self._module = GPT(config, self.kernels).to(self.device)
        on_whole = self._arrange()
        self._parameters = dict(canonical(self._module))
        parameters = {name: p for name, (p, _) in self._parameters.items()}
        self._optimizer = Optimizer(training, parameters, on_whole) if training else None
        self.load(state)

    @staticmethod
    def devices() -> list[str]:
        # Differs from jax: torch is asked for each kind of device.
        available = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "cpu": True,
        }
        return [name for name, there in available.items() if there]

    @staticmethod
    def memory(device: str) -> int | None:
        # Differs from jax: each kind of device has a function that tells its memory.
        ask = {
            "cuda": lambda: torch.cuda.get_device_properties().total_memory,
            "mps": torch.mps.recommended_max_memory,
        }
        return ask[device]() if device in ask else None

    @staticmethod
    def join() -> AbstractContextManager[Processes]:
        return nullcontext(ALONE)

    @property
    def model(self) -> GPT:
        return self._computing

    @torch.no_grad()
    def load(self, state: TrainingState) -> None:
        # Differs from jax: values are copied into the parameters.
        for name, weight in self._tensors(state.weights, self._parameters):
            self._parameters[name][0].copy_(weight)
        if self._optimizer:
            of_adam = [name for name in self._parameters if name not in self._optimizer.of_muon]
            first = dict(self._tensors(state.first_moment, self._parameters))
            second = dict(self._tensors(state.second_moment, of_adam))
            self._optimizer.load(state.step, first, second)
        self._step = state.step
        self._cast()

    def state(self) -> TrainingState:
        assert self._optimizer is not None, "a model loaded for inference has no training state"
        first, second = (
            self._arrays({name: (m, self._parameters[name][1]) for name, m in moments.items()})
            for moments in self._optimizer.moments()
        )
        return TrainingState(self._step, self._arrays(self._parameters), first, second)

    def train(
        self, tokens_KBT1: np.ndarray, keys_KB2: np.ndarray, learning_rate_K: np.ndarray
    ) -> Callable[[], np.ndarray]:
        assert self._optimizer is not None, "a model loaded for inference can't be trained"
        tokens = self._tokens(tokens_KBT1)
        keys = torch.from_numpy(keys_KB2.view(np.int32)).to(self.device)
        losses = []
        for tokens_BT1, keys_B2, learning_rate in zip(tokens, keys, learning_rate_K.tolist(), strict=True):
            losses.append(self._loss_and_gradients(tokens_BT1, keys_B2))
            self._optimizer.update(learning_rate)
            self._cast()
        self._step += len(losses)
        return lambda: torch.stack(losses).cpu().numpy()

    def gradients(self, tokens_BT1: np.ndarray, keys_B2: np.ndarray) -> tuple[float, Weights]:
        keys = torch.from_numpy(keys_B2.view(np.int32)).to(self.device)
        loss = self._loss_and_gradients(self._tokens(tokens_BT1), keys)
        gradients = {n: (cast(Tensor, p.grad), t) for n, (p, t) in self._parameters.items()}
        return loss.item(), self._arrays(gradients)

    @torch.inference_mode()
    def losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        rows = evaluation_rows(self.config)
        model, tokens = self.model, self._tokens(tokens_BT1)
        chunks = [self._token_losses(model, chunk_BT1) for chunk_BT1 in tokens.split(rows)]
        return torch.cat(chunks).cpu().numpy()

    @torch.inference_mode()
    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        return self.model(self._tokens(tokens_BT)).float().cpu().numpy()

    @torch.inference_mode()
    def attention(self, tokens_BT: np.ndarray) -> np.ndarray:
        return self.model.attention(self._tokens(tokens_BT)).float().cpu().numpy()

    @torch.inference_mode()
    def head_outputs(self, tokens_BT: np.ndarray) -> np.ndarray:
        return self.model.head_outputs(self._tokens(tokens_BT)).float().cpu().numpy()

    def generate(
        self, prompt_BT: np.ndarray, uniforms_BN: np.ndarray, policy: SamplingPolicy
    ) -> Iterator[np.ndarray]:
        block_size, model = self.config.block_size, self.model
        window_BT = self._tokens(prompt_BT[:, -block_size:])
        length = window_BT.shape[1]
        with self._decoding():
            caches = prefill(model, self.config, window_BT[:, :-1])
        for block, is_inside in token_blocks(uniforms_BN.shape[1], block_size - length + 1):
            uniforms = torch.tensor(uniforms_BN[:, block]).to(self.device)
            with self._decoding():
                window_BT, tokens_BN = continue_text(
                    model, policy, window_BT, caches if is_inside else None, uniforms, block_size
                )
            yield tokens_BN.cpu().numpy().astype(np.int32)

    def _tensors(self, arrays: Weights, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Each of the named arrays as a tensor on the device."""
        # Differs from jax: torch's kernels are (out, in).
        for name in names:
            array = arrays[name].T if self._parameters[name][1] else arrays[name]
            yield name, torch.tensor(np.ascontiguousarray(array)).to(self.device)

    def _arrays(self, tensors: dict[str, tuple[Tensor, bool]]) -> Weights:
        """Copies of tensors, of which those that say so are transposed."""
        # Differs from jax: torch's kernels are (out, in), and .numpy() gives the live memory itself.
        arrays = {name: (t.detach().cpu().numpy(), transposed) for name, (t, transposed) in tensors.items()}
        return {
            name: np.array(a.T if transposed else a, order="C") for name, (a, transposed) in arrays.items()
        }

    def _fastest_kernels(self) -> Kernels:
        """The kernels for this device; each equals its definition."""
        chosen: Callable[..., Tensor] = attend_in_chunks if self.device == "cpu" else attend
        if fused_attention_is_right(self.config, self.device, self.dtype):
            chosen = partial(attend_fused, otherwise=chosen)
        # Differs from jax: torch has two matmul libraries for CPUs, and compiles on demand.
        linear = OneDnnLinear if self.device == "cpu" and onednn_is_faster() else nn.Linear
        return Kernels(attend=chosen, linear=linear, block=CompiledBlock if self._compiled else Block)

    def _arrange(self) -> OnWhole | None:
        """Let the module compute, or in another dtype a copy of it."""
        # Differs from jax: a module of another dtype has parameters of its own.
        self._computing, self._copies = self._module, []
        if self.dtype != torch.float32:
            with torch.device(self.device):
                self._computing = GPT(self.config, self.kernels).to(self.dtype)
            self._copies = list(zip(self._computing.parameters(), self._module.parameters(), strict=True))
        return None

    def _tokens(self, tokens: np.ndarray) -> Tensor:
        # Differs from jax: torch wants contiguous arrays on its device, and int64 indices.
        return torch.from_numpy(np.ascontiguousarray(tokens)).to(self.device).long()

    @torch.no_grad()
    def _cast(self) -> None:
        """Give a copy that computes the weights as they are now."""
        # Differs from jax: a module of another dtype has parameters of its own.
        for copy, parameter in self._copies:
            copy.copy_(parameter)

    @torch.no_grad()
    def _collect_gradients(self) -> None:
        """Add the gradients of a copy that computes to the parameters' own, in float32."""
        # Differs from jax: a module of another dtype has parameters of its own.
        for copy, parameter in self._copies:
            gradient = cast(Tensor, copy.grad).to(parameter.dtype)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            copy.grad = None

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Inference without compilation: each further position would compile a block anew."""
        # Differs from jax: shapes grow with the text.
        eager = torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()
        with torch.inference_mode(), eager:
            yield

    def _token_losses(self, model: GPT, tokens_BT1: Tensor, keys_B2: Tensor | None = None) -> Tensor:
        # Differs from jax: the module holds its weights.
        if self._remat:
            return recomputed_losses(model, tokens_BT1, keys_B2)
        return token_losses(model(tokens_BT1[:, :-1], keys_B2), tokens_BT1[:, 1:])

    def _mean_loss(self, tokens_BT1: Tensor, keys_B2: Tensor) -> Tensor:
        # Differs from jax: the module holds its weights.
        return self._token_losses(self._computing, tokens_BT1, keys_B2).mean()

    def _tokens_at_once(self) -> float:
        """Tokens of a micro-batch, at most."""
        # Differs from jax: on a CPU a compiled block holds less in memory, and has some cost for each call.
        if self._micro_batch_size != "auto":
            return self._micro_batch_size * self.config.block_size
        if self.device == "cpu":
            return 4096 if self._compiled else 2048
        memory = self.memory(self.device)
        return tokens_that_fit(self.config, self.dtype.itemsize, memory, self._remat, self.mesh.fsdp)

    def _micro_batches(self, tokens_BT1: Tensor, keys_B2: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        # Differs from jax: a loop takes one after the other.
        B, T1 = tokens_BT1.shape
        rows = micro_batch_rows(B, T1 - 1, self._tokens_at_once())
        return zip(tokens_BT1.split(rows), keys_B2.split(rows), strict=True)

    def _loss_and_gradients(self, tokens_BT1: Tensor, keys_B2: Tensor) -> Tensor:
        """Mean loss; its gradients, summed over micro-batches, are left in the parameters."""
        # Differs from jax: backward() adds to the parameters' gradients.
        self._module.zero_grad()
        total = torch.zeros((), device=self.device)
        for micro_batch in self._micro_batches(tokens_BT1, keys_B2):
            loss = self._mean_loss(*micro_batch) * (len(micro_batch[0]) / len(tokens_BT1))
            loss.backward()
            self._collect_gradients()
            total += loss.detach()
        return total


def canonical(module: nn.Module) -> Iterator[tuple[str, tuple[Tensor, bool]]]:
    """Canonical name (nanogpt/weights.py) of each parameter, and whether torch keeps it as (out, in)."""
    # Differs from jax: Flax has the canonical names and the canonical kernels, (in, out).
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            yield f"{path}.kernel", (layer.weight, True)
        elif isinstance(layer, nn.Embedding):
            yield f"{path}.embedding", (layer.weight, False)
        elif isinstance(layer, nn.LayerNorm):
            yield f"{path}.scale", (layer.weight, False)
        if getattr(layer, "bias", None) is not None:
            yield f"{path}.bias", (layer.bias, False)
