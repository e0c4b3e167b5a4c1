"""The masks really used: taken from inside both training steps (jax compiled, torch eager), at every site."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nanogpt_jax.backend
import nanogpt_jax.dropout
import nanogpt_torch.backend
import nanogpt_torch.dropout
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.mesh import ONE_DEVICE, Mesh
from nanogpt.randomness import dropout_keys, fold_in, keep_mask
from nanogpt.state import TrainingState
from parity_tests.devices import device_of
from parity_tests.report import Report
from parity_tests.twins import Twins, thorough_except

# Windows long enough for attention in chunks.
CONFIG = ModelConfig(
    vocab_size=11, block_size=40, n_layer=2, n_head=2, n_embd=8, dropout=0.3, attention_dropout=0.2
)
B, STEPS, FIRST = 6, 3, 40
SEED = 1337
Masks = dict[tuple[int, int], np.ndarray]  # flat, by key: 1 kept, 0 dropped, -1 never asked for


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


def expected_masks(batch_size: int = B) -> Masks:
    """Mask of every step, row, layer and site by its key, from numpy alone."""
    T, C, H = CONFIG.block_size, CONFIG.n_embd, CONFIG.n_head
    masks: Masks = {}
    for step in range(FIRST, FIRST + STEPS):
        keys_B2 = dropout_keys(SEED, step, np.arange(batch_size))
        for layer in range(CONFIG.n_layer):
            for site, shape in enumerate([(H, T, T), (T, C), (T, C)]):
                site_keys_B2 = fold_in(fold_in(keys_B2, layer), site)
                rate = CONFIG.dropout if site else CONFIG.attention_dropout
                kept = keep_mask(site_keys_B2, shape, rate)
                record(masks, site_keys_B2, np.arange(kept[0].size), kept)
    return masks


def record(masks: Masks, keys_B2: np.ndarray, index: np.ndarray, kept_B: np.ndarray) -> None:
    size = CONFIG.n_head * CONFIG.block_size**2
    for key, kept in zip(np.asarray(keys_B2).view(np.uint32), np.asarray(kept_B), strict=True):
        mask = masks.setdefault((int(key[0]), int(key[1])), np.full(size, -1, np.int8))
        mask[np.asarray(index).reshape(-1)] = kept.reshape(-1)


def used_masks(
    name: str,
    rows: int,
    remat: bool,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int = B,
    mesh: Mesh = ONE_DEVICE,
) -> Masks:
    """The masks of a call of three training steps, recorded where the twin makes them, for `rows` at once."""
    masks: Masks = {}
    dropout: Any = {"jax": nanogpt_jax.dropout, "torch": nanogpt_torch.dropout}[name]
    backend: Any = {"jax": nanogpt_jax.backend, "torch": nanogpt_torch.backend}[name]
    original = dropout.keep_mask

    def of_jax(keys_B2: jax.Array, index: jax.Array, rate: float) -> jax.Array:
        assert len(keys_B2) == rows
        mask = original(keys_B2, index, rate)
        jax.debug.callback(lambda *arrays: record(masks, *arrays), keys_B2, index, mask)
        return mask

    def of_torch(keys_B2: torch.Tensor, index: torch.Tensor, rate: float) -> torch.Tensor:
        assert len(keys_B2) == rows
        mask = original(keys_B2, index, rate)
        record(masks, *(array.cpu().numpy() for array in (keys_B2, index, mask)))
        return mask

    monkeypatch.setattr(dropout, "keep_mask", {"jax": of_jax, "torch": of_torch}[name])
    training, T = TrainingConfig(batch_size=batch_size), CONFIG.block_size
    options = {"device": device, "mesh": mesh, "micro_batch_size": rows // mesh.size, "remat": remat}
    model = backend.Backend(CONFIG, training, TrainingState.initial(CONFIG, 0), **options)
    keys = np.stack([dropout_keys(SEED, FIRST + k, np.arange(batch_size)) for k in range(STEPS)])
    tokens = np.ones((STEPS, batch_size, T + 1), np.int32)
    model.train(tokens, keys, np.full(STEPS, 1e-3, np.float32))()
    jax.effects_barrier()
    return masks


@pytest.mark.parametrize("way", thorough_except([(1, True), (2, False), (6, True)], (2, False), long=True))
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_site_of_a_training_step_uses_the_numpy_mask(
    backend: str, way: tuple[int, bool], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the micro-batch, computed once or again, and however many steps a call takes."""
    masks = used_masks(backend, *way, device_of(backend, device), monkeypatch)
    expected = expected_masks()
    assert len(expected) == STEPS * B * CONFIG.n_layer * 3
    compare_masks(masks, expected)


def compare_masks(masks: Masks, expected: Masks) -> None:
    assert masks.keys() == expected.keys()
    past_TS = np.tril(np.ones((CONFIG.block_size,) * 2, bool))
    for key, mask in expected.items():
        asked = masks[key] >= 0
        np.testing.assert_array_equal(masks[key][asked], mask[asked])
        # All that is ever looked at: of the attention weights those of the past, of the others everything.
        is_attention = (mask >= 0).all()
        needed = np.tile(past_TS, (CONFIG.n_head, 1, 1)).reshape(-1) if is_attention else mask >= 0
        assert asked[needed].all()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler warns of itself
def test_compiled_torch_blocks_drop_the_same(device: str, report: Report) -> None:
    """The masks inside a compiled block can't be taken out; one wrong bit would change the gradients."""
    training = TrainingConfig(batch_size=B)
    twins = Twins.of(CONFIG, training, device)
    compiled = nanogpt_torch.backend.Backend(CONFIG, training, twins.initial, device=device, compile=True)
    batch = (twins.tokens(6, 41), dropout_keys(1, 2, np.arange(6)))
    loss, gradients = compiled.gradients(*batch)
    expected_loss, expected = twins.jax.gradients(*batch)
    report.compare("loss", "torch compiled, with dropout", loss, expected_loss)
    for name in expected:
        report.compare("gradients", f"{name}, torch compiled, with dropout", gradients[name], expected[name])
