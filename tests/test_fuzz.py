"""Whatever stands in config.json or on a command line: it is taken as it is meant, or refused in a line."""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from nanogpt.cli.door import guarded
from nanogpt.cli.flags import SampleFlags, TrainFlags, VisualizeFlags, train_flags
from nanogpt.cli.sample import sample_main
from nanogpt.cli.visualize import visualize_main
from nanogpt.config import MAX_FLOAT, Config, differences, learning_rate_at
from nanogpt.errors import InputError
from nanogpt.training.run import saved_config
from nanogpt.weights import count_parameters

SEED = 1
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, 10**400, 1e308])
WORDS = st.sampled_from(
    ["auto", "jax", "torch", "relu", "gelu", "tf32", "quick", "cpu", "never", "latest", "tensorboard"]
)
USUAL = {bool: st.booleans(), int: st.integers(0, 300), float: st.floats(0, 1), str: WORDS}
JSON = st.recursive(
    st.none() | NUMBERS | st.one_of(*USUAL.values()) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Content of a config.json: a configuration with a few changes, or something else."""
    values: Any = asdict(Config())
    for _ in range(draw(st.integers(0, 4))):
        part = values[draw(st.sampled_from(sorted(values)))]
        name = draw(st.sampled_from(sorted(part)))
        match draw(st.integers(0, 19)):
            case 0:
                del part[name]
                break
            case 1:
                part[draw(st.text())] = draw(JSON)
            case 2:
                part[name] = draw(JSON)
            case 3:
                part[name] = draw(NUMBERS)
            case _:
                part[name] = draw(USUAL.get(type(part[name]), JSON))
    content = json.dumps(values).encode()
    match draw(st.integers(0, 19)):
        case 0:
            return json.dumps(draw(JSON | st.fixed_dictionaries(dict.fromkeys(values, JSON)))).encode()
        case 1:
            return content[: draw(st.integers(0, len(content)))] + draw(st.binary())
        case _:
            return content


def check_config(file: Path, content: bytes) -> str:
    """Read a config.json. Returns whether it was taken or refused."""
    file.write_bytes(content)
    config = None
    try:
        config = saved_config(file.parent)
    except InputError as error:
        told = str(error)
    if config is None:
        assert "\n" not in told
        return "refused"
    for part in vars(config).values():
        for name, kind in get_type_hints(type(part)).items():
            value = getattr(part, name)
            kinds = get_args(kind) if get_origin(kind) is Union else [kind]
            assert any(fits(value, one) for one in kinds), name
    assert Config.from_dict(json.loads(json.dumps(asdict(config)))) == config
    recipe = config.training
    for step in (0, 1, recipe.warmup_iters, recipe.max_iters - 1, recipe.max_iters):
        assert 0 <= learning_rate_at(step, recipe) <= recipe.learning_rate * (1 + 1e-9)
    if config.model.n_layer < 100:
        assert count_parameters(config.model) > 0
    assert differences(config.training, recipe) == []
    return "taken"


def fits(value: Any, kind: Any) -> bool:
    """Tell whether a value is of the type of its field: a number is not negative, and not out of range."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if type(value) is int:
        return kind in (int, float) and 0 <= value < 2**63
    return type(value) is kind and (kind is not float or 0 <= value <= MAX_FLOAT)


def kinds(flags: type) -> dict[str, Any]:
    """Name and type of each flag of a front door: the fields of its dataclass, and of those inside it."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(flags).items():
        found |= kinds(kind) if is_dataclass(kind) else {name: kind}
    return found


FLAGS = {
    "train": kinds(TrainFlags),
    "sample": kinds(SampleFlags) | {"temperature": float},
    "visualize": kinds(VisualizeFlags),
}
ODD = st.one_of(
    JSON.map(str),
    st.sampled_from(
        ["1e3", "1_000", "0x10", "\u0663", "None", "", "-", "--", "-1", "9" * 5_000, "{}", "@/none"]
    ),
    st.sampled_from(["a\0b", "\ud800", "\udcff.txt", "x" * 5_000, "/dev/null", "..", "~nobody"]),
    st.text(st.characters(), max_size=20),
)


@st.composite
def command_lines(draw: st.DrawFn, flags: dict[str, Any]) -> list[str]:
    """Arguments of a front door: its flags, or others, with values or without."""
    arguments: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        flag, kind = draw(st.sampled_from(sorted(flags.items(), key=str)))
        usual = st.sampled_from(get_args(kind)) if get_origin(kind) is Literal else USUAL.get(kind, WORDS)
        value = str(draw(usual if draw(st.integers(0, 3)) else ODD))
        match draw(st.integers(0, 19)):
            case 0:
                arguments.append(f"--{flag}")
            case 1:
                arguments.append(f"--no-{flag}")
            case 2:
                arguments += [f"-{flag}", value]
            case 3:
                arguments.append(value)
            case 4:
                others = st.sampled_from(["debug", "vocab_size", "bach_size", "help"])
                arguments.append(f"--{draw(others | st.text(max_size=5))}={value}")
            case 5 | 6 | 7:
                arguments += [f"--{flag}", value]
            case 8 | 9:
                arguments.append(f"--{flag.replace('_', '-')}={value}")
            case _:
                arguments.append(f"--{flag}={value}")
    return [argument for argument in arguments if argument != "--debug"]  # which shows a traceback


def check_command_line(main: Callable[[list[str]], int], arguments: list[str]) -> str:
    """Give arguments to a front door. Returns whether they were taken or refused."""
    encoding = ["utf-8", "ascii"][len(arguments) % 2]
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors) for errors in ("strict", "backslashreplace")]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
    output, errors = (stream.flush() or stream.buffer.getvalue().decode(encoding) for stream in streams)
    assert code in (0, 2), errors
    assert code == 0 or errors, "no message"
    assert "Traceback" not in output + errors
    return "refused" if code else "taken"


def run_through(examples: int, strategy: st.SearchStrategy[Any], check: Any) -> Counter[str]:
    """Check so many examples. Returns what became of them."""
    met: Counter[str] = Counter()

    @seed(SEED)
    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(example: Any) -> None:
        met[check(example)] += 1

    one()
    print(f"{met.total():,} examples by seed {SEED}: {dict(met)}")
    return met


@pytest.mark.parametrize("examples", [300, pytest.param(80_000, marks=pytest.mark.slow)])
def test_settings_in_a_file_are_right_or_refused(examples: int, tmp_path: Path) -> None:
    met = run_through(examples, contents(), lambda content: check_config(tmp_path / "config.json", content))
    assert all(met[end] > examples / 10 for end in ("taken", "refused"))


def parsed(arguments: list[str]) -> int:
    """Read the flags of train.py as it reads them."""
    return guarded(lambda rest: bool(train_flags(rest).settings) - 1, arguments)


@pytest.mark.parametrize("door", ["train", "sample", "sample without a run", "visualize without a run"])
@pytest.mark.parametrize("examples", [25, pytest.param(5_000, marks=pytest.mark.slow)])
def test_flags_are_right_or_refused(
    door: str, examples: int, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampled(arguments: list[str]) -> int:
        return sample_main([*arguments, f"--out_dir={finished_run}", "--max_tokens=3", "--num_samples=1"])

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    mains = {"train": parsed, "sample": sampled, "sample without a run": sample_main}
    check = partial(check_command_line, mains.get(door, visualize_main))
    met = run_through(examples, command_lines(FLAGS[door.split()[0]]), check)
    assert met["refused"]
    assert met["taken"] or "without" in door
