"""MFU is relative to the peak of the card in use, and None for an unknown card."""

import pytest

from nanogpt.config import ModelConfig
from nanogpt.training.hardware import flops_per_token, model_flops_utilization

GPT2 = ModelConfig(50304, 1024, 12, 12, 768, bias=True, activation="gelu", tie_weights=True)


def test_gpt2_takes_the_flops_that_nanogpt_counts() -> None:
    """nanoGPT's estimate for 124M parameters at block 1024 is 855 million FLOPs per token."""
    assert flops_per_token(GPT2) == pytest.approx(855e6, rel=1e-2)


@pytest.mark.parametrize(
    ("card", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA H200", "tf32", 494e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("Tesla V100-SXM2-16GB", "float32", 15.7e12),
    ],
)
def test_mfu_is_of_the_right_card(card: str, dtype: str, peak: float) -> None:
    speed = 1e5
    expected = speed * flops_per_token(GPT2) / peak
    assert model_flops_utilization(GPT2, speed, card, dtype) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("card", "dtype"),
    [
        ("cpu", "float32"),
        ("NVIDIA L40", "bfloat16"),
        ("Tesla V100-SXM2-16GB", "bfloat16"),
        ("mps", "float32"),
    ],
)
def test_an_unknown_card_has_no_mfu(card: str, dtype: str) -> None:
    assert model_flops_utilization(GPT2, 1e5, card, dtype) is None
