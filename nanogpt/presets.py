"""Named configurations for `--preset`; flags override them."""

from nanogpt.config import Config, ModelConfig, RunConfig, TrainingConfig

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
}
