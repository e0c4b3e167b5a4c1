"""`loss.svg`: a run's losses and learning rate.

It is drawn without a plotting library, because that would take a second to load.
"""

import math
from collections.abc import Callable
from html import escape
from typing import NamedTuple

import numpy as np

from nanogpt.record import Record

Points = list[tuple[float, float]]  # steps and values

WIDTH, HEIGHT = 760, 450
LEFT, RIGHT = 64, 620  # edges of both panels; the labels of the lines are right of them
LABEL_HEIGHT = 17
STEP_TICKS = 6  # approximate
DOTTED = ("training", "validation")  # a dot at each evaluation
MAX_DOTS = 60  # of a line: more would touch, and the last alone has a dot
BATCH_POINTS = 100  # upper bound; a point is the mean of neighbouring batch losses
RATE_POINTS = 300  # approximate upper bound
LEAST_LOSS = 0.01  # smaller losses are drawn here, because 0 has no logarithm
# The second set of colours is for dark themes. A viewer without themes shows the first, on white. Around the
# paper, a browser that opens the file alone shows the background.
STYLE = """
svg{background:#fff}
text{font:12px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:currentColor}
.title text{font-size:15px;font-weight:600}
line{stroke:currentColor;stroke-opacity:.2}
polyline{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
.batch polyline{stroke-opacity:.5}
circle{fill:currentColor}
.paper{fill:#fff}.title{color:#1f2328}.grid,.batch,.rate{color:#6e7781}
.training{color:#0969da}.validation{color:#bc4c00}
@media(prefers-color-scheme:dark){
svg{background:#0d1117}
.paper{fill:#0d1117}.title{color:#e6edf3}.grid,.batch,.rate{color:#8b949e}
.training{color:#58a6ff}.validation{color:#f0883e}}
"""


class Panel(NamedTuple):
    """A plot in the drawing, and the range of steps and values that it shows."""

    top: int
    bottom: int
    last_step: int
    low: float
    high: float
    scale: Callable[[float], float] = float

    def x(self, step: float) -> float:
        return LEFT + (RIGHT - LEFT) * step / self.last_step

    def y(self, value: float) -> float:
        low, value, high = map(self.scale, (self.low, max(self.low, value), self.high))
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def grid(self, caption: str, values: list[float]) -> str:
        drawn = [text(LEFT, self.top - 14, caption)]
        for value in values:
            y = self.y(value)
            drawn.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            drawn.append(text(LEFT - 8, y + 4, f"{value:.3g}", "end"))
        return group("grid", *drawn)

    def lines(self, lines: dict[str, tuple[str, Points]]) -> str:
        """Lines with dots and a label at the end of each; labels that would overlap move down."""
        ends = {name: (form, points, points[-1][1]) for name, (form, points) in lines.items() if points}
        drawn, label_y = {}, -math.inf
        for name, (form, points, last) in sorted(ends.items(), key=lambda end: -end[1][2]):
            label_y = max(label_y + LABEL_HEIGHT, self.y(last) + 4)
            path = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in points)
            label = text(RIGHT + 12, label_y, form.format(last))
            dotted = points if name in DOTTED and len(points) <= MAX_DOTS else points[-1:]
            dots = "".join(self.dot(*point) for point in dotted)
            drawn[name] = group(name, f'<polyline points="{path}"/>', dots, label)
        return "".join(drawn[name] for name in ends)

    def mark(self, name: str, form: str, point: tuple[float, float]) -> str:
        """A dot with a label above it; the label stays inside the panel."""
        step, value = point
        x = min(max(self.x(step), LEFT + 50), RIGHT - 50)
        return group(name, self.dot(*point), text(x, self.y(value) - 10, form.format(value), "middle"))

    def dot(self, step: float, value: float) -> str:
        return f'<circle cx="{self.x(step):.1f}" cy="{self.y(value):.1f}" r="3"/>'


def loss_chart(records: list[Record], title: str, token: str) -> str:
    """The SVG for the records of a metrics.jsonl; losses are per `token`, "character" for example."""
    title = escape("".join(c if c.isprintable() else "?" for c in title))  # XML allows no control characters
    measured = [record.as_dict() for record in records]
    batch, training, validation, rate = (
        [(r["step"], r[key]) for r in measured if r[key] is not None and math.isfinite(r[key])]
        for key in ("loss", "train_loss", "val_loss", "learning_rate")
    )
    lines = {
        "batch": ("batch", smoothed(batch)),
        "training": ("training {:.3f}", training),
        "validation": ("validation {:.3f}", validation),
    }
    values = [value for _, points in lines.values() for _, value in points]
    low = max(LEAST_LOSS, 0.97 * min(values, default=1))
    last_step = max(1, records[-1].step)
    losses = Panel(72, 310, last_step, low, max([1.05 * low, *values]), math.log)
    steps = [
        text(losses.x(step), HEIGHT - 20, f"{step:,.0f}", "middle")
        for step in ticks(0, last_step, min(STEP_TICKS, last_step))
    ]
    drawn = [
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        group("title", text(LEFT, 30, title)),
        group("grid", *steps, text(RIGHT + 28, HEIGHT - 20, "steps")),
        losses.grid(f"loss, nats a {token}, log scale", loss_ticks(low, losses.high)),
        losses.lines(lines),
    ]
    best = min(validation, key=lambda point: point[1], default=None)
    if best and best != validation[-1]:
        drawn.append(losses.mark("validation", "best {:.3f}", best))
    if rate:
        rates = Panel(362, 406, last_step, 0, max(value for _, value in rate) or 1)
        rate = rate[:: -max(1, len(rate) // RATE_POINTS)][::-1]  # keeps the last point
        drawn += [rates.grid("learning rate", [0, rates.high]), rates.lines({"rate": ("{:.3g}", rate)})]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img">\n<title>{title}</title>\n<style>{STYLE}</style>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def group(name: str, *drawn: str) -> str:
    return f'<g class="{name}">{"".join(drawn)}</g>'


def text(x: float, y: float, content: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{content}</text>'


def smoothed(points: Points) -> Points:
    """Means of neighbouring points, at most BATCH_POINTS means."""
    width = max(1, -(-len(points) // BATCH_POINTS))
    return [tuple(np.mean(points[i : i + width], axis=0)) for i in range(0, len(points), width)]


def loss_ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, spread almost evenly over a logarithmic axis."""
    if high < 3 * low:
        return ticks(low, high, 6)
    mantissas = (1, 1.5, 2, 3, 4, 5, 7) if high < 10 * low else (1, 2, 5)
    return [m * 10.0**e for e in range(-2, 3) for m in mantissas if low <= m * 10.0**e <= high]


def ticks(low: float, high: float, count: int) -> list[float]:
    """The multiples of a round number from low to high, about `count` of them."""
    unit = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m * count >= high - low)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
