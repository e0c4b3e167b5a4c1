"""`--mesh` is read, chosen, and refused before anything is written; and a run goes from mesh to mesh.

The last test needs eight devices: JAX_NUM_CPU_DEVICES=8 pytest tests/test_mesh.py
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from nanogpt.choice import find_mesh
from nanogpt.cli.train import train_main
from nanogpt.config import Config, ModelConfig, RunConfig, TrainingConfig
from nanogpt.errors import InputError
from nanogpt.mesh import ONE_DEVICE, Mesh, parsed_mesh
from nanogpt.micro_batches import tokens_that_fit
from nanogpt_jax.backend import Backend
from nanogpt_jax.sharding import weight_sharding
from parity_tests.devices import skip_without_devices
from tests.conftest import BACKENDS, Train

SIZES = st.integers(1, 999)


@given(st.builds(Mesh, SIZES, SIZES))
def test_a_mesh_is_read_as_it_is_written(mesh: Mesh) -> None:
    assert parsed_mesh(str(mesh)) == mesh
    data, fsdp = str(mesh).split(",")
    assert parsed_mesh(f"{fsdp},{data}") == mesh
    assert parsed_mesh(data) == Mesh(data=mesh.data)
    assert parsed_mesh(fsdp) == Mesh(fsdp=mesh.fsdp)


@pytest.mark.parametrize(
    "text",
    [
        *("", "4", "data", "data=", "data=0", "data=-1", "data=04", "data=1.5", "data=2x", "data=9999999999"),
        *("model=2", "xdata=2", "AUTO", "data=2,", "data=2,data=2", "data=2,fsdp=2,data=2", "data=2 fsdp=2"),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is none: write auto, or devices of two axes like data=4,fsdp=2"):
        RunConfig(mesh=text)


class Cards(Backend):
    """Eight cards of 80 GB."""

    @staticmethod
    def devices() -> list[str]:
        return [*8 * ["cuda"], "cpu"]

    @staticmethod
    def memory(device: str) -> int | None:
        return 80 * 10**9


def mesh_of(mesh: str, batch_size: int = 32, model: ModelConfig | None = None, device: str = "auto") -> Mesh:
    training, run = TrainingConfig(batch_size=batch_size), RunConfig(mesh=mesh, device=device, remat=True)
    return find_mesh(Cards, Config(model or ModelConfig(), training, run))


def test_auto_takes_all_cards_that_share_the_batch_out_evenly() -> None:
    assert mesh_of("auto") == Mesh(data=8)
    assert mesh_of("auto", batch_size=12) == Mesh(data=6)
    assert mesh_of("auto", batch_size=7) == Mesh(data=7)
    assert mesh_of("auto", batch_size=1) == ONE_DEVICE
    assert mesh_of("auto", device="cpu") == ONE_DEVICE


def test_auto_shares_weights_where_one_card_cannot_hold_them() -> None:
    """As few cards as can: GPT-2 XL fits on one, and with 3, 5 or 7 times its layers on 2, 4 or 8."""
    xl = ModelConfig(50304, 1024, 48, 25, 1600, 0.0, bias=True, activation="gelu", tie_weights=True)
    assert mesh_of("auto", model=xl) == Mesh(data=8)
    for scale, expected in ((3, Mesh(4, 2)), (5, Mesh(2, 4)), (7, Mesh(1, 8)), (100, Mesh(1, 8))):
        model = replace(xl, n_layer=48 * scale)
        assert mesh_of("auto", model=model) == expected, scale
        if scale < 100:
            assert tokens_that_fit(model, 4, 80 * 10**9, True, expected.fsdp) >= model.block_size
            assert tokens_that_fit(model, 4, 80 * 10**9, True, expected.fsdp // 2) < model.block_size


def test_a_given_mesh_is_taken_as_it_is_or_refused() -> None:
    assert mesh_of("data=2,fsdp=2") == Mesh(2, 2)
    assert mesh_of("fsdp=8") == Mesh(1, 8)
    with pytest.raises(InputError, match=r"^a mesh of data=16 has 16 devices, and jax finds 8 cuda here "):
        mesh_of("data=16")
    for batch_size, nearest in ((30, 32), (3, 8), (20, 16), (21, 24)):
        told = f"^batch_size {batch_size} can't be shared out evenly to 8 devices: take {nearest}$"
        with pytest.raises(InputError, match=told):
            mesh_of("data=4,fsdp=2", batch_size)


@given(st.lists(st.integers(1, 200), max_size=3), st.integers(1, 16))
def test_a_weight_is_cut_along_its_largest_axis_that_can_be(shape: list[int], fsdp: int) -> None:
    mesh: Any = AbstractMesh((1, fsdp), Mesh._fields)
    cut = [axis for axis, name in enumerate(weight_sharding(mesh, tuple(shape)).spec) if name == "fsdp"]
    can_be = [size for size in shape if size % fsdp == 0] if fsdp > 1 else []
    assert [shape[axis] for axis in cut] == ([max(can_be)] if can_be else [])


@pytest.mark.parametrize("backend", BACKENDS)
def test_devices_that_are_not_here_write_nothing(
    backend: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("new/run", f"--backend={backend}", "--mesh=data=99") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: a mesh of data=99 has 99 devices, and {backend} finds ")
    assert told.count("\n") == 1
    assert ("torchrun --nproc_per_node 8 train.py starts eight" in told) == (backend == "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_mesh_of_another_machine_is_not_taken_over(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as another_machine:
        another_machine.setattr("nanogpt_torch.backend.Backend.devices", lambda: 4 * ["cpu"])
        assert train("run", "--backend=torch", "--max_iters=1", "--mesh=data=4") == 0
    capsys.readouterr()
    missing = "a mesh of data=4 has 4 devices, and torch finds 1 cpu here"
    assert train_main(["--out_dir=run", "--max_iters=2", "--mesh=data=4"]) == 2
    assert missing in capsys.readouterr().err
    assert train_main(["--out_dir=run", "--max_iters=2"]) == 0
    told = capsys.readouterr()
    assert missing in told.err
    assert told.err.endswith(": going on with --device auto --mesh auto\n")
    assert "changed  mesh: data=4 -> auto" in told.out


@pytest.mark.parametrize("way", [("data=2,fsdp=4", "fsdp=4", "jax"), ("data=1", "data=4,fsdp=2", "torch")])
def test_a_run_goes_from_mesh_to_mesh_and_to_torch(
    way: tuple[str, str, str], train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_without_devices(8, "cpu")
    first, second, last = way
    # A constant rate, for max_iters changes any other.
    flags = ["--batch_size=8", "--dropout=0.1", "--min_lr=4e-3", "--eval_interval=20"]
    assert train("one", "--backend=jax", "--mesh=data=1", *flags) == 0
    assert train("run", "--backend=jax", f"--mesh={first}", "--max_iters=6", *flags) == 0
    assert train("run", "--backend=jax", f"--mesh={second}", "--max_iters=12", *flags) == 0
    devices = parsed_mesh(second)
    assert f"with jax on {devices.size} of 8 devices cpu ({devices})" in capsys.readouterr().out
    assert train("run", f"--backend={last}", "--mesh=data=1", "--max_iters=20", *flags) == 0
    records = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("one", "run")
    ]
    one, run = ({record["step"]: record["loss"] for record in of if record["step"]} for of in records)
    assert len(one) == 5
    assert one.keys() <= run.keys()
    for step, loss in one.items():
        assert run[step] == pytest.approx(loss, rel=1e-5), step
