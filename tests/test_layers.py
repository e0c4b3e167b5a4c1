"""Inside of nanogpt imports only ever point down, and one place alone names the twins."""

import ast
import graphlib

from tests.conftest import ROOT
from tests.sources import imported

# Each of these modules and rooms of nanogpt imports earlier ones alone.
LAYERS = [
    *("errors", "version", "randomness", "files", "record", "mesh"),
    *("config", "presets", "muon", "weights", "micro_batches", "metadata", "sampling", "state"),
    *("processes", "backend", "choice", "memory", "checkpoint", "ahead", "lock"),
    *("text", "language_model", "source"),
    *("training", "report", "heads", "page", "huggingface"),
    *("session", "__init__", "cli", "__main__"),
]


def core_imports() -> dict[str, set[str]]:
    """Read which modules of nanogpt each one of them imports, at any time."""
    sources = {}
    for file in (ROOT / "nanogpt").glob("**/*.py"):
        path = file.relative_to(ROOT).with_suffix("")
        parts = path.parent.parts if path.name == "__init__" else path.parts
        sources[".".join(parts)] = file.read_text(encoding="utf-8")
    return {
        module: set(imported(source, everywhere=True)) & sources.keys() for module, source in sources.items()
    }


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_imports_point_down() -> None:
    core = core_imports()
    assert {layer(module) for module in core} == set(LAYERS)
    assert len(LAYERS) == len(set(LAYERS))
    for module, others in core.items():
        for other in others:
            # In `from nanogpt.text import corpus` the package itself is named, but nothing is taken from it.
            here, there = layer(module), layer(other)
            is_below = LAYERS.index(there) < LAYERS.index(here)
            assert is_below or (here == there and "." in module), f"{module} imports {other}"


def test_no_module_imports_itself_round_a_corner() -> None:
    order = list(graphlib.TopologicalSorter(core_imports()).static_order())
    assert order.index("nanogpt.errors") < order.index("nanogpt.cli.train")


def test_training_knows_nobody_who_follows_it() -> None:
    for module, others in core_imports().items():
        if layer(module) == "training":
            assert not {layer(other) for other in others} & {"report", "heads", "page", "cli"}, module


def test_one_place_names_the_twins() -> None:
    """Everyone else gets a backend by its name from `load_backend`."""
    naming = set()
    for file in (ROOT / "nanogpt").glob("**/*.py"):
        source = file.read_text(encoding="utf-8")
        strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
        names = [*imported(source, everywhere=True), *(s for s in strings if isinstance(s, str))]
        if any("nanogpt_" in name for name in names):
            naming.add(file.relative_to(ROOT).as_posix())
    assert naming == {"nanogpt/choice.py"}
