"""`train.py`: open a run, train it, and say how it went."""

import shlex
from dataclasses import replace

from nanogpt.backend import Backend
from nanogpt.choice import find_device, load_backend
from nanogpt.cli.door import guarded
from nanogpt.cli.flags import train_flags
from nanogpt.cli.signals import collected_signals
from nanogpt.errors import InputError
from nanogpt.heads.log import HeadLog
from nanogpt.report.markdown import Report
from nanogpt.report.tensorboard import EventLog
from nanogpt.report.terminal import Terminal
from nanogpt.text.corpus import EVALUATION_TOKENS
from nanogpt.training.log import Follower, forgiving
from nanogpt.training.loop import Training
from nanogpt.training.run import Run, open_run
from nanogpt.weights import count_parameters


def train_main(arguments: list[str] | None = None) -> int:
    """`train.py`. Returns its exit code: 0, 2 for bad input, 128 + the number of a signal that stopped it."""
    return guarded(_train, arguments)


def _train(arguments: list[str]) -> int:
    flags = train_flags(arguments)
    config, terminal = flags.config, Terminal(flags.quiet)
    backend_class = load_backend(config.run.backend)
    try:
        find_device(backend_class, config.run.device)  # before anything is written
    except InputError as error:
        if flags.device_is_given:
            raise
        terminal.warn(f"{error}: going on with --device auto")
        config = replace(config, run=replace(config.run, device="auto"))
    with open_run(
        config,
        flags.out_dir,
        resume=flags.resume,
        backend=backend_class.name,
        say=terminal.say,
        warn=terminal.warn,
    ) as run:
        config, command = run.config, f"python train.py --out_dir {_folder(run)}"
        step, iterations = run.state.step, config.training.max_iters
        if run.is_finished:
            terminal.say(
                f"This run is finished: {step:,} of {iterations:,} iterations are done.\n"
                f"To train longer: {command} --max_iters {2 * iterations}"
            )
            return 0
        backend = backend_class(
            config.model,
            config.training,
            run.state,
            device=config.run.device,
            dtype=config.run.dtype,
            compile=config.run.compile,
        )
        training = Training(run, backend, _followers(run, backend, flags.log, terminal))
        _say_beginning(run, backend, terminal)
        with terminal.live(step, iterations), collected_signals(lambda: training.is_worth_saving) as received:
            training.to_the_end(received)
        if received:
            terminal.say(f"Stopped and saved. To go on: {command}")
            return 128 + received[0]
        _say_end(run, terminal)
        return 0


def _followers(run: Run, backend: Backend, log: str, terminal: Terminal) -> list[Follower]:
    """Everyone who follows the run, in the order in which they are told."""
    writers: dict[str, Follower] = {
        "the report": Report(run.out_dir, backend),
        "the log of the heads": HeadLog(run, backend),
    }
    if log == "tensorboard":
        writers["the event file"] = EventLog(run.out_dir, run.metrics.records)
    return [*(forgiving(what, writer, terminal.warn) for what, writer in writers.items()), terminal]


def _say_beginning(run: Run, backend: Backend, terminal: Terminal) -> None:
    begins, text = "Going on with" if run.resumed else "Training", run.corpus.text
    terminal.say(
        f"{begins} {count_parameters(run.config.model):,} parameters on {run.corpus.name} "
        f"({len(text):,} characters, {len(set(text))} different) with {backend.name} on {backend.device}, "
        f"from step {run.state.step:,} of {run.config.training.max_iters:,}, in {run.out_dir}"
    )
    if len(run.splits.validation_N) > len(run.splits.validation_tokens()):
        terminal.say(f"Validation is on the first {EVALUATION_TOKENS:,} tokens of its split")


def _say_end(run: Run, terminal: Terminal) -> None:
    last = run.metrics.evaluations[-1]
    best = min(run.metrics.evaluations, key=lambda record: record.val_loss)
    terminal.say(
        f"Finished after {last.elapsed:,.0f} s: train {last.train_loss:.4f}, validation {last.val_loss:.4f} "
        f"(best {best.val_loss:.4f} at step {best.step:,})\n"
        f"To read what it writes: python sample.py --out_dir {_folder(run)}"
    )


def _folder(run: Run) -> str:
    """The folder of a run as a shell takes it."""
    return shlex.quote(str(run.out_dir))
