"""Load a text, or map a prepared one; split it, and cut it into windows of tokens."""

import contextlib
import hashlib
import os
import shlex
import sys
import sysconfig
import tempfile
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import platformdirs
from rich.progress import wrap_file

from nanogpt.errors import InputError
from nanogpt.memory import in_units, machine_memory, require_memory
from nanogpt.randomness import random_bits
from nanogpt.text.documents import PACKED, files_of
from nanogpt.text.shards import MANIFEST, PROGRESS, PreparedCorpus, Shards
from nanogpt.text.tokenizer import CharTokenizer, FileTokenizer, NewTokenizer, Tokenizer
from nanogpt.text.vocabulary import tokenizer_json

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PYTHON_CHARACTERS = 1_000_000
TRAINING_SHARE = 0.9
EVALUATION_TOKENS = 2**18  # upper bound on the tokens of a split that are evaluated
MAX_FILES = 100_000  # of a folder
MAX_STREAM = 2**26  # bytes of a stream, which may have no end
MEMORY = 16  # bytes of memory that a byte of text may take until it is tokens
NAMES = ("auto", "shakespeare", "python")


@dataclass(frozen=True)
class Corpus:
    """A text, and the `--data` value that names it from any working directory."""

    name: str
    text: str

    @cached_property
    def fingerprint(self) -> dict[str, str | int]:
        """Length and SHA-256 of the text; two runs on the same data have the same fingerprint."""
        digest = hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()
        return {"characters": len(self.text), "sha256": digest}

    @property
    def characters(self) -> int:
        return len(self.text)

    @property
    def summary(self) -> str:
        return f"{len(self.text):,} characters, {len(set(self.text))} different"

    def new_tokenizer(self, name: str, folder: Path) -> NewTokenizer:
        """The tokenizer that `--tokenizer` names, for the run in a folder. Raises InputError."""
        content = tokenizer_json(name, [self.text[: int(TRAINING_SHARE * len(self.text))]])
        if content is None:
            characters = CharTokenizer.from_text(self.text)
            return NewTokenizer(name, characters, characters.vocab_size, None)
        learnt = FileTokenizer(folder / "tokenizer.json", content)
        return NewTokenizer(name, learnt, learnt.vocab_size, content)

    def tokens(self, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation tokens: the first 90 %, and the rest."""
        tokens_N = tokenizer.encode(self.text)
        boundary = int(TRAINING_SHARE * len(tokens_N))
        return tokens_N[:boundary], tokens_N[boundary:]


AnyCorpus = Corpus | PreparedCorpus


@dataclass(frozen=True)
class Splits:
    """The tokens of a corpus to train on, and those to validate on; in memory, or mapped into it."""

    train_N: np.ndarray | Shards
    validation_N: np.ndarray | Shards
    block_size: int

    @classmethod
    def of(cls, corpus: AnyCorpus, tokenizer: Tokenizer, block_size: int) -> "Splits":
        """Split the tokens of a corpus. Raises InputError if either split is shorter than one window."""
        train_N, validation_N = corpus.tokens(tokenizer)
        splits = cls(train_N, validation_N, block_size)
        for name, split_N in (("training", splits.train_N), ("validation", splits.validation_N)):
            if len(split_N) < block_size + 1:
                raise InputError(
                    f"the {name} split of {corpus.name} has {len(split_N):,} tokens, fewer than "
                    f"block_size + 1 = {block_size + 1}: take a longer text or a smaller --block_size"
                )
        return splits

    def batch(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        """Windows of training step `step`, drawn with replacement: int32 `[B, T+1]`."""
        starts = len(self.train_N) - self.block_size
        starts_B = (random_bits(seed, "batches", step, batch_size) % np.uint64(starts)).astype(np.int64)
        return self.train_N[starts_B[:, None] + np.arange(self.block_size + 1)]

    def validation_tokens(self) -> np.ndarray:
        """The evaluated part of the validation split: all of it, or the start that has 262,144 targets."""
        return self.validation_N[: EVALUATION_TOKENS + 1]

    def training_sample(self) -> np.ndarray:
        """The middle of the training split, a quarter as long as the validation tokens; always the same."""
        length = max(self.block_size, len(self.validation_tokens()) // 4) + 1
        start = (len(self.train_N) - length) // 2
        return self.train_N[start : start + length]


def windows(tokens_N: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a text into non-overlapping windows that predict each token but the first exactly once.

    Returns tokens, int32 `[W, T+1]`, with the last window padded with token 0, and a mask, bool `[W, T]`,
    which is true where the target belongs to the text. The padding is at the end, so that under the causal
    mask no prediction of the text depends on it.
    """
    count = -(-(len(tokens_N) - 1) // block_size)
    padded = np.zeros(count * block_size + 1, np.int32)
    padded[: len(tokens_N)] = tokens_N
    tokens_WT = padded[np.arange(count)[:, None] * block_size + np.arange(block_size + 1)]
    real_WT = (np.arange(count * block_size) < len(tokens_N) - 1).reshape(count, block_size)
    return tokens_WT, real_WT


def load_data(data: str, tokenizer: str = "char") -> AnyCorpus:
    """The folder of `nanogpt prepare` or the text that `--data` names.

    Raises InputError if it does not exist, is damaged, or is to be prepared first: the line has the command,
    with the name of a `tokenizer`.
    """
    path = Path(data).expanduser().absolute()
    if data not in NAMES:
        if (path / MANIFEST).is_file():
            return PreparedCorpus(path)
        if (path / PROGRESS).is_file():
            raise InputError(
                f"{path} is prepared in part: give the same nanogpt prepare again, which goes on"
            )
        if reason := _why_to_prepare(path):
            out = path.with_name(path.name.partition(".")[0] + "-tokens")
            words = ["nanogpt", "prepare", str(path), "--tokenizer", tokenizer, "--out", str(out)]
            raise InputError(
                f"{reason}: run `{shlex.join(words)}`, and train with --data {shlex.quote(str(out))}"
            )
    return load_corpus(data)


def _why_to_prepare(path: Path) -> str | None:
    """Why a text can't be read into memory as it is; None where it can, or where reading it tells more."""
    with contextlib.suppress(OSError):
        files = list(islice(files_of(path), MAX_FILES + 1))
        if len(files) > MAX_FILES:
            return f"{path} holds more than {MAX_FILES:,} files"
        if packed := [file for file in files if file.suffix in PACKED]:
            return f"{packed[0]} is no plain text"
        size, memory = sum(file.stat().st_size for file in files), machine_memory()
        if MEMORY * size > memory / 2:
            return f"{path} has {in_units(size)}, too much for a memory of {in_units(memory)}"
    return None


def load_corpus(data: str) -> Corpus:
    """The text that `--data` names. Raises InputError if it does not exist or is not text."""
    if data == "shakespeare":
        return Corpus(data, _shakespeare())
    if data == "python":
        return Corpus(data, _python())
    if data == "auto":
        try:
            return load_corpus("shakespeare")
        except InputError as error:
            print(f"{error}; training on Python's standard library instead", file=sys.stderr)
            return load_corpus("python")
    path = Path(data).expanduser().absolute()
    if not os.path.lexists(path):
        raise InputError(f"there is no file or folder {path} (--data also takes auto, shakespeare or python)")
    return Corpus(str(path), read_text(path))


def read_text(path: Path) -> str:
    """A UTF-8 file unchanged, or the files of a folder joined by line ends.

    Raises InputError if there is no such file or folder, if it is not text, or if it is too large.
    """
    try:
        files = _files_of(path) if path.is_dir() else [path]
        # The least memory: a character of four bytes takes four in the text, in its encoding and as a token.
        require_memory(f"the text {path}", 3 * sum(file.stat().st_size for file in files))
        if special := [file for file in files if not file.is_file()]:
            raise InputError(f"{special[0]} is a pipe or a device, not a file: save its text in one")
        # Path.read_text would translate Windows line ends.
        return "\n".join(decode_text(file.read_bytes(), str(file)) for file in files)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no file or folder {path}") from None
    except OSError as error:
        raise InputError(f"{error.filename or path} can't be read: {error.strerror}") from None


def _files_of(folder: Path) -> list[Path]:
    """The files of a folder that are not hidden, in the order of their paths."""
    files = list(islice(files_of(folder), MAX_FILES + 1))
    if len(files) > MAX_FILES:
        raise InputError(f"the folder {folder} holds more than {MAX_FILES:,} files: name a smaller one")
    if not files:
        raise InputError(f"the folder {folder} holds no files")
    return sorted(files)


def read_stream(stream: BinaryIO, name: str) -> str:
    """A UTF-8 stream to its end. Raises InputError, which quotes `name`, if it is not text or too long."""
    content = stream.read(MAX_STREAM + 1)
    if len(content) > MAX_STREAM:
        raise InputError(f"{name} has more than {MAX_STREAM:,} bytes: give a file instead")
    return decode_text(content, name)


def decode_text(content: bytes, name: str) -> str:
    """Decode UTF-8. Raises InputError, which quotes `name`, if the bytes are binary, invalid or empty."""
    if b"\0" in content:
        raise InputError(f"{name} is a binary file: byte {content.index(0)} is NUL")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text (byte {error.start} is invalid)") from None
    if not text:
        raise InputError(f"{name} is empty")
    return text


def _shakespeare() -> str:
    folder = Path(os.environ.get("NANOGPT_DATA_DIR") or platformdirs.user_cache_dir("nanogpt"))
    file = folder / "tinyshakespeare.txt"
    if not file.exists():
        _download(SHAKESPEARE_URL, file, SHAKESPEARE_SHA256)
    text = read_text(file)
    if _sha256(text.encode()) != SHAKESPEARE_SHA256:
        raise InputError(f"{file} is not Tiny Shakespeare (its checksum differs): delete or replace it")
    return text


def _download(url: str, file: Path, sha256: str) -> None:
    part = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=20) as response:
            size = int(response.headers.get("Content-Length", 0))
            with wrap_file(response, size, description=f"Downloading {file.name}") as progress:
                content = progress.read()
        if _sha256(content) != sha256:
            raise InputError(f"{url} did not send the expected file (its checksum differs)")
        # Renaming is atomic, so no reader ever sees half a file.
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            part = Path(temporary.name)
            temporary.write(content)
        part.replace(file)
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"Tiny Shakespeare is not in {file.parent} and can't be downloaded ({reason})"
        ) from None
    finally:
        if part is not None:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()


def _python() -> str:
    """The first million characters of the standard library's modules, in the order of their names."""
    text = ""
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source = file.read_text(encoding="utf-8", errors="replace")
        text += source if source.isascii() else ""
        if len(text) >= PYTHON_CHARACTERS:
            return text[:PYTHON_CHARACTERS]
    raise InputError("this Python has no source files of its standard library: name a text with --data")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
