"""The twins as a diff: the lines that differ once the frameworks' own words are taken away.

    python -m parity_tests.diff

Files are read as syntax trees. Imports, docstrings and annotations go, and so do the frameworks' prefixes,
`rngs`, `device` and `super().__init__()`; a thing that has two names gets one (WORDS). Every difference that
is left needs a comment that begins with "Differs from": directly above each statement of one twin, or at the
top of the function or class that it is in.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILES = ("model", "dropout", "cache", "kernels", "optimizer", "generation", "backend")
PREFIXES = {"jax", "jnp", "nnx", "lax", "optax", "torch", "nn", "F"}
DROPPED = {"rngs", "device"}
# Torch's word, and JAX's word for the same.
WORDS = {
    "forward": "__call__",
    "Tensor": "Array",
    "ModuleList": "List",
    "Embedding": "Embed",
    "permute": "transpose",
    "to": "astype",
    "dim": "axis",
    "keepdim": "keepdims",
    "topk": "top_k",
}


@dataclass(frozen=True)
class Line:
    """A statement, or the head of a compound one."""

    text: str
    """The statement, normalized."""
    first: int
    """Its first line in the file."""
    last: int
    place: str
    """The class and function that it is in."""
    reasons: tuple[str, ...]
    """The comments above it and at the top of the function and class around it."""


@dataclass(frozen=True)
class Hunk:
    """Lines of the JAX twin, and the lines that stand in their place in the torch twin."""

    jax: list[Line]
    torch: list[Line]

    @property
    def is_explained(self) -> bool:
        """True if every line of one twin has its comment: that explains the lines in their place, too."""
        return any(side and all(line.reasons for line in side) for side in (self.jax, self.torch))

    def __str__(self) -> str:
        return "\n".join([f"- {line.text}" for line in self.jax] + [f"+ {line.text}" for line in self.torch])


class Normalizer(ast.NodeTransformer):
    """Takes the framework's own words out of a syntax tree."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Name(WORDS.get(node.id, node.id)), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        value, name = self.visit(node.value), WORDS.get(node.attr, node.attr)
        is_prefix = isinstance(value, ast.Name) and value.id in PREFIXES
        return ast.copy_location(ast.Name(name) if is_prefix else ast.Attribute(value, name), node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.copy_location(ast.Constant("jax"), node) if node.value == "torch" else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        node.args = [argument for argument in node.args if ast.unparse(argument) not in DROPPED]
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in DROPPED]
        for keyword in node.keywords:
            keyword.arg = WORDS.get(keyword.arg or "", keyword.arg)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.name, node.returns = WORDS.get(node.name, node.name), None
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        """Keep the names: what stands behind one is an annotation or a default."""
        names = [a.arg for a in [*node.args, *node.kwonlyargs] if a.arg not in DROPPED]
        defaults = [self.visit(default) for default in [*node.defaults, *filter(None, node.kw_defaults)]]
        return ast.arguments([], [ast.arg(name) for name in names], node.vararg, [], [], None, defaults)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        target = self.visit(node.target)
        value = self.visit(node.value) if node.value else None
        changed = ast.Assign([target], value) if value else ast.Expr(target)
        return ast.copy_location(changed, node)


def lines_of(source: str) -> Iterator[Line]:
    """The lines of a twin that are compared with the other's."""
    # A comment that explains becomes a statement, which the syntax tree keeps.
    comment = re.compile(r"^( *)# (Differs from .*(?:\n\1# .*)*)$", flags=re.M)

    def statement(match: re.Match[str]) -> str:
        reason = re.sub(r"\n *# ", " ", match[2])
        return f"{match[1]}DIFFERS({reason!r})" + "\n" * match[2].count("\n")

    tree = Normalizer().visit(ast.parse(comment.sub(statement, source)))
    yield from _lines(tree.body, (), "", ())


def _lines(body: list[Any], names: tuple[str, ...], indent: str, around: tuple[str, ...]) -> Iterator[Line]:
    above: tuple[str, ...] = ()
    for node in body:
        text = ast.unparse(ast.fix_missing_locations(node))
        if text.startswith("DIFFERS("):
            above = (_reason(node),)
            continue
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or is_docstring or text == "super().__init__()":
            continue
        inner = [part for part in ("body", "handlers", "orelse", "finalbody") if getattr(node, part, [])]
        if not inner:
            yield Line(indent + text, node.lineno, node.end_lineno, ".".join(names), around + above)
        else:
            inside = (*names, node.name) if isinstance(node, ast.ClassDef | ast.FunctionDef) else names
            heads = len(getattr(node, "decorator_list", [])) + 1
            last = node.body[0].lineno - 1
            reasons = around + above + _reason_at_the_top(node.body)
            for head in text.splitlines()[:heads]:
                yield Line(indent + head, node.lineno - heads + 1, last, ".".join(inside), reasons)
            for part in inner:
                yield from _lines(getattr(node, part), inside, indent + "    ", reasons)
        above = ()


def _reason_at_the_top(body: list[Any]) -> tuple[str, ...]:
    """The comment that a function or class begins with, behind its docstring."""
    begins = [node for node in body[:2] if not isinstance(getattr(node, "value", None), ast.Constant)][:1]
    return tuple(_reason(node) for node in begins if ast.unparse(node).startswith("DIFFERS("))


def _reason(node: Any) -> str:
    return ast.literal_eval(node.value.args[0])


def hunks(jax: str, torch: str) -> list[Hunk]:
    """The hunks between the sources of a JAX file and its torch twin."""
    lines = [list(lines_of(source)) for source in (jax, torch)]
    texts = [[line.text for line in side] for side in lines]
    codes = SequenceMatcher(None, *texts, autojunk=False).get_opcodes()
    return [Hunk(lines[0][i:j], lines[1][k:m]) for tag, i, j, k, m in codes if tag != "equal"]


def sources(name: str) -> tuple[str, str]:
    """The sources of a JAX file and its torch twin."""
    files = (ROOT / f"nanogpt_{twin}" / f"{name}.py" for twin in ("jax", "torch"))
    jax, torch = (file.read_text(encoding="utf-8") for file in files)
    return jax, torch


def size(name: str) -> str:
    """The share of a file that differs, in a sentence."""
    found = hunks(*sources(name))
    totals = [len(list(lines_of(source))) for source in sources(name)]
    counts = [sum(len(hunk.jax) for hunk in found), sum(len(hunk.torch) for hunk in found)]
    return (
        f"{name}.py: {len(found)} hunks with {counts[0]} of {totals[0]} lines in JAX and {counts[1]} of "
        f"{totals[1]} in torch"
    )


def main() -> int:
    """Print every file's size and unexplained hunks. Returns 1 where there is one of these, else 0."""
    unexplained = {name: [hunk for hunk in hunks(*sources(name)) if not hunk.is_explained] for name in FILES}
    for name in FILES:
        print(size(name), *unexplained[name], sep="\n")
    return int(any(unexplained.values()))


if __name__ == "__main__":
    sys.exit(main())
