"""Named configurations for `--preset`; flags override them."""

from dataclasses import replace

from nanogpt.config import Config, GPT2Size, ModelConfig, RunConfig, TrainingConfig

GPT2 = ModelConfig(block_size=1024, dropout=0.0, bias=True, activation="gelu", tie_weights=True)
GPT2_SIZES: dict[GPT2Size, tuple[int, int, int, float]] = {
    "gpt2": (12, 12, 768, 6e-4),
    "gpt2-medium": (24, 16, 1024, 3e-4),
    "gpt2-large": (36, 20, 1280, 2.5e-4),
    "gpt2-xl": (48, 25, 1600, 2e-4),
}
"""Layers, heads and channels of OpenAI's models, and GPT-3's rate for that size (Brown et al. 2020)."""


def gpt2(preset: GPT2Size) -> Config:
    """GPT-2 from nothing as nanoGPT trains it: 491,520 tokens a step, 295 billion in all.

    AdamW moves all weights: its rates at these sizes are published and its losses known; Muon's were not
    measured here. The vocabulary is as large as GPT-2's, and learnt from the text.
    """
    n_layer, n_head, n_embd, rate = GPT2_SIZES[preset]
    return Config(
        replace(GPT2, n_layer=n_layer, n_head=n_head, n_embd=n_embd),
        TrainingConfig(
            max_iters=600_000,
            optimizer="adamw",
            batch_size=480,
            learning_rate=rate,
            min_lr=rate / 10,
            warmup_iters=2_000,
            schedule="cosine",
            weight_decay=0.1,
            beta2=0.95,
            eval_interval=1_000,
        ),
        RunConfig(preset=preset, tokenizer="bpe:50257", dtype="bfloat16"),
    )


PRESETS: dict[str, Config] = {
    # The best recipe that is known for 1.23 million parameters on Tiny Shakespeare.
    "shakespeare": Config(),
    # Trains in a minute or two on two CPU cores.
    "quick": Config(
        ModelConfig(block_size=64, n_layer=2, dropout=0.0),
        TrainingConfig(max_iters=700, batch_size=64, learning_rate=8e-3, weight_decay=0.1, eval_interval=350),
        RunConfig(preset="quick"),
    ),
    # The same model as nanoGPT would train it: AdamW for all weights, a cosine, dropout everywhere. Two cores
    # take 16 rows a step for 10,000 iterations in an hour; a GPU has room for 64.
    "reference": Config(
        ModelConfig(attention_dropout=0.1),
        TrainingConfig(
            max_iters=10_000,
            optimizer="adamw",
            batch_size=16,
            learning_rate=2e-3,
            min_lr=2e-4,
            schedule="cosine",
            weight_decay=0.1,
        ),
        RunConfig(preset="reference"),
    ),
    # The simplest model: embeddings and a linear head, without attention.
    "bigram": Config(
        ModelConfig(block_size=8, n_layer=0, dropout=0.0),
        TrainingConfig(
            max_iters=3_000, optimizer="adamw", learning_rate=1e-2, weight_decay=0.1, eval_interval=500
        ),
        RunConfig(preset="bigram"),
    ),
    # For weights that --init_from brings, whose model it keeps: few small steps, at a constant rate.
    "finetune": Config(
        training=TrainingConfig(
            max_iters=200,
            optimizer="adamw",
            batch_size=8,
            learning_rate=1e-4,
            min_lr=1e-4,
            warmup_iters=0,
            weight_decay=0.1,
            eval_interval=50,
        ),
        run=RunConfig(preset="finetune"),
    ),
    **{name: gpt2(name) for name in GPT2_SIZES},
    # GPT-2 in small, for texts of about a million characters: a few minutes on two CPU cores.
    "gpt2-tiny": Config(
        replace(GPT2, block_size=128, n_layer=4, n_head=4, n_embd=128),
        TrainingConfig(max_iters=400, batch_size=16, learning_rate=8e-3, weight_decay=0.1, eval_interval=200),
        RunConfig(preset="gpt2-tiny", tokenizer="bpe:2048"),
    ),
}
