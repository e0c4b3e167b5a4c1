"""The tokenizer of a new run, as `--tokenizer` names it: characters, bytes, or a vocabulary learnt by BPE.

    char              the characters of the text
    bytes             the 256 bytes of UTF-8
    bpe:8192          8,192 tokens, learnt from the training text by byte-pair encoding (Sennrich et al. 2016)
    my/tokenizer.json a file of Hugging Face's tokenizers, or a folder with one, which is copied into the run

All but characters are a `tokenizer.json` in the folder of the run.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nanogpt.errors import InputError
from nanogpt.files import read_small
from nanogpt.text.tokenizer import END_OF_TEXT, tokenizers_library, told_even_panics

BYTES = 256
MAX_VOCABULARY = 2**20


def tokenizer_json(name: str, training_texts: Iterable[str]) -> bytes | None:
    """The `tokenizer.json` that `--tokenizer` names, or None for characters. Raises InputError."""
    if name == "char":
        return None
    if name != "bytes" and not name.startswith("bpe:"):
        file = Path(name).expanduser()
        file = file / "tokenizer.json" if file.is_dir() else file
        if not file.is_file():
            raise InputError(f"there is no file {file} (--tokenizer also takes char, bytes or bpe:8192)")
        return read_small(file)
    tokenizers = tokenizers_library(f"for --tokenizer {name}")
    with told_even_panics(f"--tokenizer {name} can't be made"):
        tokenizer = of_bytes(tokenizers) if name == "bytes" else learnt(tokenizers, name, training_texts)
        return tokenizer.to_str().encode()


def of_bytes(tokenizers: Any) -> Any:
    """Every byte of UTF-8 is the token of its value."""
    # GPT-2 writes a byte as a character that can be seen: itself, or the next one from code point 256 on.
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(BYTES) if byte not in visible]
    names = {chr(byte if byte in visible else BYTES + hidden.index(byte)): byte for byte in range(BYTES)}
    return on_bytes(tokenizers, tokenizers.models.BPE(vocab=names, merges=[]))


def learnt(tokenizers: Any, name: str, texts: Iterable[str]) -> Any:
    """A vocabulary of `bpe:SIZE` tokens: an end of text, the 256 bytes, and what is frequent in texts."""
    size = name.removeprefix("bpe:")
    if not size.isdecimal() or not BYTES < int(size) <= MAX_VOCABULARY:
        raise InputError(f"--tokenizer {name:.40}: bpe takes a size from {BYTES + 1} to {MAX_VOCABULARY:,}")
    tokenizer = on_bytes(tokenizers, tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=int(size),
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def on_bytes(tokenizers: Any, model: Any) -> Any:
    """A tokenizer that splits text as GPT-2's does and gives the bytes of each part to `model`."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer
