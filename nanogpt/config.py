"""Every choice of a run, as frozen dataclasses: checked once, saved with the run, shown as flags."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nanogpt.errors import InputError
from nanogpt.mesh import parsed_mesh

GPT2Size = Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
Preset = Literal["shakespeare", "quick", "reference", "bigram", "finetune", "gpt2-tiny", GPT2Size]
MAX_LAYERS = 10_000
MAX_FLOAT = 1e38  # float32 ends at 3.4e38


@dataclass(frozen=True)
class ModelConfig:
    """The architecture: all but the dropout decides the weights' names and shapes, and is fixed for a run."""

    vocab_size: int = 65
    """V: tokens the model knows; comes with the tokenizer."""
    block_size: int = 256
    """T: tokens the model looks back on."""
    n_layer: int = 6
    """L: blocks of attention and feed-forward; 0 leaves the bigram-like start without attention."""
    n_head: int = 4
    """H: attention heads of a block."""
    n_embd: int = 128
    """C: channels of the residual stream; a multiple of n_head."""
    dropout: float = 0.1
    """Share of the sublayers' outputs dropped in training."""
    attention_dropout: float = 0.0
    """Share of the attention weights dropped in training; at 0, a fused kernel may compute."""
    bias: bool = False
    """Biases in the linear layers and LayerNorms of the blocks (GPT-2 has them)."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation of the feed-forward network; gelu is the tanh form (GPT-2's)."""
    tie_weights: bool = False
    """The head reuses the token embedding (GPT-2 does)."""

    def __post_init__(self) -> None:
        _typed(self)
        _at_least(self, 1, "vocab_size", "block_size", "n_head", "n_embd")
        _at_least(self, 0, "n_layer")
        _fraction(self, "dropout", "attention_dropout")
        if self.n_layer > MAX_LAYERS:
            raise InputError(f"n_layer {self.n_layer} is out of range: it must be at most {MAX_LAYERS:,}")
        if self.n_embd % self.n_head:
            raise InputError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe: all of it may change when a run is resumed."""

    max_iters: int = 5_000
    """Optimizer steps of the whole run."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon for the blocks' matrices and AdamW for the rest, or adamw for all."""
    batch_size: int = 32
    """B: windows of block_size tokens in a step."""
    learning_rate: float = 4e-3
    """AdamW's peak, reached after warmup_iters steps; Muon's is five times as high."""
    min_lr: float = 0.0
    """The rate at max_iters, where the schedule ends."""
    warmup_iters: int = 100
    """Steps of linear warm-up."""
    schedule: Literal["linear", "cosine"] = "linear"
    """The way of the rate from its peak to min_lr."""
    weight_decay: float = 0.3
    """Decay of matrices (not of biases and LayerNorms), scaled by the rate."""
    beta1: float = 0.9
    """AdamW's decay of the gradient's mean."""
    beta2: float = 0.99
    """AdamW's decay of the gradient's mean square."""
    grad_clip: float = 1.0
    """Largest global norm of the gradient; 0 turns clipping off."""
    eval_interval: int = 250
    """Steps between evaluations; each one saves a checkpoint."""
    log_interval: int = 10
    """Steps between lines of the log."""
    seed: int = 1337
    """It decides every random number: weights, batches, dropout."""

    def __post_init__(self) -> None:
        _typed(self)
        _at_least(self, 1, "max_iters", "batch_size", "eval_interval", "log_interval")
        _at_least(self, 0, "warmup_iters", "seed")
        _at_least(self, 0.0, "learning_rate", "min_lr", "weight_decay", "grad_clip")
        _fraction(self, "beta1", "beta2")
        if self.seed >= 2**32:
            raise InputError(f"seed {self.seed} is too large: it must be below 2**32")
        if self.min_lr > self.learning_rate:
            raise InputError(
                f"min_lr {self.min_lr:g} is above learning_rate {self.learning_rate:g}: lower it too"
            )

    def is_evaluated(self, step: int) -> bool:
        """True every eval_interval steps, and at the end."""
        return step % self.eval_interval == 0 or step == self.max_iters


@dataclass(frozen=True)
class RunConfig:
    """The data, the backend and the device of a run."""

    preset: Preset = "shakespeare"
    """The best recipe, two minutes on two cores, AdamW alone, a first step, one for --init_from, or GPT-2."""
    init_from: str = ""
    """A run, or a GPT-2 folder of transformers: a new run begins with its weights and its tokenizer."""
    data: str = "auto"
    """auto, shakespeare, python (the standard library's source), a text, or a folder of texts or tokens."""
    tokenizer: str = "char"
    """char, bytes, bpe:8192 (learnt from the text; any size), or a tokenizer.json; a run keeps its first."""
    backend: Literal["auto", "jax", "torch"] = "auto"
    """auto takes torch on a Mac with MPS, else jax."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    mesh: str = "auto"
    """The devices that jax trains on, like data=4,fsdp=2 (fsdp shares weights out); auto takes all it can."""
    dtype: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Type of the computation; weights stay float32. tf32 lets CUDA's matmuls use TF32, float32 does not."""
    micro_batch_size: int | Literal["auto"] = "auto"
    """At most so many rows are computed on a device at once, with the same result; auto goes by memory."""
    remat: bool = False
    """Keep less for the backward pass and compute it again: less memory, a third more work."""
    compile: bool = False
    """torch.compile the blocks of the torch model; jax always compiles."""

    def __post_init__(self) -> None:
        _typed(self)
        if not self.data:
            raise InputError("data '' names no text: take auto, shakespeare, python, a file or a folder")
        if self.micro_batch_size != "auto":
            _at_least(self, 1, "micro_batch_size")
        if self.mesh != "auto":
            parsed_mesh(self.mesh)
        if not self.tokenizer:
            raise InputError("tokenizer '' names none: take char, bytes, bpe:8192 or a tokenizer.json")


@dataclass(frozen=True)
class Config:
    """One run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The inverse of `dataclasses.asdict`. A field that an older version lacks gets its meaning."""
        model, training = values["model"], values["training"]
        if "dropout" in model:
            model = {"attention_dropout": model["dropout"]} | model
        training = {"optimizer": "adamw", "schedule": "cosine"} | training
        return cls(ModelConfig(**model), TrainingConfig(**training), RunConfig(**values["run"]))


def configured(config: Config, settings: Mapping[str, Any]) -> Config:
    """`config` with other values for the named settings. Raises InputError for an unknown name."""
    known = {name: part for part, values in vars(config).items() for name in vars(values)}
    del known["vocab_size"]  # comes with the data
    changes: dict[str, dict[str, Any]] = {part: {} for part in vars(config)}
    for name, value in settings.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise InputError(
                f"there is no setting {name!r}" + "".join(f": is it {other!r}?" for other in near)
            )
        changes[known[name]][name] = value
    # All at once: settings that are checked together may change together.
    return Config(**{part: replace(values, **changes[part]) for part, values in vars(config).items()})


def differences(old: Any, new: Any) -> list[str]:
    """`name: old -> new` for every field of two configurations of one class that differs."""
    return [
        f"{item.name}: {getattr(old, item.name)} -> {getattr(new, item.name)}"
        for item in fields(old)
        if getattr(old, item.name) != getattr(new, item.name)
    ]


def fixed_differences(old: ModelConfig, new: ModelConfig) -> list[str]:
    """The differences between two models that make the weights of one useless to the other."""
    same_dropout = replace(new, dropout=old.dropout, attention_dropout=old.attention_dropout)
    return differences(old, same_dropout)


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Rate of the update from `step` to `step + 1`: a warm-up, then a line or half a cosine to min_lr."""
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / config.warmup_iters
    progress = min(1.0, (step - config.warmup_iters) / max(1, config.max_iters - config.warmup_iters))
    left = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr + left * (config.learning_rate - config.min_lr)


def _typed(config: Any) -> None:
    """Raises InputError for a value of another type than its field's, or too large: a file may hold any."""
    numbers_of = {int: Integral, float: Real}
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Union:  # a number or a word
            kind, words = get_args(kind)
            if value in get_args(words):
                continue
        if choices := get_args(kind):
            if value not in choices:
                raise InputError(f"{name} {value!r:.40} is none of {', '.join(choices)}")
            continue
        if not isinstance(value, numbers_of.get(kind, kind)) or isinstance(value, bool) != (kind is bool):
            raise InputError(f"{name} {value!r:.40} must be of type {kind.__name__}")
        if isinstance(value, Integral) and abs(int(value)) >= 2**63:
            raise InputError(f"{name} is out of range: it must be below 2**63")
        if kind is float and abs(value) > MAX_FLOAT:
            raise InputError(f"{name} {value:g} is out of range: it must be at most {MAX_FLOAT:g}")


def _at_least(config: Any, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= least):
            raise InputError(f"{name} {value} is out of range: it must be at least {least:g}")


def _fraction(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise InputError(f"{name} {value} is out of range: it must be at least 0 and below 1")
