"""Optimizer steps from one state, dropout on."""

from dataclasses import replace

import numpy as np
import pytest

from nanogpt.config import ModelConfig, TrainingConfig, learning_rate_at
from nanogpt.state import TrainingState
from nanogpt.training.batches import StepInputs, step_inputs
from parity_tests import reference
from parity_tests.report import Report
from parity_tests.twins import Twins, batch_off_the_kink, compare_states, thorough_except

TRAINING = TrainingConfig(batch_size=6, learning_rate=1e-3, warmup_iters=5, max_iters=100)
CONFIGS = {
    "small": ModelConfig(
        vocab_size=17, block_size=16, n_layer=2, n_embd=32, dropout=0.2, attention_dropout=0.1
    ),
    # Smooth: over many steps some ReLU unit comes to its kink, where rounding decides its derivative.
    "gpt2": ModelConfig(31, 9, 3, 2, 24, 0.1, 0.2, bias=True, activation="gelu", tie_weights=True),
}

CASES = [("gpt2", "muon"), ("gpt2", "adamw"), ("small", "muon")]


@pytest.fixture(scope="module", params=thorough_except(CASES, *CASES[:2]), ids=" ".join)
def twins(request: pytest.FixtureRequest, device: str) -> Twins:
    config, optimizer = request.param
    return Twins.of(CONFIGS[config], replace(TRAINING, optimizer=optimizer), device)


def batches(twins: Twins, first: int, count: int) -> StepInputs:
    shape = (TRAINING.batch_size, twins.config.block_size + 1)
    return step_inputs(lambda step: twins.tokens(*shape, step=step), range(first, first + count), TRAINING)


def test_gradients_agree_with_dropout(twins: Twins, report: Report) -> None:
    twins.reset()
    (tokens,), (keys,), _ = batches(twins, 0, 1)
    loss, gradients = twins.torch.gradients(tokens, keys)
    expected_loss, expected = twins.jax.gradients(tokens, keys)
    plain_loss, _ = twins.jax.gradients(tokens, np.zeros_like(keys))
    assert abs(plain_loss - expected_loss) > 1e-3, "dropout changed nothing"
    report.compare("loss", "with dropout", loss, expected_loss)
    for name in expected:
        report.compare("gradients", f"{name}, with dropout", gradients[name], expected[name])


@pytest.mark.long
@pytest.mark.parametrize("states", thorough_except([20, 200], 20))
def test_steps_from_states_along_a_run_agree(twins: Twins, states: int, report: Report) -> None:
    """At every state of a run the other twin, given that state, does the same.

    Not at the first one: with moments of 0, AdamW moves a weight by learning_rate * gradient / |gradient|,
    and a gradient that is rounding noise has either sign. That step has a row of its own.
    """
    twins.reset()
    twins.jax.train(*batches(twins, 0, 1))()
    for step in range(1, states + 1):
        state = twins.jax.state()
        twins.torch.load(state)
        tokens, keys = batch_off_the_kink(twins, state.weights, TRAINING.batch_size, step)
        judged = reference.loss(state.weights, twins.config, tokens, keys)
        gradients, where = {}, f"at step {step}"
        for backend in (twins.jax, twins.torch):
            loss, gradients[backend.name] = backend.gradients(tokens, keys)
            report.compare("loss", f"{backend.name} against float64, {where}", loss, judged)
            rate = np.array([learning_rate_at(step, TRAINING)], np.float32)
            backend.train(tokens[None], keys[None], rate)()
        for name, expected in gradients["jax"].items():
            report.compare("gradients", f"{name}, {where}", gradients["torch"][name], expected)
        rows = ("weights, along a run", "moments, along a run")
        compare_states(rows, where, twins.torch.state(), twins.jax.state(), report)


@pytest.mark.parametrize("first", [0, 3])
def test_a_step_is_the_judges(twins: Twins, first: int, report: Report) -> None:
    """From the same state, at the start and later, each twin takes the step of the float64 judge."""
    twins.reset()
    if first:
        twins.jax.train(*batches(twins, 0, first))()
    start, name = twins.jax.state(), {"adamw": "AdamW", "muon": "Muon"}[twins.training.optimizer]
    tokens, keys, rates = batches(twins, first, 1)
    start_of_step, settings = (start.weights, start.first_moment, start.second_moment), (first + 1, rates[0])
    for backend in (twins.jax, twins.torch):
        backend.load(start)
        _, gradients = backend.gradients(tokens[0], keys[0])
        backend.train(tokens, keys, rates)()
        state = backend.state()
        judged = reference.optimizer_step(*start_of_step, gradients, *settings, twins.training)
        # The program of a step may round the gradient otherwise than the one that returns it, and where it is
        # about epsilon, AdamW makes much of that. So the weights are held to the gradient of the step itself,
        # which its first moment tells.
        decay = {
            name: 0.95 if name not in state.second_moment else twins.training.beta1 for name in gradients
        }
        clipped = {
            name: (state.first_moment[name].astype(np.float64) - d * start.first_moment[name]) / (1 - d)
            for name, d in decay.items()
        }
        unclipping = replace(twins.training, grad_clip=0.0)
        weights, *_ = reference.optimizer_step(*start_of_step, clipped, *settings, unclipping)
        expected = type(state)(start.step + 1, weights, *judged[1:])
        compare_states((f"{name}: weights", f"{name}: moments"), backend.name, state, expected, report)


def test_one_step_from_equal_states_agrees(twins: Twins, report: Report) -> None:
    """Muon's weights, and AdamW's where the gradient is clearly more than its epsilon, 1e-8.

    With moments of 0 a weight moves by learning_rate * gradient / (|gradient| + epsilon): where the gradient
    is about epsilon, its rounding decides. There, each twin is held to its own gradient by the test above.
    """
    twins.reset()
    tokens, keys, rates = batches(twins, 0, 1)
    for backend in (twins.jax, twins.torch):
        backend.train(tokens, keys, rates)()
    actual, expected = twins.torch.state(), twins.jax.state()
    weights = dict(actual.weights)
    for name in expected.second_moment:
        first_moment = expected.first_moment[name]
        is_clear = np.abs(first_moment) / (1 - TRAINING.beta1) > 1e-6
        assert is_clear.mean() > 0.9 or name.endswith(".bias"), name
        weights[name] = np.where(is_clear, actual.weights[name], expected.weights[name])
    rows = ("weights after 1 step", "moments after 1 step")
    compare_states(rows, "torch against jax", replace(actual, weights=weights), expected, report)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_fifty_steps_agree(optimizer: str, device: str, report: Report) -> None:
    twins = Twins.of(CONFIGS["gpt2"], replace(TRAINING, optimizer=optimizer), device)
    twins.reset(TrainingState.initial(twins.config, seed=3))
    losses = {backend.name: backend.train(*batches(twins, 0, 50))() for backend in (twins.jax, twins.torch)}
    report.compare("losses of 50 steps", "torch against jax", losses["torch"], losses["jax"])
    rows = ("weights after 50 steps", "moments after 50 steps")
    compare_states(rows, "torch against jax", twins.torch.state(), twins.jax.state(), report)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_steps_do_not_depend_on_how_they_are_dispatched(twins: Twins, backend: str) -> None:
    """20 steps in one call equal 7 + 13 to the last bit, so a run may be stopped anywhere."""
    of = getattr(twins, backend)
    states = []
    for lengths in ((20,), (7, 13)):
        twins.reset()
        first = 0
        for length in lengths:
            of.train(*batches(twins, first, length))
            first += length
        states.append(of.state())
    assert states[0].step == states[1].step == 20
    for part in ("weights", "first_moment", "second_moment"):
        for name, expected in getattr(states[0], part).items():
            np.testing.assert_array_equal(
                getattr(states[1], part)[name], expected, err_msg=f"{part} of {name}"
            )
