"""Prepare texts of any size for training: `nanogpt prepare` reads them in pieces and writes shards of tokens.

It reads everything twice. The first time it checks and counts, so that bad input is told before anything is
written; from what is for training, a vocabulary is learnt then, where one is asked for. The second time it
tokenizes. Each document is followed by the token that ends a text, or by a line end where there is none.

A document that has more than a hundredth of all characters gives its last tenth to validation. Of the others,
one in ten is for validation, by a hash of its beginning: so copies of a document go the same way.

Until the end, progress.json says how far the shards are written. A killed preparation goes on from there:
what the kill left behind that place is written again, to the same bytes. The manifest comes last.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanogpt.ahead import ahead
from nanogpt.errors import InputError, first_line
from nanogpt.files import flush, read_small, write_atomically
from nanogpt.lock import LOCK, locked
from nanogpt.text.corpus import TRAINING_SHARE
from nanogpt.text.documents import files_of, pieces, read
from nanogpt.text.shards import (
    FORMAT,
    MANIFEST,
    PROGRESS,
    SPLITS,
    TOKENIZER,
    checked_tokenizer,
    described,
    manifest_text,
    read_manifest,
)
from nanogpt.text.tokenizer import CharTokenizer, FileTokenizer, code_points
from nanogpt.text.vocabulary import tokenizer_json

SHARD = 2**27  # tokens of a shard
BATCH = 2**21  # characters that are tokenized at once, on all cores
LEAST = 256  # characters that a part counts for, however short it is
SAMPLE = 2**25  # upper bound on the characters that a vocabulary is learnt from
LARGE = 0.01  # the share of all characters beyond which a document is in both splits
HASHED = 4096  # characters of the beginning of a document
SAVE_SECONDS = 5.0

Tell = Callable[[str, int, int], None]
"""It is told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Scan:
    """The findings of the first reading."""

    documents: int
    characters: int
    bytes: int
    large: dict[int, int]
    """The characters of each large document, by its number."""
    alphabet: str
    """Every character, where the tokenizer is of characters."""


class Part(NamedTuple):
    """A piece of a document that is in one split."""

    split: str
    text: str
    is_last: bool
    """True at the end of what this split has of the document."""


@dataclass
class Progress:
    """A preparation that goes on."""

    manifest: dict[str, Any]
    """All of it but the shards."""
    large: dict[int, int]
    batches: int = 0
    characters: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))


def prepare(texts: Sequence[Path], name: str, folder: Path, tell: Tell) -> dict[str, Any]:
    """Write the tokens of files and folders into a folder, or go on with that. Returns its manifest.

    `name` is that of a tokenizer (text/vocabulary.py). Raises InputError for a text that can't be read, a
    tokenizer that can't be had, and a folder that holds anything else.
    """
    texts = [path.expanduser().absolute() for path in texts]
    for path in texts:
        if folder.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{folder} is one of the texts, or inside {path}: take another --out")
    content = tokenizer_json(name, ())  # tells of a name that can't be, before anything is read
    with locked(folder):
        sources = [_source(path) for path in texts]
        if (folder / MANIFEST).exists():
            manifest = read_manifest(folder)
            _require_same(manifest, sources, name, content, folder)
            _tidy(folder)
            return manifest
        if (folder / PROGRESS).exists():
            progress = _saved(folder)
            _require_same(progress.manifest, sources, name, content, folder)
        else:
            known = (LOCK, TOKENIZER)  # a kill may have left a tokenizer
            if any(file.name not in known and file.name[0] != "." for file in folder.iterdir()):
                raise InputError(f"{folder} holds other files: take a new folder for --out")
            progress = _begun(texts, sources, name, content, folder, tell)
        _write(progress, texts, folder, tell)
        is_whole = progress.characters == progress.manifest["characters"]
        if not is_whole or sources != [_source(path) for path in texts]:
            raise InputError(f"the text changed while it was read: remove {folder}, and begin anew")
        return _finish(progress, folder)


def _source(path: Path) -> dict[str, str | int]:
    """The identity of a file or folder: its size, and a digest of the names, sizes and times of its files."""
    listing, files, size = hashlib.sha256(), 0, 0
    try:
        for file in files_of(path):
            found = file.stat()
            entry = f"{file.relative_to(path)} {found.st_size} {found.st_mtime_ns}\n"
            listing.update(entry.encode("utf-8", "surrogateescape"))
            files, size = files + 1, size + found.st_size
    except FileNotFoundError:
        raise InputError(f"there is no file or folder {path}") from None
    except OSError as error:
        raise InputError(f"{error.filename or path} can't be read: {error.strerror}") from None
    if not files:
        raise InputError(f"the folder {path} holds no files")
    return {"path": str(path), "files": files, "bytes": size, "listing": listing.hexdigest()}


def _require_same(
    manifest: dict[str, Any], sources: list[Any], name: str, content: bytes | None, folder: Path
) -> None:
    known = manifest["tokenizer"]
    is_another = known["name"] != name or (
        content is not None
        and not name.startswith("bpe:")
        and hashlib.sha256(content).hexdigest() != known["sha256"]
    )
    if is_another:
        raise InputError(f"{folder} was prepared with --tokenizer {known['name']}: take another --out")
    if manifest["sources"] != sources:
        raise InputError(f"{folder} was prepared from other files, or they have changed: take another --out")


def _saved(folder: Path) -> Progress:
    file = folder / PROGRESS
    try:
        values = json.loads(read_small(file))
        large = {int(number): characters for number, characters in values["large"].items()}
        return Progress(**values | {"large": large})
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(f"{file} can't be read ({first_line(error)}): remove {folder}") from None


def _save(progress: Progress, folder: Path) -> None:
    for file in folder.glob("*.bin"):
        flush(file)  # what it counts must be there
    write_atomically(folder / PROGRESS, json.dumps(asdict(progress)))


def _begun(
    texts: list[Path], sources: list[Any], name: str, content: bytes | None, folder: Path, tell: Tell
) -> Progress:
    """Read everything once, and make the tokenizer."""
    found = scan(texts, sum(source["bytes"] for source in sources), name == "char", tell)
    if name.startswith("bpe:"):
        content = tokenizer_json(name, sample(parts(texts, found.large), found.characters, tell))
    tokenizer: CharTokenizer | FileTokenizer
    if content is None:
        tokenizer, end = CharTokenizer(found.alphabet), None
    else:
        tokenizer = FileTokenizer(folder / TOKENIZER, content)
        end = tokenizer.special_tokens.get("eos_token_id")
        write_atomically(folder / TOKENIZER, content.decode())
    manifest = {
        "format": FORMAT,
        "dtype": "uint16" if tokenizer.vocab_size <= 2**16 else "uint32",
        "documents": found.documents,
        "characters": found.characters,
        "bytes": found.bytes,
        "tokenizer": {
            "name": name,
            "sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
            "vocabulary": tokenizer.vocabulary,
        },
        "end_of_text": end,
        "sources": sources,
    }
    progress = Progress(manifest, found.large)
    _save(progress, folder)
    return progress


def scan(texts: Iterable[Path], size: int, collects_alphabet: bool, tell: Tell) -> Scan:
    """Read all documents of files that have `size` bytes. Raises InputError for bad ones, or for none."""
    documents = characters = encoded = length = done = 0
    large: dict[int, int] = {}
    is_used = np.zeros(sys.maxunicode + 1, bool)
    is_used[ord("\n")] = True  # stands behind each document
    for file in (file for path in texts for file in files_of(path)):
        for text, is_last, position in read(file):
            length += len(text)
            encoded += len(text.encode())
            if collects_alphabet:
                is_used[code_points(text)] = True
            if is_last and length:
                characters += length
                if length > LARGE * characters:
                    large[documents] = length
                documents, length = documents + 1, 0
            tell("Reading", done + position, size)
        done += file.stat().st_size
    if not documents:
        raise InputError(f"there is no text in {', '.join(map(str, texts))}")
    large = {number: length for number, length in large.items() if length > LARGE * characters}
    alphabet = "".join(map(chr, np.flatnonzero(is_used))) if collects_alphabet else ""
    return Scan(documents, characters, encoded, large, alphabet)


def parts(texts: Iterable[Path], large: dict[int, int]) -> Iterator[Part]:
    """All documents in pieces, each in its split; `large` has the characters of large documents by number."""
    document = start = 0
    boundary = 0.0  # so many characters of a document are for training
    for file in (file for path in texts for file in files_of(path)):
        for text, is_last in pieces(read(file)):
            if start == 0:
                whole = 0 if _is_for_validation(text) else math.inf
                boundary = int(TRAINING_SHARE * large[document]) if document in large else whole
            cut = int(min(max(0, boundary - start), len(text)))
            start += len(text)
            if cut:
                yield Part("train", text[:cut], is_last or start >= boundary)
            if text[cut:]:
                yield Part("validation", text[cut:], is_last)
            if is_last:
                document, start = document + 1, 0


def _is_for_validation(beginning: str) -> bool:
    digest = hashlib.sha256(beginning[:HASHED].encode()).digest()
    return int.from_bytes(digest[:8], "little") % 10 == 0


def sample(parts: Iterable[Part], characters: int, tell: Tell) -> Iterator[str]:
    """Training texts of at most SAMPLE characters, evenly spread over all."""
    rate = min(1.0, SAMPLE / characters)
    seen = taken = 0
    for split, text, _ in parts:
        seen += len(text)
        if split == "train" and taken + len(text) <= rate * seen:
            taken += len(text)
            yield text
        tell("Sampling", seen, characters)
    tell("Learning a vocabulary", 0, 0)


def batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts that are tokenized at once."""
    batch: list[Part] = []
    size = 0
    for part in parts:
        batch.append(part)
        size += max(LEAST, len(part.text))
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(progress: Progress, texts: list[Path], folder: Path, tell: Tell) -> None:
    """Tokenize everything that is not in the shards yet."""
    manifest = progress.manifest
    encode, end_n = _encoder(manifest, folder)
    saved = time.monotonic()
    tell("Tokenizing", progress.characters, manifest["characters"])
    left = islice(batches(parts(texts, progress.large)), progress.batches, None)
    with closing(ahead(left, 2)) as coming:
        for batch in coming:
            rows = encode([part.text for part in batch])
            for split in SPLITS:
                own = [
                    tokens_n
                    for part, row_n in zip(batch, rows, strict=True)
                    if part.split == split
                    for tokens_n in ((row_n, end_n) if part.is_last else (row_n,))
                ]
                if own:
                    tokens_N = np.concatenate(own).astype(np.dtype(manifest["dtype"]).newbyteorder("<"))
                    _append(folder, split, progress.tokens[split], tokens_N)
                    progress.tokens[split] += len(tokens_N)
            progress.batches += 1
            progress.characters += sum(len(part.text) for part in batch)
            if time.monotonic() - saved > SAVE_SECONDS:
                _save(progress, folder)
                saved = time.monotonic()
            tell("Tokenizing", progress.characters, manifest["characters"])


def _encoder(
    manifest: dict[str, Any], folder: Path
) -> tuple[Callable[[list[str]], list[np.ndarray]], np.ndarray]:
    """The function that tokenizes texts, and the tokens that stand behind a document."""
    known = manifest["tokenizer"]
    tokenizer: CharTokenizer | FileTokenizer
    if known["vocabulary"] is None:
        tokenizer = FileTokenizer(folder / TOKENIZER, checked_tokenizer(folder, known["sha256"]))
    else:
        tokenizer = CharTokenizer(known["vocabulary"])
    end = manifest["end_of_text"]
    end_n = tokenizer.encode("\n") if end is None else np.array([end], np.int32)
    # Bytes are tokens already: the library would take a hundred times as long to find that out.
    return (_bytes_of if known["name"] == "bytes" else tokenizer.encode_all), end_n


def _bytes_of(texts: list[str]) -> list[np.ndarray]:
    return [np.frombuffer(text.encode(), np.uint8) for text in texts]


def _append(folder: Path, split: str, start: int, tokens_N: np.ndarray) -> None:
    """Write tokens behind the first `start` ones of a split, over what a kill may have left there."""
    while len(tokens_N):
        number, at = divmod(start, SHARD)
        here_n, tokens_N = np.split(tokens_N, [SHARD - at])
        file = _shard(folder, split, number)
        file.touch()
        with file.open("r+b") as opened:
            opened.seek(at * here_n.itemsize)
            opened.write(here_n.tobytes())
        start += len(here_n)


def _shard(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:05}.bin"


def _finish(progress: Progress, folder: Path) -> dict[str, Any]:
    """Write the manifest, with which the folder counts as prepared."""
    _save(progress, folder)
    with ThreadPoolExecutor() as threads:  # computing checksums, they don't wait for each other
        shards = {
            split: list(threads.map(partial(_described, folder, split, count), range(0, count, SHARD)))
            for split, count in progress.tokens.items()
        }
    manifest = progress.manifest | {"shards": shards}
    write_atomically(folder / MANIFEST, manifest_text(manifest))
    _tidy(folder)
    return manifest


def _described(folder: Path, split: str, count: int, start: int) -> dict[str, Any]:
    """The entry of the shard that begins at token `start` of `count`."""
    return described(_shard(folder, split, start // SHARD), min(SHARD, count - start))


def _tidy(folder: Path) -> None:
    """Remove what is of no use behind the manifest, or was left by a kill in the middle of a write."""
    for left in (folder / PROGRESS, *folder.glob(".*.json.*")):
        left.unlink(missing_ok=True)
