"""JAX on a mesh of eight devices computes what it computes on one, but for the order of sums.

    JAX_NUM_CPU_DEVICES=8 pytest parity_tests/test_mesh.py

Eight cards do as well, with --device cuda.
"""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.mesh import ONE_DEVICE, Mesh
from nanogpt.sampling import SamplingPolicy, sampling_uniforms
from nanogpt.state import TrainingState
from nanogpt.training.batches import StepInputs, step_inputs
from nanogpt_jax.backend import Backend
from parity_tests.curves import gap
from parity_tests.devices import device_of, skip_without_devices
from parity_tests.report import Report
from parity_tests.test_dropout import compare_masks, expected_masks, used_masks
from parity_tests.twins import backend_of, compare_states, generic_state, random_tokens

pytestmark = pytest.mark.thorough

B, T = 16, 32
# Smooth, and with an odd vocabulary, so that the embedding is cut along its channels.
CONFIG = ModelConfig(65, T, 2, 2, 16, 0.1, 0.2, bias=True, activation="gelu", tie_weights=True)
TRAINING = TrainingConfig(batch_size=B, learning_rate=1e-3, warmup_iters=5, max_iters=200)
DATA, FSDP, BOTH = Mesh(8, 1), Mesh(1, 8), Mesh(2, 4)
CASES: dict[str, tuple[Mesh, dict[str, Any], dict[str, Any]]] = {
    "data": (DATA, {"optimizer": "muon"}, {}),
    "fsdp": (FSDP, {"optimizer": "muon"}, {}),
    "fsdp, AdamW": (FSDP, {"optimizer": "adamw"}, {}),
    "both, micro-batches": (BOTH, {"optimizer": "muon"}, {"micro_batch_size": 1}),
    "both, recomputed": (BOTH, {"optimizer": "adamw"}, {"remat": True}),
}


@pytest.fixture(autouse=True)
def _eight_devices(device: str) -> None:
    skip_without_devices(8, device_of("jax", device))


def backend(mesh: Mesh, device: str, training: TrainingConfig = TRAINING, **options: Any) -> Backend:
    options |= {"device": device_of("jax", device), "mesh": mesh}
    return Backend(CONFIG, training, generic_state(CONFIG), **options)


def batches(first: int, count: int, training: TrainingConfig = TRAINING) -> StepInputs:
    """Four batches again and again, which can be learnt."""
    steps = range(first, first + count)
    return step_inputs(lambda step: random_tokens(CONFIG, B, T + 1, step=step % 4), steps, training)


@pytest.mark.parametrize("case", CASES)
def test_a_step_from_an_equal_state_is_that_of_one_device(case: str, device: str, report: Report) -> None:
    """With dropout, of which another mask would change the loss by 1e-3."""
    mesh, recipe, options = CASES[case]
    training = replace(TRAINING, **recipe)
    one, many = (backend(m, device, training, **options) for m in (ONE_DEVICE, mesh))
    one.train(*batches(0, 2))()
    for step in range(2, 5):
        many.load(one.state())
        (tokens,), (keys,), _ = inputs = batches(step, 1)
        loss, gradients = many.gradients(tokens, keys)
        expected_loss, expected = one.gradients(tokens, keys)
        report.compare("loss, on a mesh", f"{case}, of the gradients", loss, expected_loss)
        for name in expected:
            report.compare("gradients, on a mesh", f"{name}, {case}", gradients[name], expected[name])
        report.compare("loss, on a mesh", case, many.train(*inputs)(), one.train(*inputs)())
        rows = ("weights, on a mesh", "moments, on a mesh")
        compare_states(rows, case, many.state(), one.state(), report)


@pytest.mark.slow
def test_curves_stay_as_near_as_rounding_lets_them(device: str) -> None:
    """From a run on one device, a run strays as far whose weights began one unit in the last place away."""
    training = replace(TRAINING, learning_rate=5e-3)
    start = generic_state(CONFIG)
    moved = {name: np.nextafter(w, np.float32(np.inf)) for name, w in start.weights.items()}
    one, many = (backend(mesh, device, training) for mesh in (ONE_DEVICE, BOTH))
    losses: dict[str, list[float]] = {"one": [], "moved": [], "many": []}
    runs = {"one": (one, start), "moved": (one, replace(start, weights=moved)), "many": (many, start)}
    for name, (run, state) in runs.items():
        run.load(state)
        for first in range(0, 150, 50):
            losses[name] += run.train(*batches(first, 50, training))().tolist()
    every = slice(None)
    assert 0 < gap(losses, ("one", "many"), every) <= 2 * gap(losses, ("one", "moved"), every)


@pytest.mark.parametrize("mesh", [DATA, FSDP, BOTH], ids=str)
def test_dropout_masks_are_the_same_bits(mesh: Mesh, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = used_masks("jax", 8, False, device_of("jax", device), monkeypatch, batch_size=16, mesh=mesh)
    compare_masks(masks, expected_masks(16))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [BOTH], ids=str)
def test_a_mesh_evaluates_shows_and_writes_as_one_device_does(
    mesh: Mesh, device: str, report: Report
) -> None:
    one, many = (backend(m, device) for m in (ONE_DEVICE, mesh))
    tokens_BT1 = random_tokens(CONFIG, 5, T + 1)  # rows that eight devices can't share out evenly
    report.compare("loss, on a mesh", "of each token", many.losses(tokens_BT1), one.losses(tokens_BT1))
    for quantity, method in (
        ("logits", "logits"),
        ("attention weights", "attention"),
        ("head outputs", "head_outputs"),
    ):
        actual, expected = (getattr(of, method)(tokens_BT1[:1, :-1]) for of in (many, one))
        report.compare(quantity, str(mesh), actual, expected)
    uniforms_BN = sampling_uniforms(1, [0, 1], 2 * T)  # past the window too
    texts = [
        np.concatenate([*of.generate(tokens_BT1[:2, :3], uniforms_BN, SamplingPolicy())], axis=1)
        for of in (many, one)
    ]
    np.testing.assert_array_equal(*texts)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [DATA, FSDP, BOTH], ids=str)
def test_each_device_holds_its_share(mesh: Mesh, device: str) -> None:
    """Before a step and after it: every weight and moment of this model can be cut."""
    many = backend(mesh, device)
    for _ in range(2):
        for array in jax.tree.leaves((many._weights, many._moments.mu, many._moments.nu)):
            assert len(array.sharding.device_set) == 8
            assert {shard.data.size for shard in array.addressable_shards} == {array.size // mesh.fsdp}
        many.train(*batches(0, 1))()
    tokens_MRT1, keys_MR2 = many._micro_batches(*(array[0] for array in batches(0, 1)[:2]))
    for array in (tokens_MRT1, keys_MR2):
        assert {shard.data.size for shard in array.addressable_shards} == {array.size // 8}


@pytest.mark.parametrize("other", ["another mesh", "one device", "torch"])
def test_a_state_goes_from_a_mesh_to_any_other_place(other: str, device: str) -> None:
    many = backend(BOTH, device)
    many.train(*batches(0, 3))()
    state = many.state()
    if other == "torch":
        of: Any = backend_of("torch", CONFIG, TRAINING, state, device=device)
    else:
        of = backend({"another mesh": FSDP, "one device": ONE_DEVICE}[other], device)
        of.load(state)
    same_states(of.state(), state)


def same_states(actual: TrainingState, expected: TrainingState) -> None:
    assert actual.step == expected.step
    for part in ("weights", "first_moment", "second_moment"):
        assert getattr(actual, part).keys() == getattr(expected, part).keys()
        for name, array in getattr(expected, part).items():
            np.testing.assert_array_equal(getattr(actual, part)[name], array, err_msg=name)
