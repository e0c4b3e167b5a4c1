"""The model that the page computes by itself, in a real browser: the twins' numbers, and their texts."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import Chrome

from nanogpt.choice import load_backend
from nanogpt.config import ModelConfig
from nanogpt.heads.ablation import without_head
from nanogpt.page.live import pack, packed_array
from nanogpt.sampling import SamplingPolicy, sampling_uniforms
from nanogpt.weights import Weights
from parity_tests.reference import logits as judged_logits
from parity_tests.reference import loss as judged_loss
from parity_tests.report import relative_error
from parity_tests.test_generation import EDGE, POLICIES, chances, distances
from parity_tests.tolerances import TOLERANCES
from parity_tests.twins import generic_state, random_tokens
from tests.browser import needs_browser

pytest_plugins = ["tests.browser_fixtures"]
pytestmark = [needs_browser, pytest.mark.long]

CONFIGS = {
    "default": ModelConfig(dropout=0),
    "gpt2": ModelConfig(31, 13, 2, 2, 24, dropout=0, bias=True, activation="gelu", tie_weights=True),
    "bigram": ModelConfig(17, 8, 0, 1, 10, dropout=0),
}
ASK = """
const [model, wishes, changes, done] = arguments;
let source = document.getElementById("worker").textContent;
for (const [before, after] of changes) {
    if (!source.includes(before)) throw new Error(`nothing to change: ${before}`);
    source = source.replace(before, after);
}
const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
const answers = [];
let parts = [];
worker.onmessage = ({ data }) => {
    if (data.error) return done(data.error);
    parts.push(...data.parts.map(({ first, logits_TV, weights_LHTS }) => {
        return { first, logits: [...logits_TV], weights: weights_LHTS.map((weights) => [...weights]) };
    }));
    if (!data.done) return;
    answers.push({ ...data, parts: answers.length + 1 === wishes.length ? parts : parts.slice(0, 1) });
    parts = [];
    next();
};
const next = () => {
    if (answers.length < wishes.length) worker.postMessage({ id: answers.length, ...wishes[answers.length] });
    else { worker.terminate(); done(answers); }
};
worker.postMessage({ model });
next();
"""

Ask = Callable[..., Any]


@pytest.fixture
def ask(pages: dict[str, str], browser: Chrome) -> Ask:
    """Let the worker of a page answer wishes for a model; `changes` are made to its source before."""

    browser.get(pages["own text"])

    def run(model: dict[str, Any], *wishes: dict[str, Any], changes: tuple[tuple[str, str], ...] = ()) -> Any:
        return browser.execute_async_script(ASK, model, wishes, changes)

    return run


def in_float32(config: ModelConfig, weights: Weights, means: np.ndarray | None = None) -> dict[str, Any]:
    """A model as the page gives it to its worker, with weights that are not rounded."""
    means = np.zeros((config.n_layer, config.n_embd)) if means is None else means
    return {
        "config": asdict(config),
        "weights": pack(weights, "float32"),
        "means": packed_array(means, "float32"),
    }


def wish(
    tokens_T: np.ndarray, count: int = 0, policy: SamplingPolicy | None = None, off: tuple[int, ...] = ()
) -> dict[str, Any]:
    policies = {"policy": asdict(policy or SamplingPolicy()), "off": off}
    return {"prompt": tokens_T.tolist(), "count": count, "seed": 1} | policies


def errors(ask: Ask, config: ModelConfig, *changes: tuple[str, str]) -> dict[str, float]:
    """Largest errors of the worker's logits and attention, against both twins."""
    state, T = generic_state(config), min(config.block_size, 60)
    tokens_T = random_tokens(config, T)
    (answer,) = ask(in_float32(config, state.weights), wish(tokens_T), changes=changes)
    logits_TV = np.reshape(answer["parts"][0]["logits"], (T, config.vocab_size))
    weights_LHTS = np.reshape(answer["parts"][0]["weights"], (config.n_layer, config.n_head, T, T))
    found = {"logits": 0.0, "attention weights": 0.0}
    for name in ("jax", "torch"):
        backend = load_backend(name)(config, None, state, device="cpu")
        pairs = {"logits": (logits_TV, backend.logits(tokens_T[None])[0])}
        if config.n_layer:
            pairs["attention weights"] = (weights_LHTS, backend.attention(tokens_T[None])[:, 0])
        for quantity, (actual, expected) in pairs.items():
            found[quantity] = max(found[quantity], relative_error(actual, expected))
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_attention_are_those_of_both_twins(name: str, ask: Ask) -> None:
    for quantity, error in errors(ask, CONFIGS[name]).items():
        assert error <= TOLERANCES[quantity].error, quantity


BREAKS = {
    "no scale": ("score / Math.sqrt(D)", "score"),
    "a query misses itself": ("row + first + t + 1)", "row + first + Math.max(t, 1))"),
    "keys for queries": ("const [query_TC, key_TC, value_TC]", "const [key_TC, query_TC, value_TC]"),
    "another epsilon": ("variance + 1e-5", "variance + 1e-6"),
    "exact GELU": ("0.044715", "0.05"),
    "no residual": ("x_TC = sum(x_TC, this.attention", "x_TC = sum(x_TC.map(() => 0), this.attention"),
    "no norm": (".forward(this.feedForwardNorm(x_TC))", ".forward(x_TC)"),
    "positions from 1": ("(first + t) * C + c", "((first + t + 1) % 13) * C + c"),
    "a bias is lost": ("if (bias_O)", "if (false)"),
    "an output is lost": ("if (o + 2 < O)", "if (o + 3 < O)"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_mistake_in_the_script_is_noticed(name: str, ask: Ask) -> None:
    found = errors(ask, CONFIGS["gpt2"], BREAKS[name])
    assert any(error > 2 * TOLERANCES[quantity].error for quantity, error in found.items())


@pytest.mark.parametrize("name", POLICIES)
def test_one_seed_gives_one_text(name: str, ask: Ask) -> None:
    """Inside the window and beyond it, but where rounding decides: there a text may go its own way."""
    policy = POLICIES[name]
    lengths = {"gpt2": 60} | ({"default": 250} if name == "both" else {})
    for config, count in ((CONFIGS[which], count) for which, count in lengths.items()):
        state, prompt_T = generic_state(config), random_tokens(config, 5)
        (answer,) = ask(in_float32(config, state.weights), wish(prompt_T, count, policy))
        text_N = np.array(answer["tokens"])
        assert len(text_N) == 5 + count
        uniforms_BN = sampling_uniforms(1, [0], count)
        for twin in ("jax", "torch"):
            backend = load_backend(twin)(config, None, state, device="cpu")
            blocks = backend.generate(prompt_T[None], uniforms_BN, policy)
            expected_N = np.concatenate([prompt_T, *(block_BN[0] for block_BN in blocks)])
            different = np.flatnonzero(text_N != expected_N)
            if not different.size:
                continue
            n = different[0]
            window_BT = expected_N[None, max(0, n - config.block_size) : n]
            judged = chances(judged_logits(state.weights, config, window_BT)[:, -1], policy)
            assert distances(judged, uniforms_BN[:, n - 5])[0] < EDGE, f"{twin}, token {n}"


def test_what_was_read_before_is_used_again_and_changes_nothing(ask: Ask) -> None:
    """One more, one fewer, another prompt, more than the window: each answer is that of a new worker."""
    config = CONFIGS["gpt2"]
    model = in_float32(config, generic_state(config).weights)
    tokens_T = random_tokens(config, 40)
    wishes = [
        *(wish(tokens_T[:6], count) for count in (3, 4, 2, 20)),
        *(wish(tokens_T[:length], 1) for length in (5, 40, 39, 12)),
        wish(tokens_T[:6], 3, off=(1, 2)),
        wish(tokens_T[:6], 3),
    ]
    together = ask(model, *wishes)
    for one, expected in zip(together, wishes, strict=True):
        (alone,) = ask(model, expected)
        assert (one["tokens"], one["start"]) == (alone["tokens"], alone["start"])
    (alone,) = ask(model, wishes[-1])
    assert together[-1]["parts"] == alone["parts"]


def test_a_head_that_is_off_has_its_mean_output(ask: Ask) -> None:
    config = CONFIGS["gpt2"]
    D = config.n_embd // config.n_head
    weights, tokens_T = generic_state(config).weights, random_tokens(config, 10)
    means = np.linspace(-1, 1, config.n_layer * config.n_embd).reshape(config.n_layer, config.n_head, D)
    (answer,) = ask(in_float32(config, weights, means), wish(tokens_T, off=(1, 2)))
    without = without_head(without_head(weights, 0, 1, means[0, 1]), 1, 0, means[1, 0])
    expected = judged_logits(without, config, tokens_T[None])
    actual = np.reshape(answer["parts"][0]["logits"], expected.shape)
    assert relative_error(actual, expected) <= TOLERANCES["logits"].error
    losses = [judged_loss(some, config, tokens_T[None]) for some in (weights, without)]
    np.testing.assert_allclose(answer["losses"], losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blocks.0.feed_forward.expand.kernel", np.nan),
        ("token_embedding.embedding", np.inf),
        ("head.kernel", 3e38),
    ],
)
def test_hostile_weights_are_an_error(name: str, value: float, ask: Ask) -> None:
    config = ModelConfig(31, 13, 2, 2, 24, dropout=0)
    weights = generic_state(config).weights
    weights[name] = np.copysign(np.float32(value), weights[name])  # equal signs may cancel behind a LayerNorm
    told = ask(in_float32(config, weights), wish(random_tokens(config, 3)))
    too_large = "its weights are so large that its logits are not finite"
    assert told == (too_large if np.isfinite(value) else f"the weight {name} is not finite")
