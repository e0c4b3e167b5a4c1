"""The flags of the front doors, as dataclasses that tyro reads."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nanogpt.cli.door import command, newest_run, parse
from nanogpt.cli.paths import PATH
from nanogpt.config import Config, ModelConfig, Preset
from nanogpt.language_model import LanguageModel, load
from nanogpt.session import LogName, Resume, start_of


@dataclass(frozen=True)
class ModelFlags(ModelConfig):
    """The architecture; all but dropout is fixed for a run."""

    vocab_size: tyro.conf.Suppress[int] = 1  # comes with the data


@dataclass(frozen=True)
class TrainFlags(Config):
    """Train a GPT, or go on with its training. Flags not given are the preset's, or those of the run."""

    model: ModelFlags = field(default_factory=ModelFlags)
    out_dir: Annotated[Path, PATH] = Path("out/shakespeare")
    """Folder of the run; out/<preset> if not given."""
    config: Annotated[Path | None, PATH] = None
    """File of settings, below the flags: the config.json of a run, or TOML with the names of these flags."""
    resume: Resume = "auto"
    """auto goes on from the newest checkpoint in out_dir; never moves an old run aside and begins anew."""
    quiet: bool = False
    """Print warnings and errors alone."""
    log: LogName = "none"
    """tensorboard also writes event files, which tensorboard --logdir out shows; wandb also logs there."""
    debug: bool = False
    """Show the traceback of an error."""
    device_is_given: tyro.conf.Suppress[bool] = False  # or a mesh; else it may be that of another machine

    @property
    def settings(self) -> Config:
        """The configuration of the run."""
        return Config(ModelConfig(**vars(self.model)), self.training, self.run)


@dataclass(frozen=True)
class Origin:
    """The flags that decide where the defaults of the others come from."""

    preset: Preset | None = None
    init_from: str | None = None
    out_dir: Annotated[Path | None, PATH] = None
    config: Annotated[Path | None, PATH] = None
    resume: Resume = "auto"
    device: str | None = None
    mesh: str | None = None


def train_flags(arguments: list[str]) -> TrainFlags:
    """The flags of train.py: those not given are the file's of --config, the saved run's, or the preset's."""
    origin, others = parse(Origin, arguments, add_help=False, return_unknown_args=True)
    config, out_dir = start_of(origin.preset, origin.init_from, origin.out_dir, origin.resume, origin.config)
    given = {name: value for name in ("device", "mesh") if (value := getattr(origin, name)) is not None}
    default = TrainFlags(
        ModelFlags(**asdict(config.model)),
        config.training,
        replace(config.run, **given),
        out_dir,
        origin.config,
        origin.resume,
        device_is_given=bool(given),
    )
    return parse(TrainFlags, others, default=default, prog=command("train"))


@dataclass(frozen=True)
class ModelChoice:
    """The model."""

    out_dir: Annotated[Path | None, PATH] = None
    """Folder of the run; the newest one under out/ if not given."""
    checkpoint: str = "latest"
    """latest, best (by validation loss) or a step."""
    backend: Literal["auto", "jax", "torch"] = "auto"
    """auto takes torch on a Mac with MPS, else jax."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def load(self) -> tuple[Path, LanguageModel]:
        """The folder of the run, and its model."""
        out_dir = self.out_dir or newest_run(Path("out"))
        return out_dir, load(out_dir, self.backend, device=self.device, checkpoint=self.checkpoint)


@dataclass(frozen=True)
class SampleFlags:
    """Write text with a trained model: the text to standard output, everything else to standard error."""

    model: ModelChoice = field(default_factory=ModelChoice)
    prompt: str = "\n"
    """The text to continue: a text, @file, or - for standard input. An empty one begins a new text."""
    max_tokens: int = 500
    """Tokens to write for each sample, at most 10,000,000."""
    temp: Annotated[float, tyro.conf.arg(aliases=["--temperature"])] = 0.8
    """Temperature: below 1 safer, above 1 more varied, 0 always the likeliest token."""
    top_k: int | None = None
    """Choose among the k likeliest tokens."""
    top_p: float | None = None
    """Choose among the fewest likeliest tokens whose probabilities reach p."""
    stop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """End each text before this one. May be given several times."""
    num_samples: int = 1
    """Texts to write."""
    seed: int = 1337
    """One seed gives one text, on either backend."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class VisualizeFlags:
    """Write a page that shows what every attention head attends to: one file, for any browser, offline."""

    model: ModelChoice = field(default_factory=ModelChoice)
    text: str | None = None
    """The text that the model reads: a text, @file, or - for standard input; else the start of the validation
    text."""
    compare: str | None = None
    """jax or torch, the folder of another run, or another checkpoint: latest, best or a step."""
    live: bool = True
    """Put the model into the page, so that it writes there: a small one whose tokens are characters."""
    html: Annotated[Path, PATH] = Path("attention.html")
    """The page to write."""
    open: bool = False
    """Show it in the browser."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class PrepareFlags:
    """Make tokens of texts of any size, to train on. After a stop or a kill, the same command goes on."""

    texts: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXTS...")]
    """Files, or folders of files: plain text, .jsonl or .parquet with the field text; .gz and .zst are
    unpacked."""
    out: Annotated[Path, PATH]
    """Folder to write, which train.py takes as --data: a new one, or an empty one."""
    tokenizer: str = "char"
    """char, bytes, bpe:8192 (learnt from the text; any size), or a tokenizer.json."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class ExportFlags:
    """Write a checkpoint of a run as a GPT-2 folder of transformers; `export page` writes it as a page."""

    out_dir: Annotated[Path, PATH]
    """Folder of the run."""
    folder: Annotated[Path, PATH]
    """Folder to write: a new one, or an empty one."""
    checkpoint: str = "latest"
    """latest, best (by validation loss) or a step."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class ExportPageFlags:
    """Write a page that holds a trained model, which writes there: one file, for any browser, offline."""

    model: ModelChoice = field(default_factory=ModelChoice)
    text: str | None = None
    """The text that the page begins with: a text, @file, or - for standard input; else validation text."""
    html: Annotated[Path, PATH] = Path("model.html")
    """The page to write."""
    open: bool = False
    """Show it in the browser."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class ImportFlags:
    """Make a GPT-2 folder of transformers the start of a run: its weights and tokenizer, at step 0."""

    folder: Annotated[Path, PATH]
    """Folder to read, with config.json, model.safetensors and perhaps tokenizer.json."""
    out_dir: Annotated[Path, PATH]
    """Folder of the run to write: a new one, or an empty one."""
    debug: bool = False
    """Show the traceback of an error."""
