"""One seed, one text: masks agree bit for bit, and choices wherever rounding can't decide them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nanogpt_jax.backend
import nanogpt_jax.dropout
import nanogpt_jax.generation
import nanogpt_torch.backend
import nanogpt_torch.dropout
import nanogpt_torch.generation
from nanogpt.backend import Backend
from nanogpt.config import ModelConfig
from nanogpt.sampling import SamplingPolicy, sampling_uniforms, token_blocks
from parity_tests.reference import softmax
from parity_tests.report import Report
from parity_tests.twins import Twins, thorough_except

EDGE = 1e-5  # as near as this to another choice, rounding may take it
CONFIG = ModelConfig(vocab_size=40, block_size=16, n_layer=2, n_embd=32, dropout=0)
POLICIES = {
    "greedy": SamplingPolicy(0.0),
    "temperature": SamplingPolicy(1.2),
    "top_k": SamplingPolicy(1.0, top_k=5),
    "top_p": SamplingPolicy(0.8, top_p=0.7),
    "both": SamplingPolicy(1.0, top_k=10, top_p=0.9),
    "one": SamplingPolicy(1.0, top_k=1),
}


def text_of(
    backend: Backend, prompt_BT: np.ndarray, uniforms_BN: np.ndarray, policy: SamplingPolicy
) -> np.ndarray:
    return np.concatenate(list(backend.generate(prompt_BT, uniforms_BN, policy)), axis=1)


def chances(logits_BV: np.ndarray, policy: SamplingPolicy) -> tuple[np.ndarray, np.ndarray]:
    """The judge of sampling, in float64: the CDF `[B, V]` that a uniform number is looked up in, and how near
    each row `[B]` is to keeping another token under top_k or top_p, or, greedy, to taking another."""
    logits_BV = logits_BV.astype(np.float64) / (policy.temperature or 1)
    sorted_BV = -np.sort(-logits_BV)
    least_B1, margin_B = sorted_BV[:, -1:], np.full(len(logits_BV), np.inf)
    top_k = 1 if policy.temperature == 0 else policy.top_k
    if top_k is not None and top_k < logits_BV.shape[1]:
        least_B1 = sorted_BV[:, top_k - 1 : top_k]
        margin_B = (least_B1 - sorted_BV[:, top_k : top_k + 1])[:, 0]
    kept_BV = np.where(sorted_BV >= least_B1, sorted_BV, -np.inf)
    if policy.top_p is not None:
        probabilities_BV = softmax(kept_BV)
        before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        least_B1 = np.where(before_BV < policy.top_p, kept_BV, np.inf).min(-1, keepdims=True)
        margin_B = np.minimum(margin_B, np.abs(before_BV - policy.top_p).min(-1))
    return softmax(np.where(logits_BV >= least_B1, logits_BV, -np.inf)).cumsum(-1), margin_B


def judge(
    backend: Backend,
    prompt_BT: np.ndarray,
    text_BN: np.ndarray,
    uniforms_BN: np.ndarray,
    policy: SamplingPolicy,
) -> tuple[np.ndarray, np.ndarray]:
    """Token by token of a text: is it the judge's choice `[B, N]`, and how near was another `[B, N]`?

    The logits are those of the whole window before each token, as the definition says: no cache.
    """
    T, block_size = prompt_BT.shape[1], CONFIG.block_size
    whole_BT = np.concatenate([prompt_BT, text_BN], axis=1)
    right, distance = np.empty(text_BN.shape, bool), np.empty(text_BN.shape)
    for n in range(text_BN.shape[1]):
        window_BT = whole_BT[:, max(0, T + n - block_size) : T + n]
        length = window_BT.shape[1]
        padded_BT = np.pad(window_BT, ((0, 0), (0, block_size - length)))
        cdf_BV, margin_B = chances(backend.logits(padded_BT)[:, length - 1], policy)
        right[:, n] = (cdf_BV > uniforms_BN[:, n : n + 1]).argmax(-1) == text_BN[:, n]
        distance[:, n] = distances((cdf_BV, margin_B), uniforms_BN[:, n])
    return right, distance


def distances(chances: tuple[np.ndarray, np.ndarray], uniform_B: np.ndarray) -> np.ndarray:
    """The distance of each choice from another: the next edge of the CDF, or the policy's margin: `[B]`."""
    cdf_BV, margin_B = chances
    inner_BV = np.where((cdf_BV > 0) & (cdf_BV < 1 - 1e-12), cdf_BV, np.inf)
    return np.minimum(np.abs(inner_BV - uniform_B[:, None]).min(-1), margin_B)


@pytest.mark.parametrize("name", thorough_except(POLICIES, "both", long=True))
def test_one_seed_gives_one_text(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On both backends, with the cache and without, in a batch and alone; and the text is the judge's."""
    policy = POLICIES[name]
    twins = Twins.of(CONFIG, None, device)
    # Longer than the window, so that it slides.
    prompt_BT, uniforms_BN = twins.tokens(3, 5), sampling_uniforms(1, range(3), 50)
    expected = text_of(twins.jax, prompt_BT, uniforms_BN, policy)
    right, distance = judge(twins.jax, prompt_BT, expected, uniforms_BN, policy)
    assert distance.min() > EDGE, "this seed decides nothing: take another"
    assert right.all()
    for cached in (True, False):
        if not cached:
            for module in (nanogpt_jax.backend, nanogpt_torch.backend):
                monkeypatch.setattr(module, "token_blocks", lambda count, inside: token_blocks(count, 0))
        for backend in (twins.jax, twins.torch):
            text = text_of(backend, prompt_BT, uniforms_BN, policy)
            np.testing.assert_array_equal(text, expected, err_msg=f"{backend.name}, {cached=}")
            alone = text_of(backend, prompt_BT[1:2], uniforms_BN[1:2], policy)
            np.testing.assert_array_equal(alone, expected[1:2], err_msg=f"{backend.name} alone, {cached=}")


@pytest.mark.thorough
@pytest.mark.long
def test_texts_differ_only_at_an_edge(device: str, report: Report) -> None:
    """Rounding can decide otherwise for few of 100,000 tokens, each decided by one random number."""
    config = ModelConfig(vocab_size=65, block_size=251, n_layer=2, n_embd=32, dropout=0)
    policy, B, N = SamplingPolicy(0.8), 400, 250
    twins = Twins.of(config, None, device)
    prompt_BT, uniforms_BN = twins.tokens(B, 1), sampling_uniforms(3, range(B), N)
    texts = [text_of(backend, prompt_BT, uniforms_BN, policy) for backend in (twins.jax, twins.torch)]
    whole_BN = np.concatenate([prompt_BT, texts[0]], axis=1)[:, :N]
    distance_BN = np.empty((B, N))
    for rows in np.split(np.arange(B), 8):
        logits_MV = twins.jax.logits(whole_BN[rows]).reshape(-1, 65)
        judged = distances(chances(logits_MV, policy), uniforms_BN[rows].reshape(-1))
        distance_BN[rows] = judged.reshape(-1, N)
    differs_BN = texts[0] != texts[1]
    different = np.flatnonzero(differs_BN.any(axis=1))
    assert (distance_BN[different, differs_BN[different].argmax(axis=1)] < EDGE).all()
    report.notes.append(
        f"{B * N:,} tokens sampled by both: {(distance_BN < EDGE).sum()} within {EDGE:g} of an edge; "
        f"{len(different)} of {B} texts differ, from such a token on"
    )


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_logits_with_the_cache_are_those_without(backend: str, device: str, report: Report) -> None:
    """At every position, whether positions come one at a time or several at once."""
    twins = Twins.of(CONFIG, None, device)
    of: Any = getattr(twins, backend)
    generation: Any = {"jax": nanogpt_jax.generation, "torch": nanogpt_torch.generation}[backend]
    tokens_BT = twins.tokens(2, CONFIG.block_size)
    expected_BTV = of.logits(tokens_BT)
    filled = 5
    with torch.inference_mode():
        if backend == "jax":
            on_device = jnp.asarray(tokens_BT)
            caches = generation.prefill(of.model, CONFIG, on_device, filled)
        else:
            on_device = torch.from_numpy(tokens_BT).long().to(of.device)
            caches = generation.prefill(of.model, CONFIG, on_device[:, :filled])
        for first, stop in [(5, 6), (6, 7), (7, 10), (10, 11), (11, 16)]:
            x_BTC = generation.forward_cached(of.model, on_device[:, first:stop], first, caches)
            logits_BTV = of.model.unembed(x_BTC)
            actual = np.asarray(logits_BTV if backend == "jax" else logits_BTV.cpu())
            report.compare("logits", f"{backend}, cached", actual, expected_BTV[:, first:stop])


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_bfloat16_writes_what_its_logits_say(backend: str, device: str) -> None:
    """Each token is the judge's choice from the logits in bfloat16, unless rounding could decide otherwise.

    The cache and the whole window round differently: tokens that the judge would not choose lay within 0.005
    of an edge. A sampler that ignores the logits is right once in 40 tokens.
    """
    twins = Twins.of(CONFIG, None, device, dtype="bfloat16")
    model = getattr(twins, backend)
    prompt_BT, uniforms_BN = twins.tokens(8, 3), sampling_uniforms(1, range(8), 30)
    for policy in (SamplingPolicy(0.0), SamplingPolicy(0.3)):
        text_BN = text_of(model, prompt_BT, uniforms_BN, policy)
        right, distance = judge(model, prompt_BT, text_BN, uniforms_BN, policy)
        assert right[distance > 0.03].all()
        assert (distance > 0.03).mean() > 0.5, "most tokens are near an edge: take another seed"
        assert right.mean() > 0.9
