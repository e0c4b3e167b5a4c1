"""docs/habits.md is true: each row has flags, commands or files that are there, or a reason."""

import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import nanogpt
from nanogpt.cli.door import parse
from nanogpt.cli.flags import SampleFlags, train_flags
from nanogpt.cli.habits import NANOGPT_SAMPLE, refuse_foreign
from nanogpt.cli.prepare import prepare_main
from nanogpt.cli.sample import sample_main
from nanogpt.cli.train import train_main
from nanogpt.errors import InputError
from nanogpt.huggingface import export_run
from tests.conftest import ROOT
from tests.huggingface_helpers import GPT2Config

# Read from train.py and sample.py of karpathy/nanoGPT, with values that it takes.
THEIR_TRAIN = dict(
    re.findall(
        r"(\w+)=(\S+)",
        """
        out_dir=out eval_interval=2000 log_interval=1 eval_iters=200 eval_only=False
        always_save_checkpoint=True init_from=scratch wandb_log=False wandb_project=owt wandb_run_name=gpt2
        dataset=openwebtext gradient_accumulation_steps=40 batch_size=12 block_size=1024 n_layer=12
        n_head=16 n_embd=768 dropout=0.0 bias=False learning_rate=6e-4 max_iters=600000 weight_decay=1e-1
        beta1=0.9 beta2=0.95 grad_clip=1.0 decay_lr=True warmup_iters=2000 lr_decay_iters=600000 min_lr=6e-5
        backend=nccl device=cuda dtype=bfloat16 compile=True
        """,
    )
)
THEIR_SAMPLE = dict(
    re.findall(
        r"(\w+)=(\S+)",
        """
        init_from=resume out_dir=out start=FILE:prompt.txt num_samples=10 max_new_tokens=500 temperature=0.8
        top_k=200 seed=1337 device=cuda dtype=bfloat16 compile=False
        """,
    )
)
# Read from litgpt's parser_config.py, args.py, config.py, pretrain.py, generate/base.py and data/.
LITGPT_COMMANDS = re.findall(
    r"\S+",
    """
    download chat finetune finetune_lora finetune_full finetune_adapter finetune_adapter_v2 pretrain
    generate generate_full generate_adapter generate_adapter_v2 generate_sequentially
    generate_speculatively generate_tp convert_to_litgpt convert_from_litgpt
    convert_pretrained_checkpoint merge_lora evaluate serve validate
    """,
)
LITGPT_FLAGS = re.findall(
    r"\S+",
    """
    config model_name model_config out_dir precision initial_checkpoint_dir resume data tokenizer_dir
    seed devices num_nodes logger_name optimizer optimizer.lr optimizer.weight_decay optimizer.betas
    train.save_interval train.log_interval train.global_batch_size train.micro_batch_size
    train.lr_warmup_steps train.epochs train.max_tokens train.max_steps train.max_seq_length
    train.tie_embeddings train.max_norm train.min_lr eval.interval eval.max_iters log.project log.run
    data.train_data_path model_config.block_size model_config.n_layer model_config.n_head
    model_config.n_embd model_config.bias model_config.mlp_class_name checkpoint_dir prompt num_samples
    max_new_tokens top_k top_p temperature compile
    """,
)

PAGE = (ROOT / "docs/habits.md").read_text(encoding="utf-8")


class Row(NamedTuple):
    """A row of a table of the page."""

    nanogpt: str
    litgpt: str
    transformers: str
    here: str


class Program(NamedTuple):
    """A program of ours, beside nanoGPT's."""

    name: str
    theirs: dict[str, str]
    main: Callable[[list[str]], int]
    read: Callable[[list[str]], Any]


def sample_flags(arguments: list[str]) -> Any:
    refuse_foreign(arguments, NANOGPT_SAMPLE)
    return parse(SampleFlags, arguments)


PROGRAMS = {
    "Flags of training": Program("train", THEIR_TRAIN, train_main, train_flags),
    "Flags of sampling": Program("sample", THEIR_SAMPLE, sample_main, sample_flags),
}


def rows(title: str) -> list[Row]:
    (section,) = re.findall(rf"^## {title}\n\n(.*?)(?:\n\n|\Z)", PAGE, flags=re.M | re.S)
    return [Row(*map(str.strip, line.strip("|").split("|"))) for line in section.splitlines()[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def flags_in(cell: str) -> list[str]:
    return [text.split()[0] for text in quoted(cell) if text.startswith("--")]


def options(program: Program) -> set[str]:
    """The flags that --help shows."""
    shown = io.StringIO()
    with redirect_stdout(shown), pytest.raises(SystemExit):
        program.main(["--help"])
    return set(re.findall(r"(?:^\W |, )(--\w+)", shown.getvalue(), flags=re.M))


def answer(program: Program, arguments: list[str]) -> str:
    """The line with which a program refuses these flags: empty if it takes them."""
    try:
        program.read(arguments)
    except InputError as error:
        return str(error).replace("`", "")
    except SystemExit:
        return "tyro refuses them"
    return ""


def wrong_here(row: Row, program: Program, files: set[str]) -> list[str]:
    """List what the last column promises and is not there; tests/test_commands.py checks the commands."""
    wrong = []
    for text in quoted(row.here):
        flag, *value = text.split()
        if flag.startswith("--"):
            is_there = flag in options(program) and not (value and answer(program, [flag, *value]))
        elif flag.startswith("nanogpt."):
            is_there = hasattr(nanogpt, flag.removeprefix("nanogpt."))
        else:
            is_there = (
                flag in ("nanogpt", "python", "torchrun")
                or flag.rstrip("/") in files
                or (ROOT / flag).is_file()
            )
        wrong += [] if is_there else [text]
    return wrong


def wrong_nanogpt(row: Row, program: Program) -> list[str]:
    """Flags of nanoGPT's of which the row says something else than the program does."""
    wrong, ours, reason = [], flags_in(row.here), row.here.replace("`", "").partition("not here: ")[2]
    for text in quoted(row.nanogpt):
        flag, _, value = text.partition("=")
        argument = text if value else f"{flag}={program.theirs[flag.removeprefix('--')]}"
        if told := answer(program, [argument]):
            agrees = f" is nanoGPT's: {reason}" in told and all(name in told for name in ours)
        else:
            agrees = flag in ours and not reason
        wrong += [] if agrees else [text]
    return wrong


@pytest.fixture(scope="module")
def files(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files of a run, of an export and of a prepared text."""
    folder, tokens = (tmp_path_factory.mktemp(name) / name for name in ("export", "tokens"))
    export_run(finished_run, folder)
    assert prepare_main([str(finished_run / "report.md"), f"--out={tokens}"]) == 0
    return {file.name for place in (finished_run, folder, tokens) for file in place.iterdir()}


def wrong_transformers(row: Row) -> list[str]:
    """Names that no class of transformers has."""
    from transformers import GenerationConfig, TrainingArguments

    names = {*vars(GenerationConfig()), *vars(GPT2Config()), *TrainingArguments.__dataclass_fields__}
    return [text for text in quoted(row.transformers) if "(" not in text and text not in names]


def wrong_litgpt(row: Row) -> list[str]:
    """Flags that litgpt lacks."""
    return [flag for flag in flags_in(row.litgpt) if flag.removeprefix("--") not in LITGPT_FLAGS]


def wrong_in(row: Row, program: Program, files: set[str]) -> list[str]:
    """All that is wrong in a row of flags."""
    wrong = [*wrong_here(row, program, files), *wrong_nanogpt(row, program)]
    return [*wrong, *wrong_litgpt(row), *wrong_transformers(row)]


@pytest.mark.parametrize(("title", "row"), [(title, row) for title in PROGRAMS for row in rows(title)])
def test_a_row_of_flags_is_true(title: str, row: Row, files: set[str]) -> None:
    assert row.here.startswith("not here: ") or flags_in(row.here)
    assert wrong_in(row, PROGRAMS[title], files) == []


@pytest.mark.parametrize("title", ["Commands", "Files"])
def test_every_command_and_file_of_ours_is_there(title: str, files: set[str]) -> None:
    assert len(rows(title)) > 8
    for row in rows(title):
        assert row.here.startswith("not here: ") or quoted(row.here), row
        assert wrong_here(row, PROGRAMS["Flags of training"], files) == []
        for text in quoted(row.litgpt):
            name = re.match(r"litgpt (\w+)", text)
            assert name is None or name[1] in LITGPT_COMMANDS, text


@pytest.mark.parametrize("title", PROGRAMS)
def test_every_flag_of_nanogpts_has_a_row(title: str) -> None:
    named = {flag.partition("=")[0] for row in rows(title) for flag in flags_in(row.nanogpt)}
    assert named == {f"--{name}" for name in PROGRAMS[title].theirs}


@pytest.mark.parametrize(
    "row",
    [
        Row("", "", "", "`--optimiser`"),
        Row("", "", "", "`--log paper`"),
        Row("", "", "", "`nanogpt.lode`"),
        Row("", "", "", "`meta.pkl`"),
        Row("`--beta1`", "", "", "`--beta2`"),
        Row("`--beta1`", "", "", "not here: Muon has one beta"),
        Row("`--dataset`", "", "", "`--out_dir`"),
        Row("`--dataset`", "", "", "`--dataset`"),
        Row("`--eval_iters`", "", "", "not here: an evaluation is a guess"),
        Row("", "`--train.lr`", "", "`--learning_rate`"),
        Row("", "", "`lerning_rate`", "`--learning_rate`"),
    ],
)
def test_a_wrong_row_would_be_noticed(row: Row, files: set[str]) -> None:
    assert wrong_in(row, PROGRAMS["Flags of training"], files)


def test_a_configuration_in_python_is_refused() -> None:
    for arguments in (["config/train_gpt2.py"], ["--batch_size=3", "my.py"]):
        with pytest.raises(InputError, match=r"\.py: nanoGPT's configuration is Python; --config takes"):
            train_flags(arguments)


def test_values_are_no_flags_of_nanogpts() -> None:
    refuse_foreign(["--data", "config/mine.py", "--prompt=--start", "--backend=torch", "--dtype", "float32"])


@pytest.mark.parametrize("flag", ["--dtype=float16", "--compile=False", "--start=a"])
def test_sampling_tells_its_own(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample_main([flag]) == 2
    assert capsys.readouterr().err.startswith(f"error: {flag.partition('=')[0]} is nanoGPT's: ")
