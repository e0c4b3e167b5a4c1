"""A run and its folder: begun, gone on with, or refused.

out/shakespeare/
    config.json      the settings, which the next start takes over
    metrics.jsonl    what was measured (training/metrics.py)
    heads.jsonl      how the heads formed (heads/log.py)
    checkpoints/     what the next start goes on from (checkpoint.py)
    environment.json device and versions of the last start (report/markdown.py)
    report.md        all of this for a person, with loss.svg and samples.md (report/markdown.py)
    tokenizer.json   where tokens are not characters (text/vocabulary.py)
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nanogpt.checkpoint import Checkpoints, set_aside
from nanogpt.config import Config, RunConfig, differences, fixed_differences
from nanogpt.errors import InputError, first_line
from nanogpt.files import digests, free_name, read_small, write_atomically
from nanogpt.lock import LOCK, locked
from nanogpt.memory import require_memory_for
from nanogpt.metadata import Metadata
from nanogpt.presets import PRESETS
from nanogpt.source import Source
from nanogpt.state import TrainingState
from nanogpt.text.corpus import AnyCorpus, Splits, load_data
from nanogpt.text.tokenizer import NewTokenizer, Tokenizer, find_tokenizer, tokenizer_of
from nanogpt.training.metrics import Metrics, evaluations, read_metrics

TOKENIZER = "tokenizer.json"
DIGESTED = ("metrics.jsonl", "heads.jsonl", TOKENIZER)


@dataclass
class Run:
    """All that training needs but a backend."""

    out_dir: Path
    config: Config
    corpus: AnyCorpus
    tokenizer: Tokenizer
    splits: Splits
    checkpoints: Checkpoints
    metrics: Metrics
    state: TrainingState
    elapsed: float
    """Seconds spent on it before this start."""
    resumed: bool
    measured: int
    """The last step that was measured before this start, or -1."""
    digests: dict[str, str]
    """SHA-256 of files of the folder when the state was saved, by name."""

    @property
    def is_finished(self) -> bool:
        """True where this start finds nothing left to train or to evaluate."""
        step, recipe = self.state.step, self.config.training
        evaluated = {record.step for record in self.metrics.evaluations}
        return step >= recipe.max_iters and (step in evaluated or not recipe.is_evaluated(step))

    def save(self, state: TrainingState, backend: str, elapsed: float) -> None:
        """Begin to save a state, with all that is needed to go on from it or to read it alone."""
        self.metrics.flush()  # a checkpoint counts after what was measured before it
        metadata = Metadata(
            config=self.config,
            vocabulary=self.tokenizer.vocabulary,
            special_tokens=self.tokenizer.special_tokens,
            data=self.corpus.fingerprint,
            backend=backend,
            elapsed=elapsed,
            metrics=next((e for e in self.metrics.evaluations if e.step == state.step), None),
            digests=digests(self.out_dir, DIGESTED),
        )
        self.checkpoints.save(state, metadata)


@contextmanager
def open_run(
    config: Config,
    out_dir: Path,
    *,
    resume: str,
    backend: str,
    source: Callable[[], Source] | None = None,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Iterator[Run]:
    """The run in `out_dir`: at its newest good checkpoint, or at its beginning, which may be a `source`.

    Its folder is locked meanwhile, and at the end the save in flight is waited for, also after an error. An
    error that comes before a checkpoint leaves the folder with its old settings, or without any.
    With `resume` "never" an old run is first moved aside. Raises InputError when the checkpoint is of another
    model or text, listing each difference, when none can be read, and when another process has the folder.
    """
    with ExitStack() as stack:
        stack.enter_context(locked(out_dir))
        corpus = load_data(config.run.data, config.run.tokenizer)
        newest, damaged = _newest_good(out_dir / "checkpoints") if resume == "auto" else (None, {})
        if resume == "auto" and not newest:
            _refuse_to_begin_anew(out_dir)
        origin = source() if source and not newest else None
        name, tokenizer, vocab_size, content = (
            _own_tokenizer(out_dir, config.run.tokenizer, newest[1])
            if newest
            else _new_tokenizer(out_dir, config.run, corpus, origin)
        )
        config = replace(
            config,
            model=replace(config.model, vocab_size=vocab_size),
            run=replace(config.run, data=corpus.name, tokenizer=name),
        )
        require_memory_for(config.model, config.training)
        changes = _changes(config, corpus, backend, *newest) if newest else []
        # After the comparison, which tells what another text changes: this may not even know its characters.
        splits = Splits.of(corpus, tokenizer, config.model.block_size)
        for change in changes:
            say(f"changed  {change}")
        if newest:
            state, saved = newest
            for step, reason in damaged.items():
                aside = set_aside(out_dir / "checkpoints", step)
                warn(f"{reason}; moved to {aside}, going on from step {state.step}")
            # An imported model has no data: nothing was measured yet.
            measured, elapsed, known = state.step if saved.data else -1, saved.elapsed, saved.digests
        else:
            state = _beginning(config, origin)
            measured, elapsed, known = -1, 0.0, {}
        if resume == "never" and _holds_a_run(out_dir):
            aside = _move_aside(out_dir)
            say(f"The run that was in {out_dir} is now in {aside}")
            stack.callback(_move_back_if_left, aside, out_dir.resolve(), say)
            stack.enter_context(locked(out_dir))
        stack.enter_context(_undone_unless_saved(out_dir))
        write_atomically(out_dir / "config.json", json.dumps(asdict(config), indent=2) + "\n")
        if content is not None:
            write_atomically(out_dir / TOKENIZER, content.decode())
        checkpoints = Checkpoints(out_dir / "checkpoints")
        stack.callback(checkpoints.close)
        yield Run(
            out_dir=out_dir,
            config=config,
            corpus=corpus,
            tokenizer=tokenizer,
            splits=splits,
            checkpoints=checkpoints,
            metrics=Metrics(out_dir / "metrics.jsonl", measured, known.get("metrics.jsonl")),
            state=state,
            elapsed=elapsed,
            resumed=newest is not None,
            measured=measured,
            digests=known,
        )


def saved_config(out_dir: Path) -> Config | None:
    """The configuration that the run in a folder was last started with, if there is one."""
    file = out_dir / "config.json"
    if not os.path.lexists(file):
        return None
    try:
        return Config.from_dict(json.loads(read_small(file)))
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{file} can't be read ({first_line(error)}): mend it, or delete it to go by the flags"
        ) from None


def _own_tokenizer(out_dir: Path, name: str, saved: Metadata) -> NewTokenizer:
    """The tokenizer that a run was begun with, which may know more than its text has."""
    return NewTokenizer(name, tokenizer_of(out_dir, saved), saved.config.model.vocab_size, None)


def _new_tokenizer(out_dir: Path, run: RunConfig, corpus: AnyCorpus, origin: Source | None) -> NewTokenizer:
    """The tokenizer of a run that begins: that of its source, of its data, or that of --tokenizer."""
    name = run.tokenizer
    if not origin:
        new = corpus.new_tokenizer(name, out_dir)
        if name not in (new.name, PRESETS[run.preset].run.tokenizer):
            raise InputError(f"--tokenizer {name}: {corpus.name} was prepared with {new.name}")
        return new
    if name != "char":
        raise InputError(f"--tokenizer {name}: --init_from brings its own")
    vocab_size, content = origin.config.vocab_size, origin.tokenizer_json
    tokenizer = find_tokenizer(out_dir, origin.vocabulary, vocab_size, content or b"", origin.special_tokens)
    return NewTokenizer(name, tokenizer, vocab_size, content)


def _beginning(config: Config, origin: Source | None) -> TrainingState:
    if not origin:
        return TrainingState.initial(config.model, config.training.seed)
    if different := fixed_differences(origin.config, config.model):
        raise InputError(f"{config.run.init_from} is another model: {'; '.join(different)}")
    return TrainingState.of_weights(origin.weights)


def _newest_good(directory: Path) -> tuple[tuple[TrainingState, Metadata] | None, dict[int, InputError]]:
    """The newest checkpoint that is as it was saved, and the later ones, with what is wrong with each."""
    damaged: dict[int, InputError] = {}
    if directory.is_dir():
        checkpoints = Checkpoints(directory, read_only=True)
        for step in reversed(checkpoints.steps):
            try:
                return checkpoints.restore(step), damaged
            except InputError as error:
                damaged[step] = error
    if damaged:
        first = next(iter(damaged.values()))
        raise InputError(f"{first}, and no other can be read (--resume never begins anew)")
    return None, {}


def _refuse_to_begin_anew(out_dir: Path) -> None:
    """Raise InputError for a folder whose checkpoints are gone."""
    evaluated = evaluations(read_metrics(out_dir / "metrics.jsonl"))
    # The first save may not have been on the disk when a kill came; it was before the third evaluation.
    if len(evaluated) > 2:
        raise InputError(
            f"{out_dir} was trained to step {evaluated[-1].step:,}, but its checkpoints are gone: put them "
            "back, or begin anew with --resume never"
        )


def _changes(
    config: Config, corpus: AnyCorpus, backend: str, state: TrainingState, saved: Metadata
) -> list[str]:
    """The settings that change within the run. Raises InputError for those that would make it another run."""
    old, fingerprint = saved.config, corpus.fingerprint
    refused = fixed_differences(old.model, config.model)
    kept = {"tokenizer", "init_from"}
    refused += [d for d in differences(old.run, config.run) if d.partition(":")[0] in kept]
    if config.training.optimizer == "adamw" and state.second_moment.keys() != state.weights.keys():
        refused.append("optimizer: muon -> adamw, whose second moments Muon does not keep")
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


@contextmanager
def _undone_unless_saved(out_dir: Path) -> Iterator[None]:
    """Where an error comes before a checkpoint, take back the settings, and empty a folder that was empty.

    The next start takes the settings over, and would fail likewise.
    """
    file = out_dir / "config.json"
    settings = read_small(file).decode("utf-8") if file.exists() else None
    was_empty, steps = not _content(out_dir), _content(out_dir / "checkpoints")
    try:
        yield
    except Exception:
        with suppress(OSError):  # the first error is the one to tell
            if _content(out_dir / "checkpoints") <= steps:
                if settings is not None:
                    write_atomically(file, settings)
                else:
                    for path in _content(out_dir) if was_empty else [file]:
                        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def _content(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir() if path.name != LOCK} if folder.exists() else set()


def _holds_a_run(out_dir: Path) -> bool:
    return (out_dir / "config.json").exists() or (out_dir / "checkpoints").exists()


def _move_aside(out_dir: Path) -> Path:
    """Rename the folder of a run, so that another can begin there. Returns where it is now."""
    folder = out_dir.resolve()
    aside = free_name(folder.with_name(f"{folder.name}.old"))
    folder.rename(aside)
    (aside / LOCK).unlink(missing_ok=True)
    return aside


def _move_back_if_left(aside: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Give a run its folder back where the start that took it has left nothing there."""
    if not folder.exists():
        aside.rename(folder)
        say(f"The run that was moved to {aside} is back in {folder}")
