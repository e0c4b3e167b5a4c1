"""The model in the page: its weights in few bytes, and what that costs in loss."""

import base64
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from nanogpt.heads.ablation import mean_outputs
from nanogpt.heads.scores import spread_windows
from nanogpt.language_model import LanguageModel, read_checkpoint
from nanogpt.page.figures import Reading
from nanogpt.state import TrainingState
from nanogpt.text.tokenizer import CharTokenizer
from nanogpt.weights import Weights, count_parameters

MAX_PARAMETERS = 12_000_000  # a page of 16 MB, which writes about 50 characters a second (docs/live.md)
MAX_LOSS_INCREASE = 0.005  # nats that int8 may cost
WINDOWS = 64  # for the mean outputs of the heads


def obstacle(model: LanguageModel) -> str | None:
    """Why a page can't hold this model, or None."""
    if not isinstance(model.tokenizer, CharTokenizer):
        return "its tokens are not characters"
    count = count_parameters(model.config)
    if count > MAX_PARAMETERS:
        return f"it has {count:,} parameters, and {MAX_PARAMETERS:,} are the limit"
    return None


def live_model(one: Reading, validation_N: np.ndarray | None, tell: Callable[[str], None]) -> dict[str, Any]:
    """The model as JSON values, with which the page itself reads and writes (worker.js).

    The weights are in int8 if that costs at most MAX_LOSS_INCREASE on the validation text, else in float16,
    or in float32 if that costs more too; without such a text they are in float16. A head that is switched off
    has its mean output over that text, or over the page's own.
    """
    model, config = one.model, one.model.config
    weights = read_checkpoint(one.folder, model.metadata.step)[0].weights
    tokens_WT, losses, dtype = one.tokens_T[None], None, "float16"
    if validation_N is not None:
        tell("Measuring what smaller weights cost on the validation text ...")
        length = min(config.block_size, len(validation_N) - 1)
        tokens_WT = spread_windows(validation_N, length, WINDOWS)[:, :-1]
        full = model.loss(validation_N)
        for dtype in ("int8", "float16", "float32"):
            losses = [full, in_page(model, pack(weights, dtype)).loss(validation_N)]
            if losses[1] - full <= MAX_LOSS_INCREASE:
                break
    return {
        "config": asdict(config),
        "vocabulary": model.tokenizer.vocabulary,
        "dtype": dtype,
        "losses": losses,
        "weights": pack(weights, dtype),
        "means": packed_array(mean_outputs(model.backend, tokens_WT), "float32"),
    }


def in_page(model: LanguageModel, packed: dict[str, Any]) -> LanguageModel:
    """The same model with the weights that the page has."""
    weights = {
        name: np.ascontiguousarray(unpack(weight).T if name.endswith(".kernel") else unpack(weight))
        for name, weight in packed.items()
    }
    backend = type(model.backend)(
        model.config, None, TrainingState.of_weights(weights), device=model.backend.device
    )
    return LanguageModel(backend, model.config, model.tokenizer, model.metadata)


def pack(weights: Weights, dtype: str) -> dict[str, Any]:
    """Weights as JSON values, with a row for each output. Those that are no matrices stay float32."""
    return {
        name: packed_array(
            weight.T if name.endswith(".kernel") else weight, dtype if weight.ndim == 2 else "float32"
        )
        for name, weight in weights.items()
    }


def packed_array(array: np.ndarray, dtype: str) -> dict[str, Any]:
    """An array as JSON values, rounded to `dtype`; int8 has a scale for each row of a matrix."""
    packed: dict[str, Any] = {"dtype": dtype, "shape": list(array.shape)}
    if dtype == "int8":
        scales_O1 = np.abs(array).max(axis=1, keepdims=True) / np.float32(127)
        packed["scales"] = encoded(scales_O1)
        array = np.round(array / np.where(scales_O1 > 0, scales_O1, 1))
    with np.errstate(over="ignore"):  # float16 ends at 65,504: the page says that a number is not finite
        return packed | {"values": encoded(array.astype(dtype))}


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """The array that the page makes of a packed one: float32."""
    values = np.frombuffer(base64.b64decode(packed["values"]), packed["dtype"]).reshape(packed["shape"])
    array = values.astype(np.float32)
    if "scales" in packed:
        array *= np.frombuffer(base64.b64decode(packed["scales"]), np.float32)[:, None]
    return array


def encoded(array: np.ndarray) -> str:
    """Little-endian numbers, row after row, in base64."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
