"""The backend in several processes, each with the devices of its own: XLA's programs span them all.

    JAX_COORDINATOR_ADDRESS=host0:9999 torchrun --nnodes 2 ... train.py --backend jax
    srun train.py

Every process makes the same calls (nanogpt/processes.py), and puts its devices' parts of the arguments there.
"""

import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

import nanogpt_jax.backend
from nanogpt.errors import InputError, told_in_a_line
from nanogpt.processes import COORDINATOR, LOST, START_SECONDS, Processes, Value, launched, missing, together
from nanogpt.state import TrainingState
from nanogpt.weights import Weights
from nanogpt_jax.optimizer import Arrays
from nanogpt_jax.sharding import replicated, weight_sharding

FOREVER = 2**31 - 1
"""Milliseconds. Process 0 may read a large text meanwhile, and a process that is lost ends the others."""
HEARTBEAT_SECONDS = 30
"""A process that was not heard of for so long is lost."""
SHUTDOWN_SECONDS = 10
"""All processes end within them, or each ends by itself."""
REMEMBERED = 8
"""Values that process 0 keeps for the others. Since calls wait for each other, none is so far behind."""


class Joined:
    """Processes that jax.distributed joined."""

    def __init__(self) -> None:
        self.number, self.count = jax.process_index(), jax.process_count()
        self._client, self._turn = ocp.multihost.get_jax_distributed_client(), 0

    def agree(self, value: Value) -> Value:
        self._turn += 1
        if self.number:
            return pickle.loads(self._client.blocking_key_value_get_bytes(f"agree/{self._turn}", FOREVER))
        self._client.key_value_set_bytes(f"agree/{self._turn}", pickle.dumps(value))
        if self._turn > REMEMBERED:
            self._client.key_value_delete(f"agree/{self._turn - REMEMBERED}")
        return value


class Backend(nanogpt_jax.backend.Backend):
    """GPT on the devices of several processes. What process 0 is asked for, it tells the others to do too."""

    _whole: Arrays | None = None

    @staticmethod
    @contextmanager
    def join() -> Iterator[Processes]:
        """Wait for the other processes, and leave them in the end.

        Raises InputError where one does not come. Where one is lost, process 0 says so, and this one ends.
        """
        launch = launched()
        if address := os.environ.get(COORDINATOR):  # else jax asks srun or mpirun for it
            with told_in_a_line(f"{COORDINATOR}={address}"):
                _meet(address, launch.number, launch.count, START_SECONDS)
        jax.config.update("jax_enable_preemption_service", False)  # it would take our SIGTERM
        with told_in_a_line("jax can't join the processes"):
            jax.distributed.initialize(
                num_processes=launch.count,
                process_id=launch.number,
                initialization_timeout=START_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            )
        try:
            yield Joined()
        except (RuntimeError, ValueError) as error:
            if "Gloo" not in str(error):
                raise
            if launch.number == 0:
                print(f"error: {LOST}", file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(2)  # else jax would wait for the lost process, and then abort this one
        jax.distributed.shutdown()

    @property
    def _inference_weights(self) -> Arrays:
        """All weights, whole on a device of this process: gathered once, and dropped before the next step."""
        if self._whole is None:
            self._gather()
        assert self._whole
        return self._whole

    @together
    def train(
        self, tokens_KBT1: np.ndarray, keys_KB2: np.ndarray, learning_rate_K: np.ndarray
    ) -> Callable[[], np.ndarray]:
        self._whole = None
        return super().train(tokens_KBT1, keys_KB2, learning_rate_K)

    @together
    def state(self) -> TrainingState:
        """The training state in process 0, and an empty one in the others."""
        return super().state()

    @together
    def gradients(self, tokens_BT1: np.ndarray, keys_B2: np.ndarray) -> tuple[float, Weights]:
        return super().gradients(tokens_BT1, keys_B2)

    @together
    def losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        return super().losses(tokens_BT1)

    @together
    def _gather(self) -> None:
        whole = jax.jit(lambda weight: weight.astype(self.dtype), out_shardings=replicated(self._mesh))
        self._whole = {name: whole(weight).addressable_data(0) for name, weight in self._weights.items()}

    def _share_out(self, tree: Any) -> Any:
        """The arrays of process 0, one after the other; the others' have its shapes alone."""

        def sent(array: np.ndarray) -> jax.Array:
            # They are sent by a sum with zeros, which would change the sign of a float's zero.
            whole = multihost_utils.broadcast_one_to_all(array.view(np.uint32)).view(array.dtype)
            return self._put(whole, weight_sharding(self._mesh, whole.shape))

        return jax.tree.map(sent, tree)

    def _put(self, tree: Any, sharding: Any) -> Any:
        """Arrays that every process has, on the devices: each process puts the parts of its own there."""

        def put(array: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(array.shape, sharding, lambda index: np.array(array[index]))

        return jax.tree.map(put, tree)

    def _copied(self, tree: Any) -> Any:
        """Copies of arrays on the host of process 0, gathered one after the other; the others' are empty."""

        def gathered(array: jax.Array) -> np.ndarray:
            whole = multihost_utils.process_allgather(array, tiled=True)
            return np.array(whole) if self.processes.number == 0 else np.empty(whole.ndim * (0,), whole.dtype)

        return jax.tree.map(gathered, tree)


def _meet(address: str, number: int, count: int, seconds: float) -> None:
    """Wait until every process is there. jax would do so too, but where one is missing it hides which.

    Raises InputError in process 0, which names those that have not come in time, and where the others can't
    reach it.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    if number == 0:
        _wait_for_all(int(port), count, seconds)
    else:
        while not _has_reported(host, int(port), number, seconds):
            if time.monotonic() > deadline:
                raise InputError(f"process 0 can't be reached at {address} within {seconds:g} s")
            time.sleep(0.1)


def _has_reported(host: str, port: int, number: int, seconds: float) -> bool:
    """Tell process 0 that this one is there, and wait until all are. False where it is not there itself."""
    try:
        connection = socket.create_connection((host, port), seconds)
    except OSError:
        return False
    with connection:
        connection.sendall(number.to_bytes(4))
        if not connection.recv(1):
            raise SystemExit(2)  # process 0 tells why
    return True


def _wait_for_all(port: int, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with socket.create_server(("", port)) as server, ExitStack() as stack:
        here: dict[int, socket.socket] = {}
        while len(here) < count - 1:
            left = max(0.1, deadline - time.monotonic())
            server.settimeout(left)
            try:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(left)
                number = int.from_bytes(connection.recv(4))
            except TimeoutError:
                raise missing(count, [0, *here], seconds) from None
            if 0 < number < count:  # else it is no process, but asks whether somebody listens
                here[number] = connection
        for connection in here.values():
            connection.sendall(b"!")
