"""Helpers for tests of the attention page: making a page, and reading its figures."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.cli.visualize import visualize_main
from nanogpt.config import Config, ModelConfig
from nanogpt.language_model import LanguageModel
from nanogpt.metadata import Metadata
from nanogpt.state import TrainingState
from nanogpt.text.tokenizer import CharTokenizer
from nanogpt_torch.backend import Backend


def figures_of(file: Path | str) -> dict[str, Any]:
    """The figures in the file of a page."""
    content = Path(file).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', content, flags=re.S)
    assert found
    return json.loads(found[1])


def unpacked(figures: dict[str, Any], triangles: str) -> np.ndarray:
    """Bytes of triangles as uint8 `[L, H, T, T]`, zero above the diagonal."""
    T = len(figures["pieces"])
    codes = np.zeros((figures["layers"], figures["heads"], T, T), np.uint8)
    codes[..., *np.tril_indices(T)] = np.frombuffer(base64.b64decode(triangles), np.uint8).reshape(
        *codes.shape[:2], -1
    )
    return codes


def visualize(run: Path, *flags: str) -> int:
    return visualize_main([f"--out_dir={run}", "--backend=torch", *flags])


def default_model() -> LanguageModel:
    """An untrained model of the default configuration, with its own characters."""
    config = ModelConfig()
    state = TrainingState.initial(config, seed=1)
    characters = "".join(map(chr, range(40, 40 + config.vocab_size)))
    metadata = Metadata(Config(config), characters)
    return LanguageModel(Backend(config, None, state), config, CharTokenizer(characters), metadata)
