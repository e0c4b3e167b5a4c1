"""A prepared text: tokens in files that are mapped into memory, and a manifest that describes them.

my-tokens/
    manifest.json           counts, sources, the tokenizer, and the SHA-256 of each shard
    tokenizer.json          where tokens are not characters
    train-00000.bin         tokens, little-endian uint16 or uint32 without a header
    validation-00000.bin

`nanogpt prepare` writes such a folder (text/prepare.py).
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.errors import InputError, first_line
from nanogpt.files import read_small
from nanogpt.text.tokenizer import NewTokenizer, Tokenizer, find_tokenizer

FORMAT = 1
MANIFEST = "manifest.json"
PROGRESS = "progress.json"  # of a preparation that is not done
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "validation")


class Shards:
    """Arrays of tokens that are read as one: a slice of them, or the tokens at any positions, as int32."""

    def __init__(self, shards: Sequence[np.ndarray]) -> None:
        self._shards = shards
        self._ends = np.cumsum([0, *map(len, shards)])[1:]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        positions = np.arange(*index.indices(len(self))) if isinstance(index, slice) else index
        shard_of = np.searchsorted(self._ends, positions, side="right")
        tokens = np.empty(positions.shape, np.int32)
        for number in np.unique(shard_of):
            here, shard = shard_of == number, self._shards[number]
            tokens[here] = shard[positions[here] - self._ends[number] + len(shard)]
        return tokens


class PreparedCorpus:
    """A prepared text and its tokenizer: to training, what a `Corpus` (text/corpus.py) is."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError if a file of it is missing, or is not as it was written."""
        self.name = str(folder)
        self._manifest = manifest = read_manifest(folder)
        self._tokenizer = manifest["tokenizer"]
        self._tokenizer_json = None
        if self._tokenizer["vocabulary"] is None:
            self._tokenizer_json = checked_tokenizer(folder, self._tokenizer["sha256"])
        mapped = partial(_mapped, folder, np.dtype(manifest["dtype"]).newbyteorder("<"))
        with ThreadPoolExecutor() as threads:  # computing checksums, they don't wait for each other
            self._shards = {
                split: Shards(list(threads.map(mapped, manifest["shards"][split]))) for split in SPLITS
            }

    @property
    def fingerprint(self) -> dict[str, str | int]:
        """Length and SHA-256 of the tokens and their tokenizer, wherever the folder is."""
        same = {name: self._manifest[name] for name in ("shards", "dtype", "tokenizer")}
        return {"characters": self.characters, "sha256": digest_of(same)}

    @property
    def characters(self) -> int:
        return self._manifest["characters"]

    @property
    def summary(self) -> str:
        documents = self._manifest["documents"]
        return f"{self.characters:,} characters, {documents:,} document{'s' * (documents > 1)}"

    def new_tokenizer(self, _: str, folder: Path) -> NewTokenizer:
        """Its own tokenizer, whatever --tokenizer names, for the run in a folder."""
        ours = self._tokenizer
        content, size = self._tokenizer_json, ours["vocab_size"]
        tokenizer = find_tokenizer(folder, ours["vocabulary"], size, content or b"")
        return NewTokenizer(ours["name"], tokenizer, size, content)

    def tokens(self, tokenizer: Tokenizer) -> tuple[Shards, Shards]:
        """Training and validation tokens. Raises InputError if they are of another tokenizer."""
        if tokenizer.sha256 != self._tokenizer["sha256"]:
            raise InputError(
                f"{self.name} was prepared with {self._tokenizer['name']}, not with the tokenizer of this "
                f"model: prepare the text with --tokenizer and the model's {TOKENIZER}"
            )
        return self._shards["train"], self._shards["validation"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared text. Raises InputError if it can't be read, or was changed."""
    file = folder / MANIFEST
    try:
        manifest = json.loads(read_small(file))
        sha256, number = manifest.pop("sha256"), manifest["format"]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} can't be read ({first_line(error)}): prepare the text again") from None
    if number != FORMAT:
        raise InputError(
            f"{file} has format {number}, and this version reads {FORMAT}: prepare the text again"
        )
    if sha256 != digest_of(manifest):
        raise InputError(f"{file} is not as it was written: prepare the text again")
    return manifest


def manifest_text(manifest: dict[str, Any]) -> str:
    """The content of manifest.json: the values, and their own checksum."""
    return json.dumps(manifest | {"sha256": digest_of(manifest)}, indent=2) + "\n"


def digest_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def checked_tokenizer(folder: Path, sha256: str) -> bytes:
    """The tokenizer.json of a prepared text. Raises InputError if it is gone, or is another one."""
    file = folder / TOKENIZER
    try:
        content = read_small(file)
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{file} is not the tokenizer that the text was prepared with: put that back")
    return content


def described(file: Path, tokens: int) -> dict[str, Any]:
    """The entry of a shard in the manifest. Raises OSError."""
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"file": file.name, "tokens": tokens, "sha256": sha256}


def _mapped(folder: Path, dtype: np.dtype, shard: dict[str, Any]) -> np.ndarray:
    file = folder / shard["file"]
    try:
        if described(file, shard["tokens"]) == shard:
            return np.memmap(file, dtype, "r")
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror}") from None
    raise InputError(f"{file} is not as it was written (its checksum differs): prepare the text again")
