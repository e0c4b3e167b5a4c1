"""The front doors take every spelling of a flag, and answer bad input with one clear line and exit code 2."""

import re
from pathlib import Path

import pytest

import nanogpt.cli.train
from nanogpt.cli.sample import sample_main
from nanogpt.cli.train import train_main
from nanogpt.errors import InputError
from tests.conftest import Train


@pytest.mark.parametrize("flag", ["--batch_size=3", "--batch-size=3", "--batch_size 3", "--batch-size 3"])
def test_flags_are_spelled_in_any_way(flag: str, train: Train, tmp_path: Path) -> None:
    assert train("run", "--backend=torch", "--max_iters=1", *flag.split()) == 0
    assert '"batch_size": 3' in (tmp_path / "run/config.json").read_text()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("--bias --no-tie_weights", "true"), ("--bias=True", "true"), ("--bias=False", "false"), ("", "false")],
)
def test_booleans_are_spelled_in_both_ways(flags: str, expected: str, train: Train, tmp_path: Path) -> None:
    assert train("run", "--backend=torch", "--max_iters=1", *flags.split()) == 0
    assert f'"bias": {expected}' in (tmp_path / "run/config.json").read_text()


def test_help_shows_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    flags = re.findall(
        r"\w+",
        """backend preset init_from data tokenizer out_dir config resume device mesh dtype seed max_iters
        batch_size block_size n_layer n_head n_embd dropout attention_dropout bias activation tie_weights
        optimizer learning_rate min_lr schedule warmup_iters weight_decay beta1 beta2 grad_clip eval_interval
        log_interval compile micro_batch_size remat quiet log debug""",
    )
    with pytest.raises(SystemExit) as end:
        train_main(["--preset=quick", "--help"])
    assert end.value.code == 0
    out = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert all(f"--{flag} " in out or f"--{flag}," in out for flag in flags)
    assert out.count("(default: ") == len(flags)
    assert "vocab_size" not in out
    with pytest.raises(SystemExit) as end:
        sample_main(["--help"])
    assert "--temp" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bach_size=3"], "--bach_size"),
        (["--batch_size=three"], "three"),
        (["--preset=huge"], "huge"),
        (["--resume=maybe"], "maybe"),
        (["--batch_size"], "batch_size"),
        (["--n_embd=130"], "n_embd 130 is not divisible by n_head 4"),
        (["--learning_rate=-1"], "learning_rate -1.0 is out of range"),
    ],
)
def test_a_wrong_flag_gets_a_short_message(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train_main(flags)
    assert end.value.code == 2
    error = re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=nowhere.txt"], "there is no file or folder"),
        (["--block_size=5000"], "take a longer text or a smaller --block_size"),
        (["--device=tpu", "--backend=torch"], "torch finds no device 'tpu' here"),
        (["--device=tpu", "--backend=jax"], "jax finds no device 'tpu' here"),
        (["--out_dir=file"], "the folder file can't be made"),
    ],
)
def test_a_wrong_value_gets_one_line(
    flags: list[str], message: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert train("run", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json can't be read"),
        ("[]", "config.json can't be read"),
        ('{"model": {}, "training": {"speed": 1}, "run": {}}', "config.json can't be read"),
        ("\ufeff{}", "config.json can't be read"),
        ("[" * 100_000, "config.json can't be read"),
        ('{"model": {"n_layer": 2.0}, "training": {}, "run": {}}', "n_layer 2.0 must be of type int"),
        (
            f'{{"model": {{"n_layer": 1{"0" * 400}}}, "training": {{}}, "run": {{}}}}',
            "n_layer is out of range",
        ),
    ],
    ids=["cut", "a list", "an unknown key", "a byte order mark", "deep", "a float", "many digits"],
)
def test_a_broken_config_gets_one_line(
    content: str, message: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(content, encoding="utf-8")
    assert train("run") == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert message in told


def test_flags_not_given_are_the_runs(train: Train, tmp_path: Path, text_file: Path) -> None:
    assert train("run", "--backend=torch", "--beta2=0.5") == 0
    assert train_main(["--out_dir=run", "--max_iters=25"]) == 0
    config = (tmp_path / "run/config.json").read_text()
    assert '"beta2": 0.5' in config
    assert f'"data": "{text_file}"' in config
    assert '"max_iters": 25' in config


def test_debug_shows_the_traceback_of_an_error(
    train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TypeError("a mistake of ours\nand more of it")

    monkeypatch.setattr(nanogpt.cli.train, "train_flags", fail)
    assert train("run") == 1
    assert capsys.readouterr().err == "error: TypeError: a mistake of ours (--debug shows where)\n"
    with pytest.raises(TypeError, match="a mistake of ours"):
        train("run", "--debug")
    monkeypatch.undo()
    with pytest.raises(InputError):
        train("run", "--data=nowhere", "--debug")
