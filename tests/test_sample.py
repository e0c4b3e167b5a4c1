"""`sample.py` prints text alone on standard output, one line for bad input; Python has the same model."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nanogpt
from nanogpt.cli.sample import sample_main
from tests.conftest import BACKENDS, ROOT


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sample_alone_goes_to_standard_output(
    backend: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--out_dir={finished_run}", f"--backend={backend}", "--prompt=ROMEO: ", "--max_tokens=40"]
    assert sample_main([*flags, "--temp=0.8", "--top_k=5", "--top_p=0.9"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("ROMEO: ")
    assert len(captured.out) == len("ROMEO: ") + 40 + len("\n")
    assert f"{finished_run}, step 20, {backend} on cpu" in captured.err
    assert sample_main([*flags, "--temperature=0.8", "--top_k=5", "--top_p=0.9"]) == 0
    assert capsys.readouterr().out == captured.out


def test_samples_differ_and_are_repeated_by_their_seed(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--out_dir={finished_run}", "--backend=torch", "--max_tokens=30", "--num_samples=2"]
    texts = []
    for seed in (1, 1, 2):
        assert sample_main([*flags, f"--seed={seed}"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][:31] != texts[0][32:63]


def test_the_newest_run_is_taken(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample_main(["--backend=torch"]) == 2
    assert "there is no run under out/" in capsys.readouterr().err
    for name, time in (("new", 2_000_000_000), ("old", 1_000_000_000)):
        shutil.copytree(finished_run, tmp_path / "out" / name)
        os.utime(tmp_path / "out" / name / "checkpoints", (time, time))
    assert sample_main(["--backend=torch", "--max_tokens=3"]) == 0
    assert "out/new, step 20" in capsys.readouterr().err


def test_prompts_come_from_files_and_standard_input(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [f"--out_dir={finished_run}", "--backend=torch", "--max_tokens=5"]
    (tmp_path / "prompt.txt").write_text("the king ")
    assert sample_main([*flags, "--prompt=@prompt.txt"]) == 0
    from_file = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the king ")))
    assert sample_main([*flags, "--prompt=-"]) == 0
    assert capsys.readouterr().out == from_file
    assert from_file.startswith("the king ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt=the kinG"], "character 'G' at position 7 is not in the model's vocabulary"),
        (["--prompt=\ud800"], r"character '\ud800' at position 0"),
        (["--prompt=kürz"], "character 'ü' at position 1"),
        (["--prompt=the\tking"], r"character '\t' at position 3"),
        (["--prompt=the\u202eking"], r"character '\u202e' at position 3"),
        (["--prompt="], "the prompt is empty"),
        (["--prompt=@nowhere"], "there is no file or folder nowhere"),
        (["--temp=-1"], "temperature -1.0 is out of range"),
        (["--temp=nan"], "temperature nan is out of range"),
        (["--top_k=0"], "top_k 0 is out of range"),
        (["--top_p=1.5"], "top_p 1.5 is out of range"),
        (["--max_tokens=-1"], "max_tokens -1 is out of range"),
        (["--num_samples=0"], "num_samples 0 is out of range"),
        (["--seed=-1"], "seed -1 is out of range"),
        (["--checkpoint=15"], "there is no checkpoint '15' in"),
        (["--out_dir=nowhere"], "nowhere holds no run"),
    ],
)
def test_bad_input_for_a_sample_gets_one_line(
    flags: list[str], message: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample_main([f"--out_dir={finished_run}", "--backend=torch", *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert captured.out == ""


def test_a_reader_that_leaves_is_no_error(finished_run: Path) -> None:
    flags = [f"--out_dir={finished_run}", "--backend=torch", "--max_tokens=20000", "--temp=0"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "sample.py", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    process.stdout.read(100)
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141


def test_the_python_face(finished_run: Path) -> None:
    model = nanogpt.load(finished_run, backend="torch", checkpoint="best")
    tokens_T = model.tokenizer.encode("the king speaks")
    assert model.logits(tokens_T[None]).shape == (1, 15, model.config.vocab_size)
    assert model.attention(tokens_T[None]).shape == (1, 1, 2, 15, 15)
    assert 0 < model.loss(model.tokenizer.encode("the king speaks and ROMEO: sleep.")) < 5
    text = model.generate("the ", max_tokens=50, temperature=0)
    assert text.startswith("the ")
    assert len(text) == 54
    assert text == "the " + "".join(model.stream("the ", max_tokens=50, temperature=0))
    for wrong in (tokens_T, tokens_T[None, :0], tokens_T[None].repeat(2, 1), tokens_T[None] + 100):
        with pytest.raises(nanogpt.InputError, match="tokens"):
            model.logits(wrong)
    with pytest.raises(nanogpt.InputError, match="at least two tokens"):
        model.loss(tokens_T[:1])
