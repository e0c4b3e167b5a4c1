"""Named configurations for `--preset`; flags override them."""

from nanogpt.config import Config, ModelConfig, RunConfig, TrainingConfig

PRESETS: dict[str, Config] = {
    # The reference recipe: 1.23 million parameters on Tiny Shakespeare.
    "shakespeare": Config(),
    # Trains in a few minutes on two CPU cores.
    "quick": Config(
        ModelConfig(block_size=64, n_layer=3, dropout=0.0),
        TrainingConfig(max_iters=1_250, batch_size=32, learning_rate=6e-3, min_lr=6e-4),
        RunConfig(preset="quick"),
    ),
    # The simplest model: embeddings and a linear head, without attention.
    "bigram": Config(
        ModelConfig(block_size=8, n_layer=0, dropout=0.0),
        TrainingConfig(max_iters=3_000, batch_size=32, learning_rate=1e-2, eval_interval=500),
        RunConfig(preset="bigram"),
    ),
}
