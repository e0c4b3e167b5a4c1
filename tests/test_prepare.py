"""`nanogpt prepare` loses no document, ends in the same bytes after a kill, and leaves no half of it."""

import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt.cli.prepare import prepare_main
from nanogpt.errors import InputError
from nanogpt.text import documents, prepare
from nanogpt.text.corpus import load_data
from nanogpt.text.shards import read_manifest
from nanogpt.text.tokenizer import CharTokenizer, FileTokenizer
from nanogpt.text.vocabulary import tokenizer_json
from tests.conftest import ROOT, Train
from tests.test_documents import json_lines, write_parquet

pytest_plugins = ["tests.reliability_fixtures"]

WORDS = ["the", "king", "sleeps,", "queen", "wakes;", "Gr\u00fc\u00dfe", "\u738b", "don't", "1066\n", "\n\n"]


def words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def run(*arguments: Path | str) -> dict[str, Any]:
    """Prepare, and return the manifest of the folder, which comes last."""
    assert prepare_main([*map(str, arguments[:-1]), f"--out={arguments[-1]}"]) == 0
    return read_manifest(Path(arguments[-1]))


def tokens_of(folder: Path, split: str) -> np.ndarray:
    manifest = read_manifest(folder)
    dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
    files = [np.fromfile(folder / shard["file"], dtype) for shard in manifest["shards"][split]]
    return np.concatenate([np.zeros(0, dtype), *files])


def text_of(folder: Path, split: str) -> str:
    known = read_manifest(folder)["tokenizer"]
    tokenizer = (
        CharTokenizer(known["vocabulary"])
        if known["vocabulary"]
        else FileTokenizer(folder / "tokenizer.json")
    )
    return tokenizer.decode(tokens_of(folder, split))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 40) | st.integers(100, 3000), min_size=1, max_size=150),
    piece=st.integers(5, 200),
)
def test_every_document_is_whole_in_one_split_or_large_and_divided(
    lengths: list[int], piece: int, memory_folder: Path
) -> None:
    texts = [f"{number}:{words(length, number)}"[: length or 0] for number, length in enumerate(lengths)]
    folder = memory_folder / "tokens"
    shutil.rmtree(folder, ignore_errors=True)
    (memory_folder / "rows.jsonl").write_bytes(json_lines(texts))
    texts = [text for text in texts if text]
    if not texts:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE", piece)
        patch.setattr(prepare, "BATCH", 10 * piece)
        patch.setattr(prepare, "SHARD", 501)
        manifest = run(memory_folder / "rows.jsonl", folder)
    assert (manifest["documents"], manifest["characters"]) == (len(texts), len("".join(texts)))
    assert manifest["bytes"] == len("".join(texts).encode())
    left = {split: text_of(folder, split) for split in ("train", "validation")}
    for text in texts:
        if len(text) > 0.01 * manifest["characters"]:
            boundary = int(0.9 * len(text))
            expected = {"train": text[:boundary], "validation": text[boundary:]}
        else:
            split = "train" if left["train"].startswith(f"{text}\n") else "validation"
            expected = {split: text}
        for split, part in expected.items():
            if part:
                assert left[split].startswith(f"{part}\n")
                left[split] = left[split][len(part) + 1 :]
    assert left == {"train": "", "validation": ""}


def test_one_in_ten_documents_is_for_validation_and_copies_go_the_same_way(tmp_path: Path) -> None:
    texts = [f"{number} {words(5, number)}".replace("\n", " ") for number in range(2000)]
    (tmp_path / "rows.jsonl").write_bytes(json_lines([*texts, *texts]))
    run(tmp_path / "rows.jsonl", tmp_path / "tokens")
    validation = text_of(tmp_path / "tokens", "validation").splitlines()
    half = len(validation) // 2
    assert validation[:half] == validation[half:]
    assert 140 < half < 260
    assert not set(validation) & set(text_of(tmp_path / "tokens", "train").splitlines())


def test_the_same_documents_give_the_same_shards_from_every_kind_of_file(tmp_path: Path) -> None:
    texts = [words(400, number) for number in range(120)]
    (tmp_path / "files").mkdir()
    for number, text in enumerate(texts):
        if number % 2:
            (tmp_path / f"files/{number:03}.txt").write_text(text, newline="")
        else:
            (tmp_path / f"files/{number:03}.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.jsonl").write_bytes(json_lines(texts[:70]))
    write_parquet(tmp_path / "b.parquet", list(texts[70:]))
    (tmp_path / "mine.json").write_bytes(tokenizer_json("bpe:300", texts) or b"")
    flag = f"--tokenizer={tmp_path}/mine.json"
    manifests = [
        run(tmp_path / "files", flag, tmp_path / "one"),
        run(tmp_path / "a.jsonl", tmp_path / "b.parquet", flag, tmp_path / "two"),
    ]
    assert manifests[0]["shards"] == manifests[1]["shards"]
    assert [source["files"] for manifest in manifests for source in manifest["sources"]] == [120, 1, 1]
    tokenizer = FileTokenizer(tmp_path / "mine.json")
    end = tokenizer.special_tokens["eos_token_id"]
    assert manifests[0]["end_of_text"] == end == 0
    rows = [[*tokenizer.encode(text).tolist(), end] for text in texts]
    found = [tokens_of(tmp_path / "one", split).tolist() for split in ("train", "validation")]
    assert sorted(chain(*rows)) == sorted(chain(*found))
    assert all(str(row)[1:-1] in str(found[0]) or str(row)[1:-1] in str(found[1]) for row in rows)


def test_a_vocabulary_is_learnt_from_a_part_of_the_training_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE", 1000)
    (tmp_path / "a.txt").write_text(words(20_000, 1) + " " + "unheard " * 1200)
    learnt = []
    for size in (2**30, 20_000, 20_000):
        monkeypatch.setattr(prepare, "SAMPLE", size)
        folder = tmp_path / f"tokens-{len(learnt)}"
        run(tmp_path / "a.txt", "--tokenizer=bpe:350", folder)
        learnt.append((folder / "tokenizer.json").read_text())
        assert "\u0120king" in learnt[-1]
        assert "unheard" not in learnt[-1], "it is in the validation text alone"
    assert learnt[0] != learnt[1] == learnt[2]
    parts = [prepare.Part("train", "x" * 10, True)] * 99 + [prepare.Part("validation", "y" * 10, True)]
    monkeypatch.setattr(prepare, "SAMPLE", 100)
    assert 80 <= len("".join(prepare.sample(parts, 1000, lambda *_: None))) <= 100


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path: Path) -> None:
    content = json.loads(tokenizer_json("bytes", []) or b"")
    content["model"]["vocab"] |= {f"token{number}": number for number in range(256, 70_000)}
    (tmp_path / "large.json").write_text(json.dumps(content))
    (tmp_path / "a.txt").write_text("the king")
    manifest = run(tmp_path / "a.txt", "--tokenizer=large.json", tmp_path / "tokens")
    assert manifest["dtype"] == "uint32"
    assert tokens_of(tmp_path / "tokens", "train").tolist() == list(b"the kin\n")
    assert (tmp_path / "tokens/train-00000.bin").read_bytes()[:8] == b"t\0\0\0h\0\0\0"


KILLED = """
import os, signal, sys
from nanogpt.cli.prepare import prepare_main
from nanogpt.text import prepare
prepare.SHARD, prepare.BATCH, prepare.SAVE_SECONDS = 3_000, 5_000, 0.0
left = int(sys.argv[1])

def kill(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove") and "killed" in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
sys.exit(prepare_main(sys.argv[2:]))
"""


def test_a_preparation_that_was_killed_ends_in_the_same_bytes(memory_folder: Path) -> None:
    (memory_folder / "texts").mkdir()
    (memory_folder / "texts/a.txt").write_text(words(10_000, 1))
    (memory_folder / "texts/b.jsonl").write_bytes(json_lines([words(30, number) for number in range(200)]))

    def start(events: int, out: str) -> int:
        """Prepare, and be killed before so many files there are opened, renamed or removed."""
        arguments = ["-c", KILLED, str(events), "texts", "--tokenizer=bpe:400", f"--out={out}"]
        path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=memory_folder, capture_output=True, env=os.environ | path)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    assert start(0, "whole") == 0
    assert len(list((memory_folder / "whole").glob("train-*.bin"))) > 3
    draw, batches = random.Random(5), []
    while start(draw.randint(10, 100), "killed"):
        file = memory_folder / "killed/progress.json"
        batches.append(json.loads(file.read_text())["batches"] if file.exists() else 0)
        if not (memory_folder / "killed/manifest.json").exists() and batches[-1]:
            with pytest.raises(InputError, match="is prepared in part"):
                load_data(str(memory_folder / "killed"))
    assert contents(memory_folder / "killed") == contents(memory_folder / "whole")
    assert len(set(batches)) > 2, "it was killed at several places, and went on from them"
    assert batches == sorted(batches)


class StoppedError(Exception):
    pass


def stop(*_: object) -> None:
    raise StoppedError


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preparation that has come to its third batch."""
    (tmp_path / "a.txt").write_text(words(5_000, 1))
    monkeypatch.setattr(prepare, "BATCH", 3_000)
    monkeypatch.setattr(prepare, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(documents, "PIECE", 1_000)
    told = iter(range(10**6))

    def tell(what: str, *_: object) -> None:
        if what == "Tokenizing" and next(told) == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepare.prepare([tmp_path / "a.txt"], "bytes", tmp_path / "tokens", tell)
    return tmp_path / "tokens"


def test_what_is_done_is_not_done_again(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    manifest = prepare.prepare([tmp_path / "a.txt"], "bytes", stopped, lambda *now: told.append(now))
    assert {what for what, *_ in told} == {"Tokenizing"}
    assert told[0][1] > 6_000
    whole = prepare.prepare([tmp_path / "a.txt"], "bytes", tmp_path / "whole", lambda *_: None)
    assert manifest == whole
    assert contents(stopped) == contents(tmp_path / "whole")
    # And once more, nothing at all.
    assert prepare.prepare([tmp_path / "a.txt"], "bytes", stopped, stop) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "a.txt").write_text("other"),
            "was prepared from other files, or they have changed",
        ),
        (
            lambda folder: os.utime(folder / "a.txt", (1, 1)),
            "was prepared from other files, or they have changed",
        ),
        (lambda folder: (folder / "tokens/progress.json").write_text("{"), "progress.json can't be read"),
        (lambda folder: (folder / "tokens/tokenizer.json").unlink(), "tokenizer.json can't be read"),
    ],
)
def test_a_preparation_goes_on_from_the_same_alone(
    change: Callable[[Path], object], message: str, stopped: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="was prepared with --tokenizer bytes"):
        prepare.prepare([tmp_path / "a.txt"], "char", stopped, stop)
    before = contents(stopped)
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        prepare.prepare([tmp_path / "a.txt"], "bytes", stopped, lambda *_: None)
    assert contents(stopped).keys() <= before.keys()


def test_a_text_that_changes_meanwhile_is_not_prepared(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words(100, 1))

    def tell(what: str, *_: object) -> None:
        if what == "Tokenizing":
            (tmp_path / "a.txt").write_text("other")

    with pytest.raises(InputError, match="the text changed while it was read"):
        prepare.prepare([tmp_path / "a.txt"], "char", tmp_path / "tokens", tell)
    assert not (tmp_path / "tokens/manifest.json").exists()


def test_one_process_prepares_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words(100, 1))
    again: Callable[..., object] = lambda *_: prepare.prepare(  # noqa: E731
        [tmp_path / "a.txt"], "char", tmp_path / "tokens", stop
    )
    with pytest.raises(InputError, match=f"tokens is in use by process {os.getpid()}"):
        prepare.prepare([tmp_path / "a.txt"], "char", tmp_path / "tokens", again)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.txt"], r"there is no file or folder .*nowhere.txt"),
        (["empty"], r"the folder .*empty holds no files"),
        (["void.txt"], r"there is no text in .*void.txt"),
        (["void.txt", "none.jsonl"], r"there is no text in .*void.txt, .*none.jsonl"),
        (["cut.gz"], r"cut.gz is cut short"),
        (["good.txt", "latin.txt"], r"latin.txt is not UTF-8 text .byte 1 is invalid"),
        (["good.txt", "rows.jsonl"], r'rows.jsonl, line 2: it has no field "text"'),
        (["good.txt", "--tokenizer=bpe:2"], r"bpe takes a size from 257"),
        (["good.txt", "--tokenizer=none.json"], r"there is no file none.json"),
        (["good.txt", "--tokenizer=good.txt"], r"tokenizer.json can't be read"),
        (
            ["folder", "--out=folder/tokens"],
            r"folder/tokens is one of the texts, or inside",
        ),
        (["good.txt", "--out=folder"], r"folder holds other files: take a new folder"),
        (["good.txt", "--out=good.txt"], r"good.txt is one of the texts"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder").mkdir()
    for name, content in {
        "folder/a.txt": b"text",
        "good.txt": b"text",
        "void.txt": b"",
        "none.jsonl": b"\n" + json_lines([""]),
        "cut.gz": gzip.compress(b"text")[:-3],
        "latin.txt": "t\u00e4xt".encode("latin-1"),
        "rows.jsonl": b'{"text": "x"}\n{"txt": "x"}\n',
    }.items():
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    out = [] if any(argument.startswith("--out") for argument in arguments) else ["--out=tokens"]
    assert prepare_main([*arguments, *out]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


PEAK = """
import pathlib, sys
from nanogpt.cli.prepare import prepare_main
code = prepare_main(sys.argv[1:])
status = pathlib.Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
sys.exit(code)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="others don't tell of their peak so")
@pytest.mark.parametrize("tokenizer", ["bytes", "char", "mine.json"])
def test_memory_does_not_grow_with_the_text(tokenizer: str, tmp_path: Path) -> None:
    """One line of 6 MB and one of 24 MB take about the same; in memory they would differ by 200 MB."""
    (tmp_path / "mine.json").write_bytes(tokenizer_json("bpe:300", [words(1000, 1)]) or b"")
    peaks = []
    for copies in (1, 4):
        (tmp_path / "line.txt").write_text(words(1_000_000, 1).replace("\n", " ") * copies)
        arguments = ["line.txt", f"--tokenizer={tokenizer}", f"--out=tokens-{copies}"]
        command = [sys.executable, "-c", PEAK, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] < peaks[0] + 40, f"{peaks} MB"


def test_what_was_prepared_is_trained_on_as_the_last_line_says(
    text_file: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(text_file, "text.py")  # which elsewhere would be a configuration of nanoGPT's
    assert prepare_main(["text.py", "--out=my tokens"]) == 0
    *_, told, last = capsys.readouterr().out.splitlines()
    assert told == "my tokens has 5,893 tokens to train on and 656 to validate on, of 6,547 characters"
    assert last.endswith("train --data 'my tokens'") or last.endswith("train.py --data 'my tokens'")
    assert train("run", "--data=my tokens", "--backend=torch", "--max_iters=2") == 0
