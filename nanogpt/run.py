"""A run and its folder: begun, gone on with, or refused.

out/shakespeare/
    config.json      the flags, as the next start takes them over
    metrics.jsonl    what was measured (metrics.py)
    heads.jsonl      how the heads formed (head_log.py)
    checkpoints/     what it goes on from (checkpoint.py)
    environment.json device and versions of the last start (report.py)
    report.md        all of this for a person, with loss.svg and samples.md (report.py)
    tokenizer.json   of an imported model whose tokens are not characters (huggingface.py)
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nanogpt.backend import TrainingState
from nanogpt.checkpoint import Checkpoints, free_name
from nanogpt.config import Config, ModelConfig, RunConfig, TrainingConfig, differences, fixed_differences
from nanogpt.data import Corpus, Splits, load_corpus
from nanogpt.errors import InputError
from nanogpt.metrics import Metrics, Reporter, write_atomically
from nanogpt.tokenizer import CharTokenizer, Tokenizer, find_tokenizer


@dataclass
class Run:
    """All that training needs but a backend."""

    out_dir: Path
    config: Config
    corpus: Corpus
    tokenizer: Tokenizer
    splits: Splits
    checkpoints: Checkpoints
    metrics: Metrics
    state: TrainingState
    elapsed: float
    """Seconds spent on it before this start."""
    resumed: bool

    def save(self, state: TrainingState, backend: str, elapsed: float) -> None:
        """Begin to save a state, with all that is needed to go on from it or to read it alone."""
        evaluation = next((r for r in self.metrics.evaluations if r["step"] == state.step), None)
        metadata = {
            "config": asdict(self.config),
            "vocabulary": self.tokenizer.vocabulary,
            "data": self.corpus.fingerprint,
            "backend": backend,
            "elapsed": elapsed,
            "metrics": evaluation,
        }
        self.checkpoints.save(state, metadata, evaluation["val_loss"] if evaluation else None)


def open_run(config: Config, out_dir: Path, *, resume: str, backend: str, reporter: Reporter) -> Run:
    """The run in `out_dir`: at its newest good checkpoint, or at its beginning.

    With `resume` "never" an old run is first moved aside. Raises InputError when the checkpoint is of another
    model or text, listing each difference, and when no checkpoint can be read.
    """
    corpus = load_corpus(config.run.data)
    newest = _newest_good(out_dir / "checkpoints", reporter) if resume == "auto" else None
    tokenizer, vocab_size = _tokenizer(out_dir, corpus, newest[1] if newest else None)
    config = replace(
        config,
        model=replace(config.model, vocab_size=vocab_size),
        run=replace(config.run, data=corpus.name),
    )
    if newest:
        state, saved = newest
        _compare(config, corpus, backend, saved, reporter)
    else:
        state = TrainingState.initial(config.model, config.training.seed)
        saved = {"data": None, "elapsed": 0.0}
    splits = Splits.of(corpus, tokenizer, config.model.block_size)
    if resume == "never":
        _move_aside(out_dir, reporter)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {out_dir} can't be made: {error.strerror}") from None
    checkpoints = Checkpoints(out_dir / "checkpoints")
    write_atomically(out_dir / "config.json", json.dumps(asdict(config), indent=2) + "\n")
    # Without data, as in an import, nothing was measured yet.
    metrics = Metrics(out_dir / "metrics.jsonl", state.step if saved["data"] else -1)
    elapsed = saved["elapsed"]
    return Run(
        out_dir, config, corpus, tokenizer, splits, checkpoints, metrics, state, elapsed, newest is not None
    )


def saved_config(out_dir: Path) -> Config | None:
    """The configuration that the run in a folder was last started with, if there is one."""
    file = out_dir / "config.json"
    if not file.is_file():
        return None
    try:
        return config_from_dict(json.loads(file.read_text(encoding="utf-8")))
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file} can't be read ({error}): mend it, or delete it to go by the flags"
        ) from None


def config_from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `dataclasses.asdict` for a Config."""
    return Config(
        ModelConfig(**values["model"]), TrainingConfig(**values["training"]), RunConfig(**values["run"])
    )


def _tokenizer(out_dir: Path, corpus: Corpus, saved: dict[str, Any] | None) -> tuple[Tokenizer, int]:
    """The run's own tokenizer (an imported one may know more than the text has), or the text's; and V."""
    if saved:
        vocab_size = saved["config"]["model"]["vocab_size"]
        return find_tokenizer(out_dir, saved["vocabulary"], vocab_size), vocab_size
    tokenizer = CharTokenizer.from_text(corpus.text)
    return tokenizer, tokenizer.vocab_size


def _newest_good(directory: Path, reporter: Reporter) -> tuple[TrainingState, dict[str, Any]] | None:
    """The newest checkpoint that is as it was saved; damaged ones are moved aside, if there is a good one."""
    if not directory.is_dir():
        return None
    checkpoints = Checkpoints(directory, read_only=True)
    steps = checkpoints.steps
    damaged: list[tuple[int, InputError]] = []
    for step in reversed(steps):
        try:
            restored = checkpoints.restore(step)
        except InputError as error:
            damaged.append((step, error))
            continue
        for bad_step, reason in damaged:
            reporter.warn(f"{reason}; moved to {checkpoints.set_aside(bad_step)}, going on from step {step}")
        return restored
    if damaged:
        raise InputError(f"{damaged[0][1]}, and no other can be read (--resume never begins anew)")
    return None


def _compare(
    config: Config,
    corpus: Corpus,
    backend: str,
    saved: dict[str, Any],
    reporter: Reporter,
) -> None:
    """Refuse what would make another run of this one; print what changes within it."""
    old = config_from_dict(saved["config"])
    refused = fixed_differences(old.model, config.model)
    fingerprint = corpus.fingerprint
    refused += [
        f"data {name}: {value} -> {fingerprint[name]}"
        for name, value in (saved["data"] or {}).items()  # an import has no data yet
        if value != fingerprint[name]
    ]
    if refused:
        raise InputError(
            "this is not the run in that folder: "
            + "; ".join(refused)
            + " (take another --out_dir, or --resume never to begin anew)"
        )
    changed = differences(old.model, config.model) + differences(old.training, config.training)
    changed += [d for d in differences(old.run, config.run) if not d.startswith("backend")]
    if saved["backend"] not in (None, backend):
        changed.append(f"backend: {saved['backend']} -> {backend}")
    for change in changed:
        reporter.say(f"changed  {change}")


def _move_aside(out_dir: Path, reporter: Reporter) -> None:
    """Rename the folder of a run; a folder that holds no run is left where it is."""
    if (out_dir / "config.json").exists() or (out_dir / "checkpoints").exists():
        aside = free_name(out_dir.with_name(f"{out_dir.resolve().name}.old"))
        out_dir.resolve().rename(aside)
        reporter.say(f"The run that was in {out_dir} is now in {aside}")
