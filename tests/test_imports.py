"""The core imports no framework, and no twin imports the other: sources and fresh interpreters show it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.sources import imported

FRAMEWORKS = {"jax", "flax", "optax", "torch", "orbax"}
ALLOWED = {
    "nanogpt": set(),
    "nanogpt_jax": {"jax", "flax", "optax", "orbax", "nanogpt_jax"},
    "nanogpt_torch": {"torch", "nanogpt_torch"},
    "train.py": set(),
    "sample.py": set(),
    "visualize.py": set(),
}


def packages(file: Path, *, everywhere: bool) -> set[str]:
    """List the top-level packages that a file imports, anywhere or as soon as it is imported itself."""
    names = imported(file.read_text(encoding="utf-8"), everywhere=everywhere)
    return {name.split(".")[0] for name in names}


SOURCE = """
from typing import TYPE_CHECKING
import a.b
try:
    import in_try
except ImportError:
    import in_except
else:
    import in_else
finally:
    import in_finally
if a:
    import in_if
elif b:
    from in_elif import x
else:
    import in_if_else
if TYPE_CHECKING:
    import for_types
    if a:
        import deeper_for_types
else:
    import not_for_types
class A:
    import in_class
    def method(self):
        import in_method
with a:
    for i in a:
        while b:
            import in_loops
match a:
    case 1:
        import in_case
def f():
    import in_function
    class B:
        import in_class_of_function
async def g():
    import in_async
"""
LATER = {"in_method", "in_function", "in_class_of_function", "in_async"}
TYPES = {"for_types", "deeper_for_types"}
NOW = {
    *("typing", "a", "in_try", "in_except", "in_else", "in_finally", "in_if", "in_elif", "in_if_else"),
    *("not_for_types", "in_class", "in_loops", "in_case"),
}


@pytest.mark.parametrize(("everywhere", "expected"), [(False, NOW), (True, NOW | LATER | TYPES)])
def test_imports_are_found_wherever_they_stand(everywhere: bool, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "source.py").write_text(SOURCE)
    assert packages(tmp_path / "source.py", everywhere=everywhere) == expected
    assert imported("try: import jax\nexcept ImportError: pass", everywhere=False) == ["jax"]
    assert imported("from a import b, c", everywhere=everywhere) == ["a", "a.b", "a.c"]


@pytest.mark.parametrize("place", ALLOWED)
def test_sources_keep_the_import_rules(place: str) -> None:
    path = ROOT / place
    ours = FRAMEWORKS | {"nanogpt_jax", "nanogpt_torch", "parity_tests"}
    files = [path] if path.is_file() else list(path.glob("**/*.py"))
    assert files
    for file in files:
        assert packages(file, everywhere=False) & ours <= ALLOWED[place], file
        if place.startswith("nanogpt_"):
            assert packages(file, everywhere=True) & ours <= ALLOWED[place], file
    for file in (ROOT / "train.py", ROOT / "sample.py", ROOT / "visualize.py"):
        assert packages(file, everywhere=True) == {"sys", "nanogpt"}


def modules_after(code: str, out_dir: Path) -> set[str]:
    listing = f"import sys; {code}; print('|' + ' '.join(sys.modules))"
    environment = os.environ | {"OUT_DIR": str(out_dir)}
    done = subprocess.run(
        [sys.executable, "-c", listing], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.rsplit("|", 1)[1].split())


def test_the_core_loads_no_framework(finished_run: Path) -> None:
    loaded = modules_after("import nanogpt, nanogpt.cli.train, nanogpt.huggingface", finished_run)
    others = {"nanogpt_jax", "nanogpt_torch", "safetensors", "tensorboard", "tokenizers", "transformers"}
    assert not loaded & (FRAMEWORKS | others)
    assert not loaded & {"nanogpt.page", "webbrowser"}


def test_the_doors_of_a_reader_load_no_page_before_they_need_it(finished_run: Path) -> None:
    loaded = modules_after("import nanogpt.cli.sample, nanogpt.cli.visualize", finished_run)
    assert not loaded & (FRAMEWORKS | {"nanogpt.page", "webbrowser"})


LOAD = "import os, nanogpt; m = nanogpt.load(os.environ['OUT_DIR'], backend='{}'); m.generate(max_tokens=2)"


def test_a_jax_run_never_loads_torch(finished_run: Path) -> None:
    loaded = modules_after(LOAD.format("jax"), finished_run)
    assert not loaded & {"torch", "nanogpt_torch"}


def test_a_torch_run_loads_jax_for_orbax_alone(finished_run: Path) -> None:
    code = LOAD.format("torch") + "; import jax; assert jax.config.jax_platforms == 'cpu'"
    loaded = modules_after(code, finished_run)
    assert not loaded & {"flax", "optax", "nanogpt_jax"}
