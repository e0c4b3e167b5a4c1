"""The report of a run is true, and made from its files alone."""

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nanogpt.errors import InputError
from nanogpt.report.markdown import fenced, write_report
from nanogpt.training.metrics import evaluations, read_metrics
from tests.runs import REPORTS


def fences(markdown: str) -> list[str]:
    return [token.content for token in MarkdownIt().parse(markdown) if token.type == "fence"]


def test_a_sample_is_kept_of_every_evaluation(finished_run: Path) -> None:
    samples = (finished_run / "samples.md").read_text(encoding="utf-8")
    evaluated = evaluations(read_metrics(finished_run / "metrics.jsonl"))
    assert re.findall("^## (.*)$", samples, flags=re.M) == ["Step 0", "Step 10", "Step 20"]
    assert all(f"validation {record.val_loss:.4f}" in samples for record in evaluated)
    assert all(len(record.sample) == len("\n") + 100 for record in evaluated)
    assert fences(samples) == [record.sample.strip("\n") + "\n" for record in evaluated]
    assert len(set(fences(samples))) == 3


def test_a_report_tells_losses_settings_and_what_it_ran_on(finished_run: Path) -> None:
    report = (finished_run / "report.md").read_text(encoding="utf-8")
    evaluated = evaluations(read_metrics(finished_run / "metrics.jsonl"))
    for name, record in (("best", min(evaluated, key=lambda r: r.val_loss)), ("last", evaluated[-1])):
        line = f"| {name} | {record.step} | {record.train_loss:.4f} | {record.val_loss:.4f} |"
        assert line in report
    assert "parameters, step 20 of 20, 0:00:" in report
    sample, settings, environment = fences(report)
    assert sample.strip("\n") == evaluated[-1].sample.strip("\n")
    assert re.search("^n_embd +16 +128$", settings, flags=re.M)
    assert "dropout" not in settings
    assert re.search("^backend +torch$", environment, flags=re.M)
    assert re.search(r"^torch +2\.", environment, flags=re.M)


def test_a_report_is_made_from_the_files_alone(finished_run: Path, tmp_path: Path) -> None:
    for name in ("config.json", "environment.json", "metrics.jsonl"):
        shutil.copy(finished_run / name, tmp_path)
    for _ in range(2):
        write_report(tmp_path)
        for name in REPORTS:
            assert (tmp_path / name).read_bytes() == (finished_run / name).read_bytes(), name
    (tmp_path / "tokenizer.json").touch()
    write_report(tmp_path)
    assert "nats a token" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_no_report_is_made_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run that was evaluated"):
        write_report(tmp_path)


PIECES = [
    "`",
    "```",
    "````\n",
    "~~~",
    "\n",
    "\r",
    "\r\n",
    "    ",
    "\t",
    "# a",
    "- ",
    "> ",
    "\0",
    "\u2028",
    "]]>",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_no_text_breaks_out_of_its_fence(pieces: list[str]) -> None:
    text = "".join(pieces)
    first, *others = MarkdownIt().parse(fenced(text) + "after")
    assert first.type == "fence"
    assert first.content == re.sub("\r\n?", "\n", text.strip("\n") + "\n").replace("\0", "\ufffd")
    assert [token.content for token in others] == ["", "after", ""]
