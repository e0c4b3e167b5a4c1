"""Time and memory that a large text takes to be prepared: `python -m benchmarks.big_text`.

The text is one file: the Python sources of this environment, one after the other, again and again.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import tyro

from nanogpt.text.documents import pieces, read
from nanogpt.text.prepare import BATCH
from nanogpt.text.shards import TOKENIZER, read_manifest
from nanogpt.text.tokenizer import FileTokenizer


@dataclass(frozen=True)
class BigText:
    """Prepare a large text in a process of its own, and tokenize a part of it from the memory."""

    folder: Path
    """Folder for the text, which is kept, and for its tokens, which are not."""
    megabytes: int = 1_000
    """Size of the text."""
    tokenizer: str = "bpe:8192"
    """char, bytes, bpe:8192 (any size), or a tokenizer.json."""
    alone: int = 32
    """Million characters that the tokenizer gets alone."""


def sources() -> Iterator[bytes]:
    """The Python sources of this environment that are UTF-8, in a fixed order."""
    for place in ("stdlib", "purelib"):
        for file in sorted(Path(sysconfig.get_path(place)).rglob("*.py")):
            content = file.read_bytes()
            if b"\0" not in content and content.decode(errors="ignore").encode() == content:
                yield content


def write_text(file: Path, size: int) -> None:
    """Write a text of at least `size` bytes."""
    with file.open("wb") as opened:
        for content in cycle(sources()):
            opened.write(content)
            if opened.tell() >= size:
                return


def prepared(text: Path, tokenizer: str, out: Path) -> tuple[float, float, float]:
    """Seconds, seconds of computing on all cores, and the largest memory in MB, of one process."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "nanogpt", "prepare", text, "--tokenizer", tokenizer, "--out", out]
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, peak / 1e6


def tokens_alone(text: Path, tokenizer: FileTokenizer, characters: int) -> float:
    """Tokens a second of the tokenizer on all cores, from the memory."""
    texts, size = [], 0
    for piece in pieces(read(text)):
        texts.append(piece.text)
        size += len(piece.text)
        if size >= characters:
            break
    count = max(1, BATCH * len(texts) // size)
    begun = time.perf_counter()
    batches = (tokenizer.encode_all(texts[at : at + count]) for at in range(0, len(texts), count))
    tokens = sum(len(row_n) for batch in batches for row_n in batch)
    return tokens / (time.perf_counter() - begun)


def main() -> None:
    wanted = tyro.cli(BigText, use_underscores=True)
    wanted.folder.mkdir(parents=True, exist_ok=True)
    text, out = wanted.folder / f"{wanted.megabytes}.txt", wanted.folder / "tokens"
    if not text.exists():
        write_text(text, wanted.megabytes * 10**6)
    shutil.rmtree(out, ignore_errors=True)
    seconds, computing, peak = prepared(text, wanted.tokenizer, out)
    manifest = read_manifest(out)
    tokens = sum(shard["tokens"] for shards in manifest["shards"].values() for shard in shards)
    alone = "-"
    if (out / TOKENIZER).exists():
        speed = tokens_alone(text, FileTokenizer(out / TOKENIZER), wanted.alone * 10**6)
        alone = f"{speed / 1e6:.2f} million"
    shutil.rmtree(out)
    print(
        "| text | tokenizer | time | of all cores | peak memory | tokens | tokens/s | the tokenizer alone |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {wanted.megabytes:,} MB | {wanted.tokenizer} | {seconds:,.0f} s | {computing:,.0f} s "
        f"| {peak:,.0f} MB | {tokens / 1e6:,.0f} million | {tokens / seconds / 1e6:.2f} million | {alone} |"
    )


if __name__ == "__main__":
    main()
