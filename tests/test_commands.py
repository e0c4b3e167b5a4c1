"""Every command that the README and the docs show is one that its program takes."""

import functools
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tyro

from nanogpt.cli.door import parse
from nanogpt.cli.flags import (
    ExportFlags,
    ExportPageFlags,
    ImportFlags,
    PrepareFlags,
    SampleFlags,
    VisualizeFlags,
    train_flags,
)
from nanogpt.config import Config
from parity_tests.doctor import DoctorFlags
from tests.test_readme import ROOT, TEXTS

Parser = Callable[[list[str]], Any]


def commands(text: str) -> list[str]:
    """Every command of a page: in shell blocks, in transcripts, and between backquotes."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, flags=re.S)).replace("\\\n", "").splitlines()
    transcripts = re.findall(r"^\$ (.*)$", text, flags=re.M)
    inline = re.findall(r"`((?:python|pytest|bash|pip|nanogpt|torchrun) [^`\n]+)`", text)
    lines = [re.sub(" +#.*", "", line) for line in [*blocks, *transcripts, *inline]]
    parts = (part.strip() for line in lines for part in re.split(r"&&|\|", line))
    return [re.sub(r"^[A-Z_]+=\S+ ", "", part) for part in parts if part]  # without a variable before it


def flags_of(module: str, kind: str) -> Parser:
    """The parser of a module that is run by `python -m`, which has its flags in a dataclass."""

    def parse_flags(arguments: list[str]) -> Any:
        flags = getattr(importlib.import_module(module), kind)
        config = (tyro.conf.OmitArgPrefixes,)
        return tyro.cli(flags, args=arguments, use_underscores=True, config=config)

    return parse_flags


@functools.cache
def pytest_help() -> str:
    command = [sys.executable, "-m", "pytest", "-n", "0", "parity_tests", "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


def parse_pytest(arguments: list[str]) -> None:
    for argument in arguments:
        if argument.startswith("-") and not re.search(rf"(?<![\w-]){argument}\b", pytest_help()):
            raise SystemExit(f"pytest has no option {argument}")


def parse_pip(arguments: list[str]) -> None:
    if arguments[0] == "list":
        return
    assert arguments[:4] == ["install", "-c", "constraints.txt", "-e"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", arguments[4])
    if extras is None or not {*(extras[1] or "dev").split(",")} <= project["optional-dependencies"].keys():
        raise SystemExit(f"there is no extra {arguments[4]}")


def parse_torchrun(arguments: list[str]) -> Any:
    from torch.distributed.run import get_args_parser

    known = get_args_parser().parse_args(arguments)
    if known.training_script == "train.py":
        train_flags(known.training_script_args)
    return known


def parse_nothing(arguments: list[str]) -> None:
    """Commands of others, which this project can't check."""


COMMANDS: dict[str, Parser] = {
    "train": train_flags,
    "sample": functools.partial(parse, SampleFlags),
    "visualize": functools.partial(parse, VisualizeFlags),
    "prepare": functools.partial(parse, PrepareFlags, takes_files=True),
    "export page": functools.partial(parse, ExportPageFlags),
    "export": functools.partial(parse, ExportFlags),
    "import": functools.partial(parse, ImportFlags),
    "doctor": functools.partial(parse, DoctorFlags),
}
PARSERS: dict[str, Parser] = {
    **{f"python {name}.py": COMMANDS[name] for name in ("train", "sample", "visualize")},
    **{f"nanogpt {name}": parser for name, parser in COMMANDS.items()},
    "python -m benchmarks.cuda": flags_of("benchmarks.cuda.__main__", "Cuda"),
    "python -m benchmarks.gpu": flags_of("benchmarks.gpu", "Gpu"),
    "python -m benchmarks.frontier": flags_of("benchmarks.frontier", "Frontier"),
    "python -m benchmarks.race": flags_of("benchmarks.race", "Race"),
    "python -m benchmarks.road": flags_of("benchmarks.road", "Road"),
    "python -m benchmarks.big_text": flags_of("benchmarks.big_text", "BigText"),
    "python -m benchmarks.page": flags_of("benchmarks.page", "Page"),
    "python -m benchmarks.temperature": flags_of("benchmarks.temperature", "Temperature"),
    "python -m benchmarks.scale": parse_nothing,
    "python -m benchmarks": flags_of("benchmarks.__main__", "Benchmark"),
    "python -m parity_tests.curves": flags_of("parity_tests.curves", "Curves"),
    "python -m parity_tests.diff_page": parse_nothing,
    "python -m parity_tests.diff": parse_nothing,
    "pytest": parse_pytest,
    "pip": parse_pip,
    "torchrun": parse_torchrun,
    "python -m venv": parse_nothing,
    "source": parse_nothing,
    "pre-commit install": parse_nothing,
    "tensorboard --logdir": parse_nothing,
    "grep": parse_nothing,
    "bash .ci/run": parse_nothing,
    "head": parse_nothing,
}


def check(command: str) -> None:
    """Parse a command as its program does. Raises SystemExit for what it would refuse."""
    name = next((name for name in PARSERS if f"{command} ".startswith(f"{name} ")), None)
    assert name, f"unknown command: {command}"
    words = shlex.split(command.removeprefix(name))
    for flag, value in pairwise(words):
        if flag == "--init_from":  # its model is looked up when flags are read
            (Path(value) / "checkpoints").mkdir(parents=True, exist_ok=True)
            (Path(value) / "config.json").write_text(json.dumps(asdict(Config())))
    PARSERS[name](words)


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_is_one_that_its_program_takes(page: str) -> None:
    for command in commands(TEXTS[page]):
        if command.endswith("--help"):
            command = command.removesuffix("--help")
        check(command)


@pytest.mark.parametrize(
    "command",
    [
        "python train.py --presett quick",
        "python train.py --preset fast",
        "python sample.py --temp warm",
        "python -m benchmarks training --round 5",
        "nanogpt export --out out/quick",
        "torchrun --nproc_per_node 2 train.py --meshes fsdp=2",
        "torchrun --nprocs 2 train.py",
        "pytest --devise mps",
        'pip install -c constraints.txt -e ".[gpu]"',
    ],
)
def test_a_wrong_command_would_be_noticed(command: str) -> None:
    with pytest.raises(SystemExit) as end:
        check(command)
    assert end.value.code != 0


def test_commands_are_found_wherever_they_stand() -> None:
    page = (
        "`python train.py`\n```sh\npip install -e . && pytest  # all\n```\n```\n$ python sample.py | grep a\n"
    )
    assert sorted(commands(page)) == [
        "grep a",
        "pip install -e .",
        "pytest",
        "python sample.py",
        "python train.py",
    ]
