"""The road from the bigram model to the GPT: one change at a time, and each rung is trained equally long.

    python -m benchmarks.road --out_dir out/road

Every rung is a run of train.py in a folder of its own, so an interrupted run goes on and a finished run is
not repeated. road.md and road.svg, in the same folder, compare them.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

import nanogpt
from benchmarks import runs
from benchmarks.runs import Flags
from nanogpt.record import Evaluation
from nanogpt.weights import count_parameters

PROMPT, CHARACTERS = "\n", 60


@dataclass(frozen=True)
class Rung:
    """One configuration, and the place in model.py that it adds."""

    name: str
    fields: Flags
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
    Rung(
        "dropout",
        {"n_layer": 6, "dropout": 0.1, "attention_dropout": 0.1},
        "`weights_dropout`, `output_dropout`",
    ),
]


@dataclass(frozen=True)
class Road:
    """Train every rung of the road, and compare."""

    out_dir: Path = Path("out/road")
    """Folder for the runs, road.md and road.svg."""
    max_iters: int = 1_000
    """Iterations of each rung, which are one whole schedule."""
    batch_size: int = 16
    """Windows of 256 characters in a step."""
    data: str = "shakespeare"
    """Same as --data of train.py."""
    backend: str = "jax"
    """jax or torch."""


@dataclass(frozen=True)
class Result:
    """A trained rung."""

    rung: Rung
    parameters: int
    evaluations: list[Evaluation]
    """Evaluations of its metrics.jsonl."""
    text: str

    @property
    def row(self) -> list[str]:
        """Its row of the table in road.md."""
        last = self.evaluations[-1]
        text = self.text.replace("\n", " / ").replace("|", "\\|")
        return [
            self.rung.name,
            f"`{' '.join(runs.arguments(self.rung.fields))}`",
            self.rung.place,
            f"{self.parameters:,}",
            f"{last.train_loss:.3f}",
            f"{last.val_loss:.3f}",
            f"{last.elapsed:,.0f} s",
            f"`` {text} ``",
        ]


def train(rung: Rung, road: Road) -> Result:
    """Run train.py, or the rest of an interrupted run, and let the model write."""
    folder = road.out_dir / rung.name.replace(" ", "_")
    flags = {
        "preset": "reference",
        "data": road.data,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        **rung.fields,
        "max_iters": road.max_iters,
        "batch_size": road.batch_size,
        "eval_interval": max(1, road.max_iters // 10),
        "backend": road.backend,
    }
    evaluations = runs.train(folder, flags)
    model = nanogpt.load(folder, road.backend)
    text = model.generate(PROMPT, max_tokens=CHARACTERS)
    return Result(rung, count_parameters(model.config), evaluations, text)


def main() -> None:
    road = tyro.cli(Road, use_underscores=True)
    results = [train(rung, road) for rung in RUNGS]
    head = ["rung", "flags", "in model.py", "parameters", "train", "validation", "time", "what it writes"]
    table = runs.table(head, [result.row for result in results])
    (road.out_dir / "road.md").write_text(table, encoding="utf-8")
    runs.draw({result.rung.name: [result.evaluations] for result in results}, road.out_dir / "road.svg")
    print(table)


if __name__ == "__main__":
    main()
