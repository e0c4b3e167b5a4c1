"""One seed, one text: masks and choices agree bit for bit."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nanogpt_jax.dropout
import nanogpt_jax.generation
import nanogpt_torch.dropout
import nanogpt_torch.generation
from nanogpt.config import ModelConfig
from nanogpt.randomness import dropout_keys, fold_in, keep_mask, normals
from nanogpt.sampling import SamplingPolicy, sampling_uniforms
from parity_tests.twins import Twins

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
    np.testing.assert_array_equal(nanogpt_jax.dropout.keep_mask(of_jax, shape, rate), expected)
    on_device = torch.from_numpy(keys_B2.view(np.int32)).to(device)
    of_torch = nanogpt_torch.dropout.fold_in(nanogpt_torch.dropout.fold_in(on_device, 3), 1)
    mask = nanogpt_torch.dropout.keep_mask(of_torch, shape, rate)
    np.testing.assert_array_equal(mask.cpu().numpy(), expected)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_one_seed_gives_one_text(policy: SamplingPolicy, device: str) -> None:
    twins = Twins.of(CONFIG, None, device)
    # Longer than the window, so that it slides.
    prompt_BT, uniforms_BN = twins.tokens(3, 5), sampling_uniforms(1, range(3), 50)
    of_jax, of_torch = (
        np.concatenate(list(backend.generate(prompt_BT, uniforms_BN, policy)), axis=1)
        for backend in (twins.jax, twins.torch)
    )
    assert of_jax.shape == (3, 50)
    np.testing.assert_array_equal(of_jax, of_torch)


def chosen_by(
    backend: str, logits_BV: np.ndarray, uniform_B: np.ndarray, policy: SamplingPolicy
) -> np.ndarray:
    if backend == "jax":
        choose = nanogpt_jax.generation.choose_token
        return np.asarray(choose(jnp.asarray(logits_BV), jnp.asarray(uniform_B), policy))
    choose_token = nanogpt_torch.generation.choose_token
    return choose_token(torch.from_numpy(logits_BV), torch.from_numpy(uniform_B), policy).numpy()


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
