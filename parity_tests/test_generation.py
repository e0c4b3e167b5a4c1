"""One seed, one text: masks agree bit for bit, and choices wherever rounding can't decide them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nanogpt_jax.backend
import nanogpt_jax.dropout
import nanogpt_jax.generation
import nanogpt_torch.backend
import nanogpt_torch.dropout
import nanogpt_torch.generation
from nanogpt.backend import Backend
from nanogpt.config import ModelConfig
from nanogpt.randomness import dropout_keys, fold_in, keep_mask, normals
from nanogpt.sampling import SamplingPolicy, sampling_uniforms, token_blocks
from parity_tests.reference import softmax
from parity_tests.twins import Report, Twins, thorough_except

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


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.5, 0.99])
def test_masks_are_the_same_bits(rate: float, device: str) -> None:
    keys_B2 = dropout_keys(1337, 12345, np.array([0, 5, 2**31]))
    shape = (4, 33, 33)
    expected = keep_mask(fold_in(fold_in(keys_B2, 3), 1), shape, rate)
    of_jax = nanogpt_jax.dropout.fold_in(nanogpt_jax.dropout.fold_in(jnp.asarray(keys_B2), 3), 1)
    jax_index = nanogpt_jax.dropout.positions(shape)
    np.testing.assert_array_equal(nanogpt_jax.dropout.keep_mask(of_jax, jax_index, rate), expected)
    on_device = torch.from_numpy(keys_B2.view(np.int32)).to(device)
    of_torch = nanogpt_torch.dropout.fold_in(nanogpt_torch.dropout.fold_in(on_device, 3), 1)
    index = nanogpt_torch.dropout.positions(shape, on_device.device)
    mask = nanogpt_torch.dropout.keep_mask(of_torch, index, rate)
    np.testing.assert_array_equal(mask.cpu().numpy(), expected)


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
    """How far each choice is from another: the next edge of the CDF, or the policy's margin: `[B]`."""
    cdf_BV, margin_B = chances
    inner_BV = np.where((cdf_BV > 0) & (cdf_BV < 1 - 1e-12), cdf_BV, np.inf)
    return np.minimum(np.abs(inner_BV - uniform_B[:, None]).min(-1), margin_B)


@pytest.mark.parametrize("name", thorough_except(POLICIES, "both"))
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
def test_texts_differ_only_at_an_edge(device: str, report: Report) -> None:
    """Of 100,000 tokens, each decided by one random number, how many can rounding decide otherwise?"""
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
def test_bfloat16_writes_a_text(backend: str, device: str) -> None:
    twins = Twins.of(CONFIG, None, device)
    of: Any = getattr(twins, backend)
    model = type(of)(CONFIG, None, twins.initial, device=of.device, dtype="bfloat16")
    text_BN = text_of(model, twins.tokens(2, 3), sampling_uniforms(1, range(2), 30), SamplingPolicy())
    assert text_BN.shape == (2, 30)
    assert (text_BN >= 0).all()
    assert (text_BN < CONFIG.vocab_size).all()
    assert len(np.unique(text_BN)) > 5


def chosen_by(
    backend: str, logits_BV: np.ndarray, uniform_B: np.ndarray, policy: SamplingPolicy
) -> np.ndarray:
    if backend == "jax":
        choose = nanogpt_jax.generation.choose_token
        return np.asarray(choose(jnp.asarray(logits_BV), jnp.asarray(uniform_B), policy))
    choose_token = nanogpt_torch.generation.choose_token
    return choose_token(torch.from_numpy(logits_BV), torch.from_numpy(uniform_B), policy).numpy()


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_choices_follow_the_probabilities(backend: str) -> None:
    logits_V = normals(1, "logits", 0, 12)
    uniform_B = ((np.arange(20_000) + 0.5) / 20_000).astype(np.float32)
    logits_BV = np.repeat(logits_V[None], len(uniform_B), axis=0)
    order = np.argsort(-logits_V)
    probabilities_V = np.exp(logits_V) / np.exp(logits_V).sum()
    kept = {
        SamplingPolicy(1.0): order,
        SamplingPolicy(1.0, top_k=3): order[:3],
        SamplingPolicy(1.0, top_p=0.6): order[: 1 + int((probabilities_V[order].cumsum() < 0.6).sum())],
    }
    for policy, tokens in kept.items():
        expected_V = np.zeros(12)
        expected_V[tokens] = probabilities_V[tokens] / probabilities_V[tokens].sum()
        counts_V = np.bincount(chosen_by(backend, logits_BV, uniform_B, policy), minlength=12)
        np.testing.assert_allclose(counts_V / len(uniform_B), expected_V, atol=2e-4)
    greedy = chosen_by(backend, logits_BV[:1], uniform_B[:1], SamplingPolicy(0.0))
    assert greedy.tolist() == [order[0]]


@pytest.mark.thorough
@settings(max_examples=50, deadline=None)
@given(
    logits=st.lists(st.sampled_from([-np.inf, -80.0, -1.0, 0.0, 0.0, 3.0]), min_size=6, max_size=6),
    uniform=st.sampled_from([0.0, 0.25, 0.5, float(np.float32(1 - 2**-24))]),
    top_k=st.none() | st.integers(1, 8),
    top_p=st.none() | st.floats(0.01, 1.0),
)
def test_an_impossible_token_is_never_chosen(
    logits: list[float], uniform: float, top_k: int | None, top_p: float | None
) -> None:
    logits_BV = np.array([[*logits, 1.0, -np.inf]], np.float32)
    policy, uniform_B = SamplingPolicy(1.0, top_k, top_p), np.array([uniform], np.float32)
    (of_jax,), (of_torch,) = (chosen_by(b, logits_BV, uniform_B, policy) for b in ("jax", "torch"))
    assert of_jax == of_torch
    assert logits_BV[0, of_jax] > -np.inf
