"""The model at work in torch: devices, precision, compilation, micro-batches. See nanogpt.backend.Backend."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nanogpt.backend import TrainingState, micro_batch_rows, unavailable_device
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.sampling import SamplingPolicy, token_blocks
from nanogpt.weights import Weights
from nanogpt_torch.generation import continue_text, fill
from nanogpt_torch.model import GPT, token_losses
from nanogpt_torch.optimizer import Optimizer
from nanogpt_torch.speed import (
    attend_fused,
    attend_in_chunks,
    fused_attention_is_right,
    linear_by_onednn,
    onednn_is_faster,
)


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
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        # float32 means float32: TF32 for CUDA's products only where it was asked for.
        torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
        self.config, self.dtype = config, getattr(torch, "float32" if dtype == "tf32" else dtype)
        self.device = _find(device)
        self.device_name = torch.cuda.get_device_name() if self.device == "cuda" else self.device
        self._fused = fused_attention_is_right(config, self.device, self.dtype)
        self.model = self._build(torch.float32)
        self._parameters = dict(_canonical(self.model))
        self._compiled = compile
        if compile:
            from torch._functorch import config as functorch  # takes time to import

            # Masks are computed again on the way back: to write and read their bytes takes inductor longer.
            functorch.aggressive_recomputation = True
            # One compiled block serves every layer: compiling the whole model takes minutes on a CPU.
            for block in self.model.blocks:
                block.compile()
        self._optimizer = (
            Optimizer(training, {n: p for n, (p, _) in self._parameters.items()}) if training else None
        )
        self.load(state)

    @torch.no_grad()
    def load(self, state: TrainingState) -> None:
        for name, (parameter, transposed) in self._parameters.items():
            parameter.copy_(_from_numpy(state.weights[name], transposed))
            if self._optimizer:
                self._optimizer.adamw.state[parameter] = {
                    "step": torch.tensor(float(state.step), device=self.device),
                    "exp_avg": _from_numpy(state.first_moment[name], transposed).to(self.device),
                    "exp_avg_sq": _from_numpy(state.second_moment[name], transposed).to(self.device),
                }
        self._step = state.step

    def state(self) -> TrainingState:
        assert self._optimizer is not None, "a model loaded for inference has no training state"
        moments = self._optimizer.adamw.state
        first = {n: (moments[p]["exp_avg"], t) for n, (p, t) in self._parameters.items()}
        second = {n: (moments[p]["exp_avg_sq"], t) for n, (p, t) in self._parameters.items()}
        return TrainingState(self._step, _to_numpy(self._parameters), _to_numpy(first), _to_numpy(second))

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
        self._step += len(losses)
        return lambda: torch.stack(losses).cpu().numpy()

    def gradients(self, tokens_BT1: np.ndarray, keys_B2: np.ndarray) -> tuple[float, Weights]:
        keys = torch.from_numpy(keys_B2.view(np.int32)).to(self.device)
        loss = self._loss_and_gradients(self._tokens(tokens_BT1), keys)
        gradients = {n: (cast(Tensor, p.grad), t) for n, (p, t) in self._parameters.items()}
        return loss.item(), _to_numpy(gradients)

    @torch.inference_mode()
    def losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        rows = max(1, 2**14 // tokens_BT1.shape[1])
        chunks = [self._token_losses(chunk_BT1) for chunk_BT1 in self._tokens(tokens_BT1).split(rows)]
        return torch.cat(chunks).cpu().numpy()

    @torch.inference_mode()
    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        return self._logits(self._tokens(tokens_BT)).float().cpu().numpy()

    @torch.inference_mode()
    def attention(self, tokens_BT: np.ndarray) -> np.ndarray:
        return self._cast_model().attention(self._tokens(tokens_BT)).float().cpu().numpy()

    @torch.inference_mode()
    def head_outputs(self, tokens_BT: np.ndarray) -> np.ndarray:
        return self._cast_model().head_outputs(self._tokens(tokens_BT)).float().cpu().numpy()

    def generate(
        self, prompt_BT: np.ndarray, uniforms_BN: np.ndarray, policy: SamplingPolicy
    ) -> Iterator[np.ndarray]:
        block_size, model = self.config.block_size, self._cast_model()
        window_BT = self._tokens(prompt_BT[:, -block_size:])
        length = window_BT.shape[1]
        with self._decoding():
            caches = fill(model, self.config, window_BT[:, :-1])
        for block, is_inside in token_blocks(uniforms_BN.shape[1], block_size - length + 1):
            uniforms = torch.tensor(uniforms_BN[:, block]).to(self.device)
            with self._decoding():
                window_BT, tokens_BN = continue_text(
                    model, policy, window_BT, caches if is_inside else None, uniforms, block_size
                )
            yield tokens_BN.cpu().numpy().astype(np.int32)

    def _tokens(self, tokens: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(tokens)).to(self.device).long()

    def _logits(self, tokens_BT: Tensor, keys_B2: Tensor | None = None) -> Tensor:
        """The module's logits, computed with its weights in the dtype of the computation."""
        if self.dtype == torch.float32:
            return self.model(tokens_BT, keys_B2)
        weights = {name: p.to(self.dtype) for name, p in self.model.named_parameters()}
        return functional_call(self.model, weights, (tokens_BT, keys_B2))

    def _cast_model(self) -> GPT:
        """The module with its weights in the dtype of the computation, for inference."""
        if self.dtype == torch.float32:
            return self.model
        model = self._build(self.dtype)
        model.load_state_dict(self.model.state_dict())
        return model

    def _build(self, dtype: torch.dtype) -> GPT:
        model = GPT(self.config).to(self.device, dtype)
        for block in model.blocks:
            attention: Any = block.attention
            if self.device == "cpu":
                attention.attend = partial(attend_in_chunks, attention.attend, attention.weights_dropout)
            if self._fused:
                attention.attend = partial(attend_fused, attention.attend, attention.weights_dropout)
        for layer in model.modules() if self.device == "cpu" and onednn_is_faster() else ():
            if isinstance(layer, nn.Linear):
                layer.forward = partial(linear_by_onednn, layer)  # type: ignore[method-assign]
        return model

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Inference on ever more positions, for each number of which a block would be compiled anew."""
        eager = torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()
        with torch.inference_mode(), eager:
            yield

    def _token_losses(self, tokens_BT1: Tensor, keys_B2: Tensor | None = None) -> Tensor:
        logits_BTV = self._logits(tokens_BT1[:, :-1], keys_B2)
        return token_losses(logits_BTV, tokens_BT1[:, 1:])

    def _loss_and_gradients(self, tokens_BT1: Tensor, keys_B2: Tensor) -> Tensor:
        """Mean loss, its gradients left in the parameters; by micro-batches: activations stay small."""
        B, T1 = tokens_BT1.shape
        # A compiled block holds less in memory, and has some cost for each call.
        rows = micro_batch_rows(B, T1 - 1, self.device, tokens=4096 if self._compiled else 2048)
        self.model.zero_grad()
        total = torch.zeros((), device=self.device)
        for micro_batch in zip(tokens_BT1.split(rows), keys_B2.split(rows), strict=True):
            loss = self._token_losses(*micro_batch).mean() * (rows / B)
            loss.backward()
            total += loss.detach()
        return total


def _find(device: str) -> str:
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    names = [name for name, there in available.items() if there]
    if device == "auto":
        return names[0]
    if device not in names:
        raise unavailable_device("torch", device, names)
    return device


def _canonical(module: nn.Module) -> Iterator[tuple[str, tuple[Tensor, bool]]]:
    """Canonical name (nanogpt/weights.py) of each parameter, and whether torch keeps it as (out, in)."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            yield f"{path}.kernel", (layer.weight, True)
        elif isinstance(layer, nn.Embedding):
            yield f"{path}.embedding", (layer.weight, False)
        elif isinstance(layer, nn.LayerNorm):
            yield f"{path}.scale", (layer.weight, False)
        if getattr(layer, "bias", None) is not None:
            yield f"{path}.bias", (layer.bias, False)


def _from_numpy(array: np.ndarray, transposed: bool) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array.T if transposed else array))


def _to_numpy(tensors: dict[str, tuple[Tensor, bool]]) -> Weights:
    # A copy: what .numpy() gives is the live memory itself.
    arrays = {
        name: (tensor.detach().cpu().numpy(), transposed) for name, (tensor, transposed) in tensors.items()
    }
    return {name: np.array(a.T if transposed else a, order="C") for name, (a, transposed) in arrays.items()}
