"""The curve of a run in a notebook, drawn anew while it trains."""

import time
from pathlib import Path

from nanogpt.record import Record
from nanogpt.report.chart import loss_chart
from nanogpt.report.terminal import pace
from nanogpt.training.log import Progress
from nanogpt.training.run import Run
from nanogpt.weights import count_parameters

SECONDS_PER_PICTURE = 1.0


class LiveCurve:
    """The chart of a run and its pace, as a follower of it."""

    def __init__(self, run: Run) -> None:
        from IPython.display import HTML, display

        self._html, self._records = HTML, run.metrics.records
        self._title = f"{count_parameters(run.config.model):,} parameters on {Path(run.corpus.name).name}"
        self._token = "character" if run.tokenizer.vocabulary is not None else "token"
        self._drawn = 0.0
        self._display = display(HTML(""), display_id=True)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.kind == "evaluation" or now - self._drawn > SECONDS_PER_PICTURE:
            self._drawn = now
            self._display.update(self._html(self._picture(progress.record, progress.seconds_left)))

    def _picture(self, record: Record, left: float | None) -> str:
        chart = loss_chart(self._records, self._title, self._token) if self._records else ""
        return f"{chart}<p>step {record.step:,}  {pace(record, left)}</p>"
