"""The chart of a run shows both losses where they were, and stays inside of its frame whatever they are."""

import io
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from selenium.webdriver import Chrome

from nanogpt.record import Record
from nanogpt.report.chart import HEIGHT, RIGHT, WIDTH, loss_chart
from nanogpt.training.metrics import evaluations, read_metrics
from tests.browser import needs_browser, prefer
from tests.conftest import ROOT
from tests.runs import record

pytest_plugins = ["tests.browser_fixtures"]


def test_the_chart_shows_both_losses_and_where_they_ended(finished_run: Path) -> None:
    chart = ElementTree.parse(finished_run / "loss.svg").getroot()
    evaluated = evaluations(read_metrics(finished_run / "metrics.jsonl"))
    heights = {}
    for name, key in (("training", "train_loss"), ("validation", "val_loss")):
        line = chart.find(f"{{*}}g[@class='{name}']")
        assert line is not None
        points = [tuple(map(float, p.split(","))) for p in line.find("{*}polyline").get("points").split()]
        heights |= {getattr(record, key): y for record, (_, y) in zip(evaluated, points, strict=True)}
        x, middle, end = (x for x, _ in points)
        assert end - middle == pytest.approx(middle - x, abs=0.11)
        assert line.findtext("{*}text") == f"{name} {getattr(evaluated[-1], key):.3f}"
        dots = [(float(circle.get("cx")), float(circle.get("cy"))) for circle in line.findall("{*}circle")]
        assert dots == points  # One at each evaluation.
    top, bottom = max(heights), min(heights)
    for loss, y in heights.items():
        share = math.log(loss / bottom) / math.log(top / bottom)
        assert y == pytest.approx(heights[bottom] + share * (heights[top] - heights[bottom]), abs=0.11)


def test_a_chart_marks_the_best_loss_where_it_was_not_the_last() -> None:
    chart = loss_chart([record(0, 3.0, 3.0), record(10, 2.0, 2.5), record(20, 1.0, 2.6)], "title", "token")
    assert "best 2.500" in chart
    assert "nats a token" in chart


def test_a_chart_keeps_its_size_and_its_ends_however_long_the_run() -> None:
    losses = [record(step, 2 + 1 / (1 + step)) for step in range(50_000)]
    chart = loss_chart([*losses, record(50_000, 2.0, 2.0, 0.75e-3)], "title", "character")
    assert len(chart) < 20_000
    assert "training 2.000" in chart
    assert ">0.00075<" in chart


def test_the_chart_in_the_docs_is_that_of_its_measurements() -> None:
    records = read_metrics(ROOT / "docs/reference/metrics.jsonl")
    chart = loss_chart(records, "1,230,720 parameters on shakespeare", "character")
    assert (ROOT / "docs/reference/loss.svg").read_text(encoding="utf-8") == chart


def test_dots_that_would_touch_are_left_out() -> None:
    chart = loss_chart([record(step, 2.0, 3 - step / 200) for step in range(200)], "title", "character")
    assert chart.count("<circle") == 4  # The ends of four lines.


@pytest.mark.parametrize("last", [0, 1, 2, 5, 6, 7, 20])
def test_a_short_run_fills_the_width_and_counts_in_whole_steps(last: int) -> None:
    drawn = loss_chart([record(step, 3.0, 3.0) for step in range(last + 1)], "title", "character")
    chart = ElementTree.fromstring(drawn)
    labels = [text for text in chart.findall(".//{*}text") if text.get("y") == f"{HEIGHT - 20:.1f}"][:-1]
    steps = [int(label.text) for label in labels]
    assert steps == sorted({*steps})
    assert len(steps) >= 2
    if last:
        lines = chart.findall("{*}g[@class='validation']/{*}polyline")
        end = float(lines[0].get("points").split()[-1].split(",")[0])
        assert end == RIGHT


@needs_browser
@pytest.mark.parametrize(("scheme", "paper"), [("light", "#ffffff"), ("dark", "#0d1117")])
def test_a_browser_shows_the_chart_alone_in_its_theme(
    scheme: str, paper: str, finished_run: Path, browser: Chrome
) -> None:
    prefer(browser, scheme)
    browser.get((finished_run / "loss.svg").as_uri())
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    right, bottom = picture.width - 1, picture.height - 1
    for corner in ((0, 0), (right, 0), (0, bottom), (right, bottom)):
        assert "#{:02x}{:02x}{:02x}".format(*picture.getpixel(corner)) == paper


ODD = {
    "one evaluation": [record(0, None, 4.0, None)],
    "zeros": [record(0, None, 0.0, None), record(5, 0.0, 0.0, 0.0)],
    "no numbers": [record(0, None, math.nan, None), record(7, math.inf, math.nan)],
    "one value": [record(step, 3.0, 3.0) for step in range(3)],
    "a wide range": [record(step, 10.0 ** (3 - step), 10.0**step) for step in range(9)],
    "a million steps": [record(10**6 * step, 5.001 - step / 1e6, 5.0) for step in range(3)],
}


@pytest.mark.parametrize("records", ODD.values(), ids=ODD.keys())
def test_any_records_can_be_drawn(records: list[Record]) -> None:
    title = "<&>\"' ]]>"
    chart = ElementTree.fromstring(loss_chart(records, title + "\1\n", "character"))
    title += "??"
    assert chart.findtext("{*}title") == chart.findtext("{*}g[@class='title']/{*}text") == title
    drawn = [element.attrib for element in chart.iter()]
    x = [float(a[key]) for a in drawn for key in ("x", "cx", "x1", "x2") if key in a]
    y = [float(a[key]) for a in drawn for key in ("y", "cy", "y1", "y2") if key in a]
    for point in " ".join(a.get("points", "") for a in drawn).split():
        x.append(float(point.split(",")[0]))
        y.append(float(point.split(",")[1]))
    assert 0 <= min(x) <= max(x) <= WIDTH
    assert 0 <= min(y) <= max(y) <= HEIGHT
