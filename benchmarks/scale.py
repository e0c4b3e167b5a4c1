"""A cost model of training GPT-2 with JAX on H100s, eight in a host: `python -m benchmarks.scale`.

Only the share of the peak that one card reaches was measured. The bytes that cards send are those of compiled
programs: tests/test_cuda_programs.py compares.
"""

from collections import Counter
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from benchmarks.cuda.cards import CARDS, CARDS_OF_A_HOST
from benchmarks.gpu_items import GPT2
from nanogpt.config import ModelConfig
from nanogpt.mesh import Mesh
from nanogpt.micro_batches import LOGITS_AT_ONCE
from nanogpt.training.hardware import flops_per_token
from nanogpt.weights import count_parameters

NVLINK = 450e9
"""Bytes a second that a card sends inside its host: half of the 900 GB/s in NVIDIA's data sheet, H100 SXM."""
NETWORK = 50e9
"""Bytes a second that it sends to other hosts: one 400 Gb/s adapter a card, as in NVIDIA's DGX H100."""
MFU = 0.398
"""Share of the peak in bfloat16: GPT-2 124M on one H100 (docs/cuda.md)."""

# The model, rows on each card, and --remat.
SIZES = {
    "124M": (GPT2, 32, False),
    "350M": (replace(GPT2, n_layer=24, n_head=16, n_embd=1024), 16, False),
    "774M": (replace(GPT2, n_layer=36, n_head=20, n_embd=1280), 8, True),
    "1.5B": (replace(GPT2, n_layer=48, n_head=25, n_embd=1600), 8, True),
}


def volumes(model: ModelConfig, mesh: Mesh, rows: int, remat: bool) -> Counter[str]:
    """Bytes that a step's collectives move, by kind, each counted with what its group has together.

    It is for a tied embedding in bfloat16, AdamW, and rows that are computed at once.
    """
    embedding = model.vocab_size * model.n_embd
    others = count_parameters(model) - embedding
    # The lookup's gradient of the embedding is summed in float32, the head's and all others in bfloat16.
    gradients = 2 * others + (2 + 4) * embedding
    if mesh.fsdp == 1:
        return Counter({"all-reduce": gradients})
    found = Counter({"all-gather": 2 * others + 4 * embedding, "reduce-scatter": gradients})
    if mesh.data > 1:
        found["all-reduce"] = gradients // mesh.fsdp
    if remat:
        found["all-gather"] += 2 * (others - model.block_size * model.n_embd) + 2 * embedding
    if remat and rows * model.block_size * model.vocab_size > LOGITS_AT_ONCE:
        # The head's weights stay where they are; activations go there on each way, and their gradients back.
        activations = 2 * mesh.fsdp * rows * model.block_size * model.n_embd
        found["all-gather"] += 2 * activations - 4 * embedding
        found["reduce-scatter"] += activations - 2 * embedding
    return found


def seconds(model: ModelConfig, mesh: Mesh, rows: int, remat: bool) -> tuple[float, float, float]:
    """Seconds of a step that go to computing, to sending inside a host, and to sending between hosts.

    Nothing is thought to overlap, so that their sum is on the safe side.
    """
    flops = rows * model.block_size * flops_per_token(model) * (4 / 3 if remat else 1)
    computing = flops / (MFU * CARDS["h100"].flops_per_second("bfloat16"))
    found = volumes(model, mesh, rows, remat) if mesh.size > 1 else Counter[str]()
    inside = (found["all-gather"] + found["reduce-scatter"]) * (mesh.fsdp - 1) / mesh.fsdp
    between = 2 * found["all-reduce"] * (mesh.data - 1) / mesh.data
    return computing, inside / NVLINK, between / NETWORK


def main() -> None:
    columns = ["cards", "mesh", "rows a card", "computing, ms", "in the host, ms", "between hosts, ms"]
    table = Table("GPT-2", *columns, "weak scaling", title="A step, by the cost model", title_justify="left")
    for name, (model, rows, remat) in SIZES.items():
        for mesh in (Mesh(), *(Mesh(hosts, CARDS_OF_A_HOST) for hosts in (1, 2, 8, 32))):
            parts = seconds(model, mesh, rows, remat)
            shown = [f"{1e3 * part:.1f}" for part in parts]
            label = f"{name}, --remat" if remat else name
            table.add_row(label, str(mesh.size), str(mesh), str(rows), *shown, f"{parts[0] / sum(parts):.0%}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
