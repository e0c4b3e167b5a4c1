"""The processes that train one model together.

Clocks and signals differ from process to process: if each went by its own, one would soon wait for ever for
another. So process 0 alone reads flags, files and clocks, obeys signals, writes and speaks. It tells the
others (`agree`) which model to build, and then each call of the backend that they must make too (`together`),
with all its arguments: so neither the text nor the checkpoints need to be on their machines.
"""

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from nanogpt.errors import InputError

Value = TypeVar("Value")
Method = TypeVar("Method", bound=Callable[..., Any])

LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
}
"""The variables by which each launcher tells a process its number and the count of all."""
COORDINATOR = "JAX_COORDINATOR_ADDRESS"
"""The variable with the host and port at which jax's process 0 listens; torchrun starts torch without it."""
START_SECONDS = 300
"""The others must have come within them: imports from a shared disk may take minutes."""
LOST = "another process is lost: the same command goes on from the last checkpoint"
"""The line of process 0 where another one has ended."""


@dataclass(frozen=True)
class Launch:
    """How this process was started."""

    number: int = 0
    """This process, counted from 0: torch's rank."""
    count: int = 1
    """All of them: torch's world size."""
    backend: str = "auto"
    """The backend of all of them, where there are several."""


BY_ITSELF = Launch()


class Processes(Protocol):
    """The processes of a run, as one of them sees them."""

    number: int
    """This process, counted from 0."""
    count: int
    """All of them."""

    def agree(self, value: Value) -> Value:
        """The value that process 0 has, in every process. Each of them must call it."""


class OneProcess:
    """A process alone, which agrees with itself."""

    number, count = 0, 1

    def agree(self, value: Value) -> Value:
        return value


ALONE = OneProcess()


def together(method: Method) -> Method:
    """A method of a backend that every process must call: where process 0 does, it tells the others first."""

    @wraps(method)
    def call(backend: Any, *arguments: Any) -> Any:
        if backend.processes.number == 0:
            backend.processes.agree((method.__name__, arguments))
        return method(backend, *arguments)

    return cast(Method, call)


def follow(backend: Any) -> None:
    """In a process other than 0: make each call that process 0 tells, until it tells None."""
    while told := backend.processes.agree(None):
        name, arguments = told
        getattr(backend, name)(*arguments)


@contextmanager
def leading(processes: Processes) -> Iterator[None]:
    """The work of process 0. When it ends, also by bad input or a full disk, the others are told to end."""
    try:
        yield
    except (InputError, OSError):
        processes.agree(None)
        raise
    processes.agree(None)


def launched() -> Launch:
    """How torchrun, srun or mpirun started this process, or `BY_ITSELF` where none of them did.

    Raises InputError where their variables of the environment name no process.
    """
    for launcher, variables in LAUNCHERS.items():
        if all(name in os.environ for name in variables):
            number, count = told = [os.environ[name] for name in variables]
            if not all(value.isdecimal() for value in told) or not int(number) < int(count):
                named = " and ".join(f"{n} {value!r:.20}" for n, value in zip(variables, told, strict=True))
                raise InputError(f"the variables {named} name no process")
            is_torch = launcher == "torchrun" and COORDINATOR not in os.environ
            backend = "torch" if is_torch else "jax"
            return Launch(int(number), int(count), backend) if int(count) > 1 else BY_ITSELF
    return BY_ITSELF


def missing(count: int, here: Collection[int], seconds: float) -> InputError:
    """The line at the start, where only those `here` have come in time."""
    names = ", ".join(str(number) for number in range(count) if number not in here)
    return InputError(f"of {count} processes these have not come within {seconds:g} s: {names}")
