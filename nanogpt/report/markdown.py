"""The report of a run: `samples.md`, `loss.svg` and `report.md`, made from its other files alone."""

import json
import platform
import re
from pathlib import Path
from typing import Any

from nanogpt.backend import Backend
from nanogpt.config import Config
from nanogpt.errors import InputError
from nanogpt.files import write_atomically
from nanogpt.metadata import versions
from nanogpt.record import Evaluation, Record
from nanogpt.report.chart import loss_chart
from nanogpt.report.terminal import clock, pace
from nanogpt.training.log import Progress
from nanogpt.training.metrics import evaluations, read_metrics
from nanogpt.training.run import saved_config
from nanogpt.weights import count_parameters


class Report:
    """The report of a run as a follower of it: written anew at every evaluation."""

    def __init__(self, folder: Path, backend: Backend) -> None:
        self.folder = folder
        write_environment(folder, backend)

    def __call__(self, progress: Progress) -> None:
        if progress.kind == "evaluation":
            write_report(self.folder)


def write_environment(folder: Path, backend: Backend) -> None:
    """Note in `environment.json` the backend, device and versions that a run goes on with."""
    environment = {
        "backend": backend.name,
        "device": backend.device,
        "device_name": backend.device_name,
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
    write_atomically(folder / "environment.json", json.dumps(environment | versions(), indent=2) + "\n")


def write_report(folder: Path | str) -> None:
    """Write `samples.md`, `loss.svg` and `report.md` of the run in a folder, anew from its other files.

    Raises InputError where there is no run that was evaluated.
    """
    folder = Path(folder)
    config, records = saved_config(folder), read_metrics(folder / "metrics.jsonl")
    if config is None or not evaluations(records):
        raise InputError(f"{folder} holds no run that was evaluated")
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    token = "token" if (folder / "tokenizer.json").exists() else "character"
    title = f"{count_parameters(config.model):,} parameters on {Path(config.run.data).name}"
    write_atomically(folder / "samples.md", _samples(evaluations(records)))
    write_atomically(folder / "loss.svg", loss_chart(records, title, token))
    write_atomically(folder / "report.md", _report(config, records, environment, token))


def _samples(evaluated: list[Evaluation]) -> str:
    text = "# Samples\n\nAfter one prompt and by one seed: from step to step the model alone changes.\n"
    for record in evaluated:
        losses = f"Loss: training {record.train_loss:.4f}, validation {record.val_loss:.4f}."
        text += f"\n## Step {record.step:,}\n\n{losses}\n\n{fenced(record.sample)}"
    return text


def _report(config: Config, records: list[Record], environment: dict[str, Any], token: str) -> str:
    evaluated, last = evaluations(records), records[-1]
    steps = f"step {last.step:,} of {config.training.max_iters:,}"
    facts = [f"{count_parameters(config.model):,} parameters", steps, clock(last.elapsed), pace(last)]
    best = min(evaluated, key=lambda record: record.val_loss)
    losses = "\n".join(
        f"| {name} | {record.step:,} | {record.train_loss:.4f} | {record.val_loss:.4f} |"
        for name, record in (("best", best), ("last", evaluated[-1]))
    )
    return f"""# Report

{", ".join(filter(None, facts))}

| | step | training loss | validation loss |
|---|--:|--:|--:|
{losses}

The losses are exact means, in nats a {token}.

![Losses and learning rate over the steps](loss.svg)

## A text that it writes

{fenced(evaluated[-1].sample)}
[The samples of all evaluations](samples.md) show how it came to write so.

## Settings that differ from the defaults

{fenced(_columns([("", "here", "default"), *_settings(config)]))}
## The machine that it last ran on

{fenced(_columns(list(environment.items())))}"""


def _settings(config: Config) -> list[tuple[str, Any, Any]]:
    """Name, value and default of every setting that is not at its default."""
    parts = zip(vars(config).values(), vars(Config()).values(), strict=True)
    return [
        (name, value, vars(default)[name])
        for part, default in parts
        for name, value in vars(part).items()
        if value != vars(default)[name]
    ]


def _columns(rows: list[tuple[Any, ...]]) -> str:
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def fenced(text: str) -> str:
    """A block of Markdown that shows a text as it is, whatever it holds."""
    text = text.strip("\n")
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n"
