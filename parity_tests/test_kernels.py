"""Each kernel equals its definition in model.py, forward and backward, or is not chosen."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

import nanogpt_jax.dropout
import nanogpt_jax.kernels
import nanogpt_jax.model
import nanogpt_torch.dropout
import nanogpt_torch.kernels
import nanogpt_torch.model
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.randomness import dropout_keys, normals, random_bits
from parity_tests.report import Report, relative_error
from parity_tests.test_model import CONFIGS
from parity_tests.twins import Twins, random_tokens

TWINS: dict[str, Any] = {"jax": nanogpt_jax, "torch": nanogpt_torch}
B, H, D = 2, 3, 8


def forward_and_backward(backend: str, attend: Callable[..., Any], T: int, rate: float) -> list[np.ndarray]:
    """Heads, and their gradients by queries, keys and values, of an attention function with dropout."""
    arrays = [normals(1, name, 0, B * H * T * D).reshape(B, H, T, D) for name in ("q", "k", "v", "out")]
    keys_B2 = dropout_keys(1, 2, np.arange(B))
    dropout = TWINS[backend].dropout.Dropout(rate)
    if backend == "jax":
        jax_attend = partial(attend, first=0, dropout=dropout, keys_B2=jnp.asarray(keys_B2))

        @jax.jit
        def act(output: jax.Array, *inputs: jax.Array) -> list[jax.Array]:
            heads, pull_back = jax.vjp(jax_attend, *inputs)
            return [heads, *pull_back(output)]

        return act(*map(jnp.asarray, [arrays[3], *arrays[:3]]))
    inputs = [torch.from_numpy(array).requires_grad_() for array in arrays[:3]]
    heads = attend(*inputs, 0, dropout, torch.from_numpy(keys_B2.view(np.int32)))
    heads.backward(torch.from_numpy(arrays[3]))
    return [heads.detach().numpy(), *(x.grad.numpy() for x in inputs)]


def compare(report: Report, label: str, actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for part, one, other in zip(("heads", "query", "key", "value"), actual, expected, strict=True):
        quantity = "block output" if part == "heads" else "gradients"
        report.compare(quantity, f"{part} of {label}", one, other)


@pytest.mark.thorough
@pytest.mark.parametrize("T", [8, 32, 33, 100])
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_attention_in_chunks_is_the_plain_one(backend: str, T: int, report: Report) -> None:
    chunked, plain = TWINS[backend].kernels.attend_in_chunks, TWINS[backend].model.attend
    actual, expected = (forward_and_backward(backend, attend, T, rate=0.3) for attend in (chunked, plain))
    compare(report, f"{backend} in chunks", actual, expected)


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_fused_attention_leaves_dropout_to_another(backend: str, report: Report) -> None:
    """The fused kernels know no dropout: with it, the function handed in as `otherwise` computes."""
    module = TWINS[backend]
    asked = []

    def otherwise(*arguments: Any) -> Any:
        asked.append(True)
        return module.model.attend(*arguments)

    fused = partial(module.kernels.attend_fused, otherwise=otherwise)
    actual = forward_and_backward(backend, fused, 32, rate=0.3)
    compare(report, f"{backend}, fused", actual, forward_and_backward(backend, module.model.attend, 32, 0.3))
    assert asked


@pytest.mark.thorough
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(64, 24), (3, 50, 24), (2, 3, 24)])
def test_a_linear_layer_by_onednn_is_the_plain_one(
    shape: tuple[int, ...], bias: bool, report: Report
) -> None:
    """The output, and its gradients by input and weights."""
    x = torch.from_numpy(normals(1, "x", 0, math.prod(shape))).reshape(shape).requires_grad_()
    results = []
    for kind in (torch.nn.Linear, nanogpt_torch.kernels.OneDnnLinear):
        torch.manual_seed(0)
        x.grad = None
        layer = kind(24, 40, bias=bias)
        y = layer(x)
        y.backward(torch.from_numpy(normals(1, "y", 0, y.numel())).reshape(y.shape))
        gradients = {name: weight.grad for name, weight in layer.named_parameters()}
        results.append({"output": y.detach(), "x": x.grad} | gradients)
    for label, expected in results[0].items():
        quantity = "block output" if label == "output" else "gradients"
        report.compare(quantity, f"torch, {label} by oneDNN", results[1][label], expected)


def test_a_backend_builds_its_model_of_the_kernels_it_is_handed() -> None:
    for kernels in ("fast", "plain"):
        twins = Twins.of(CONFIGS["small"], TrainingConfig(), "cpu", kernels=kernels)
        for backend in (twins.jax, twins.torch):
            plain = TWINS[backend.name].model.Kernels()
            attend = backend.model.blocks[0].attention.attend
            assert (backend.kernels == plain) == (kernels == "plain")
            assert attend is backend.kernels.attend


LEAKS = "lets positions see later ones"


def leaking(attend: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that is right for the plain window, and mixes a later value in when values change."""

    def act(query: Any, key: Any, value: Any, is_causal: bool) -> Any:
        heads = attend(query, key, value, is_causal=is_causal)
        return heads + 1e-6 * value[:, :, -1:]

    return act


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (lambda attend: lambda *qkv, is_causal: attend(*qkv), "differs from the definition"),
        (leaking, LEAKS),
        (lambda attend: lambda *qkv, is_causal: attend(*qkv, is_causal=is_causal) * torch.nan, "differs"),
    ],
    ids=["no mask", "leaks", "NaN"],
)
def test_a_wrong_kernel_gives_way_to_the_definition(
    broken: Callable[..., Any],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = CONFIGS["small"]
    twins, tokens_BT = Twins.of(config, None, "cpu"), random_tokens(config, 2, 16)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(F, "scaled_dot_product_attention", broken(F.scaled_dot_product_attention))
    replaced = Twins.of(config, None, "cpu")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert problem in told
    assert relative_error(replaced.torch.logits(tokens_BT), twins.jax.logits(tokens_BT)) < 5e-6


def test_a_kernel_that_fails_gives_way_to_the_definition(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel\nand more")

    monkeypatch.setattr(F, "scaled_dot_product_attention", missing)
    config = CONFIGS["small"]
    twins, tokens_BT = Twins.of(config, None, "cpu"), random_tokens(config, 2, 16)
    assert capsys.readouterr().err == (
        "torch's fused attention is not available (no kernel) on cpu: using the plain one\n"
    )
    assert relative_error(twins.torch.logits(tokens_BT), twins.jax.logits(tokens_BT)) < 5e-6


@pytest.mark.thorough
@pytest.mark.parametrize("kernel", ["missing", "right", "leaking"])
def test_cudnns_attention_is_the_plain_one_or_not_chosen(
    kernel: str, report: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """XLA's own kernel stands in for cuDNN's, which exists on CUDA alone; all around it is the same."""
    config, of_jax = ModelConfig(5, 40, 1, 2, 16), jax.nn.dot_product_attention

    def stand_in(*qkv: jax.Array, is_causal: bool, implementation: str) -> jax.Array:
        assert implementation == "cudnn"
        return of_jax(*qkv, is_causal=is_causal and kernel == "right", implementation="xla")

    if kernel != "missing":
        monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    is_right = nanogpt_jax.kernels.fused_attention_is_right(config, "cuda", jnp.dtype("bfloat16"))
    assert is_right == (kernel == "right")
    assert capsys.readouterr().err.count("\n") == (kernel != "right")
    if kernel == "right":
        attend = nanogpt_jax.kernels.attend_fused
        actual, expected = (
            forward_and_backward("jax", a, 40, rate=0.0) for a in (attend, nanogpt_jax.model.attend)
        )
        compare(report, "jax, fused", actual, expected)


@pytest.mark.parametrize("rows", [1, 31, nanogpt_jax.kernels.FEW_ROWS, nanogpt_jax.kernels.FEW_ROWS + 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_embeddings_gradient_is_summed_in_float32(rows: int, dtype: str) -> None:
    """It is the sum rounded once, where many tokens share a row and where some row has none."""
    tokens_BT = (random_bits(1, "tokens", 0, 4000) ** 2 % rows % 7).astype(np.int32).reshape(4, 1000)
    embedding_VC, gradient_BTC = (
        jnp.asarray(normals(1, name, 0, math.prod(shape)), dtype).reshape(shape)
        for name, shape in (("embedding", (rows, 5)), ("gradient", (4, 1000, 5)))
    )
    expected_VC = np.zeros((rows, 5))
    np.add.at(expected_VC, tokens_BT, np.asarray(gradient_BTC, np.float64))

    def gradient(kind: type[nnx.Embed]) -> jax.Array:
        kernels = nanogpt_jax.model.Kernels(embedding=kind)
        graph, _ = nnx.split(nanogpt_jax.model.embedding(kernels, rows, 5, nnx.Rngs(0)))

        def act(embedding_VC: jax.Array) -> jax.Array:
            weights = nnx.from_flat_state([(("embedding",), nnx.Param(embedding_VC))])
            return nnx.merge(graph, weights)(tokens_BT)

        found_BTC, pull_back = jax.vjp(act, embedding_VC)
        np.testing.assert_array_equal(found_BTC, embedding_VC[tokens_BT])
        return pull_back(gradient_BTC)[0]

    found_VC = gradient(nanogpt_jax.kernels.SummedEmbed)
    assert found_VC.dtype == dtype
    tolerance = {"float32": 1e-6, "bfloat16": 2**-8}[dtype]
    assert relative_error(found_VC, expected_VC) < tolerance
    if dtype == "bfloat16":
        assert relative_error(gradient(nnx.Embed), expected_VC) > 4 * tolerance


def test_a_kept_block_is_its_block() -> None:
    config, kept = CONFIGS["small"], nanogpt_jax.kernels.KeptBlock
    plain, kernels = nanogpt_jax.model.Kernels(), nanogpt_jax.model.Kernels(block=kept)
    one, other = (nanogpt_jax.model.GPT(config, k, rngs=nnx.Rngs(0)) for k in (plain, kernels))
    assert isinstance(other.blocks[0], kept)
    tokens_BT = random_tokens(config, 2, 16)
    np.testing.assert_array_equal(one(tokens_BT), other(tokens_BT))
