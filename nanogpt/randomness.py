"""Every random number of a run, as a pure function of (seed, stream, step, position).

The contract: nothing here has a state, so a checkpoint needs no more than (seed, step), and one seed gives
both backends the same numbers.

    weights_N = normals(1337, "weights/head.kernel", 0, 8320)
    keys_B2 = dropout_keys(1337, step, np.arange(64))
    kept_BTC = keep_mask(fold_in(fold_in(keys_B2, layer), site), (256, 128), rate=0.1)

On the host the bits come from Philox (Salmon et al. 2011): numpy promises to keep its raw output, but not its
distributions, so the few that we need are written here. Dropout needs too many numbers for the host: inside
the compiled step each twin hashes the position of an element with a key made here. The twins must equal the
numpy functions `mix`, `fold_in` and `keep_mask` bit for bit.
"""

import hashlib

import numpy as np


def random_bits(seed: int, stream: str, step: int, count: int) -> np.ndarray:
    """Uniform 64-bit numbers: uint64 `[count]`. A longer row begins with the shorter one."""
    stream_id = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "little")
    philox = np.random.Philox(
        key=np.array([seed, stream_id], np.uint64), counter=np.array([0, step, 0, 0], np.uint64)
    )
    return philox.random_raw(count)


def uniforms(seed: int, stream: str, step: int, count: int) -> np.ndarray:
    """Numbers in [0, 1) with 24 random bits, exact in float32: float32 `[count]`."""
    return (random_bits(seed, stream, step, count) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def normals(seed: int, stream: str, step: int, count: int) -> np.ndarray:
    """Standard normal numbers by Box and Muller's (1958) transform: float32 `[count]`."""
    half = (count + 1) // 2
    # 53 bits and a half step, so that the logarithm never sees 0.
    uniform = ((random_bits(seed, stream, step, 2 * half) >> np.uint64(11)).astype(np.float64) + 0.5) * 2**-53
    radius, angle = np.sqrt(-2 * np.log(uniform[:half])), 2 * np.pi * uniform[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count].astype(np.float32)


def mix(bits: np.ndarray) -> np.ndarray:
    """A bijection of uint32 that flips half the bits when one changes (lowbias32, Wellons 2018)."""
    bits = bits ^ (bits >> 16)
    bits = bits * np.uint32(0x7FEB352D)
    bits = bits ^ (bits >> 15)
    bits = bits * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def dropout_keys(seed: int, step: int, rows_B: np.ndarray) -> np.ndarray:
    """Dropout keys of one training step: uint32 `[B, 2]`, one for each global row of the batch.

    A row's key, and so its mask, depends on neither the micro-batch nor the device that computes it.
    """
    keys_12 = mix(np.array([[0x9E3779B9, 0x85EBCA6B]], np.uint32) ^ np.uint32(seed))
    keys_12 = mix(keys_12 ^ np.uint32(step % 2**32))
    return mix(keys_12 ^ rows_B.astype(np.uint32)[:, None])


def fold_in(keys_B2: np.ndarray, number: int) -> np.ndarray:
    """Keys for part `number` of a model (a layer) or of a layer (a site), from its keys: uint32 `[B, 2]`."""
    # Without the constant, part 0 would be a plain re-mix, and part 1 of a layer like part 1 of the model.
    return mix(keys_B2 * np.uint32(0x9E3779B1) + np.uint32(number + 1))


def keep_mask(keys_B2: np.ndarray, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """The elements that dropout keeps: bool `[B, *shape]`, each true with probability 1 - rate.

    It hashes twice, each time with its own half of the key: after one round, the masks of two keys would be
    the same numbers in another order.
    """
    index = np.arange(np.prod(shape, dtype=np.int64)).astype(np.uint32).reshape(1, *shape)
    first_B, second_B = (keys_B2[:, half].reshape(-1, *[1] * len(shape)) for half in range(2))
    bits = mix(mix(index ^ first_B) + second_B)
    return bits.view(np.int32) >= keep_threshold(rate)


def keep_threshold(rate: float) -> int:
    """The least hash, read as a signed 32-bit number, that keeps an element."""
    return min(round(rate * 2**32), 2**32 - 1) - 2**31
