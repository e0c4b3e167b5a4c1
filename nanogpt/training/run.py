"""A run and its folder: begun, gone on with, or refused.

out/shakespeare/
    config.json      the settings, which the next start takes over
    metrics.jsonl    what was measured (training/metrics.py)
    heads.jsonl      how the heads formed (heads/log.py)
    checkpoints/     what the next start goes on from (checkpoint.py)
    environment.json device and versions of the last start (report/markdown.py)
    report.md        all of this for a person, with loss.svg and samples.md (report/markdown.py)
    tokenizer.json   of an imported model whose tokens are not characters (huggingface/)
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nanogpt.checkpoint import Checkpoints
from nanogpt.config import Config, differences, fixed_differences
from nanogpt.errors import InputError
from nanogpt.files import free_name, write_atomically
from nanogpt.metadata import Metadata
from nanogpt.state import TrainingState
from nanogpt.text.corpus import Corpus, Splits, load_corpus
from nanogpt.text.tokenizer import CharTokenizer, Tokenizer, find_tokenizer
from nanogpt.training.metrics import Metrics


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
        metadata = Metadata(
            config=self.config,
            vocabulary=self.tokenizer.vocabulary,
            data=self.corpus.fingerprint,
            backend=backend,
            elapsed=elapsed,
            metrics=next((e for e in self.metrics.evaluations if e.step == state.step), None),
        )
        self.checkpoints.save(state, metadata)


def open_run(
    config: Config,
    out_dir: Path,
    *,
    resume: str,
    backend: str,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Run:
    """The run in `out_dir`: at its newest good checkpoint, or at its beginning.

    With `resume` "never" an old run is first moved aside. Raises InputError when the checkpoint is of another
    model or text, listing each difference, and when no checkpoint can be read.
    """
    corpus = load_corpus(config.run.data)
    newest = _newest_good(out_dir / "checkpoints", warn) if resume == "auto" else None
    tokenizer, vocab_size = _tokenizer(out_dir, corpus, newest[1] if newest else None)
    config = replace(
        config,
        model=replace(config.model, vocab_size=vocab_size),
        run=replace(config.run, data=corpus.name),
    )
    if newest:
        state, saved = newest
        for change in _changes(config, corpus, backend, saved):
            say(f"changed  {change}")
        # An imported model has no data: nothing was measured yet.
        last_step, elapsed = state.step if saved.data else -1, saved.elapsed
    else:
        state = TrainingState.initial(config.model, config.training.seed)
        last_step, elapsed = -1, 0.0
    # After the comparison, which tells what another text changes: this may not even know its characters.
    splits = Splits.of(corpus, tokenizer, config.model.block_size)
    _make_folder(out_dir, resume, say)
    write_atomically(out_dir / "config.json", json.dumps(asdict(config), indent=2) + "\n")
    return Run(
        out_dir=out_dir,
        config=config,
        corpus=corpus,
        tokenizer=tokenizer,
        splits=splits,
        checkpoints=Checkpoints(out_dir / "checkpoints"),
        metrics=Metrics(out_dir / "metrics.jsonl", last_step),
        state=state,
        elapsed=elapsed,
        resumed=newest is not None,
    )


def saved_config(out_dir: Path) -> Config | None:
    """The configuration that the run in a folder was last started with, if there is one."""
    file = out_dir / "config.json"
    if not file.is_file():
        return None
    try:
        return Config.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{file} can't be read ({error}): mend it, or delete it to go by the flags"
        ) from None


def _tokenizer(out_dir: Path, corpus: Corpus, saved: Metadata | None) -> tuple[Tokenizer, int]:
    """The run's own tokenizer (an imported one may know more than the text has), or the text's; and V."""
    if saved:
        vocab_size = saved.config.model.vocab_size
        return find_tokenizer(out_dir, saved.vocabulary, vocab_size), vocab_size
    tokenizer = CharTokenizer.from_text(corpus.text)
    return tokenizer, tokenizer.vocab_size


def _newest_good(directory: Path, warn: Callable[[str], None]) -> tuple[TrainingState, Metadata] | None:
    """The newest checkpoint that is as it was saved; damaged ones are moved aside, if there is a good one."""
    if not directory.is_dir():
        return None
    checkpoints = Checkpoints(directory, read_only=True)
    damaged: list[tuple[int, InputError]] = []
    for step in reversed(checkpoints.steps):
        try:
            restored = checkpoints.restore(step)
        except InputError as error:
            damaged.append((step, error))
            continue
        for bad_step, reason in damaged:
            warn(f"{reason}; moved to {checkpoints.set_aside(bad_step)}, going on from step {step}")
        return restored
    if damaged:
        raise InputError(f"{damaged[0][1]}, and no other can be read (--resume never begins anew)")
    return None


def _changes(config: Config, corpus: Corpus, backend: str, saved: Metadata) -> list[str]:
    """The settings that change within the run. Raises InputError for those that would make it another run."""
    old, fingerprint = saved.config, corpus.fingerprint
    refused = fixed_differences(old.model, config.model)
    refused += [
        f"data {name}: {value} -> {fingerprint[name]}"
        for name, value in (saved.data or {}).items()
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
    if saved.backend not in (None, backend):
        changed.append(f"backend: {saved.backend} -> {backend}")
    return changed


def _make_folder(out_dir: Path, resume: str, say: Callable[[str], None]) -> None:
    """Make the folder of a run; with `resume` "never" the run that it holds is renamed first."""
    holds_a_run = (out_dir / "config.json").exists() or (out_dir / "checkpoints").exists()
    if resume == "never" and holds_a_run:
        aside = free_name(out_dir.with_name(f"{out_dir.resolve().name}.old"))
        out_dir.resolve().rename(aside)
        say(f"The run that was in {out_dir} is now in {aside}")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {out_dir} can't be made: {error.strerror}") from None
