"""The road from the bigram: the same model, a field at a time, each rung trained equally long.

    python -m benchmarks.road --out_dir out/road

Every rung is a run of train.py in a folder of its own, so what was interrupted goes on and what is finished
is not repeated. Writes road.md and road.svg there.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

import nanogpt
from nanogpt.metrics import read_metrics
from nanogpt.weights import count_parameters

ROOT = Path(__file__).parents[1]
PROMPT, CHARACTERS = "\n", 60


@dataclass(frozen=True)
class Rung:
    """One configuration, and where model.py has what is new in it."""

    name: str
    fields: dict[str, int | float]
    place: str


RUNGS = [
    Rung("embeddings and a head", {"n_layer": 0}, "`GPT.embed`, `GPT.unembed`"),
    Rung(
        "one block of one head", {"n_layer": 1, "n_head": 1}, "`Block`, `MultiHeadAttention`, `FeedForward`"
    ),
    Rung("four heads", {"n_layer": 1}, "`MultiHeadAttention.project`"),
    Rung("two blocks", {"n_layer": 2}, "the loop over `self.blocks`"),
    Rung("four blocks", {"n_layer": 4}, "the same loop"),
    Rung("six blocks", {"n_layer": 6}, "the same loop"),
    Rung("dropout", {"n_layer": 6, "dropout": 0.1}, "`weights_dropout`, `output_dropout`"),
]


@dataclass(frozen=True)
class Road:
    """Train every rung of the road, and compare."""

    out_dir: Path = Path("out/road")
    """Where the runs, road.md and road.svg go."""
    max_iters: int = 1_000
    """Iterations of each rung: one whole schedule."""
    batch_size: int = 16
    """Windows of 256 characters in a step."""
    data: str = "shakespeare"
    """As train.py takes it."""
    backend: str = "jax"
    """jax or torch."""


@dataclass(frozen=True)
class Result:
    """What became of a rung."""

    rung: Rung
    parameters: int
    evaluations: list[dict]
    """Records of metrics.jsonl."""
    text: str

    @property
    def row(self) -> str:
        """Of the table in road.md."""
        last = self.evaluations[-1]
        fields = " ".join(f"--{name} {value}" for name, value in self.rung.fields.items())
        text = self.text.replace("\n", " / ").replace("|", "\\|")
        cells = [
            self.rung.name,
            f"`{fields}`",
            self.rung.place,
            f"{self.parameters:,}",
            f"{last['train_loss']:.3f}",
            f"{last['val_loss']:.3f}",
            f"{last['elapsed']:,.0f} s",
            f"`` {text} ``",
        ]
        return f"| {' | '.join(cells)} |"


def train(rung: Rung, road: Road) -> Result:
    """Run train.py, or what is left of it, and let the model write."""
    folder = road.out_dir / rung.name.replace(" ", "_")
    flags = {
        "data": road.data,
        "dropout": 0.0,
        **rung.fields,
        "max_iters": road.max_iters,
        "batch_size": road.batch_size,
        "eval_interval": max(1, road.max_iters // 10),
        "backend": road.backend,
        "out_dir": folder.absolute(),
    }
    command = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in flags.items())]
    subprocess.run(command, cwd=ROOT, check=True)
    model = nanogpt.load(folder, road.backend)
    text = model.generate(PROMPT, max_tokens=CHARACTERS)
    evaluations = [r for r in read_metrics(folder / "metrics.jsonl") if r["val_loss"] is not None]
    return Result(rung, count_parameters(model.config), evaluations, text)


def draw(results: list[Result], file: Path) -> None:
    """Validation losses against iterations, a curve for each rung, named at its end."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for number, result in enumerate(results):
        steps, losses = ([r[key] for r in result.evaluations[1:]] for key in ("step", "val_loss"))
        colour = pyplot.colormaps["viridis"](number / len(results))
        axes.plot(steps, losses, color=colour, label=f"{result.rung.name}: {losses[-1]:.3f}")
    axes.set(xlabel="iteration", ylabel="validation loss, nats a character")
    axes.legend(fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def main() -> None:
    road = tyro.cli(Road, use_underscores=True)
    results = [train(rung, road) for rung in RUNGS]
    head = ["rung", "flags", "in model.py", "parameters", "train", "validation", "time", "what it writes"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(result.row for result in results)]
    (road.out_dir / "road.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(results, road.out_dir / "road.svg")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
