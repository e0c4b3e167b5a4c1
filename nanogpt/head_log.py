"""How heads form: what they look at, at each evaluation of a run."""

import numpy as np

from nanogpt.backend import Backend
from nanogpt.detectors import meanings, targets, unit_of
from nanogpt.head_scores import Looks, attention, spread_windows
from nanogpt.metrics import Metrics
from nanogpt.run import Run

# A few windows and short ones: an evaluation takes seconds, and this is not to be felt.
WINDOWS = 4
MOST_TOKENS = 256


class HeadLog:
    """`heads.jsonl`: one object a line, for every evaluation; none for a model without heads.

    Keys: step; scores, by detector the share of its attention that each head of each layer gives to what the
    detector counts; uniform, by detector the same of a head that looks at all positions so far alike.
    """

    def __init__(self, run: Run) -> None:
        self._lines = None
        if run.config.model.n_layer == 0:
            return
        length = min(run.splits.block_size, MOST_TOKENS)
        self._tokens_WT = spread_windows(run.splits.validation_N, length, WINDOWS)[:, :-1]
        texts = {t: run.tokenizer.decode(np.array([t])) for t in np.unique(self._tokens_WT)}
        self._counted = [targets([texts[token] for token in tokens_T]) for tokens_T in self._tokens_WT]
        self._names = list(meanings(unit_of(texts.values())))
        records = run.metrics.records
        self._lines = Metrics(run.out_dir / "heads.jsonl", records[-1]["step"] if records else -1)

    def append(self, step: int, backend: Backend) -> None:
        """Note what the heads look at now."""
        if self._lines is None:
            return
        of_windows = zip(attention(backend, self._tokens_WT), self._counted, strict=True)
        looks = Looks.stack([Looks.of(weights_LHTS, counted_JTS) for weights_LHTS, counted_JTS in of_windows])
        queries_J = looks.queries.sum(axis=0)
        shares_LHJ = looks.on_targets.sum(axis=0, dtype=np.float64) / np.maximum(queries_J, 1)
        uniform_J = looks.uniform.sum(axis=0) / np.maximum(queries_J, 1)
        asked = [(number, name) for number, name in enumerate(self._names) if queries_J[number]]
        self._lines.append(
            {
                "step": step,
                "scores": {name: shares_LHJ[..., number].round(4).tolist() for number, name in asked},
                "uniform": {name: round(float(uniform_J[number]), 4) for number, name in asked},
            }
        )
