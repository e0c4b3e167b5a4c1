"""Ctrl-C and SIGTERM end a command at any moment; a second one ends it at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanogpt.checkpoint import Checkpoints
from tests.conftest import BACKENDS, ROOT, tiny_flags

NUMBERS = [signal.SIGINT, signal.SIGTERM]
# Compiled code keeps the main thread for minutes, as XLA's compiler may.
BUSY = """
import hashlib, sys
from nanogpt.cli.signals import collected_signals, obey_signals
obey_signals()
if sys.argv[1] == "collecting":
    with collected_signals(lambda: True) as received:
        print("ready", flush=True)
        while not received:
            pass
        print("received", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def start(*argv: str | Path, cwd: Path) -> subprocess.Popen[str]:
    env, pipe = os.environ | {"PYTHONPATH": str(ROOT)}, subprocess.PIPE
    return subprocess.Popen([sys.executable, *argv], cwd=cwd, env=env, stdout=pipe, stderr=pipe, text=True)


def wait_for_handlers(process: subprocess.Popen[str]) -> None:
    """Python has a handler for SIGINT from its own start, and none for SIGTERM."""
    caught = 0
    while not caught >> (signal.SIGTERM - 1) & 1:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("mode", ["at once", "collecting"])
def test_a_signal_is_obeyed_while_compiled_code_runs(mode: str, number: int, tmp_path: Path) -> None:
    process = start("-c", BUSY, mode, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    if mode == "collecting":
        time.sleep(0.01)
        process.send_signal(number)  # So soon, it is the same one: timeout(1) sends each twice.
        assert process.stdout.readline() == "received\n"
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(number)
    assert process.wait(10) == 128 + number
    assert process.communicate()[1] == ""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells when the handlers stand")
@pytest.mark.parametrize(
    ("command", "delay"),
    [("train", 0.0), ("train", 1.0), ("train", 4.0), ("sample", 0.3), ("visualize", 1.5)],
)
def test_a_command_ends_without_a_traceback(
    command: str, delay: float, finished_run: Path, text_file: Path, tmp_path: Path
) -> None:
    """The delays fall into imports, compilation and work."""
    flags = [f"--out_dir={finished_run}"]
    if command == "sample":
        flags += ["--max_tokens=100_000"]
    if command == "train":
        flags = ["--out_dir=run", *tiny_flags(text_file), "--max_iters=1_000_000", "--eval_interval=1_000"]
    process = start(ROOT / f"{command}.py", *flags, cwd=tmp_path)
    wait_for_handlers(process)
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    out, told = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "Traceback" not in told
    if "To go on:" in out:
        checkpoints = Checkpoints(tmp_path / "run/checkpoints", read_only=True)
        assert checkpoints.restore(checkpoints.steps[-1])[0].step > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_default_model_stops_soon(backend: str, number: int, text_file: Path, tmp_path: Path) -> None:
    """It prints the seconds that pass: docs/reliability.md has them."""
    flags = ["--out_dir=run", f"--data={text_file}", f"--backend={backend}", "--eval_interval=4"]
    process = start("-u", ROOT / "train.py", *flags, cwd=tmp_path)
    assert process.stdout is not None
    for moment in ("step      0", "step      4"):
        while not process.stdout.readline().startswith(moment):
            assert process.poll() is None
    time.sleep(6)
    begun = time.perf_counter()
    process.send_signal(number)
    out, told = process.communicate(timeout=60)
    print(f"{backend}, signal {number}: {time.perf_counter() - begun:.1f} s")
    assert (process.returncode, told) == (128 + number, "")
    assert "Stopped and saved" in out
