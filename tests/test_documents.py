"""Documents come out of files of all kinds as they went in, and are cut where no token is lost."""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.errors import InputError
from nanogpt.text import documents
from nanogpt.text.documents import Chunk, files_of, pieces, read
from nanogpt.text.tokenizer import FileTokenizer
from nanogpt.text.vocabulary import tokenizer_json

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DOCUMENTS = ["Gr\u00fc\u00dfe\r\n", "\u738b \U0001f451", "the king\nsleeps " * 40_000, "x"]


def json_lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"id": 1, "text": text}).encode() + b"\n" for text in texts)


def write_parquet(file: Path, texts: list[str | None], column: str = "text") -> None:
    table = pyarrow.table({"id": list(range(len(texts))), column: texts})
    pyarrow.parquet.write_table(table, file, row_group_size=3)


def documents_of(file: Path) -> list[str]:
    found, text = [], ""
    for chunk in read(file):
        text += chunk.text
        if chunk.is_last:
            found.append(text)
            text = ""
    assert not text, "the last document has an end"
    return found


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd.compress], ids=["plain", "gzip", "zstd"])
def test_documents_are_read_as_they_were_written(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    end = {bytes: "", gzip.compress: ".gz", zstd.compress: ".zst"}[pack]
    for number, text in enumerate(DOCUMENTS):
        file = tmp_path / f"{number}.txt{end}"
        file.write_bytes(pack(text.encode()))
        assert documents_of(file) == [text]
    rows = tmp_path / f"rows.jsonl{end}"
    rows.write_bytes(pack(json_lines(DOCUMENTS)))
    assert documents_of(rows) == DOCUMENTS
    two = tmp_path / f"two.txt{end}"
    two.write_bytes(pack(b"one ") + pack(b"two"))  # as `cat a.gz b.gz` makes it
    assert documents_of(two) == ["one two"]


def test_rows_of_parquet_are_documents(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [*DOCUMENTS, None])
    assert documents_of(tmp_path / "a.parquet") == [*DOCUMENTS, ""]


def test_positions_reach_the_end_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt.gz"
    file.write_bytes(gzip.compress(("the king " * 100_000).encode()))
    positions = [chunk.position for chunk in read(file)]
    assert positions == sorted(positions)
    assert positions[-1] == file.stat().st_size


BAD = {
    "a.txt": (b"abc\xff\xfe", r"a.txt is not UTF-8 text .byte 3 is invalid"),
    "long.txt": ("\u00e4".encode() * 200_000 + b"\xc3", r"is not UTF-8 text .byte 400000 is invalid"),
    "far.txt": (b"a" * 300_000 + b"\0", "is a binary file: byte 300000 is NUL"),
    "a.txt.gz": (gzip.compress(b"abc" * 1000)[:-9], "a.txt.gz is cut short"),
    "head.gz": (gzip.compress(b"abc" * 1000)[:5], "is cut short|is damaged|can't be read"),
    "no.gz": (b"not packed", "no.gz is damaged"),
    "flipped.gz": (gzip.compress(b"abc" * 1000)[:-8] + bytes(8), "flipped.gz is damaged"),
    "a.txt.zst": (zstd.compress(b"abc" * 1000)[:-2], "a.txt.zst is cut short"),
    "no.zst": (b"not packed", "no.zst is damaged"),
    "bytes.gz": (gzip.compress(b"abc\xff"), "is not UTF-8 text .byte 3 is invalid"),
    "a.jsonl": (b'{"text": "x"}\n{"words": "x"}\n', r'a.jsonl, line 2: it has no field "text"'),
    "number.jsonl": (b'{"text": 3}', r'line 1: it has no field "text" with a text'),
    "list.jsonl": (b'["text"]', r'line 1: it has no field "text"'),
    "cut.jsonl": (b'{"text": "x"}\n\n{"text": "', r"line 3: it is no JSON"),
    "bytes.jsonl": (b'{"text": "\xff"}', r"line 1: it is no JSON of UTF-8"),
    "half.jsonl": (rb'{"text": "\ud800"}', r"line 1: it is no JSON of UTF-8"),
    "deep.jsonl": (b"[" * 100_000, r"line 1: it is no JSON"),
    "a.parquet": (b"PAR1", "a.parquet can't be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gets_one_line(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        list(read(file))
    assert str(file) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_bad_parquet_file_gets_one_line(tmp_path: Path) -> None:
    write_parquet(tmp_path / "other.parquet", ["x"], column="words")
    with pytest.raises(InputError, match=r'other.parquet has no column "text"'):
        list(read(tmp_path / "other.parquet"))
    write_parquet(tmp_path / "number.parquet", [3])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r'number.parquet: its column "text" holds no text'):
        list(read(tmp_path / "number.parquet"))
    write_parquet(tmp_path / "whole.parquet", ["text " * 1000] * 50)
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut.parquet can't be read"):
        list(read(tmp_path / "cut.parquet"))


def test_a_row_may_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_ROW", 100)
    (tmp_path / "a.jsonl").write_bytes(json_lines(["x" * 70, "x" * 100]))
    with pytest.raises(InputError, match=r"a.jsonl, line 2: it has more than 100 bytes"):
        list(read(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(("package", "file"), [("backports", "a.txt.zst"), ("pyarrow", "a.parquet")])
def test_a_missing_library_is_named(
    package: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "backports" and sys.version_info >= (3, 14):
        pytest.skip("Python has zstd")
    (tmp_path / file).touch()
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.parquet", None)
    with pytest.raises(InputError, match=rf"to read .*{file}, install {package}.*: pip install .*formats"):
        list(read(tmp_path / file))


def test_files_come_in_a_fixed_order_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", "c", ".hidden/x", "b/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [file.relative_to(tmp_path).as_posix() for file in files_of(tmp_path)]
    assert found == ["a", "c", "b/1", "b/2"]
    assert list(files_of(tmp_path / "a")) == [tmp_path / "a"]


TEXTS = st.lists(st.text("ab1,'\n \r\u00e4\u738b\u3000", max_size=60), max_size=6)


@given(texts=TEXTS, size=st.integers(1, 30), chunk=st.integers(1, 20))
def test_pieces_are_the_documents_wherever_the_chunks_end(texts: list[str], size: int, chunk: int) -> None:
    whole = [Chunk(text, True, 0) for text in texts]
    chunks = []
    for text in texts:
        starts = range(0, max(1, len(text)), chunk)
        chunks += [Chunk(text[at : at + chunk], at == starts[-1], 0) for at in starts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE", size)
        cut = list(pieces(chunks))
        assert cut == list(pieces(whole))
    assert all(0 < len(piece.text) <= size for piece in cut)
    joined = "".join(piece.text + "\0" * piece.is_last for piece in cut)
    assert joined == "".join(text + "\0" for text in texts if text)


WORDS = st.lists(
    st.tuples(
        st.sampled_from(["the", "king's", "won't", "1066", "(ah!)", "\u738b", "...", "\u00e4", "a"]),
        st.sampled_from([" ", " ", " ", "\n", "  ", "\n\n", " \n", "\t", "\r\n", "\u3000"]),
    ),
    min_size=5,
    max_size=60,
)
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def learnt_like_gpt4() -> FileTokenizer:
    """A vocabulary that divides text as GPT-4's does."""
    content = json.loads(tokenizer_json("bpe:300", ["the king's (ah!) won't\n\n a  1066 ...\n"] * 20) or b"")
    split = {"type": "Split", "pattern": {"Regex": GPT4}, "behavior": "Isolated", "invert": False}
    bytes_alone = content["pre_tokenizer"] | {"use_regex": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, bytes_alone]}
    return FileTokenizer(Path("tokenizer.json"), json.dumps(content).encode())


TOKENIZERS = {
    "gpt2": FileTokenizer(
        Path("tokenizer.json"),
        tokenizer_json("bpe:300", ["the king's (ah!) won't\n\n a  1066 ...\n"] * 20),
    ),
    "gpt4": learnt_like_gpt4(),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(words=WORDS, size=st.integers(12, 40))
def test_the_tokens_of_the_pieces_are_those_of_the_whole(
    name: str, words: list[tuple[str, str]], size: int
) -> None:
    text = "".join(word + blank for word, blank in words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE", size)
        cut = [piece.text for piece in pieces([Chunk(text, True, 0)])]
    ends = [len("".join(cut[:number])) for number in range(1, len(cut))]
    is_between_words = [
        (text[at] == " " and not text[at - 1].isspace() and text[at + 1 : at + 2].strip())
        or (text[at - 1] == "\n" and not text[at - 2].isspace() and not text[at].isspace())
        for at in ends
    ]
    if all(is_between_words):
        tokens = [token for row in TOKENIZERS[name].encode_all(cut) for token in row.tolist()]
        assert tokens == TOKENIZERS[name].encode(text).tolist()


def test_a_cut_is_beside_a_blank_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PIECE", 10)
    texts = [
        "one two three",
        "one\ntwothree",
        "one  two  th",
        "onetwothreefour",
        "one \ntwo four",
        " two  three ",
    ]
    cut = [next(pieces([Chunk(text, True, 0)])).text for text in texts]
    assert cut == ["one two", "one\n", "one  two  ", "onetwothre", "one \ntwo", " two  thre"]
