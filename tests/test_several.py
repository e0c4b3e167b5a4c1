"""`torchrun train.py`: a run in several processes; any number of them, or either backend, goes on with it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nanogpt.checkpoint import Checkpoints
from nanogpt.choice import find_mesh, load_backend
from nanogpt.config import Config, RunConfig, TrainingConfig
from nanogpt.errors import InputError
from nanogpt.processes import COORDINATOR, LAUNCHERS, LOST, Launch, launched
from parity_tests.devices import address_of, free_port
from tests.conftest import ROOT, Finished, Train, tiny_flags
from tests.test_resume import HANDED_OVER, TOLERANCES, distances

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="/proc tells which process is which"
)
SECONDS = 300  # far above what any of it takes


@contextmanager
def torchrun(backend: str, count: int, flags: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run train.py in several processes of a backend, in a folder.

    A thread there must not count on Python's lock: one that is busy keeps it for 20 s, not for 5 ms.
    """
    (folder / "sitecustomize.py").write_text("import sys\nsys.setswitchinterval(20)\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    path = f"{folder}{os.pathsep}{ROOT}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | address_of(backend)
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*command, ROOT / "train.py", *flags],
        cwd=folder,
        env=environment,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(SECONDS)


def lines(told: str) -> list[str]:
    """The lines of stderr, but for gloo's line in each process of jax."""
    return [line for line in told.splitlines() if not line.startswith("[Gloo] Rank ")]


def process_number(number: int, torchrun: subprocess.Popen[str]) -> int:
    """The pid of one of the processes."""
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            is_child = int((file.parent / "stat").read_text().rpartition(")")[2].split()[1]) == torchrun.pid
            if is_child and f"RANK={number}" in file.read_bytes().decode().split("\0"):
                return int(file.parent.name)
        except (OSError, ValueError):
            continue
    raise AssertionError


def begin(backend: str, text_file: Path, folder: Path) -> Path:
    """Train `run` for 10 steps in two processes, each of which has a half of the weights."""
    flags = [*tiny_flags(text_file), *HANDED_OVER, "--out_dir=run", "--max_iters=10", "--mesh=fsdp=2"]
    with torchrun(backend, 2, flags, folder) as process:
        out, told = process.communicate(timeout=SECONDS)
    assert (process.returncode, lines(told)) == (0, [])
    assert out.count("step     10  train") == 1  # process 0 alone speaks
    return folder / "run"


@pytest.fixture(scope="module")
def begun(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begin("torch", text_file, tmp_path_factory.mktemp("several"))


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_one_process_goes_on_with_the_run_of_two(
    backend: str, begun: Path, train: Train, finished: Finished, tmp_path: Path
) -> None:
    shutil.copytree(begun, tmp_path / "run")
    assert train("run", f"--backend={backend}", "--max_iters=20", *HANDED_OVER) == 0
    assert_near(tmp_path / "run", finished("torch", *HANDED_OVER))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("torch", "jax"), ("torch", "torch"), ("jax", "torch")])
def test_four_processes_go_on_with_the_run_of_two(
    first: str, second: str, text_file: Path, finished: Finished, tmp_path: Path
) -> None:
    """They can't have the mesh that was asked for, and say so."""
    begin(first, text_file, tmp_path)
    flags = [*tiny_flags(text_file), *HANDED_OVER, "--out_dir=run", "--max_iters=20", f"--backend={second}"]
    with torchrun(second, 4, flags, tmp_path) as process:
        out, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, told
    (line,) = lines(told)
    assert line.endswith("going on with --device auto --mesh auto")
    assert "from step 10 of 20" in out
    assert_near(tmp_path / "run", finished("torch", *HANDED_OVER))
    with torchrun(second, 2, flags, tmp_path) as process:  # nothing is left to do
        out, told = process.communicate(timeout=SECONDS)
    assert (process.returncode, lines(told)) == (0, [])
    assert "This run is finished" in out


def assert_near(actual: Path, expected: Path) -> None:
    for name, distance in distances(actual, expected).items():
        print(f"{name} {distance:.1e}")
        assert distance < TOLERANCES[name], name


@pytest.mark.long
@pytest.mark.parametrize(
    ("backend", "victim", "moment"),
    [
        ("torch", 1, "a step"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                *(("torch", 0, "a save"), ("torch", 1, "a save")),
                *(("jax", 0, "a save"), ("jax", 1, "a step"), ("jax", 1, "a save")),
            )
        ),
    ],
)
def test_a_killed_process_ends_the_others_and_the_next_start_goes_on(
    backend: str, victim: int, moment: str, text_file: Path, tmp_path: Path
) -> None:
    flags = [*tiny_flags(text_file), "--out_dir=run", "--max_iters=100_000", "--mesh=fsdp=2"]
    checkpoints = tmp_path / "run/checkpoints"
    with torchrun(backend, 2, flags, tmp_path) as process:
        while not (checkpoints / "10").exists() or (
            moment == "a save" and not any(checkpoints.glob("*tmp*"))
        ):
            assert process.poll() is None
            time.sleep(0.0005)
        os.kill(process_number(victim, process), signal.SIGKILL)
        _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    ours = [line for line in told.splitlines() if line.startswith("error: ")]
    if victim == 1:
        assert ours == [f"error: {LOST}"]
    assert f"exitcode  : -{signal.SIGKILL}" in told  # torchrun tells which one
    kept = Checkpoints(checkpoints, read_only=True)
    step = kept.steps[-1]
    assert kept.restore(step)[0].step == step >= 10
    with torchrun(backend, 2, [*flags, f"--max_iters={step + 5}"], tmp_path) as process:
        out, told = process.communicate(timeout=SECONDS)
    assert (process.returncode, lines(told)) == (0, [])
    assert f"from step {step} of {step + 5}" in out


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_a_signal_to_torchrun_saves_the_run(backend: str, text_file: Path, tmp_path: Path) -> None:
    flags = [*tiny_flags(text_file), "--out_dir=run", "--max_iters=100_000"]
    with torchrun(backend, 2, flags, tmp_path) as process:
        assert process.stdout
        while not process.stdout.readline().startswith("step     12"):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert "Stopped and saved. To go on: start the same processes again" in out
    checkpoints = Checkpoints(tmp_path / "run/checkpoints", read_only=True)
    assert checkpoints.restore(checkpoints.steps[-1])[0].step >= 12


@pytest.mark.long
def test_bad_input_ends_all_processes(text_file: Path, tmp_path: Path) -> None:
    """In jax too, which would wait at exit for those that were not told."""
    flags = [*tiny_flags(text_file), "--out_dir=run", "--data=missing.txt"]
    with torchrun("jax", 2, flags, tmp_path) as process:
        _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert "there is no file or folder" in line
    assert "Check failure" not in told


@pytest.mark.parametrize(
    ("processes", "mesh", "batch_size", "message"),
    [
        (3, "auto", 32, "batch_size 32 can't be shared out evenly to 3 devices: take 33"),
        (4, "fsdp=2", 32, "a mesh of fsdp=2 has 2 devices, which 4 processes can't have evenly"),
        (2, "fsdp=4", 32, "a mesh of fsdp=4 has 4 devices, and torch finds 2 cpu here"),
    ],
)
def test_processes_that_cannot_share_a_batch_are_refused(
    processes: int, mesh: str, batch_size: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    config = replace(
        Config(), training=TrainingConfig(batch_size=batch_size), run=RunConfig(mesh=mesh, device="cpu")
    )
    with pytest.raises(InputError, match=message):
        find_mesh(load_backend("torch", Launch(0, processes, "torch")), config, processes)


@pytest.mark.parametrize(("backend", "other"), [("jax", "torch"), ("torch", "jax")])
def test_processes_have_the_backend_that_they_were_started_for(backend: str, other: str) -> None:
    assert load_backend("auto", Launch(1, 2, backend)).__module__ == f"nanogpt_{backend}.distributed"
    with pytest.raises(InputError, match=f"started for {backend}: add --backend {backend}, "):
        load_backend(other, Launch(0, 2, backend))


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_process_that_does_not_come_is_named(backend: str, tmp_path: Path) -> None:
    """A stranger who asks whether the port is open is not taken for it."""
    code = f"from nanogpt_{backend} import distributed as d; d.START_SECONDS = 3\nwith d.Backend.join(): pass"
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} | address_of(backend)
    environment = os.environ | {"WORLD_SIZE": "3", "PYTHONPATH": str(ROOT)} | addresses
    here = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment | {"RANK": str(number)},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 2)
    ]
    port = int(addresses[COORDINATOR if backend == "jax" else "MASTER_PORT"].rpartition(":")[2])
    while not is_open(port):
        assert here[0].poll() is None
        time.sleep(0.01)
    told = [process.communicate(timeout=SECONDS)[1] for process in here]
    assert told[0].endswith("of 3 processes these have not come within 3 s: 1\n")
    assert "InputError" not in told[1]
    assert all(process.returncode for process in here)


@pytest.fixture
def hosts() -> Iterator[dict[str, list[str]]]:
    """Two hosts, network namespaces with a bridge between them, and the beginning of a command on each."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("only root makes network namespaces, with the command ip")
    bridge, *names = (f"{name}-{os.getpid()}" for name in ("br", "h0", "h1"))
    addresses = {name: f"10.77.0.{10 + number}" for number, name in enumerate(names)}
    made = [["link", "add", bridge, "type", "bridge"], ["link", "set", bridge, "up"]]
    for name, address in addresses.items():
        made += [
            ["netns", "add", name],
            ["link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name],
            ["link", "set", f"v{name}", "master", bridge, "up"],
            ["-n", name, "addr", "add", f"{address}/24", "dev", "eth0"],
            ["-n", name, "link", "set", "eth0", "up"],
            ["-n", name, "link", "set", "lo", "up"],
        ]
    try:
        for command in made:
            if subprocess.run(["ip", *command]).returncode:
                pytest.skip("network namespaces can't be made here")
        for name in names:  # ip binds this file to /etc/hosts
            file = Path("/etc/netns", name, "hosts")
            file.parent.mkdir(parents=True)
            lines = ["127.0.0.1 localhost", *(f"{address} {n}" for n, address in addresses.items())]
            file.write_text("\n".join(lines) + "\n")
        rename = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"']
        yield {name: ["ip", "netns", "exec", name, *rename, name] for name in names}
    finally:
        subprocess.run(["ip", "link", "del", bridge])
        for name in names:
            subprocess.run(["ip", "netns", "del", name])
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_two_hosts_train_one_model(
    backend: str, hosts: dict[str, list[str]], text_file: Path, finished: Finished, tmp_path: Path
) -> None:
    """Two processes on each, of which the first host alone has the text and gets the run."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=2"]
    first = next(iter(hosts))
    address = {COORDINATOR: f"{first}:9999"} if backend == "jax" else {"GLOO_SOCKET_IFNAME": "eth0"}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | address
    flags = [*tiny_flags(text_file), *HANDED_OVER, "--out_dir=run", "--mesh=data=2,fsdp=2"]
    processes = []
    for number, host in reversed([*enumerate(hosts.values())]):
        (tmp_path / f"host{number}").mkdir()
        command = [*host, *torchrun, f"--node_rank={number}", f"--master_addr={first}", "--master_port=29500"]
        processes.append(
            subprocess.Popen(
                [*command, ROOT / "train.py", *(flags if number == 0 else [])],
                cwd=tmp_path / f"host{number}",
                env=environment,
            )
        )
    assert [process.wait(SECONDS) for process in processes] == [0, 0]
    assert not any((tmp_path / "host1").iterdir())
    assert_near(tmp_path / "host0/run", finished("torch", *HANDED_OVER))


ALL_VARIABLES = [*(name for variables in LAUNCHERS.values() for name in variables), COORDINATOR]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        ({"RANK": "1", "WORLD_SIZE": "4"}, Launch(1, 4, "torch")),
        ({"RANK": "1", "WORLD_SIZE": "4", COORDINATOR: "host0:99"}, Launch(1, 4, "jax")),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}, Launch(3, 4, "jax")),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, Launch(0, 2, "jax")),
        # torchrun in a step of srun; a job's script, which is no step; a step of one task
        (
            {"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},
            Launch(5, 8, "torch"),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Launch()),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, Launch()),
    ],
)
def test_each_launcher_tells_a_process_its_number(
    environment: dict[str, str], expected: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ALL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched() == expected


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "0"), ("0", "")])
def test_variables_that_name_no_process_are_refused(
    rank: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(InputError, match="name no process"):
        launched()
