"""The files in docs/launch start what they say: their commands, variables and names fit together."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nanogpt.cli.flags import train_flags
from nanogpt.processes import COORDINATOR, Launch, launched
from tests.conftest import ROOT
from tests.test_commands import parse_torchrun

LAUNCH = ROOT / "docs/launch"
FLAGS = ["--preset", "gpt2-tiny", "--out_dir", "out/a folder", "--mesh", "fsdp=2"]
pytestmark = pytest.mark.repository


def started(file: str, tmp_path: Path, **variables: str) -> tuple[dict[str, str], list[str]]:
    """The variables and the command that a job gives to srun, which a script stands for here."""
    for name, body in {
        "scontrol": 'test "$*" = "show hostnames first,second" && printf "first\\nsecond\\n"',
        "srun": 'env -0 > "$OUT/environment"; printf "%s\\0" "$@" > "$OUT/command"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    of_slurm = {"SLURM_JOB_NODELIST": "first,second", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(tmp_path)}
    subprocess.run([LAUNCH / file, *FLAGS], env=os.environ | of_slurm | path | variables, check=True)
    environment = (tmp_path / "environment").read_text().split("\0")[:-1]
    command = (tmp_path / "command").read_text().split("\0")[:-1]
    assert command[:2] == ["--kill-on-bad-exit", f"--cpus-per-task={variables['SLURM_CPUS_PER_TASK']}"]
    return dict(line.split("=", 1) for line in environment), command[2:]


def test_a_job_of_slurm_starts_jax_with_the_address_of_its_first_host(tmp_path: Path) -> None:
    environment, command = started("slurm-jax.sh", tmp_path, SLURM_CPUS_PER_TASK="16")
    assert environment[COORDINATOR] == "first:9999"
    assert command == ["python", "train.py", "--backend", "jax", *FLAGS]
    train_flags(command[2:])


@pytest.mark.parametrize(("cpus", "threads"), [("16", "2"), ("4", "1")])
def test_a_job_of_slurm_starts_torchrun_on_its_hosts(cpus: str, threads: str, tmp_path: Path) -> None:
    environment, command = started("slurm-torch.sh", tmp_path, SLURM_CPUS_PER_TASK=cpus)
    assert COORDINATOR not in environment
    assert environment["OMP_NUM_THREADS"] == threads
    known = parse_torchrun(command[1:])
    assert (known.nnodes, known.nproc_per_node, known.rdzv_id) == ("2", "8", "7")
    assert known.rdzv_endpoint == "first:29500"
    assert known.training_script_args == ["--backend", "torch", *FLAGS]


@pytest.mark.parametrize("file", ["slurm-jax.sh", "slurm-torch.sh"])
def test_a_job_is_told_before_its_time_is_up(file: str) -> None:
    """To its steps, and not to the script alone, which `B:` would mean."""
    assert "#SBATCH --signal=TERM@120\n" in (LAUNCH / file).read_text(encoding="utf-8")


def test_the_pods_of_kubernetes_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    yaml: Any = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert service["spec"]["clusterIP"] == "None"
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "train.py", "--backend", "jax"]
    train_flags([*container["command"][2:], *container["args"]])
    index, *others = container["env"]
    assert index["name"] == "RANK"
    assert index["valueFrom"]["fieldRef"]["fieldPath"].endswith(
        "['batch.kubernetes.io/job-completion-index']"
    )
    for variable in (*others, {"name": "RANK", "value": "1"}):
        monkeypatch.setenv(variable["name"], variable["value"])
    count = job["spec"]["completions"]
    assert count == job["spec"]["parallelism"]
    assert launched() == Launch(1, count, "jax")
    first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert os.environ[COORDINATOR] == f"{first}:9999"
