"""One forward and one backward pass: everything the twins compute, against each other and against float64."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import Tensor, nn
from torch.nn import functional as F

import nanogpt_jax.backend
import nanogpt_jax.model
import nanogpt_jax.speed
import nanogpt_torch.backend
import nanogpt_torch.model
import nanogpt_torch.speed
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.randomness import dropout_keys, normals
from parity_tests import reference
from parity_tests.twins import Report, Twins, compare_models, relative_error, thorough_except

CONFIGS = {
    "default": ModelConfig(vocab_size=65, dropout=0),
    "small": ModelConfig(vocab_size=11, block_size=16, n_layer=2, n_embd=32, dropout=0),
    "gpt2": ModelConfig(31, 9, 3, 2, 24, dropout=0, bias=True, activation="gelu", tie_weights=True),
    "biases": ModelConfig(vocab_size=7, block_size=5, n_layer=1, n_head=1, n_embd=8, dropout=0, bias=True),
    "tied": ModelConfig(vocab_size=50, block_size=33, n_layer=2, n_embd=48, dropout=0, tie_weights=True),
    "gelu": ModelConfig(vocab_size=20, block_size=12, n_layer=1, n_head=8, dropout=0, activation="gelu"),
    "bigram": ModelConfig(vocab_size=65, block_size=8, n_layer=0, n_embd=32, dropout=0),
}
# The scale of the embeddings; at the smaller one LayerNorm's epsilon decides, on any device alike.
SCALES = [pytest.param(1.0, id=""), pytest.param(1e-2, id="low variance", marks=pytest.mark.thorough)]
UNUSED_KEYS = np.zeros((2, 2), np.uint32)  # for two rows at dropout 0


@pytest.mark.parametrize("embedding_scale", SCALES)
@pytest.mark.parametrize("name", thorough_except(CONFIGS, "default", "gpt2"))
def test_twins_compute_the_same(name: str, embedding_scale: float, device: str, report: Report) -> None:
    compare_models(Twins.of(CONFIGS[name], TrainingConfig(), device, embedding_scale), report)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["gpt2", "gelu"])
def test_gradients_are_those_of_the_judge(name: str, device: str, report: Report) -> None:
    """Along each weight's own gradient the float64 loss rises as steeply as both twins say."""
    twins = Twins.of(CONFIGS[name], TrainingConfig(), device)
    weights = {n: w.astype(np.float64) for n, w in twins.initial.weights.items()}
    tokens_BT1 = twins.tokens(2, twins.config.block_size + 1)
    for backend in (twins.jax, twins.torch):
        _, gradients = backend.gradients(tokens_BT1, UNUSED_KEYS)
        for weight, gradient in gradients.items():
            steepness = np.linalg.norm(gradient.astype(np.float64))
            step = 1e-5 * gradient / steepness
            ahead, behind = (
                reference.loss(weights | {weight: weights[weight] + sign * step}, twins.config, tokens_BT1)
                for sign in (1, -1)
            )
            label = f"{weight}, {backend.name} against float64"
            report.compare("gradients", label, steepness, (ahead - behind) / 2e-5)


@pytest.mark.parametrize("embedding_scale", SCALES)
@pytest.mark.parametrize("name", thorough_except(CONFIGS, "gpt2"))
def test_bfloat16_is_near_float64(name: str, embedding_scale: float, device: str, report: Report) -> None:
    twins = Twins.of(CONFIGS[name], TrainingConfig(), device, embedding_scale)
    weights, config = twins.initial.weights, twins.config
    tokens_BT1 = twins.tokens(2, config.block_size + 1)
    judged = reference.logits(weights, config, tokens_BT1[:, :-1])
    _, expected = twins.jax.gradients(tokens_BT1, UNUSED_KEYS)
    for of in (twins.jax, twins.torch):
        model = type(of)(config, TrainingConfig(), twins.initial, device=of.device, dtype="bfloat16")
        logits_BTV = model.logits(tokens_BT1[:, :-1])
        report.compare("logits, bfloat16", f"{of.name} against float64", logits_BTV, judged)
        assert relative_error(logits_BTV, judged) > 1e-3, "this was computed in float32"
        loss, gradients = model.gradients(tokens_BT1, UNUSED_KEYS)
        judged_loss = reference.loss(weights, config, tokens_BT1)
        report.compare("loss, bfloat16", f"{of.name} against float64", loss, judged_loss)
        if config.activation == "gelu":  # bfloat16 pushes many a hidden unit across ReLU's kink
            for weight, gradient in gradients.items():
                label = f"{weight}, {of.name} against float32"
                report.compare("gradients, bfloat16", label, gradient, expected[weight])


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_attention_looks_back_and_sums_to_one(backend: str, device: str) -> None:
    twins = Twins.of(CONFIGS["gpt2"], TrainingConfig(), device)
    weights_LBHTS = getattr(twins, backend).attention(twins.tokens(2, 9))
    assert weights_LBHTS.shape == (3, 2, 2, 9, 9)
    assert (weights_LBHTS >= 0).all()
    np.testing.assert_allclose(weights_LBHTS.sum(-1), 1, atol=1e-6)
    assert (np.triu(weights_LBHTS, 1) == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("backend", "attention"),
    [("jax", "plain"), ("jax", "chunks"), ("torch", "plain"), ("torch", "chunks"), ("torch", "fused")],
)
def test_the_future_changes_nothing(
    backend: str, attention: str, dtype: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if attention != "fused":
        monkeypatch.setattr(nanogpt_torch.backend, "fused_attention_is_right", lambda *_: False)
    if attention == "plain":
        for module in (nanogpt_jax.backend, nanogpt_torch.backend):
            monkeypatch.setattr(module, "attend_in_chunks", lambda plain, dropout, *args: plain(*args))
    twins = Twins.of(replace(CONFIGS["small"], block_size=40), TrainingConfig(), device)
    of = getattr(twins, backend)
    model = type(of)(twins.config, None, twins.initial, device=of.device, dtype=dtype)
    tokens_BT = twins.tokens(2, 40)
    before = model.logits(tokens_BT)
    for t in (1, 7, 21, 39):
        changed = tokens_BT.copy()
        changed[:, t] = (changed[:, t] + 1) % twins.config.vocab_size
        after = model.logits(changed)
        assert (after[:, :t] == before[:, :t]).all()
        assert (after[:, t:] != before[:, t:]).any()


@pytest.mark.thorough
@pytest.mark.parametrize("T", [8, 32, 33, 100])
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_attention_in_chunks_is_the_plain_one(backend: str, T: int, report: Report) -> None:
    """Heads, and their gradients by queries, keys and values, with dropout."""
    B, H, D = 2, 3, 8
    keys_B2 = dropout_keys(1, 2, np.arange(B))
    arrays = [normals(1, name, 0, B * H * T * D).reshape(B, H, T, D) for name in ("q", "k", "v", "out")]
    config = ModelConfig(5, T, 1, H, H * D, dropout=0.3)
    module: Any = {"jax": nanogpt_jax, "torch": nanogpt_torch}[backend]
    results = []
    for chunked in (False, True):
        if backend == "jax":
            attention: Any = nanogpt_jax.model.MultiHeadAttention(config, rngs=nnx.Rngs(0))
            keys: Any = jnp.asarray(keys_B2)
        else:
            attention = nanogpt_torch.model.MultiHeadAttention(config)
            keys = torch.from_numpy(keys_B2.view(np.int32))
        attend = attention.attend
        if chunked:
            attend = partial(module.speed.attend_in_chunks, attend, attention.weights_dropout)
        if backend == "jax":
            heads, pull_back = jax.vjp(partial(attend, keys_B2=keys), *arrays[:3])
            results.append([heads, *pull_back(jnp.asarray(arrays[3]))])
        else:
            inputs = [torch.from_numpy(array).requires_grad_() for array in arrays[:3]]
            heads = attend(*inputs, keys_B2=keys)
            heads.backward(torch.from_numpy(arrays[3]))
            results.append([heads.detach(), *(x.grad for x in inputs)])
    for label, actual, expected in zip(("heads", "q", "k", "v"), results[1], results[0], strict=True):
        quantity = "block output" if label == "heads" else "gradients"
        report.compare(quantity, f"{backend}, {label} in chunks", actual, expected)


@pytest.mark.thorough
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(64, 24), (3, 50, 24), (2, 3, 24)])
def test_a_linear_layer_by_onednn_is_the_plain_one(
    shape: tuple[int, ...], bias: bool, report: Report
) -> None:
    """What comes out, and its gradients by what goes in and by the weights."""
    x = torch.from_numpy(normals(1, "x", 0, math.prod(shape))).reshape(shape).requires_grad_()
    layer = nanogpt_torch.model.linear(24, 40, bias, 0.5)
    results = []
    for forward in (layer.forward, partial(nanogpt_torch.speed.linear_by_onednn, layer)):
        x.grad = None
        layer.zero_grad()
        y = forward(x)
        y.backward(torch.from_numpy(normals(1, "y", 0, y.numel())).reshape(y.shape))
        gradients = {name: weight.grad for name, weight in layer.named_parameters()}
        results.append({"output": y.detach(), "x": x.grad} | gradients)
    for label, expected in results[0].items():
        quantity = "block output" if label == "output" else "gradients"
        report.compare(quantity, f"torch, {label} by oneDNN", results[1][label], expected)


def test_a_leaking_kernel_gives_way_to_the_plain_attention(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twins = Twins.of(CONFIGS["small"], TrainingConfig(), "cpu")
    assert capsys.readouterr().err == ""
    leaking = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *qkv, is_causal: leaking(*qkv))
    tokens_BT = twins.tokens(2, 16)
    assert relative_error(twins.torch.logits(tokens_BT), twins.jax.logits(tokens_BT)) > 1e-2
    replaced = Twins.of(CONFIGS["small"], TrainingConfig(), "cpu")
    assert capsys.readouterr().err.count("\n") == 1
    assert relative_error(replaced.torch.logits(tokens_BT), twins.jax.logits(tokens_BT)) < 5e-6


@pytest.mark.thorough
@pytest.mark.parametrize("kernel", ["missing", "right", "leaking"])
def test_cudnns_attention_is_the_plain_one_or_not_used(
    kernel: str, report: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """XLA's own stands in for cuDNN's, which is on CUDA alone; the way there and back is the same."""
    config, speed = ModelConfig(5, 40, 1, 2, 16), nanogpt_jax.speed
    of_jax = jax.nn.dot_product_attention

    def stand_in(*qkv: jax.Array, is_causal: bool, implementation: str) -> jax.Array:
        assert implementation == "cudnn"
        return of_jax(*qkv, is_causal=is_causal and kernel == "right", implementation="xla")

    if kernel != "missing":
        monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    assert speed.fused_attention_is_right(config, "cuda", jnp.dtype("bfloat16")) == (kernel == "right")
    assert capsys.readouterr().err.count("\n") == (kernel != "right")
    if kernel == "right":
        q, k, v, out = (normals(1, name, 0, 1280).reshape(2, 2, 40, 8) for name in ("q", "k", "v", "out"))
        attention = nanogpt_jax.model.MultiHeadAttention(config, rngs=nnx.Rngs(0))
        expected, pull_back = jax.vjp(attention.attend, q, k, v)
        fused = partial(speed.attend_fused, attention.attend, attention.weights_dropout)
        heads, pull_back_fused = jax.vjp(fused, q, k, v)
        report.compare("block output", "jax, heads of a fused kernel", heads, expected)
        for label, actual, wanted in zip("qkv", pull_back_fused(out), pull_back(out), strict=True):
            report.compare("gradients", f"jax, {label} of a fused kernel", actual, wanted)


def mutated_attention(scale: bool, diagonal: int) -> Callable[[Tensor, Tensor, int], Tensor]:
    def attention_weights(query_BHTD: Tensor, key_BHSD: Tensor, first: int = 0) -> Tensor:
        T, D = query_BHTD.shape[-2:]
        scores_BHTS = query_BHTD @ key_BHSD.transpose(-2, -1) / (D**0.5 if scale else 1)
        mask_TS = torch.ones(T, T, dtype=torch.bool, device=scores_BHTS.device).tril(diagonal)
        return F.softmax(scores_BHTS.masked_fill(~mask_TS, -torch.inf), dim=-1)

    return attention_weights


def mutate(name: str, twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one mistake in the torch twin."""
    model = nanogpt_torch.model
    if name == "LayerNorm epsilon":
        for module in twins.torch.model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
    elif name == "GELU form":
        gelu = F.gelu
        monkeypatch.setattr(F, "gelu", lambda x, approximate: gelu(x, approximate="none"))
    elif name == "mask off by one":
        monkeypatch.setattr(model, "attention_weights", mutated_attention(scale=True, diagonal=1))
    elif name == "no 1/sqrt(d_k)":
        monkeypatch.setattr(model, "attention_weights", mutated_attention(scale=False, diagonal=0))
    elif name == "transposed kernel":
        output = twins.torch.model.blocks[0].attention.output
        output.weight.data = output.weight.data.T.contiguous()
    elif name == "swapped query and key":
        project = model.MultiHeadAttention.project

        def swapped(self: nn.Module, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            query_BHTD, key_BHSD, value_BHSD = project(self, x_BTC)
            return key_BHSD, query_BHTD, value_BHSD

        monkeypatch.setattr(model.MultiHeadAttention, "project", swapped)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "mutation",
    [
        "LayerNorm epsilon",
        "GELU form",
        "mask off by one",
        "no 1/sqrt(d_k)",
        "transposed kernel",
        "swapped query and key",
    ],
)
def test_a_mistake_in_one_twin_is_noticed(
    mutation: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = 1e-2 if mutation == "LayerNorm epsilon" else 1.0
    twins = Twins.of(CONFIGS["gpt2"], TrainingConfig(), device, scale)
    mutate(mutation, twins, monkeypatch)
    with pytest.raises(AssertionError, match="tolerance"):
        compare_models(twins, Report())
