"""Who may import whom: read from the sources, and seen in a fresh interpreter."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = {"jax", "flax", "optax", "torch", "orbax"}
ALLOWED = {
    "nanogpt": set(),
    "nanogpt_jax": {"jax", "flax", "optax", "nanogpt_jax"},
    "nanogpt_torch": {"torch", "nanogpt_torch"},
    "train.py": set(),
    "sample.py": set(),
    "visualize.py": set(),
}


def imports(file: Path, *, at_import_time: bool) -> set[str]:
    """Top-level packages that a file imports, anywhere or as soon as it is imported itself."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = list(tree.body if at_import_time else ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("place", ALLOWED)
def test_sources_keep_the_import_rules(place: str) -> None:
    path = ROOT / place
    ours = FRAMEWORKS | {"nanogpt_jax", "nanogpt_torch", "parity_tests"}
    for file in [path] if path.is_file() else path.glob("**/*.py"):
        assert imports(file, at_import_time=True) & ours <= ALLOWED[place], file
        if place.startswith("nanogpt_"):
            assert imports(file, at_import_time=False) & ours <= ALLOWED[place], file
    for file in (ROOT / "train.py", ROOT / "sample.py", ROOT / "visualize.py"):
        assert imports(file, at_import_time=False) == {"sys", "nanogpt"}


def modules_after(code: str, out_dir: Path) -> set[str]:
    listing = f"import sys; {code}; print('|' + ' '.join(sys.modules))"
    environment = os.environ | {"OUT_DIR": str(out_dir)}
    done = subprocess.run(
        [sys.executable, "-c", listing], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.rsplit("|", 1)[1].split())


def test_the_core_loads_no_framework(finished_run: Path) -> None:
    loaded = modules_after("import nanogpt, nanogpt.cli, nanogpt.huggingface", finished_run)
    others = {"nanogpt_jax", "nanogpt_torch", "safetensors", "tensorboard", "tokenizers", "transformers"}
    assert not loaded & (FRAMEWORKS | others)
    assert not loaded & {"nanogpt.page", "webbrowser"}


LOAD = "import os, nanogpt; m = nanogpt.load(os.environ['OUT_DIR'], backend='{}'); m.generate(max_tokens=2)"


def test_a_jax_run_never_loads_torch(finished_run: Path) -> None:
    loaded = modules_after(LOAD.format("jax"), finished_run)
    assert not loaded & {"torch", "nanogpt_torch"}


def test_a_torch_run_loads_jax_for_orbax_alone(finished_run: Path) -> None:
    code = LOAD.format("torch") + "; import jax; assert jax.config.jax_platforms == 'cpu'"
    loaded = modules_after(code, finished_run)
    assert not loaded & {"flax", "optax", "nanogpt_jax"}
