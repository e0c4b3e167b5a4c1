"""Start `train.py` again and again without its imports: a server imports them once, and forks for each start.

    with Forks() as forks:
        process = forks.start(["--out_dir=run", "--quiet"], cwd=tmp_path, stderr=tmp_path / "stderr.txt")
        process.kill()
        assert process.wait(10) == -signal.SIGKILL

The server is a process of its own, which computes nothing itself: neither framework has begun a thread when
it forks. A fork goes on exactly as `train.py`, and ends through the interpreter's own shutdown.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from nanogpt.cli.signals import obey_signals
from tests.conftest import ROOT

IMPORTS = (
    "orbax.checkpoint",
    "torch._dynamo",  # which an optimizer of torch imports
    "nanogpt.cli.train",
    "nanogpt_jax.backend",
    "nanogpt_torch.backend",
)


class Forks:
    """A server that forks."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        """Start it with further variables of the environment, and wait until all is imported."""
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.ask() == "ready"

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_: object) -> None:
        """End the server; it kills the forks that still run."""
        self._server.communicate()

    def start(
        self, argv: Sequence[str], cwd: Path, stderr: Path, function: str = "nanogpt.cli.train:train_main"
    ) -> "Fork":
        """Call a function on `argv` in a fork, whose exit code it returns; standard output is thrown away."""
        self.tell([function, list(argv), str(cwd), str(stderr)])
        return Fork(self, self.ask())

    def tell(self, message: Any) -> None:
        assert self._server.stdin
        print(json.dumps(message), file=self._server.stdin, flush=True)

    def ask(self) -> Any:
        assert self._server.stdout
        return json.loads(self._server.stdout.readline())


class Fork:
    """A fork, as subprocess.Popen shows a process."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self.pid, self.returncode = pid, None
        self._forks = forks

    def poll(self) -> int | None:
        """The exit code, or minus the number of the signal that killed it; none while it runs."""
        if self.returncode is None:
            self._forks.tell(self.pid)
            self.returncode = self._forks.ask()
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end. Raises TimeoutError after `timeout` seconds, and leaves it running."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"the fork {self.pid} still runs after {timeout} s: {self._waits_for()}")
            time.sleep(0.002)
        return code

    def _waits_for(self) -> str:
        """State and place in the kernel of each of its threads; SIGABRT does not end one in state D."""
        told = []
        for task in Path(f"/proc/{self.pid}/task").glob("*"):
            state = (task / "status").read_text().partition("State:")[2].split()[0]
            told.append(f"{state} in {(task / 'wchan').read_text()}")
        return ", ".join(told)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; its pid is its own until `poll` or `wait` has told its end."""
        if self.returncode is None:
            os.kill(self.pid, number)


def serve() -> None:
    """Fork for each list that comes in, and tell the end of a fork for its number."""
    for name in IMPORTS:
        importlib.import_module(name)
    # JAX warns of threads that it has not started yet.
    warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
    answer("ready", sys.stdout)
    gc.freeze()  # so that a fork copies and collects nothing of the imports
    running = set()
    for line in iter(sys.stdin.readline, ""):
        message = json.loads(line)
        if isinstance(message, list):
            pid = os.fork()
            if pid == 0:
                become(*message)
            running.add(pid)
            answer(pid, sys.stdout)
        else:
            ended, status = os.waitpid(message, os.WNOHANG)
            running -= {ended}
            answer(os.waitstatus_to_exitcode(status) if ended else None, sys.stdout)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def become(function: str, argv: list[str], cwd: str, stderr: str) -> None:
    """Leave the server behind, and end as the function ends."""
    os.chdir(cwd)
    for number, name in enumerate((os.devnull, os.devnull, stderr)):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), number)
    obey_signals()  # as train.py does
    module, _, name = function.partition(":")
    sys.exit(getattr(importlib.import_module(module), name)(argv))


def answer(message: Any, file: IO[str]) -> None:
    print(json.dumps(message), file=file, flush=True)


if __name__ == "__main__":
    serve()
