"""A trained model in Python: numpy and text in, numpy and text out."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.backend import Backend
from nanogpt.checkpoint import Checkpoints
from nanogpt.choice import load_backend
from nanogpt.config import ModelConfig
from nanogpt.errors import InputError
from nanogpt.memory import require_memory
from nanogpt.metadata import Metadata
from nanogpt.sampling import checked_policy, sampling_uniforms
from nanogpt.state import TrainingState
from nanogpt.text.corpus import windows
from nanogpt.text.stop import before_end, before_stop, checked_stops
from nanogpt.text.tokenizer import Tokenizer, decode_stream, tokenizer_of

PART_TOKENS = 2**14
"""A part of an evaluation takes a CPU less than a second, so that Ctrl-C need not wait for all of it."""


class LanguageModel:
    """A model and its tokenizer. Tokens are int32; losses are in nats; everything else is float32."""

    def __init__(
        self, backend: Backend, config: ModelConfig, tokenizer: Tokenizer, metadata: Metadata
    ) -> None:
        self.backend = backend
        self.config = config
        self.tokenizer = tokenizer
        self.metadata = metadata
        """Step, evaluation, configuration and versions of the checkpoint that the model was read from."""

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Scores `[B, T, V]` of the token after each one of `[B, T]`, T <= block_size."""
        return self.backend.logits(self._checked(tokens_BT))

    def attention(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Attention weights `[L, B, H, T, T]` of every layer, head and query."""
        if self.config.n_layer == 0:
            raise InputError("a model with n_layer 0 has no attention")
        tokens_BT = self._checked(tokens_BT)
        B, T = tokens_BT.shape
        size = 4 * self.config.n_layer * B * self.config.n_head * T**2
        require_memory(f"the attention of {B} rows of {T} tokens", size)
        return self.backend.attention(tokens_BT)

    def loss(self, tokens: np.ndarray) -> float:
        """Mean loss over a text of any length `[N]`, N >= 2, in windows of block_size tokens."""
        tokens_N = np.asarray(tokens, np.int32)
        if tokens_N.ndim != 1 or len(tokens_N) < 2:
            raise InputError("a loss needs one row of at least two tokens")
        return mean_loss(self.backend, tokens_N, self.config.block_size)

    def generate(self, prompt: str = "\n", **options: Any) -> str:
        """The prompt and its continuation; options as for `stream`."""
        return prompt + "".join(self.stream(prompt, **options))

    def stream(
        self,
        prompt: str = "\n",
        *,
        max_tokens: int = 500,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 1337,
        sample: int = 0,
        stop: str | Iterable[str] = (),
    ) -> Iterator[str]:
        """The continuation of a prompt, piece by piece as it comes.

        One `seed` gives one text on both backends; `sample` numbers the texts of a seed. The continuation
        ends before the tokenizer's end token and before `stop`, which is a text or several, else after
        `max_tokens` tokens. An empty prompt is the token that begins a text.
        Raises InputError for an empty prompt without such a token, an unknown character or an option out of
        range.
        """
        policy = checked_policy(
            max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
        stops = checked_stops(stop)
        special = self.tokenizer.special_tokens
        beginning_T = np.array(special.get("bos_token_id", []), np.int32, ndmin=1)
        prompt_T = self.tokenizer.encode(prompt) if prompt else beginning_T
        if not prompt_T.size:
            raise InputError("the prompt is empty or unknown to the tokenizer: the model goes on from tokens")
        uniforms_BN = sampling_uniforms(seed, [sample], max_tokens)
        blocks = (tokens_BN[0] for tokens_BN in self.backend.generate(prompt_T[None], uniforms_BN, policy))
        blocks_to_end = before_end(blocks, special.get("eos_token_id", []))
        yield from before_stop(decode_stream(self.tokenizer, prompt_T, blocks_to_end), stops)

    def _checked(self, tokens_BT: np.ndarray) -> np.ndarray:
        tokens_BT = np.asarray(tokens_BT, np.int32)
        if tokens_BT.ndim != 2 or not 1 <= tokens_BT.shape[1] <= self.config.block_size:
            raise InputError(
                f"tokens of shape {tokens_BT.shape} do not fit: they must be [batch, 1 to "
                f"{self.config.block_size} tokens]"
            )
        if tokens_BT.size and not 0 <= tokens_BT.min() <= tokens_BT.max() < self.config.vocab_size:
            raise InputError(f"tokens must lie between 0 and {self.config.vocab_size - 1}")
        return tokens_BT


def mean_loss(backend: Backend, tokens_N: np.ndarray, block_size: int) -> float:
    """Mean loss in nats of every token of a text but its first, in non-overlapping windows."""
    losses = [*losses_in_parts(backend, tokens_N, block_size)]
    return float(np.concatenate(losses).mean(dtype=np.float64))


def losses_in_parts(backend: Backend, tokens_N: np.ndarray, block_size: int) -> Iterator[np.ndarray]:
    """Loss in nats of every token of a text but its first: `[n]` at a time, n of about PART_TOKENS."""
    tokens_WT, real_WT = windows(tokens_N, block_size)
    rows = min(len(tokens_WT), max(1, PART_TOKENS // block_size))
    missing = -len(tokens_WT) % rows  # of the last part, which is to have the shape of the others
    tokens_WT, real_WT = (np.pad(array, ((0, missing), (0, 0))) for array in (tokens_WT, real_WT))
    for start in range(0, len(tokens_WT), rows):
        part = slice(start, start + rows)
        yield backend.losses(tokens_WT[part])[real_WT[part]]


def load(
    run_directory: str | Path,
    backend: str = "auto",
    *,
    device: str = "auto",
    checkpoint: str | int = "latest",
) -> LanguageModel:
    """The model of a run: `checkpoint` is latest, best or a step. Raises InputError where there is none."""
    run_directory = Path(run_directory).expanduser()
    # Before the checkpoints, so that a jax backend still finds its GPU.
    backend_class = load_backend(backend)
    state, metadata = read_checkpoint(run_directory, checkpoint)
    config = metadata.config.model
    tokenizer = tokenizer_of(run_directory, metadata)
    return LanguageModel(backend_class(config, None, state, device=device), config, tokenizer, metadata)


def read_checkpoint(run_directory: Path, checkpoint: str | int = "latest") -> tuple[TrainingState, Metadata]:
    """A checkpoint of a run, chosen as by `load`, and its metadata."""
    if not (run_directory / "checkpoints").is_dir():
        raise InputError(f"{run_directory} holds no run: it has no folder checkpoints (training makes one)")
    checkpoints = Checkpoints(run_directory / "checkpoints", read_only=True)
    restored = checkpoints.restore(_chosen_step(checkpoints, str(checkpoint)))
    checkpoints.close()
    return restored


def _chosen_step(checkpoints: Checkpoints, wanted: str) -> int:
    steps = checkpoints.steps
    if not steps:
        raise InputError(f"{checkpoints.directory} holds no checkpoint yet")
    named = {"latest": steps[-1], "best": checkpoints.best_step} | {str(step): step for step in steps}
    step = named.get(wanted)
    if step is None:
        there = ", ".join(map(str, steps))
        raise InputError(f"there is no checkpoint {wanted!r} in {checkpoints.directory} (there are {there})")
    return step
