"""Records and metadata are the same again after they were written as JSON and read."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.config import Config, ModelConfig, RunConfig, TrainingConfig
from nanogpt.metadata import FORMAT, Metadata
from nanogpt.record import Evaluation, Record, record_from_dict

NUMBERS = st.floats(allow_nan=False)  # NaN equals nothing, not even itself.
COUNTS = st.integers(0, 2**40)
MEASURED: dict[str, st.SearchStrategy[Any]] = {
    "step": COUNTS,
    "loss": st.none() | NUMBERS,
    "learning_rate": st.none() | NUMBERS,
    "tokens_per_second": st.none() | COUNTS,
    "mfu": st.none() | NUMBERS,
    "elapsed": NUMBERS,
}
EVALUATIONS = st.builds(Evaluation, **MEASURED, train_loss=NUMBERS, val_loss=NUMBERS, sample=st.text())
RECORDS = st.builds(Record, **MEASURED) | EVALUATIONS
SHARES = st.floats(0, 1, exclude_max=True)
CONFIGS = st.builds(
    Config,
    st.builds(
        ModelConfig,
        vocab_size=st.integers(1, 10**6),
        n_head=st.just(1),
        n_embd=st.integers(1, 4096),
        dropout=SHARES,
        attention_dropout=SHARES,
        bias=st.booleans(),
        activation=st.sampled_from(["relu", "gelu"]),
    ),
    st.builds(
        TrainingConfig,
        optimizer=st.sampled_from(["muon", "adamw"]),
        learning_rate=st.floats(1, 1e9),
        min_lr=SHARES,
        beta1=SHARES,
        seed=st.integers(0, 2**32 - 1),
    ),
    st.builds(RunConfig, data=st.text(min_size=1), compile=st.booleans()),
)
NAMED = st.dictionaries(st.text(), st.text(), max_size=3)
METADATA = st.builds(
    Metadata,
    config=CONFIGS,
    vocabulary=st.none() | st.text(),
    data=st.none() | st.dictionaries(st.text(), st.text() | COUNTS, max_size=3),
    backend=st.none() | st.sampled_from(["jax", "torch"]),
    elapsed=NUMBERS,
    metrics=st.none() | EVALUATIONS,
    step=COUNTS,
    checksums=st.dictionaries(st.text(), NAMED, max_size=3),
    versions=NAMED,
)


@given(RECORDS)
def test_a_record_comes_back_from_its_line(record: Record) -> None:
    again = record_from_dict(json.loads(record.as_json()))
    assert again == record
    assert type(again) is type(record)


@given(RECORDS)
def test_a_line_has_all_keys_in_their_order(record: Record) -> None:
    assert ", ".join(json.loads(record.as_json())) == (
        "step, loss, learning_rate, tokens_per_second, mfu, train_loss, val_loss, elapsed, sample"
    )


def test_a_line_is_written_as_ever() -> None:
    """A reader of `metrics.jsonl` outside of this project goes by these very characters."""
    step = Record(step=4, loss=2.5, learning_rate=1e-3, tokens_per_second=9_000, elapsed=1.25)
    assert step.as_json() == (
        '{"step": 4, "loss": 2.5, "learning_rate": 0.001, "tokens_per_second": 9000, "mfu": null, '
        '"train_loss": null, "val_loss": null, "elapsed": 1.25, "sample": null}'
    )
    evaluation = Evaluation(step=0, train_loss=3.0, val_loss=3.5, sample="\nä")
    assert evaluation.as_json() == (
        '{"step": 0, "loss": null, "learning_rate": null, "tokens_per_second": null, "mfu": null, '
        '"train_loss": 3.0, "val_loss": 3.5, "elapsed": 0.0, "sample": "\\n\\u00e4"}'
    )


def test_a_line_with_a_missing_value_is_refused() -> None:
    for missing in ("step", "train_loss", "sample"):
        values = Evaluation(step=0, train_loss=3.0, val_loss=3.5, sample="").as_dict()
        del values[missing]
        with pytest.raises(TypeError, match=missing):
            record_from_dict(values)


def test_a_line_may_have_keys_of_a_later_version() -> None:
    assert record_from_dict({"step": 3, "elapsed": 1.0, "grad_norm": 0.5}) == Record(step=3, elapsed=1.0)


@given(METADATA)
def test_metadata_comes_back_from_its_json(metadata: Metadata) -> None:
    values = json.loads(json.dumps(metadata.as_dict()))
    assert values["format"] == FORMAT
    assert Metadata.from_dict(values) == metadata


def test_metadata_with_a_missing_or_wrong_value_is_refused() -> None:
    whole = replace(Metadata(Config(), "ab"), metrics=Evaluation(step=0, train_loss=1, val_loss=1, sample=""))
    for missing in ("config", "vocabulary", "metrics"):
        values = without_checksum(whole)
        del values[missing]
        with pytest.raises((TypeError, KeyError), match=missing):
            Metadata.from_dict(values)
    with pytest.raises(TypeError, match="speed"):
        Metadata.from_dict(without_checksum(whole) | {"speed": 1})


def without_checksum(metadata: Metadata) -> dict[str, Any]:
    """The JSON object as it was before it had a checksum of its own."""
    values = metadata.as_dict()
    del values["sha256"]
    return values


@given(METADATA)
def test_metadata_without_a_checksum_is_read(metadata: Metadata) -> None:
    assert Metadata.from_dict(without_checksum(metadata)) == metadata


@given(METADATA, st.data())
def test_a_changed_value_of_the_metadata_is_noticed(metadata: Metadata, data: st.DataObject) -> None:
    values = metadata.as_dict()
    key = data.draw(st.sampled_from(sorted(values)))
    with pytest.raises((ValueError, KeyError)):
        Metadata.from_dict(values | {key: "changed"})
    del values[key]
    if key != "sha256":
        with pytest.raises((ValueError, KeyError)):
            Metadata.from_dict(values)
