"""Random numbers are functions of (seed, stream, step, position), the same everywhere and for ever."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.randomness import dropout_keys, fold_in, keep_mask, mix, normals, random_bits, uniforms


def test_the_numbers_never_change() -> None:
    """These were written down once. A run begun long ago must find them again."""
    assert random_bits(1337, "batches", 7, 2).tolist() == WORDS
    assert uniforms(1, "sampling", 0, 2).tolist() == UNIFORMS
    assert normals(1, "weights/head.kernel", 0, 3).tolist() == pytest.approx(NORMALS, rel=1e-6)
    assert dropout_keys(1337, 7, np.array([0, 63])).tolist() == KEYS
    keys_B2 = fold_in(dropout_keys(1337, 7, np.array([5])), 2)
    assert np.packbits(keep_mask(keys_B2, (4, 16), 0.2)).tobytes().hex() == MASK


WORDS = [10878870821067958396, 5253473280396419913]
UNIFORMS = [0.5735523700714111, 0.7527347207069397]
NORMALS = [0.604060829, 0.310478657, 0.399528354]
KEYS = [[1676172143, 375065186], [3777932758, 3144664976]]
MASK = "5cffff5cfffffd6f"


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**20), st.integers(0, 50), st.integers(0, 50))
def test_a_longer_row_begins_with_the_shorter_one(seed: int, step: int, short: int, more: int) -> None:
    row = random_bits(seed, "stream", step, short + more)
    np.testing.assert_array_equal(random_bits(seed, "stream", step, short), row[:short])


def test_streams_steps_and_seeds_are_independent() -> None:
    rows = [
        uniforms(seed, stream, step, 4_000)
        for seed in (0, 1)
        for stream in ("batches", "sampling")
        for step in (0, 1)
    ]
    correlations = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlations).max() < 5 / np.sqrt(4_000)


def test_uniforms_and_normals_have_their_moments() -> None:
    uniform, normal = uniforms(3, "u", 0, 100_001), normals(3, "n", 0, 100_001)
    assert uniform.dtype == normal.dtype == np.float32
    assert 0 <= uniform.min() < uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.005)
    assert normal.mean() == pytest.approx(0, abs=0.02)
    assert normal.std() == pytest.approx(1, abs=0.01)
    assert (normal**4).mean() == pytest.approx(3, abs=0.15)


def test_mix_is_a_bijection_that_flips_half_the_bits() -> None:
    inputs = np.arange(2**16, dtype=np.uint32)
    assert len(np.unique(mix(inputs))) == len(inputs)
    for bit in range(32):
        changed = mix(inputs) ^ mix(inputs ^ np.uint32(1 << bit))
        flipped = np.unpackbits(changed.view(np.uint8)).mean()
        assert flipped == pytest.approx(0.5, abs=0.05), bit


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.5, 0.9])
def test_dropout_keeps_its_share(rate: float) -> None:
    keep = keep_mask(dropout_keys(1, 2, np.arange(16)), (8, 64, 64), rate)
    deviation = np.sqrt(rate * (1 - rate) / keep.size)
    assert abs(keep.mean() - (1 - rate)) <= 5 * deviation


def test_masks_of_seeds_steps_sites_and_rows_are_independent() -> None:
    masks = []
    for seed in (0, 1, 2, 3):
        for step in (0, 1, 2, 1000):
            keys_B2 = dropout_keys(seed, step, np.array([0, 1, 63]))
            for layer in (0, 1):
                for site in (0, 1, 2):
                    masks += list(keep_mask(fold_in(fold_in(keys_B2, layer), site), (4096,), 0.5))
    signs = np.array(masks, np.float32) * 2 - 1
    correlations = signs @ signs.T / 4096 - np.eye(len(signs))
    pairs = len(signs) * (len(signs) - 1) / 2
    # The largest of so many independent pairs lies near sqrt(2 ln pairs) deviations.
    assert np.abs(correlations).max() < (np.sqrt(2 * np.log(pairs)) + 1.5) / np.sqrt(4096)
    for shift in (1, 2, 16, 64, 256):
        shifted = (signs[:, shift:] * signs[:, :-shift]).mean(1)
        assert np.abs(shifted).max() < 5 / np.sqrt(4096 - shift), f"neighbours {shift} apart"


def test_any_step_has_keys() -> None:
    """After 2**32 steps they begin anew; random bits never do."""
    rows_B = np.arange(3)
    assert (dropout_keys(5, 2**40 + 9, rows_B) == dropout_keys(5, 9, rows_B)).all()
    assert (random_bits(5, "batches", 2**40 + 9, 3) != random_bits(5, "batches", 9, 3)).all()


def test_a_mask_belongs_to_the_row_not_to_the_batch() -> None:
    whole = keep_mask(fold_in(dropout_keys(5, 9, np.arange(8)), 1), (3, 7), 0.3)
    part = keep_mask(fold_in(dropout_keys(5, 9, np.arange(4, 8)), 1), (3, 7), 0.3)
    np.testing.assert_array_equal(whole[4:], part)
