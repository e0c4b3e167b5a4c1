"""Log of how heads form: their scores at each evaluation of a run."""

import operator
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.backend import Backend
from nanogpt.files import JsonLines, read_lines
from nanogpt.heads.detectors import meanings, targets, unit_of
from nanogpt.heads.scores import AttentionStatistics, attention, spread_windows
from nanogpt.training.log import Progress
from nanogpt.training.run import Run

# An evaluation takes seconds, so the log reads few and short windows, to add little to that.
WINDOWS = 4
MAX_TOKENS = 256


class HeadLog:
    """Log file `heads.jsonl`: one object a line for every evaluation; no file for a model without heads.

    Keys: `step`; `scores`, the share of its attention that each head of each layer gives to a detector's
    targets, by detector; `uniform`, the share under uniform attention over all positions so far, by detector.
    """

    def __init__(self, run: Run, backend: Backend) -> None:
        self.backend = backend
        self._lines: JsonLines | None = None
        if run.config.model.n_layer == 0:
            return
        length = min(run.splits.block_size, MAX_TOKENS)
        self._tokens_WT = spread_windows(run.splits.validation_tokens(), length, WINDOWS)[:, :-1]
        texts = {t: run.tokenizer.decode(np.array([t])) for t in np.unique(self._tokens_WT)}
        self._targets = [targets([texts[token] for token in tokens_T]) for tokens_T in self._tokens_WT]
        self._names = list(meanings(unit_of(texts.values())))
        file = run.out_dir / "heads.jsonl"
        self._lines = JsonLines(file, run.measured, excess, run.digests.get(file.name))

    def __call__(self, progress: Progress) -> None:
        if self._lines is None or progress.kind != "evaluation":
            return
        windows = zip(attention(self.backend, self._tokens_WT), self._targets, strict=True)
        statistics = AttentionStatistics.stack([AttentionStatistics.of(*window) for window in windows])
        query_count_J = statistics.query_count.sum(axis=0)
        divisor_J = np.maximum(query_count_J, 1)
        shares_LHJ = statistics.target_attention.sum(axis=0, dtype=np.float64) / divisor_J
        uniform_J = statistics.uniform_attention.sum(axis=0) / divisor_J
        with_targets = [(number, name) for number, name in enumerate(self._names) if query_count_J[number]]
        self._lines.append(
            {
                "step": progress.record.step,
                "scores": {name: shares_LHJ[..., number].round(4).tolist() for number, name in with_targets},
                "uniform": {name: round(float(uniform_J[number]), 4) for number, name in with_targets},
            }
        )
        self._lines.flush()


def read_heads(file: Path) -> list[dict[str, Any]]:
    """The lines of a `heads.jsonl`, without those that are damaged."""
    return read_lines(file, excess)[0]


def excess(line: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Excess over uniform attention `[L, H]` by detector. Raises an exception for a damaged line."""
    operator.index(line["step"])
    return {
        name: (np.array(shares_LH, float) - line["uniform"][name]).tolist()
        for name, shares_LH in line["scores"].items()
    }
