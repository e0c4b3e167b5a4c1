"""Contents of the page: a text as read by one or two models, and the measurements of the heads."""

import base64
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.errors import InputError
from nanogpt.heads.log import excess, read_heads
from nanogpt.heads.measure import HeadReport, measure_heads
from nanogpt.language_model import LanguageModel, load, read_checkpoint
from nanogpt.page.colours import colour_maps
from nanogpt.page.figures import Reading, comparison
from nanogpt.page.live import live_model, obstacle
from nanogpt.text.corpus import Splits, load_data
from nanogpt.text.tokenizer import CharTokenizer, NoTokenizer
from nanogpt.weights import count_parameters

MAX_EVALUATIONS = 200  # points of a curve in the chart of how heads formed


def contents(
    folder: Path,
    model: LanguageModel,
    *,
    text: str | None,
    compare: str | None,
    live: bool,
    report: bool,
    device: str,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """All figures of the page as JSON values; without a `text`, it shows the start of the validation text.

    `compare` is a backend, the folder of another run or a checkpoint of this one; `live` puts the model into
    the page, if it is one that can be there; `report` measures the heads; `tell` gets progress and notices.
    Raises InputError if the text can't be read or is empty, if the second model doesn't fit, if no text is
    given and the validation text is missing, and without a `report` if the model can't be in the page.
    """
    if isinstance(model.tokenizer, NoTokenizer):
        raise InputError("this model came without a tokenizer.json: its tokens have no text to show")
    reason = obstacle(model) if live else None
    if reason and not report:
        raise InputError(f"the page can't hold this model: {reason}")
    is_live = live and not reason
    block_size = model.config.block_size
    # Half a window leaves room to write on.
    tokens_N = (
        beginning(model, -(-block_size // 2) if is_live else block_size)
        if text is None
        else model.tokenizer.encode(text)
    )
    if not len(tokens_N):
        raise InputError("the text is empty: there is nothing to show")
    notices = []
    if len(tokens_N) > block_size:
        notices.append(
            f"The model reads {block_size} tokens at most: the text shows the last of {len(tokens_N):,}."
        )
    if reason:
        tell(f"The page does not hold the model itself: {reason}.")
    one = Reading(folder, model, tokens_N[-block_size:])
    if not np.isfinite(one.log_probabilities).all():
        raise InputError("the model computes numbers that are not finite: there is nothing to show")
    figures = one.figures()
    other = other_reading(compare, one, device) if compare else None
    measurements, validation_N = None, None
    try:
        validation_N = validation_tokens(model)
        measurements = asdict(measured(one, validation_N, tell)) if report else None
    except InputError as error:
        if report:
            notices.append(f"The heads are not measured: {error}.")
    for notice in notices:
        tell(notice)
    return figures | {
        "unit": "character" if isinstance(model.tokenizer, CharTokenizer) else "token",
        "facts": facts(one),
        "notice": " ".join(notices),
        "comparison": comparison(one, other) if other else None,
        "report": measurements,
        "formation": formation(folder, model.metadata.step) if report else None,
        "maps": {name: base64.b64encode(map_.tobytes()).decode() for name, map_ in colour_maps().items()},
        "live": live_model(one, validation_N, tell) if is_live else None,
    }


def beginning(model: LanguageModel, count: int) -> np.ndarray:
    """The first `count` tokens of the validation text."""
    try:
        return validation_tokens(model)[:count]
    except InputError as error:
        raise InputError(f"{error}: give a --text") from None


def validation_tokens(model: LanguageModel) -> np.ndarray:
    """Tokens of the model's validation text: int32 `[N]`.

    Raises InputError if the text is missing or has changed since the training.
    """
    trained_on = model.metadata.data
    if trained_on is None:
        raise InputError("this model was imported and not trained here, so no text is known to be new to it")
    corpus = load_data(model.metadata.config.run.data)
    if corpus.fingerprint != trained_on:
        raise InputError(f"{corpus.name} is no longer the text that this model was trained on")
    return Splits.of(corpus, model.tokenizer, model.config.block_size).validation_tokens()


def measured(one: Reading, validation_N: np.ndarray, tell: Callable[[str], None]) -> HeadReport:
    """Report on every head. Raises InputError if the validation text is too short."""
    model = one.model
    tell(f"Measuring {model.config.n_layer * model.config.n_head} heads on the validation text ...")
    weights = read_checkpoint(one.folder, model.metadata.step)[0].weights
    texts = one.texts(np.arange(model.config.vocab_size))
    return measure_heads(model.backend, model.config, weights, validation_N, texts)


def other_reading(wanted: str, one: Reading, device: str) -> Reading:
    """The same text, read by the model that `--compare` names. Raises InputError if the two don't fit."""
    backend, step = one.model.backend.name, one.model.metadata.step
    if wanted in ("jax", "torch"):
        other = Reading(one.folder, load(one.folder, wanted, device=device, checkpoint=step), one.tokens_T)
    elif (folder := Path(wanted).expanduser()).is_dir():
        other = Reading(folder, load(folder, backend, device=device), one.tokens_T)
    elif wanted in ("latest", "best") or wanted.isdecimal():
        model = load(one.folder, backend, device=device, checkpoint=wanted)
        other = Reading(one.folder, model, one.tokens_T)
    else:
        raise InputError(
            f"--compare {wanted!r} is neither a backend (jax, torch) nor the folder of a run nor one of the "
            "run's checkpoints (latest, best or a step)"
        )
    here, there = one.model.config, other.model.config
    differences = [
        f"{name} is {getattr(here, name)} in the first and {getattr(there, name)} in the second"
        for name in ("n_layer", "n_head", "vocab_size")
        if getattr(here, name) != getattr(there, name)
    ]
    if not differences and one.pieces != other.pieces:
        differences = ["their vocabularies differ"]
    if len(one.tokens_T) > there.block_size:
        differences.append(
            f"the text has {len(one.tokens_T)} tokens, and the second model reads at most {there.block_size}"
        )
    if differences:
        raise InputError(f"{one} and {other} can't be compared: {'; '.join(differences)}")
    return other


def formation(folder: Path, last_step: int) -> dict[str, Any] | None:
    """Excess over uniform attention of each head for each detector, at the evaluations up to `last_step`.

    The shares come from `heads.jsonl`; the result is None if the run has none.
    """
    records = [record for record in read_heads(folder / "heads.jsonl") if record["step"] <= last_step]
    if not records:
        return None
    records = records[:: -(-len(records) // MAX_EVALUATIONS)]
    found = [excess(record) for record in records]
    names = [name for name in found[-1] if all(name in by_detector for by_detector in found)]
    return {
        "steps": [record["step"] for record in records],
        "excess": {name: [by_detector[name] for by_detector in found] for name in names},
    }


def facts(one: Reading) -> str:
    """One line on the model: folder, step, both backends, validation loss and number of parameters."""
    model, (folder, step, reader) = one.model, one.origin
    metrics, trainer = model.metadata.metrics, model.metadata.backend
    return " · ".join(
        [
            folder,
            step,
            f"last trained with {trainer}" if trainer else "imported",
            f"read with {reader}",
            *([f"validation loss {metrics.val_loss:.3f}"] if metrics else []),
            f"{count_parameters(model.config):,} parameters",
        ]
    )
