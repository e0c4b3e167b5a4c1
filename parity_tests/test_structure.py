"""The twins read line beside line: the same files, the same names in the same order, the same signatures."""

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[1]
FILES = ["model.py", "dropout.py", "cache.py", "speed.py", "optimizer.py", "generation.py", "backend.py"]

# Where a framework's own way asks for another signature, its parameters stand here, and nowhere else.
FRAMEWORK_PARAMETERS = {
    *("rngs", "device"),
    *("moments", "gradients", "weights", "parameters"),
    *("length", "count", "block_size"),
}
# torch has two libraries for products on CPUs.
FRAMEWORK_NAMES = {"onednn_is_faster", "linear_by_onednn"}
SAME_METHOD = {"__call__": "forward"}


def public_names(file: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Public classes, functions and methods in the order of the file, each with its parameters."""
    names = []

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                names.append((prefix + node.name, ()))
                visit(node.body, f"{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                name = SAME_METHOD.get(node.name, node.name)
                is_property = any(
                    ast.unparse(d) == "property" for d in node.decorator_list
                )  # an attribute elsewhere
                if is_property or name in FRAMEWORK_NAMES or (name.startswith("_") and name != "__init__"):
                    continue
                arguments = [*node.args.args, *node.args.kwonlyargs]
                parameters = tuple(a.arg for a in arguments if a.arg not in FRAMEWORK_PARAMETERS)
                names.append((prefix + name, parameters))

    visit(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return names


def test_the_twins_have_the_same_files() -> None:
    for twin in ("nanogpt_jax", "nanogpt_torch"):
        assert sorted(file.name for file in (ROOT / twin).glob("*.py")) == sorted([*FILES, "__init__.py"])


@pytest.mark.parametrize("file", FILES)
def test_the_twins_have_the_same_names_in_the_same_order(file: str) -> None:
    of_jax, of_torch = (public_names(ROOT / twin / file) for twin in ("nanogpt_jax", "nanogpt_torch"))
    assert [name for name, _ in of_jax] == [name for name, _ in of_torch]
    assert of_jax == of_torch
