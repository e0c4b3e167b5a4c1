"""Peak FLOP/s of GPUs, and the share of the peak that training reaches (MFU)."""

import re

from nanogpt.config import ModelConfig
from nanogpt.weights import count_parameters

# Dense peaks in TFLOP/s, from NVIDIA's data sheet of each card, which gives twice as much for tensor cores
# "with sparsity". float32 does not use tensor cores. A row fits if CUDA's name of the card contains the row's
# name as whole words. The first row that fits counts.
PEAKS: list[tuple[str, dict[str, float]]] = [
    ("H200", {"bfloat16": 989, "tf32": 494, "float32": 67}),  # H200 Tensor Core GPU, SXM
    ("H100 PCIe", {"bfloat16": 756, "tf32": 378, "float32": 51}),  # H100 Tensor Core GPU, PCIe
    ("H100 NVL", {"bfloat16": 835, "tf32": 417, "float32": 60}),  # H100 Tensor Core GPU, NVL
    ("H100", {"bfloat16": 989, "tf32": 494, "float32": 67}),  # H100 Tensor Core GPU, SXM
    ("A100", {"bfloat16": 312, "tf32": 156, "float32": 19.5}),  # A100 Tensor Core GPU
    # The RTX 4090's are those with accumulation in float32, from the whitepaper of the Ada architecture.
    ("RTX 4090", {"bfloat16": 165.2, "tf32": 82.6, "float32": 82.6}),
    ("L40S", {"bfloat16": 362, "tf32": 183, "float32": 91.6}),  # L40S
    ("L4", {"bfloat16": 121, "tf32": 60, "float32": 30.3}),  # L4 Tensor Core GPU
    ("V100-SXM2", {"float32": 15.7}),  # V100 Tensor Core GPU, NVLink
    ("T4", {"float32": 8.1}),  # T4
]


def flops_per_token(config: ModelConfig) -> float:
    """FLOPs of a training step per token: 6 per weight, and 12 L C T for attention (PaLM, appendix B).

    Embeddings are looked up, not multiplied, and do not count. A tied embedding counts once, as the head.
    """
    looked_up = config.block_size + (0 if config.tie_weights else config.vocab_size)
    matrices = count_parameters(config) - looked_up * config.n_embd
    return 6.0 * matrices + 12.0 * config.n_layer * config.n_embd * config.block_size


def model_flops_utilization(
    config: ModelConfig, tokens_per_second: float, device_name: str, dtype: str
) -> float | None:
    """Share of the card's peak FLOP/s that this speed reaches; None for an unknown card or dtype."""
    for name, peaks in PEAKS:
        if re.search(rf"\b{name}\b", device_name) and dtype in peaks:
            return tokens_per_second * flops_per_token(config) / (peaks[dtype] * 1e12)
    return None
