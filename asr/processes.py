"""The processes that ``torchrun`` started together, or the only one.

Everything that several processes agree on goes through here; with one process each of these calls
returns what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from asr.errors import InputError
from asr.runtime import choose_device


@dataclass(frozen=True)
class Processes:
    """This process among its equals.

    rank    its number, from 0
    size    how many there are
    device  where this one computes
    joined  whether there is a process group (also of one process)
    """

    rank: int
    size: int
    device: torch.device
    joined: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_(self, tensor: Tensor) -> Tensor:
        """The first process' values, in place."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)
        return tensor

    def gather(self, item: Any) -> list[Any]:
        """Everybody's item, in the order of the ranks, for everybody. Pickled: for small things."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            self.sum_(torch.zeros(1, device=self.device)).item()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process does what follows alone; then the others, who find it done."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


def alone(device_name: str = "auto") -> Processes:
    """One process and no other."""
    return Processes(0, 1, choose_device(device_name))


@contextmanager
def join(device_name: str, timeout_minutes: float) -> Iterator[Processes]:
    """The process group that ``torchrun`` described in the environment, left at the end.

    Outside ``torchrun`` this is ``alone``. On CUDA each process takes the device of its local rank.

    Args:
        timeout_minutes: how long one waits for another before it gives up.

    Raises:
        InputError: no such device, or a device by number for several processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield alone(device_name)
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = choose_device(device_name)
    if device.type == "cuda":
        if device.index is not None and size > 1:
            raise InputError(
                f"device {device_name!r}: torchrun gives each process its own; say cuda"
            )
        device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    # small things travel between CPUs, gradients between GPUs
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    yield Processes(rank, size, device, joined=True)
    # not after an error: the others may be in the middle of something, and waiting for them is in vain
    dist.destroy_process_group()
