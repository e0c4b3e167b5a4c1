"""Muon (Jordan et al. 2024): what the twins' optimizer.py share.

It moves a matrix by its momentum with all singular values set to about 1, so that no direction is learned
much faster than the others. It moves the matrices inside the blocks; all other weights are AdamW's.
"""

import math
from collections.abc import Iterable

from nanogpt.config import TrainingConfig

MOMENTUM = 0.95
RATE = 5.0
"""Muon's learning rate as a multiple of AdamW's."""
POLYNOMIAL, STEPS = (3.4445, -4.7750, 2.0315), 5
"""Coefficients of x, x^3 and x^5, and how often they are applied to the singular values of a matrix.

Five times bring those between 0.002 and 1 to between 0.68 and 1.14.
"""


def is_moved_by_muon(name: str, config: TrainingConfig) -> bool:
    """True for the matrices inside the blocks, by canonical name, where Muon is the optimizer."""
    return config.optimizer == "muon" and name.startswith("blocks.") and name.endswith(".kernel")


def alike(names: Iterable[str]) -> list[list[str]]:
    """The names of kernels, those of one place in all blocks together: they are orthogonalized at once."""
    groups: dict[str, list[str]] = {}
    for name in names:
        _, _, place = name.split(".", 2)
        groups.setdefault(place, []).append(name)
    return list(groups.values())


def pieces(name: str) -> int:
    """Matrices that stand side by side in a kernel and are moved each by itself: query, key and value."""
    return 3 if name.endswith("query_key_value.kernel") else 1


def scale(n_in: int, n_out: int) -> float:
    """Size of a move as a multiple of the rate: a matrix that widens its input moves more."""
    return math.sqrt(max(1.0, n_out / n_in))
