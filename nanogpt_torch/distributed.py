"""The backend in several processes: torchrun starts them, each with one device, and FSDP2 shares the model.

    torchrun --nproc_per_node 2 train.py --backend torch

Along a mesh's axis `fsdp` each process has a part of weights, gradients and moments, and the weights of a
block are gathered while it computes (Zhao et al. 2023, https://arxiv.org/abs/2304.11277). Along the axis
`data` each has all, and gradients are summed. The order counts: rematerialization, compilation, sharding, and
then the optimizer.
"""

import datetime
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import nanogpt_torch.backend
from nanogpt.errors import InputError, told_in_a_line
from nanogpt.processes import LOST, START_SECONDS, Processes, Value, launched, missing, together
from nanogpt.state import TrainingState
from nanogpt.weights import Weights
from nanogpt_torch.backend import canonical
from nanogpt_torch.model import GPT, Block
from nanogpt_torch.optimizer import OnWhole

FOREVER = datetime.timedelta(days=365)
"""Process 0 may read a large text meanwhile. A connection that is lost is noticed at once."""


class Joined:
    """Processes that torch.distributed joined."""

    def __init__(self) -> None:
        self.number, self.count = dist.get_rank(), dist.get_world_size()
        self._control = dist.new_group(backend="gloo", timeout=FOREVER)  # by the hosts, while cards compute

    def agree(self, value: Value) -> Value:
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._control)
        return values[0]

    def leave(self) -> None:
        """End the threads that carry `agree`: Python's own end would abort one that is not done with it."""
        del self._control


class Backend(nanogpt_torch.backend.Backend):
    """GPT on the devices of several processes. What process 0 is asked for, it tells the others to do too."""

    _whole: GPT | None = None

    @staticmethod
    def devices() -> list[str]:
        return [name for name in nanogpt_torch.backend.Backend.devices() for _ in range(launched().count)]

    @staticmethod
    @contextmanager
    def join() -> Iterator[Processes]:
        """Wait for the other processes, and leave them in the end.

        Raises InputError where one does not come, or is lost on the way.
        """
        _meet(START_SECONDS)
        joined = Joined()
        try:
            yield joined
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            if joined.number:  # process 0 tells it
                os._exit(1)  # see `leave`
            raise InputError(LOST) from error
        else:
            dist.destroy_process_group()
        finally:
            joined.leave()

    @property
    def model(self) -> GPT:
        """The whole model on this device, for inference: gathered once, and dropped before the next step."""
        if self._whole is None:
            self._gather()
        assert self._whole
        return self._whole

    @together
    def train(
        self, tokens_KBT1: np.ndarray, keys_KB2: np.ndarray, learning_rate_K: np.ndarray
    ) -> Callable[[], np.ndarray]:
        """Each process computes the rows of its own."""
        self._whole, rows = None, self._own_rows(tokens_KBT1.shape[1])
        return super().train(tokens_KBT1[:, rows], keys_KB2[:, rows], learning_rate_K)

    @together
    def state(self) -> TrainingState:
        """The training state in process 0, and an empty one in the others."""
        return super().state()

    @together
    def gradients(self, tokens_BT1: np.ndarray, keys_B2: np.ndarray) -> tuple[float, Weights]:
        """Loss and gradients of all rows in process 0, which the others help to compute."""
        rows = self._own_rows(len(tokens_BT1))
        return super().gradients(tokens_BT1[rows], keys_B2[rows])

    def losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        assert self.model  # gathered before the others are told of the rows
        return self._share_losses(tokens_BT1)

    @together
    def _share_losses(self, tokens_BT1: np.ndarray) -> np.ndarray:
        """Each process computes the losses of some rows; process 0 gets them all."""
        count, number = self.processes.count, self.processes.number
        rows_BT1 = np.array_split(tokens_BT1, count)[number]
        own = super().losses(rows_BT1) if len(rows_BT1) else np.zeros_like(rows_BT1[:, 1:], np.float32)
        shares = [own] * count
        dist.gather_object(own, shares if number == 0 else None)
        return np.concatenate(shares)

    @together
    @torch.no_grad()
    def _gather(self) -> None:
        """Make a whole model in the dtype of the computation; one weight at a time is whole in float32."""
        with torch.device("meta"):
            whole = GPT(self.config, replace(self.kernels, block=Block)).to(self.dtype)
        whole.to_empty(device=self.device)
        for name, (parameter, _) in canonical(whole):
            parameter.copy_(full(self._parameters[name][0]))
        self._whole = whole

    def _arrange(self) -> OnWhole:
        """Share the module out, block by block, and then the rest of it."""
        if self.device == "mps":
            raise InputError("several processes train on cpu or cuda: take --device cpu, or one process")
        if self.device == "cuda" and _local_number() >= (cards := torch.cuda.device_count()):
            raise InputError(f"process {self.processes.number} has no card: this machine has {cards}")
        mesh = init_device_mesh(self.device, self.mesh, mesh_dim_names=self.mesh._fields)
        policy = MixedPrecisionPolicy(param_dtype=self.dtype, reduce_dtype=torch.float32)
        root = MeanLoss(self._module, self._token_losses)
        for part in (*self._module.blocks, root):
            self._root = fully_shard(part, mesh=mesh, mp_policy=policy)
            self._root.set_force_sum_reduction_for_comms(True)  # gloo knows no mean
        # A compiled block gives a view, in which nobody writes.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        self._copies = []
        return on_whole

    def _own_rows(self, batch_size: int) -> slice:
        """The rows of a batch that this process computes; all have equally many."""
        share = batch_size // self.processes.count
        return slice(self.processes.number * share, (self.processes.number + 1) * share)

    def _tensors(self, arrays: Weights, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Each of the named arrays of process 0, shared out like the parameter of its name."""
        for name, whole in super()._tensors(arrays, names):
            parameter, _ = self._parameters[name]
            assert isinstance(parameter, DTensor)
            yield name, distribute_tensor(whole, parameter.device_mesh, parameter.placements)

    def _arrays(self, tensors: dict[str, tuple[Tensor, bool]]) -> Weights:
        """In process 0, the whole arrays: one tensor at a time is gathered."""
        arrays: Weights = {}
        for name, (tensor, transposed) in tensors.items():
            whole = full(tensor)
            if self.processes.number == 0:
                arrays |= super()._arrays({name: (whole, transposed)})
        return arrays

    def _mean_loss(self, tokens_BT1: Tensor, keys_B2: Tensor) -> Tensor:
        return cast(Tensor, self._root(tokens_BT1, keys_B2))

    def _micro_batches(self, tokens_BT1: Tensor, keys_B2: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Gradients are summed over the processes at the last one; at each, where a process holds a part."""
        *earlier, last = super()._micro_batches(tokens_BT1, keys_B2)
        self._root.set_requires_gradient_sync(self.mesh.fsdp > 1)
        yield from earlier
        self._root.set_requires_gradient_sync(True)
        yield last

    def _loss_and_gradients(self, tokens_BT1: Tensor, keys_B2: Tensor) -> Tensor:
        """Mean loss of the rows of all processes; the gradients of that are left in the parameters."""
        loss = super()._loss_and_gradients(tokens_BT1, keys_B2)
        dist.all_reduce(loss)
        return loss / self.processes.count


class MeanLoss(nn.Module):
    """The model and its loss: weights are gathered for the calls of a module alone."""

    def __init__(self, model: GPT, token_losses: Callable[[GPT, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.losses_of = model, token_losses

    def forward(self, tokens_BT1: Tensor, keys_B2: Tensor) -> Tensor:
        return self.losses_of(self.model, tokens_BT1, keys_B2).mean()


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that is shared out. Every process must call it, and gets it."""
    assert isinstance(tensor, DTensor)
    return tensor.full_tensor()


def on_whole(function: Callable[[Tensor], Tensor], kernels_LOI: Tensor) -> Tensor:
    """A function of kernels in parts: each process gets some of them whole, and computes it of these."""
    assert isinstance(kernels_LOI, DTensor)
    mesh = kernels_LOI.device_mesh
    by_kernel = [Shard(0)] * mesh.ndim
    own = function(kernels_LOI.redistribute(placements=by_kernel).to_local()).contiguous()
    shape, stride = kernels_LOI.shape, kernels_LOI.stride()
    moved = DTensor.from_local(own, mesh, by_kernel, shape=shape, stride=stride)
    return moved.redistribute(placements=kernels_LOI.placements)


def _local_number() -> int:
    """The number of this process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def _store(number: int, count: int, limit: datetime.timedelta) -> dist.Store:
    """The table that all processes write to and read: torchrun's, or one that process 0 keeps."""
    is_ours = number == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # Not by dist.rendezvous, which says how many are missing, but not which.
    store = dist.TCPStore(*place, count, is_ours, limit, wait_for_workers=False)
    return dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _meet(seconds: float) -> None:
    """Start torch.distributed once every process is there.

    Raises InputError in one process, which names those that have not come in time; others end without a word.
    """
    number, count = launched().number, launched().count
    limit = datetime.timedelta(seconds=seconds)
    with told_in_a_line("process 0 can't be reached"):
        store = _store(number, count, limit)
    store.set(f"here/{number}", "")
    keys = [f"here/{other}" for other in range(count)]
    try:
        store.wait(keys, limit)
    except dist.DistStoreError:
        here = [other for other, key in enumerate(keys) if store.check([key])]
        if number > min(here):
            raise SystemExit(2) from None
        raise missing(count, here, seconds) from None
    if _local_number() < torch.cuda.device_count():
        torch.cuda.set_device(_local_number())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    # It says on a CPU that kernels are gathered whole before they are shared out in another way.
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)
