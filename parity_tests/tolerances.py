"""The one table of tolerances. None is loosened in a test.

Errors are max |a - b| / max |b|: relative to the size of the tensor. A tolerance is at most ten times the
largest error measured on a CPU, in float32 unless it says bfloat16, and its reason says where it comes from.
"""

from typing import NamedTuple


class Tolerance(NamedTuple):
    error: float
    reason: str


TOLERANCES = {
    "queries, keys, values": Tolerance(5e-6, "one product over C channels, summed in another order"),
    "attention weights": Tolerance(5e-6, "a product and a softmax"),
    "head outputs": Tolerance(5e-6, "values, summed by these weights"),
    "block output": Tolerance(5e-6, "four products, two LayerNorms"),
    "logits": Tolerance(5e-6, "all blocks, then the head"),
    "loss": Tolerance(1e-6, "a mean over all tokens: errors cancel"),
    "gradients": Tolerance(1e-5, "as far back as the logits are forward"),
    "logits, bfloat16": Tolerance(4e-2, "8 bits of a number remain: 4e-3 at each of many roundings"),
    "loss, bfloat16": Tolerance(3e-3, "a mean over all tokens: errors cancel"),
    "gradients, bfloat16": Tolerance(1e-1, "as far back as the logits are forward"),
    "AdamW: weights": Tolerance(5e-7, "against float64 from the same gradients: a few roundings"),
    "AdamW: moments": Tolerance(1e-6, "against float64 from the same gradients: a few roundings"),
    "Muon: weights": Tolerance(5e-7, "against float64, which takes the singular values themselves"),
    "Muon: moments": Tolerance(1e-6, "against float64 from the same gradients: a few roundings"),
    "weights after 1 step": Tolerance(1e-6, "from moments of 0, where gradients are above Adam's epsilon"),
    "moments after 1 step": Tolerance(1e-5, "the gradients' error, doubled by the square"),
    "weights, along a run": Tolerance(1e-6, "one step from each of 200 states: Adam's past steadies it"),
    "moments, along a run": Tolerance(1e-5, "one step from each of 200 states: as after 1 step"),
    "weights after 50 steps": Tolerance(2e-5, "each step's error moves the next step's gradients"),
    "moments after 50 steps": Tolerance(2e-5, "each step's error moves the next step's gradients"),
    "losses of 50 steps": Tolerance(2e-6, "the weights' difference, seen by the loss"),
    "loss, on a mesh": Tolerance(2e-6, "against one device: rows are summed on each, then over all"),
    "gradients, on a mesh": Tolerance(5e-6, "against one device: as the loss, for each weight"),
    "weights, on a mesh": Tolerance(1e-6, "against one device, one step from an equal state"),
    "moments, on a mesh": Tolerance(5e-6, "against one device, one step from an equal state"),
    "losses of 100 steps, on a mesh": Tolerance(5e-6, "against one process: each step adds its rounding"),
}

# The quantities that are also measured of models of plain kernels, the definitions.
PLAIN = ("queries, keys, values", "attention weights", "block output", "logits", "loss", "gradients")
# Those that need several devices.
ON_A_MESH = {quantity for quantity in TOLERANCES if quantity.endswith(", on a mesh")}
# All that a verdict on a device needs, by quantity and kernels.
MEASURED = {(quantity, "fast") for quantity in TOLERANCES.keys() - ON_A_MESH} | {
    (quantity, "plain") for quantity in PLAIN
}

# A bias on the keys adds the same number to all scores of a query, which a softmax ignores: its true gradient
# is zero, and Adam turns the rounding noise that is there instead into steps of +-learning_rate. So this part
# of query_key_value.bias is left out of comparisons between weights that were trained.
KEY_BIAS = ".attention.query_key_value.bias"
