"""Documents of files of any size, as streams of text that never stand in memory whole.

A plain file is one document. In JSON lines (.jsonl) and parquet each row is one, which has its text in the
field `text`. gzip (.gz) and zstd (.zst) are unpacked on the way.
"""

import codecs
import gzip
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from nanogpt.errors import InputError, first_line, told_in_a_line

CHUNK = 2**15  # bytes that are read at once: larger ones leave holes in the heap, which grows for hours
MAX_ROW = 2**25  # bytes of a line of JSON
ROWS = 16  # of parquet that are read at once: each may be a book
PIECE = 2**14  # upper bound on the characters of a piece
FIELD = "text"
PACKED = (".gz", ".zst", ".jsonl", ".parquet")
"""The ends of the names of files that are no plain text."""
INSTALL = 'pip install -c constraints.txt -e ".[formats]"'


class Chunk(NamedTuple):
    """A part of a document as it was read."""

    text: str
    is_last: bool
    """True at the end of its document."""
    position: int
    """Bytes of the file that were read so far."""


class Piece(NamedTuple):
    """A part of a document, which is tokenized by itself."""

    text: str
    is_last: bool


def files_of(path: Path) -> Iterator[Path]:
    """A file, or the files of a folder and of all folders in it: none that is hidden, in a fixed order."""
    if not path.is_dir():
        yield path
        return
    for parent, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        yield from (file for file in files if file.is_file())


def read(file: Path) -> Iterator[Chunk]:
    """The documents of a file, chunk by chunk.

    Raises InputError, which names the line or the byte, where the file can't be read, is cut short or
    damaged, is not UTF-8, or has a row without text.
    """
    if file.exists() and not file.is_file():
        raise InputError(f"{file} is a pipe or a device, not a file: save its text in one")
    try:
        with file.open("rb") as raw, _unpacked(file, raw) as stream:
            kind = (file.with_suffix("") if file.suffix in (".gz", ".zst") else file).suffix
            reader = {".jsonl": _rows_of_json, ".parquet": _rows_of_parquet}.get(kind, _characters)
            for text, is_last in reader(file, stream):
                yield Chunk(text, is_last, raw.tell())
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror or first_line(error)}") from None


@contextmanager
def _unpacked(file: Path, raw: BinaryIO) -> Iterator[Any]:
    """A compressed file as it was before. Raises InputError where its data is cut short or damaged."""
    errors: tuple[type[Exception], ...]
    if file.suffix == ".gz":
        stream, errors = gzip.GzipFile(fileobj=raw), (gzip.BadGzipFile, zlib.error)
    elif file.suffix == ".zst":
        zstd = _zstd(file)
        stream, errors = zstd.ZstdFile(raw), (zstd.ZstdError,)
    else:
        yield raw
        return
    try:
        with stream:
            yield stream
    except EOFError:
        raise InputError(f"{file} is cut short: its compressed data has no end") from None
    except errors as error:
        raise InputError(f"{file} is damaged: {first_line(error)}") from None


def _zstd(file: Path) -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise InputError(f"to read {file}, install backports.zstd: {INSTALL}") from None
    return zstd


def _characters(file: Path, stream: BinaryIO) -> Iterator[tuple[str, bool]]:
    decoder, position, content = codecs.getincrementaldecoder("utf-8")(), 0, b" "
    while content:
        content = stream.read(CHUNK)
        if b"\0" in content:
            raise InputError(f"{file} is a binary file: byte {position + content.index(0)} is NUL")
        begun = len(decoder.getstate()[0])
        try:
            yield decoder.decode(content, final=not content), not content
        except UnicodeDecodeError as error:
            wrong = position - begun + error.start
            raise InputError(f"{file} is not UTF-8 text (byte {wrong} is invalid)") from None
        position += len(content)


def _rows_of_json(file: Path, stream: BinaryIO) -> Iterator[tuple[str, bool]]:
    for number in count(1):
        line = stream.readline(MAX_ROW + 1)
        if not line:
            return
        if len(line) > MAX_ROW:
            raise InputError(f"{file}, line {number}: it has more than {MAX_ROW:,} bytes; cut it into rows")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row.get(FIELD) if isinstance(row, dict) else None
            str(text).encode()  # half of a surrogate pair is no character
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}, line {number}: it is no JSON of UTF-8 ({first_line(error)})") from None
        if not isinstance(text, str):
            raise InputError(f'{file}, line {number}: it has no field "{FIELD}" with a text')
        yield text, True


def _rows_of_parquet(file: Path, stream: BinaryIO) -> Iterator[tuple[str, bool]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InputError(f"to read {file}, install pyarrow: {INSTALL}") from None
    with (
        told_in_a_line(f"{file} can't be read"),
        # Without a buffer it would hold a whole group of rows.
        ParquetFile(stream, pre_buffer=False, buffer_size=CHUNK) as opened,
    ):
        if FIELD not in opened.schema_arrow.names:
            raise InputError(f'{file} has no column "{FIELD}"')
        for batch in opened.iter_batches(ROWS, columns=[FIELD], use_threads=False):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str | None):
                    raise InputError(f'{file}: its column "{FIELD}" holds no text')
                yield text or "", True


def pieces(chunks: Iterable[Chunk]) -> Iterator[Piece]:
    """Documents in pieces of at most PIECE characters, wherever the chunks end. Empty ones are left out."""
    held = ""
    for text, is_last, _ in chunks:
        held, start = held + text, 0
        while len(held) - start > PIECE:
            end = _place_to_cut(held, start)
            yield Piece(held[start:end], False)
            start = end
        held = held[start:]
        if is_last and held:
            yield Piece(held, True)
            held = ""


def _place_to_cut(text: str, start: int) -> int:
    """The last place among the PIECE characters from `start` on, where two pieces have the tokens of both.

    That is before a single space, or else behind a single line end. GPT-2's tokenizer and its likes begin a
    word there: they look neither back over it, nor from before it at what follows. A longer row of blanks
    would be divided differently at its end. Where there is no such place, as in a long row of digits, two
    characters are cut apart, and the tokens beside the cut may differ.
    """
    for blank, behind in ((" ", 0), ("\n", 1)):
        at = start + PIECE
        while (at := text.rfind(blank, start + 1, at)) > 0:
            if not text[at - 1].isspace() and not text[at + 1].isspace():
                return at + behind
    return start + PIECE
