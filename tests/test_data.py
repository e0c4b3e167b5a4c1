"""Text is read unchanged, files that are not text are refused, and every token is predicted once."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.errors import InputError
from nanogpt.text import corpus
from nanogpt.text.corpus import Corpus, Splits, load_corpus, windows
from nanogpt.text.tokenizer import CharTokenizer


@given(length=st.integers(2, 200), block_size=st.integers(1, 40))
def test_windows_predict_every_token_but_the_first_once(length: int, block_size: int) -> None:
    tokens_N = np.arange(1, length + 1, dtype=np.int32)
    tokens_WT, real_WT = windows(tokens_N, block_size)
    assert tokens_WT.shape == (len(real_WT), block_size + 1)
    np.testing.assert_array_equal(tokens_WT[:, 1:][real_WT], tokens_N[1:])
    np.testing.assert_array_equal(tokens_WT[:, :-1][real_WT], tokens_N[:-1])


def test_a_batch_is_a_function_of_seed_and_step(text_file: Path) -> None:
    corpus = load_corpus(str(text_file))
    tokenizer = CharTokenizer.from_text(corpus.text)
    splits = Splits.of(corpus, tokenizer, block_size=16)
    batch = splits.batch(seed=1, step=5, batch_size=8)
    assert batch.shape == (8, 17)
    np.testing.assert_array_equal(batch, splits.batch(1, 5, 8))
    np.testing.assert_array_equal(batch[:3], splits.batch(1, 5, 3))
    assert (batch != splits.batch(1, 6, 8)).any()
    assert (batch != splits.batch(2, 5, 8)).any()
    train_text = corpus.text[: len(splits.train_N)]
    assert all(tokenizer.decode(row) in train_text for row in batch)
    assert len(splits.train_N) == int(0.9 * len(corpus.text))
    assert len(splits.train_N) + len(splits.validation_N) == len(corpus.text)


def test_every_training_window_can_be_drawn() -> None:
    splits = Splits.of(
        Corpus("letters", "abcdefghijklmnopqrst" * 2), CharTokenizer("abcdefghijklmnopqrst"), 3
    )
    firsts = {tuple(row) for step in range(200) for row in splits.batch(0, step, 8)}
    assert len(firsts) == 20, "each of the 20 different windows of the cyclic text"


def test_windows_line_ends_and_folders_are_read_unchanged(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/b.txt").write_bytes(b"two\r\n")
    (tmp_path / "text/a.txt").write_bytes("eins \u00e4\n".encode())
    (tmp_path / "text/.hidden").write_bytes(b"\x00")
    assert load_corpus(str(tmp_path / "text")).text == "eins \u00e4\n\ntwo\r\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"abc\x00def", "is a binary file: byte 3 is NUL"),
        (b"abc\xff\xfe", "is not UTF-8 text .byte 3 is invalid"),
    ],
)
def test_a_file_that_is_not_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_corpus(str(file))


def test_missing_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file or folder .*nowhere"):
        load_corpus("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no files"):
        load_corpus("empty")


@pytest.mark.parametrize(("length", "split"), [(10, "training"), (100, "validation")])
def test_a_text_shorter_than_a_window_is_refused(length: int, split: str) -> None:
    with pytest.raises(InputError, match=rf"the {split} split of short has .* block_size \+ 1 = 17"):
        Splits.of(Corpus("short", "ab" * (length // 2)), CharTokenizer("ab"), 16)


def test_python_is_a_million_characters_found_without_a_network() -> None:
    corpus = load_corpus("python")
    assert len(corpus.text) == 1_000_000
    assert corpus.text.isascii()
    assert corpus == load_corpus("python")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A local web server for the files in tmp_path/web."""
    (tmp_path / "web").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}/shakespeare.txt"
        httpd.shutdown()


def test_shakespeare_is_downloaded_once_and_checked(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    web, cache = tmp_path / "web/shakespeare.txt", tmp_path / "no-data"
    monkeypatch.setattr(corpus, "SHAKESPEARE_URL", server)

    with pytest.raises(InputError, match="can't be downloaded"):
        load_corpus("shakespeare")
    web.write_text("not Shakespeare")
    with pytest.raises(InputError, match="did not send the expected file"):
        load_corpus("shakespeare")
    assert not cache.exists() or not any(cache.iterdir()), "a failed download leaves nothing behind"
    assert load_corpus("auto").name == "python"
    assert "training on Python's standard library instead" in capsys.readouterr().err

    monkeypatch.setattr(corpus, "SHAKESPEARE_SHA256", corpus._sha256(b"not Shakespeare"))
    assert load_corpus("auto") == Corpus("shakespeare", "not Shakespeare")
    web.unlink()
    assert load_corpus("shakespeare").text == "not Shakespeare"
    (cache / "tinyshakespeare.txt").write_text("changed")
    with pytest.raises(InputError, match="is not Tiny Shakespeare"):
        load_corpus("shakespeare")
