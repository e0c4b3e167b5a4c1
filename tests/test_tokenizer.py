"""Decoding undoes encoding, and an unknown character is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.errors import InputError
from nanogpt.text.tokenizer import CharTokenizer


@given(st.text(st.characters(), min_size=1))
def test_decoding_undoes_encoding(text: str) -> None:
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocabulary == "".join(sorted(set(text)))
    assert CharTokenizer(tokenizer.vocabulary).encode(text).tolist() == tokenizer.encode(text).tolist()


@given(st.text(min_size=1), st.text(), st.characters())
def test_an_unknown_character_is_named_with_its_position(known: str, more: str, stranger: str) -> None:
    tokenizer = CharTokenizer.from_text(known.replace(stranger, "") + "a" if stranger != "a" else "b")
    prompt = "".join(c for c in more if c in tokenizer.vocabulary)
    with pytest.raises(InputError) as error:
        tokenizer.encode(prompt + stranger)
    assert f"character {stranger!r} at position {len(prompt)} " in str(error.value)


@pytest.mark.parametrize("vocabulary", ["ba", "aa", "aba"])
def test_a_vocabulary_out_of_order_is_refused(vocabulary: str) -> None:
    with pytest.raises(InputError, match="in the order of code points"):
        CharTokenizer(vocabulary)
