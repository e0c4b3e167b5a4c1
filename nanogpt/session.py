"""One start of a run, from its settings to its end: the same for `train.py` and for `nanogpt.train`."""

import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nanogpt.backend import Backend
from nanogpt.choice import find_mesh, load_backend
from nanogpt.config import Config, ModelConfig, Preset, RunConfig, configured
from nanogpt.errors import InputError, first_line
from nanogpt.files import read_small
from nanogpt.heads.log import HeadLog
from nanogpt.huggingface import model_of_folder, read_folder
from nanogpt.language_model import LanguageModel, load
from nanogpt.memory import told_where_memory_ends
from nanogpt.mesh import Mesh
from nanogpt.presets import GPT2_SIZES, PRESETS
from nanogpt.processes import Processes, follow, launched, leading
from nanogpt.report.markdown import Report
from nanogpt.report.notebook import LiveCurve
from nanogpt.report.tensorboard import EventLog
from nanogpt.report.terminal import Terminal, in_notebook
from nanogpt.report.wandb import WandbLog
from nanogpt.source import Source, source_of_run
from nanogpt.state import TrainingState
from nanogpt.text.corpus import EVALUATION_TOKENS
from nanogpt.training.log import Follower, forgiving
from nanogpt.training.loop import Training
from nanogpt.training.run import Run, open_run, saved_config
from nanogpt.weights import count_parameters

Resume = Literal["auto", "never"]
LogName = Literal["none", "tensorboard", "wandb"]
Collect = Callable[[Callable[[], bool]], AbstractContextManager[Sequence[int]]]
"""It collects signals while the block runs; the function tells whether there is something worth saving."""


def train(
    out_dir: Path | str | None = None,
    *,
    preset: Preset | None = None,
    init_from: Path | str | None = None,
    config: Path | str | None = None,
    resume: Resume = "auto",
    log: LogName = "none",
    quiet: bool = False,
    **settings: Any,
) -> LanguageModel:
    """Train a GPT, or go on with its training, and return the model that was saved last.

        model = nanogpt.train("out/mine", data="my.txt", preset="quick", max_iters=500)

    The arguments and `settings` are the flags of `train.py` with their meaning and defaults; `config` is a
    file of settings. It handles no signals: an interrupt raises KeyboardInterrupt, and the same call goes on
    from the newest checkpoint. Raises InputError where `train.py` would end with that line.
    """
    start = start_of(preset, init_from, out_dir, resume, config)
    if launched().number:
        take_part()
        return load(start.out_dir)
    session = run_session(
        configured(start.config, settings),
        start.out_dir,
        resume=resume,
        log=log,
        terminal=Terminal(quiet),
        device_is_given=not {"device", "mesh"}.isdisjoint(settings),
    )
    trained = session.run.config.run
    return load(start.out_dir, trained.backend, device=trained.device)


class Start(NamedTuple):
    """The settings of a start before its flags, and the folder of its run."""

    config: Config
    out_dir: Path


def start_of(
    preset: Preset | None,
    init_from: Path | str | None,
    out_dir: Path | str | None,
    resume: Resume,
    file: Path | str | None,
) -> Start:
    """The settings of a file over those of the saved run, or else of the preset and the model to begin with.

    Raises InputError for a preset, model or file that does not exist or can't be read.
    """
    settings = read_settings(Path(file)) if file else {}
    preset = preset or settings.get("preset")
    init_from = init_from or settings.get("init_from")
    name = preset or ("finetune" if init_from else "shakespeare")
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r:.40}: take one of {', '.join(PRESETS)}")
    folder = Path(out_dir or f"out/{name}").expanduser()
    saved = saved_config(folder) if resume == "auto" else None
    config = saved if saved and preset in (None, saved.run.preset) else PRESETS[name]
    if init_from:
        source = Path(init_from).expanduser().absolute()
        settings["init_from"] = str(source)
        if not saved:
            # The source's tokenizer comes with it, and takes the place of the preset's.
            run = replace(config.run, tokenizer=RunConfig.tokenizer)
            config = replace(config, model=_model_of(source), run=run)
    return Start(configured(config, settings), folder)


def _model_of(folder: Path) -> ModelConfig:
    """The architecture of a run or of a GPT-2 folder. Raises InputError where there is none."""
    if (folder / "checkpoints").is_dir() and (saved := saved_config(folder)):
        return saved.model
    if not folder.exists():
        name, hint = folder.name, "take a run, or a GPT-2 folder of transformers"
        if name in GPT2_SIZES:
            hint = (
                "put config.json, model.safetensors and tokenizer.json of Hugging Face's "
                f"openai-community/{name} there, and start again"
            )
        if name in PRESETS:
            hint += f"; --preset {name} trains one from nothing, in out/{name}"
        raise InputError(f"--init_from: there is no folder {folder}: {hint}")
    return model_of_folder(folder)


def read_source(folder: Path) -> Source:
    """The model of a run, or of a GPT-2 folder. Raises InputError where it can't be read."""
    return source_of_run(folder) if (folder / "checkpoints").is_dir() else read_folder(folder)


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a config.json of a run, or in a TOML file, which may have the same tables or none.

    Raises InputError for a file that can't be read.
    """
    try:
        text = read_small(file).decode("utf-8")
        if file.suffix == ".json":
            values = asdict(Config.from_dict(json.loads(text)))
            del values["model"]["vocab_size"]  # comes with the data
        else:
            values = tomllib.loads(text)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"--config {file} can't be read: {first_line(error)}") from None
    settings: dict[str, Any] = {}
    for name, value in values.items():
        settings |= value if isinstance(value, dict) else {name: value}
    return settings


class Session(NamedTuple):
    """A start that is over."""

    run: Run
    was_finished: bool
    """True where it found nothing left to do."""
    received: Sequence[int]
    """The signals that stopped it."""


@contextmanager
def no_signals(_: Callable[[], bool]) -> Iterator[Sequence[int]]:
    """Collect none: they do what they do in the program that trains."""
    yield ()


def run_session(
    config: Config,
    out_dir: Path,
    *,
    resume: Resume,
    log: LogName,
    terminal: Terminal,
    device_is_given: bool,
    collect: Collect = no_signals,
) -> Session:
    """Train the run in a folder to its end, or until a signal is collected.

    Raises InputError for bad input.
    """
    backend_class = load_backend(config.run.backend, launched())
    with backend_class.join() as processes, leading(processes):
        try:
            find_mesh(backend_class, config, processes.count)  # before anything is written
        except InputError as error:
            if device_is_given or (config.run.device, config.run.mesh) == ("auto", "auto"):
                raise
            # A run may come from another machine.
            terminal.warn(f"{error}: going on with --device auto --mesh auto")
            config = replace(config, run=replace(config.run, device="auto", mesh="auto"))
        origin = config.run.init_from
        opened = open_run(
            config,
            out_dir,
            resume=resume,
            backend=backend_class.name,
            source=partial(read_source, Path(origin)) if origin else None,
            say=terminal.say,
            warn=terminal.warn,
        )
        training: Training | None = None
        # Until all is closed: after an error too, a signal must not cut off the save in flight.
        collected = collect(lambda: training is not None and training.is_worth_saving)
        with collected as received, opened as run:
            config, step, iterations = run.config, run.state.step, run.config.training.max_iters
            if run.is_finished:
                terminal.say(f"This run is finished: {step:,} of {iterations:,} iterations are done.")
                return Session(run, True, ())
            mesh = find_mesh(backend_class, config, processes.count)
            processes.agree((config, mesh, step))
            with told_where_memory_ends(config, mesh.fsdp):
                backend = build_backend(backend_class, config, mesh, run.state, processes)
                training = Training(run, backend, _followers(run, backend, log, terminal))
                _say_beginning(run, backend, terminal)
                with terminal.live(step, iterations):
                    training.to_the_end(received)
            if not received:
                _say_end(run, terminal)
            return Session(run, False, received)


def take_part(collect: Collect = no_signals) -> None:
    """Do what process 0 tells, in a process that was started beside it.

    Signals are left to process 0. Raises InputError where the processes do not meet.
    """
    backend_class = load_backend("auto", launched())
    with backend_class.join() as processes, collect(lambda: True):
        if told := processes.agree(None):
            config, mesh, step = told
            state = TrainingState.placeholder(config.model, step)
            follow(build_backend(backend_class, config, mesh, state, processes))


def build_backend(
    backend: type[Backend], config: Config, mesh: Mesh, state: TrainingState, processes: Processes
) -> Backend:
    """The backend of this process, as the settings of a run want it."""
    run = config.run
    return backend(
        config.model,
        config.training,
        state,
        device=run.device,
        mesh=mesh,
        dtype=run.dtype,
        compile=run.compile,
        micro_batch_size=run.micro_batch_size,
        remat=run.remat,
        processes=processes,
    )


def _followers(run: Run, backend: Backend, log: LogName, terminal: Terminal) -> list[Follower]:
    """Everyone who follows the run, in the order in which they are told."""
    writers: dict[str, Follower] = {
        "the report": Report(run.out_dir, backend),
        "the log of the heads": HeadLog(run, backend),
    }
    if log == "tensorboard":
        writers["the event file"] = EventLog(run.out_dir, run.metrics.records)
    if log == "wandb":
        writers["the log of wandb"] = WandbLog(run)
    if in_notebook() and not terminal.quiet:
        writers["the live curve"] = LiveCurve(run)
    return [*(forgiving(what, writer, terminal.warn) for what, writer in writers.items()), terminal]


def _say_beginning(run: Run, backend: Backend, terminal: Terminal) -> None:
    begins, corpus = "Going on with" if run.resumed else "Training", run.corpus
    devices, there = backend.device, type(backend).devices().count(backend.device)
    if there > 1:
        devices = f"{backend.mesh.size} of {there} devices {backend.device} ({backend.mesh})"
    terminal.say(
        f"{begins} {count_parameters(run.config.model):,} parameters on {corpus.name} "
        f"({corpus.summary}) with {backend.name} on {devices}, "
        f"from step {run.state.step:,} of {run.config.training.max_iters:,}, in {run.out_dir}"
    )
    if run.tokenizer.vocabulary is None:
        tokens = len(run.splits.train_N) + len(run.splits.validation_N)
        terminal.say(
            f"{tokens:,} tokens of a vocabulary of {run.config.model.vocab_size:,}: "
            f"a loss of 1 is {tokens / corpus.characters:.4f} nats a character"
        )
    if len(run.splits.validation_N) > len(run.splits.validation_tokens()):
        terminal.say(f"Validation is on the first {EVALUATION_TOKENS:,} tokens of its split")


def _say_end(run: Run, terminal: Terminal) -> None:
    last = run.metrics.evaluations[-1]
    best = min(run.metrics.evaluations, key=lambda record: record.val_loss)
    terminal.say(
        f"Finished after {last.elapsed:,.0f} s: train {last.train_loss:.4f}, validation {last.val_loss:.4f} "
        f"(best {best.val_loss:.4f} at step {best.step:,})"
    )
