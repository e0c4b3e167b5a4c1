"""Several processes compute what one does, to the rounding of sums in another order."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nanogpt_torch.dropout
from nanogpt.choice import load_backend
from nanogpt.mesh import ONE_DEVICE
from parity_tests.devices import address_of
from parity_tests.report import Report
from parity_tests.several import SITES, Case, Masks, measured, state_of
from parity_tests.tolerances import TOLERANCES

pytestmark = [pytest.mark.thorough, pytest.mark.skipif(sys.platform == "win32", reason="it has no torchrun")]
GROUPS = {
    "data": ["data=2"],
    "two": ["data=2", "fsdp=2, adamw, remat, micro-batches"],
    "two more": ["fsdp=2", "data=2, bfloat16, micro-batches", "fsdp=2, bfloat16"],
    "compiled": ["fsdp=2, compile", "fsdp=2, compile, remat"],
    "three": ["fsdp=3"],
    "four": ["data=2,fsdp=2", "fsdp=4, micro-batches", "data=4"],
}
"""Cases that one start computes: its imports take most of the time."""
ROWS = {
    "losses": "loss",
    "attention": "attention weights",
    "first_moment": "moments, along a run",
    "second_moment": "moments, along a run",
    "weights": "weights, along a run",
    "losses of the run": "losses of 100 steps, on a mesh",
}
"""Rows of the table that have another name than the quantity."""


def torchrun(backend: str, count: int, *argv: str | Path) -> None:
    """Start processes for either backend."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | address_of(backend)
    done = subprocess.run([*command, *argv], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    if backend == "torch":  # gloo says in jax whom it has met
        assert done.stderr == ""


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
@pytest.mark.parametrize(
    ("backend", "group"),
    [
        *(pytest.param(*case, marks=pytest.mark.long) for case in (("torch", "two"), ("jax", "data"))),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                *(("torch", group) for group in ("two more", "compiled", "three", "four")),
                *(("jax", group) for group in ("two", "two more", "four")),
            )
        ),
    ],
)
def test_several_processes_compute_what_one_does(
    backend: str, group: str, tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, gradients, steps and evaluations agree to rounding, torch's dropout masks to the last bit."""
    count = Case.named(GROUPS[group][0]).mesh.size
    torchrun(backend, count, "-m", "parity_tests.several", tmp_path, *GROUPS[group])
    for name in GROUPS[group]:
        case, masks = Case.named(name), Masks()
        is_compiled = case.config.run.compile
        if not is_compiled:
            monkeypatch.setattr(nanogpt_torch.dropout, "keep_mask", masks)
        one = case._replace(mesh=ONE_DEVICE).build(load_backend(backend), state_of(name))
        expected = measured(one, case.config)
        monkeypatch.undo()
        actual = np.load(tmp_path / f"{name}.npz")
        assert set(actual) == set(expected)
        suffix = ", bfloat16" if "bfloat16" in name else ""
        for label, value in expected.items():
            row = ROWS.get(label.partition("/")[0], label.partition("/")[0]) + suffix
            if row in TOLERANCES:  # in bfloat16, it has few rows
                report.compare(row, f"{label}, {backend}, {name}", actual[label], value)
        if not suffix:
            np.testing.assert_array_equal(actual["text"], expected["text"])
        if backend == "torch" and "micro-batches" not in name and not is_compiled:
            shares = [np.load(tmp_path / f"{name} masks {n}.npz") for n in range(count)]
            for site, mask in enumerate(masks[: SITES[case.config.model]]):
                parts = [share[f"arr_{site}"] for share in shares]
                np.testing.assert_array_equal(np.concatenate(parts), mask)
