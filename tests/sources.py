"""Read from a source what it imports, and when."""

import ast
from collections.abc import Iterator


def statements(node: ast.AST, *, everywhere: bool) -> Iterator[ast.stmt]:
    """Yield the statements below a node: all of them, or those that run when their file is imported."""
    for child in ast.iter_child_nodes(node):
        if not everywhere and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.If) and not everywhere and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from statements(ast.Module([other], []), everywhere=everywhere)
            continue
        yield from statements(child, everywhere=everywhere)


def imported(source: str, *, everywhere: bool) -> list[str]:
    """List the modules that a source imports, and after `from m import n` also `m.n`, which may be one."""
    names = []
    for node in statements(ast.parse(source), everywhere=everywhere):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"line {node.lineno}: a relative import hides where it leads"
            assert not node.level, f"line {node.lineno}: a relative import hides where it leads"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names
