"""The front doors: what `train.py`, `sample.py` and `visualize.py` take, say and exit with."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from nanogpt.backend import Backend, load_backend
from nanogpt.config import Config, ModelConfig
from nanogpt.data import EVALUATION_TOKENS, decode_text, read_text
from nanogpt.errors import InputError
from nanogpt.events import EventLog
from nanogpt.language_model import load
from nanogpt.metrics import Record, Reporter, write_atomically
from nanogpt.presets import PRESETS
from nanogpt.report import write_environment, write_report
from nanogpt.run import Run, open_run, saved_config
from nanogpt.training import Training
from nanogpt.weights import count_parameters

Flags = TypeVar("Flags")


@dataclass(frozen=True)
class ModelFlags(ModelConfig):
    """The architecture; all but dropout is fixed for a run."""

    vocab_size: tyro.conf.Suppress[int] = 1  # comes with the data


@dataclass(frozen=True)
class TrainFlags(Config):
    """Train a GPT, or go on with its training. Flags not given are the preset's, or those of the run."""

    model: ModelFlags = field(default_factory=ModelFlags)
    out_dir: Path = Path("out/shakespeare")
    """Folder of the run; out/<preset> if not given."""
    resume: Literal["auto", "never"] = "auto"
    """auto goes on from the newest checkpoint in out_dir; never moves an old run aside and begins anew."""
    quiet: bool = False
    """Print warnings and errors alone."""
    log: Literal["none", "tensorboard"] = "none"
    """tensorboard also writes event files, which tensorboard --logdir out shows."""


@dataclass(frozen=True)
class ModelChoice:
    """The model."""

    out_dir: Path | None = None
    """Folder of the run; the newest one under out/ if not given."""
    checkpoint: str = "latest"
    """latest, best (by validation loss) or a step."""
    backend: Literal["auto", "jax", "torch"] = "auto"
    """auto takes torch on a Mac with MPS, else jax."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


@dataclass(frozen=True)
class SampleFlags:
    """Write text with a trained model: the text to standard output, everything else to standard error."""

    model: ModelChoice = field(default_factory=ModelChoice)
    prompt: str = "\n"
    """What to go on from: a text, @file, or - for standard input."""
    max_tokens: int = 500
    """Tokens to write for each sample."""
    temp: Annotated[float, tyro.conf.arg(aliases=["--temperature"])] = 0.8
    """Temperature: below 1 safer, above 1 more varied, 0 always the likeliest token."""
    top_k: int | None = None
    """Choose among the k likeliest tokens."""
    top_p: float | None = None
    """Choose among the fewest likeliest tokens whose probabilities reach p."""
    num_samples: int = 1
    """Texts to write."""
    seed: int = 1337
    """One seed gives one text, on either backend."""


@dataclass(frozen=True)
class VisualizeFlags:
    """Write a page that shows what every attention head looks at: one file, for any browser, offline."""

    model: ModelChoice = field(default_factory=ModelChoice)
    text: str | None = None
    """What the model reads: a text, @file, or - for standard input; else where the validation text begins."""
    compare: str | None = None
    """jax or torch, the folder of another run, or another checkpoint: latest, best or a step."""
    html: Path = Path("attention.html")
    """The page to write."""
    open: bool = False
    """Show it in the browser."""


def train_main(arguments: list[str] | None = None) -> int:
    """`train.py`. Returns its exit code: 0, 2 for bad input, 128 + the number of a signal that stopped it."""
    return guarded(_train, sys.argv[1:] if arguments is None else arguments)


def sample_main(arguments: list[str] | None = None) -> int:
    """`sample.py`. Returns its exit code, as train_main."""
    return guarded(_sample, sys.argv[1:] if arguments is None else arguments)


def visualize_main(arguments: list[str] | None = None) -> int:
    """`visualize.py`. Returns its exit code, as train_main."""
    return guarded(_visualize, sys.argv[1:] if arguments is None else arguments)


def _train(arguments: list[str]) -> int:
    flags = _parse(TrainFlags, arguments, _train_defaults(arguments))
    config = Config(ModelConfig(**vars(flags.model)), flags.training, flags.run)
    reporter = Reporter(flags.quiet)
    backend_class = load_backend(config.run.backend)
    run = open_run(config, flags.out_dir, resume=flags.resume, backend=backend_class.name, reporter=reporter)
    config, step, iterations = run.config, run.state.step, run.config.training.max_iters
    folder = shlex.quote(str(flags.out_dir))
    command = f"python train.py --out_dir {folder}"
    if run.resumed and step >= iterations:
        reporter.say(
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
    _follow(run, backend, flags.log, reporter)
    reporter.say(
        f"{'Going on with' if run.resumed else 'Training'} {count_parameters(config.model):,} parameters "
        f"on {run.corpus.name} ({len(run.corpus.text):,} characters, {len(set(run.corpus.text))} different) "
        f"with {backend.name} on {backend.device}, from step {step:,} of {iterations:,}, in {flags.out_dir}"
    )
    if len(run.splits.validation_N) > len(run.splits.validation_tokens()):
        reporter.say(f"Validation is on the first {EVALUATION_TOKENS:,} tokens of its split")
    stopped_by = Training(run, backend, reporter).to_the_end()
    if stopped_by:
        reporter.say(f"Stopped and saved. To go on: {command}")
        return 128 + stopped_by
    last = run.metrics.evaluations[-1]
    best = min(run.metrics.evaluations, key=lambda record: record["val_loss"])
    reporter.say(
        f"Finished after {last['elapsed']:,.0f} s: train {last['train_loss']:.4f}, validation "
        f"{last['val_loss']:.4f} (best {best['val_loss']:.4f} at step {best['step']:,})\n"
        f"To read what it writes: python sample.py --out_dir {folder}"
    )
    return 0


def _follow(run: Run, backend: Backend, log: str, reporter: Reporter) -> None:
    """Have the run's folder show how it goes: a report at each evaluation, and what `log` asks for."""

    def report(record: Record) -> None:
        if record["val_loss"] is not None:
            write_report(run.out_dir)

    write_environment(run.out_dir, backend)
    run.metrics.follow("the report", report, reporter.warn)
    if log == "tensorboard":
        run.metrics.follow("the event file", EventLog(run.out_dir, run.metrics.records), reporter.warn)


def _train_defaults(arguments: list[str]) -> TrainFlags:
    """What the flags not given are: the saved run's values, else the preset's."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--preset")
    peek.add_argument("--out_dir", "--out-dir")
    peek.add_argument("--resume")
    given, _ = peek.parse_known_args(arguments)
    preset = given.preset or "shakespeare"
    out_dir = Path(given.out_dir or f"out/{preset}")
    # An unknown preset is for tyro to refuse.
    config = PRESETS.get(preset, PRESETS["shakespeare"])
    saved = saved_config(out_dir) if given.resume != "never" else None
    if saved and given.preset in (None, saved.run.preset):
        config = saved
    return TrainFlags(ModelFlags(**asdict(config.model)), config.training, config.run, out_dir)


def _sample(arguments: list[str]) -> int:
    flags = _parse(SampleFlags, arguments, SampleFlags())
    if flags.num_samples < 1:
        raise InputError(f"num_samples {flags.num_samples} is out of range: it must be at least 1")
    prompt = _prompt(flags.prompt)
    out_dir = flags.model.out_dir or _newest_run(Path("out"))
    model = load(out_dir, flags.model.backend, device=flags.model.device, checkpoint=flags.model.checkpoint)
    _tell(f"{out_dir}, step {model.metadata['step']:,}, {model.backend.name} on {model.backend.device}")
    # One form on every platform, and no crash where a locale lacks a character.
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    for sample in range(flags.num_samples):
        pieces = model.stream(
            prompt,
            max_tokens=flags.max_tokens,
            temperature=flags.temp,
            top_k=flags.top_k,
            top_p=flags.top_p,
            seed=flags.seed,
            sample=sample,
        )
        if sample:
            _tell(f"\n--- sample {sample + 1} ---")
        for number, piece in enumerate(pieces):
            # The prompt waits for the first piece: an error leaves standard output empty.
            print(piece if number else prompt + piece, end="", flush=True)
        print()
    return 0


def _visualize(arguments: list[str]) -> int:
    flags = _parse(VisualizeFlags, arguments, VisualizeFlags())
    file = flags.html.absolute()
    if file.is_dir() or not file.parent.is_dir():
        raise InputError(f"--html {flags.html} must be a file in a folder that is there")
    text = None if flags.text is None else _prompt(flags.text)
    out_dir = flags.model.out_dir or _newest_run(Path("out"))
    model = load(out_dir, flags.model.backend, device=flags.model.device, checkpoint=flags.model.checkpoint)
    # Here, so that train.py and sample.py start without them.
    import webbrowser

    from nanogpt.page.contents import contents
    from nanogpt.page.document import page

    figures = contents(
        out_dir, model, text=text, compare=flags.compare, device=flags.model.device, tell=_tell
    )
    write_atomically(file, page(figures, title=f"Attention: {figures['facts']}"))
    _tell(f"Wrote {flags.html}, {file.stat().st_size / 1e6:.2f} MB: open it in a browser, no network needed")
    if flags.open:
        webbrowser.open(file.as_uri())
    return 0


def _prompt(prompt: str) -> str:
    if prompt == "-":
        return decode_text(sys.stdin.buffer.read(), "standard input")
    return read_text(Path(prompt[1:])) if prompt.startswith("@") else prompt


def _newest_run(parent: Path) -> Path:
    runs = [folder.parent for folder in parent.glob("*/checkpoints") if any(folder.iterdir())]
    if not runs:
        raise InputError(
            f"there is no run under {parent}/: train one with train.py, or name it with --out_dir"
        )
    return max(runs, key=lambda run: (run / "checkpoints").stat().st_mtime)


def _parse(kind: type[Flags], arguments: list[str], default: Flags) -> Flags:
    # nanoGPT's --bias=True and --compile=False beside tyro's --bias and --no-compile.
    arguments = [re.sub(r"^--([\w-]+)=True$", r"--\1", argument) for argument in arguments]
    arguments = [re.sub(r"^--([\w-]+)=False$", r"--no-\1", argument) for argument in arguments]
    return tyro.cli(
        kind,
        args=arguments,
        default=default,
        use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def guarded(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """The exit code of a front door: what a person can mend is told in one line, without a traceback."""
    try:
        return main(arguments)
    except InputError as error:
        _tell(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left. Nothing more can be written there, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a full disk, a folder that may not be written to
        _tell(f"error: {error}")
        return 1


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
