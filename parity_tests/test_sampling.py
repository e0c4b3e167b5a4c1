"""The choice of a token from its logits and one random number."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nanogpt_jax.generation
import nanogpt_torch.generation
from nanogpt.randomness import normals
from nanogpt.sampling import SamplingPolicy


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
