"""Values that no machine can hold, or that mean nothing, are refused in a line before anything is begun."""

import io
import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nanogpt
from nanogpt import memory
from nanogpt.backend import MAX_STEPS_PER_CALL
from nanogpt.choice import load_backend
from nanogpt.cli.huggingface import export_main, import_main
from nanogpt.cli.sample import sample_main
from nanogpt.cli.train import train_main
from nanogpt.cli.visualize import visualize_main
from nanogpt.config import Config, ModelConfig, TrainingConfig
from nanogpt.errors import InputError
from nanogpt.memory import machine_memory, require_memory_for, training_bytes
from nanogpt.presets import PRESETS
from nanogpt.report.terminal import clock
from nanogpt.sampling import MAX_TOKENS
from nanogpt.state import TrainingState
from nanogpt.text import corpus
from nanogpt.text.corpus import load_corpus, read_stream
from nanogpt.training.batches import step_inputs
from tests.conftest import BACKENDS, Train, tiny_flags
from tests.limits import bounded, complaint, refusal

LONG = "1" + "0" * 400
ODD_INTEGERS = st.one_of(st.integers(), st.integers(1, 3), st.sampled_from([10**9, 2**63, 10**22, 10**400]))
ODD_FLOATS = st.floats() | st.sampled_from([0.0, 1.0, 1e-6, 1e6, 5e-324, 1e308])


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    with bounded():
        yield


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--block_size=100000000"], "block_size 100000000, "),
        (["--n_embd=100000000"], "n_embd 100000000, "),
        (["--n_embd=1000000000", "--n_head=1000000000"], "n_embd 1000000000, "),
        (["--batch_size=1000000000"], "batch_size 1000000000 needs at least "),
        (["--batch_size=1000000000000000000"], "batch_size 1000000000000000000 needs at least "),
        (["--n_layer=100000"], "n_layer 100000 is out of range: it must be at most 10,000"),
        (["--n_layer=1000000000"], "n_layer 1000000000 is out of range: it must be at most 10,000"),
        (["--n_head=1000000000"], "n_embd 16 is not divisible by n_head 1000000000"),
        ([f"--n_embd={LONG}"], "n_embd is out of range: it must be below 2**63"),
        ([f"--warmup_iters={LONG}"], "warmup_iters is out of range: it must be below 2**63"),
        ([f"--max_iters={LONG}"], "max_iters is out of range: it must be below 2**63"),
        ([f"--seed=1{'0' * 30}"], "seed is out of range: it must be below 2**63"),
        (["--learning_rate=1e300"], "learning_rate 1e+300 is out of range: it must be at most 1e+38"),
        (["--learning_rate=inf"], "learning_rate inf is out of range"),
        (["--weight_decay=nan"], "weight_decay nan is out of range"),
        (["--data="], "data '' names no text"),
        (["--out_dir="], "'' names no file or folder"),
        (["--out_dir", ""], "'' names no file or folder"),
        (["--out_dir=a\0b"], r"'a\x00b' names no file or folder"),
        (["--out_dir=a\udce4"], r"'a\udce4' is no text in this system's encoding"),
    ],
)
def test_a_run_that_no_machine_can_hold_is_not_begun(
    flags: list[str], message: str, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(train_main, [*tiny_flags(text_file), "--out_dir=run", "--backend=torch", *flags], capsys)
    assert message in told
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["sample.py", "visualize.py", "export", "import"])
def test_an_empty_path_is_not_the_working_folder(
    text: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, flags = {
        "sample.py": (sample_main, ["--out_dir="]),
        "visualize.py": (visualize_main, [f"--out_dir={finished_run}", "--html="]),
        "export": (export_main, [f"--out_dir={finished_run}", "--folder="]),
        "import": (import_main, ["--folder=", "--out_dir=run"]),
    }[text]
    assert "'' names no file or folder" in refusal(main, flags, capsys)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_bound_of_memory_is_that_of_real_arrays(optimizer: Literal["muon", "adamw"]) -> None:
    training = TrainingConfig(optimizer=optimizer, batch_size=3, max_iters=100)
    config = Config(ModelConfig(30, 16, 2, 2, 8, bias=True), training)
    initial = TrainingState.initial(config.model, 1)
    state = load_backend("torch")(config.model, training, initial, device="cpu").state()
    tokens = step_inputs(
        lambda step: np.zeros((3, 17), np.int32), range(MAX_STEPS_PER_CALL), config.training
    ).tokens_KBT1
    saved = [state.weights, state.first_moment, state.second_moment]
    arrays = [array for part in (state.weights, *saved) for array in part.values()]
    assert training_bytes(config.model, config.training) == sum(array.nbytes for array in (*arrays, tokens))


def test_only_what_surely_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 32e9)
    for preset in PRESETS.values():
        require_memory_for(preset.model, preset.training)
    default = Config(training=TrainingConfig(optimizer="adamw", batch_size=64))
    needed = training_bytes(default.model, default.training)
    monkeypatch.setattr(memory, "machine_memory", lambda: needed)
    require_memory_for(default.model, default.training)
    monkeypatch.setattr(memory, "machine_memory", lambda: needed - 1)
    with pytest.raises(
        InputError, match=r"batch_size 64 needs at least 23\.9 MB of memory, and this machine has 23\.9"
    ):
        require_memory_for(default.model, default.training)
    require_memory_for(default.model)
    monkeypatch.setattr(memory, "machine_memory", lambda: 4_922_879)
    with pytest.raises(InputError, match=r"a model of n_layer 6, .* needs at least 4\.92 MB of memory"):
        require_memory_for(default.model)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(asdict(ModelConfig()), ODD_INTEGERS)), ODD_INTEGERS)
@example({"n_layer": 10_000, "n_embd": 2**62, "n_head": 1, "vocab_size": 2**62, "block_size": 2**62}, 2**62)
def test_any_sizes_are_told_in_a_line_or_fit(sizes: dict[str, int], batch_size: int) -> None:
    def arguments() -> tuple[ModelConfig, TrainingConfig]:
        return ModelConfig(**sizes), TrainingConfig(batch_size=batch_size)

    if not complaint(lambda: require_memory_for(*arguments())):
        assert training_bytes(*arguments()) <= machine_memory()


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_a_device_without_memory_is_told_in_a_line(
    backend: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit of the process stands for the memory of the device."""
    sizes = ["--n_layer=2", "--n_head=8", "--n_embd=16", "--block_size=32", "--batch_size=65536"]
    assert train("run", f"--backend={backend}", *sizes, "--micro_batch_size=65536") == 2
    told = capsys.readouterr().err
    assert re.fullmatch(
        r"error: out of memory: each device needs about \S+ kB, and \S+ kB for each row that it computes at "
        r"once: take --remat, a smaller --micro_batch_size, or --mesh fsdp=N on N devices\n",
        told,
    )


def test_an_attention_beyond_the_machine_is_refused(
    model: nanogpt.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens_BT = np.zeros((2, 16), np.int32)
    size = model.attention(tokens_BT).nbytes
    monkeypatch.setattr(memory, "machine_memory", lambda: size)
    assert model.attention(tokens_BT).nbytes == size
    monkeypatch.setattr(memory, "machine_memory", lambda: size - 1)
    with pytest.raises(InputError, match="the attention of 2 rows of 16 tokens needs at least"):
        model.attention(tokens_BT)


@pytest.mark.parametrize(
    ("content", "limit"), [("1000000\n", 1_000_000), ("max\n", math.inf), (None, math.inf)]
)
def test_the_limit_of_a_container_counts(
    content: str | None, limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LIMITS", ())
    whole = machine_memory()
    if content:
        (tmp_path / "memory.max").write_text(content)
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "memory.max",))
    assert machine_memory() == min(limit, whole)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--max_tokens=1000000000"],
            "max_tokens 1000000000 is out of range: it must be at least 0 and at most",
        ),
        ([f"--max_tokens=1{'0' * 21}"], "max_tokens 1000000000000000000000 is out of range"),
        ([f"--seed=1{'0' * 30}"], "seed 1000000000000000000000000000000 is out of range"),
        (["--temp=nan"], "temperature nan is out of range: it must be 0, or from 1e-6 to 1e6"),
        (["--temp=inf"], "temperature inf is out of range"),
        (["--temp=-inf"], "temperature -inf is out of range"),
        (["--temp=1e308"], "temperature 1e+308 is out of range"),
        (["--temp=1e-300"], "temperature 1e-300 is out of range"),
        ([f"--top_k=-{LONG}"], "is out of range: it must be at least 1"),
        (["--top_p=nan"], "top_p nan is out of range"),
        ([f"--checkpoint={LONG}"], "there is no checkpoint '1000"),
        (["--prompt=@/dev/zero"], "/dev/zero is a pipe or a device, not a file"),
        (["--prompt=@/dev/random"], "/dev/random is a pipe or a device, not a file"),
        (["--prompt=@pipe"], "pipe is a pipe or a device, not a file"),
        (["--prompt=@huge"], "the text huge needs at least 3.3 TB of memory"),
        (["--prompt=@loop"], "loop can't be read: Too many levels of symbolic links"),
        ([f"--prompt=@{'a' * 300}"], "can't be read: File name too long"),
        (["--prompt=@run.txt/below"], "there is no file or folder run.txt/below"),
    ],
)
def test_a_sample_that_can_not_be_is_refused(
    flags: list[str], message: str, finished_run: Path, odd_files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(sample_main, [f"--out_dir={finished_run}", "--backend=torch", *flags], capsys)


def test_no_model_is_loaded_for_a_sample_that_can_not_be(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--max_tokens=-1", "--seed=-1", "--temp=-1", "--top_k=0", "--top_p=0", "--num_samples=0"):
        told = refusal(sample_main, ["--out_dir=nowhere", flag], capsys)
        assert f" {flag[2:].split('=')[0].replace('temp', 'temperature')} " in told


@pytest.fixture
def odd_files(tmp_path: Path) -> None:
    """Make a pipe that nobody writes to, a file of 1 TiB of holes, and a link to itself."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**40)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "run.txt").write_text("text")


@given(
    temperature=ODD_FLOATS, top_k=st.none() | ODD_INTEGERS, top_p=st.none() | ODD_FLOATS, seed=ODD_INTEGERS
)
@settings(max_examples=60)
def test_any_policy_is_refused_or_followed(
    temperature: float, top_k: int | None, top_p: float | None, seed: int, model: nanogpt.LanguageModel
) -> None:
    texts = []
    options = {"top_k": top_k, "top_p": top_p, "seed": seed, "max_tokens": 3}
    told = complaint(lambda: texts.append(model.generate("the ", temperature=temperature, **options)))
    fits = (
        (temperature == 0 or 1e-6 <= temperature <= 1e6)
        and (top_k is None or top_k >= 1)
        and (top_p is None or 0 < top_p <= 1)
        and 0 <= seed < 2**32
    )
    assert fits == (told is None)
    assert [len(text) for text in texts] == [7] * fits


@pytest.fixture(scope="module")
def model(finished_run: Path) -> nanogpt.LanguageModel:
    return nanogpt.load(finished_run, backend="torch")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_lowest_temperature_takes_the_likeliest_token(backend: str, finished_run: Path) -> None:
    """The jax twin wrote its first token for ever at 1e-10, where float32 can't tell the logits apart."""
    model = nanogpt.load(finished_run, backend=backend)
    texts = [model.generate("the ", max_tokens=20, temperature=t) for t in (0, 1e-6)]
    assert texts[0] == texts[1]


def test_the_longest_text_begins_at_once(model: nanogpt.LanguageModel) -> None:
    pieces = model.stream("the ", max_tokens=MAX_TOKENS)
    assert next(pieces) == next(model.stream("the ", max_tokens=100))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("/dev/zero", "/dev/zero is a pipe or a device, not a file"),
        ("/dev/random", "/dev/random is a pipe or a device, not a file"),
        ("/dev/null", "/dev/null is a pipe or a device, not a file"),
        ("pipe", "pipe is a pipe or a device, not a file"),
        ("folder/zero", "folder/zero is a pipe or a device, not a file"),
        ("huge", "huge needs at least 3.3 TB of memory"),
        ("loop", "loop can't be read: Too many levels of symbolic links"),
        ("a" * 300, "there is no file or folder"),
        ("many", "many holds more than 3 files: name a smaller one"),
        ("large", "large needs at least 3.3 TB of memory"),
        ("a\0b", "there is no file or folder"),
    ],
)
def test_data_without_an_end_is_refused(
    data: str, message: str, odd_files: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "MAX_FILES", 3)
    for name in ("folder", "many", "many/deeper", "large"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder/zero").symlink_to("/dev/zero")
    (tmp_path / "large/linked").symlink_to("../huge")
    for name in ("a", "b", "deeper/c", "deeper/d"):
        (tmp_path / "many" / name).write_text("text")
    with pytest.raises(InputError, match=message):
        load_corpus(data)


def test_a_folder_gives_its_files_alone(odd_files: None, tmp_path: Path) -> None:
    (tmp_path / "huge").unlink()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "again").symlink_to(".")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper/b.txt").write_text("below")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/c.txt").write_text("hidden")
    (tmp_path / "deeper/.d.txt").write_text("hidden")
    assert load_corpus(".").text == "below\ntext"


def test_a_stream_must_have_an_end() -> None:
    with (
        Path("/dev/zero").open("rb") as endless,
        pytest.raises(InputError, match="standard input has more than"),
    ):
        read_stream(endless, "standard input")
    assert read_stream(io.BytesIO("中\r\n".encode()), "standard input") == "中\r\n"


def test_any_number_of_seconds_has_a_clock() -> None:
    """At its first steps a run of 9e18 iterations has more seconds left than a date can hold."""
    told = [clock(seconds) for seconds in (0, 59.6, 3_599, 90_061, 3.6e18)]
    assert told == ["0:00:00", "0:01:00", "0:59:59", "25:01:01", "1000000000000000:00:00"]


@pytest.mark.parametrize(
    "html", ["device", "link", "pipe", "folder", "nowhere/page.html", "run.txt/page.html", "descriptor"]
)
def test_a_page_takes_the_place_of_a_file_alone(
    html: str, finished_run: Path, odd_files: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    (tmp_path / "descriptor").symlink_to(f"/dev/fd/{write}")  # as /dev/stdout is one
    try:
        os.mknod(tmp_path / "device", 0o20600, os.makedev(1, 7))  # a /dev/full of our own
    except OSError:  # root alone may do it, and then nothing of root's can be lost
        (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "link").symlink_to("device")
    (tmp_path / "folder").mkdir()
    before = {file.name: file.lstat()[:4] for file in tmp_path.iterdir()}
    told = refusal(visualize_main, [f"--out_dir={finished_run}", "--backend=torch", f"--html={html}"], capsys)
    os.close(read)
    os.close(write)
    assert told == f"error: --html {html} must be a file in a folder that is there"
    assert {file.name: file.lstat()[:4] for file in tmp_path.iterdir()} == before


def test_a_page_takes_the_place_of_the_file_that_a_link_leads_to(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/old.html").write_text("old")
    (tmp_path / "link.html").symlink_to("pages/old.html")
    flags = [f"--out_dir={finished_run}", "--backend=torch", "--text=the king", "--html=link.html"]
    assert visualize_main(flags) == 0
    assert (tmp_path / "link.html").is_symlink()
    assert "<html" in (tmp_path / "pages/old.html").read_text(encoding="utf-8")


def test_an_output_that_lacks_characters_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "\u6587.txt").write_text("\u4f60\u597d\uff0c\u4e16\u754c\u3002\n" * 50, encoding="utf-8")
    outputs = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", outputs[0])
    monkeypatch.setattr(sys, "stderr", outputs[1])
    run, page, prompt = "--out_dir=\u8fd0\u884c", "--html=\u9875.html", "\u4f60\u597d"
    train = [
        *tiny_flags(tmp_path / "\u6587.txt"),
        run,
        "--backend=torch",
        "--max_iters=4",
        "--eval_interval=2",
    ]
    assert train_main(train) == 0
    assert sample_main([run, "--backend=torch", f"--prompt={prompt}", "--max_tokens=5"]) == 0
    assert sample_main([run, "--backend=torch", "--prompt=\u9875"]) == 2
    assert visualize_main([run, "--backend=torch", f"--text={prompt}", page]) == 0
    assert export_main([run, "--folder=\u6587\u4ef6"]) == 0
    assert import_main(["--folder=\u6587\u4ef6", "--out_dir=\u518d"]) == 0
    for output in outputs:
        output.flush()
        assert "Traceback" not in output.buffer.getvalue().decode()
    assert prompt in outputs[0].buffer.getvalue().decode(), "a text keeps its characters"
