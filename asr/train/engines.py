"""One process, DDP or FSDP2: what differs between them, behind one small interface.

Gradients are means over the processes in both of PyTorch's engines; ``Step`` multiplies the loss by
their number, so that what reaches the optimiser is the sum.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from asr.config import TrainConfig
from asr.model.recogniser import Recogniser
from asr.processes import Processes
from asr.train.checkpoint import FileStore, ShardedStore, Store
from asr.train.objective import Objective


class Engine:
    """One process: nothing to share.

    Attributes:
        net: the model itself, whose parameters the optimiser gets.
        objective: the loss of this process' utterances.
        shared_objective: the same, and its gradients are shared with the other processes.
        splits_on_out_of_memory: whether this process can compute a batch in more pieces than the
            others without their noticing.
    """

    splits_on_out_of_memory = True

    def __init__(self, objective: Objective, processes: Processes):
        self.net, self.objective, self.processes = objective.net, objective, processes
        self.shared_objective: nn.Module = objective

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of a piece of a step; gradients are exchanged in the
        last one only."""
        return nullcontext()

    def dropping(self) -> AbstractContextManager[Any]:
        """Around a backward pass through ``objective`` whose gradients are thrown away."""
        return nullcontext()

    def clip(self, largest: float) -> Tensor:
        """Scales gradients down to this norm; returns the norm before, without waiting for it."""
        return torch.nn.utils.clip_grad_norm_(self.net.parameters(), largest)

    def weights_written(self) -> None:
        """Call after weights were written other than by the optimiser: no copy of them is used on."""

    def store(self, folder: Path) -> Store:
        """Who writes this engine's checkpoints."""
        return FileStore(folder, self.processes)


class Ddp(Engine):
    """Every process holds all weights (Li et al. 2020, arXiv 2006.15704)."""

    def __init__(self, objective: Objective, processes: Processes):
        super().__init__(objective, processes)
        self._ddp = DistributedDataParallel(
            objective,
            device_ids=[processes.device] if processes.device.type == "cuda" else None,
            broadcast_buffers=False,  # nothing in them changes while training
            gradient_as_bucket_view=True,
        )
        self.shared_objective = self._ddp

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self._ddp.no_sync()

    def dropping(self) -> AbstractContextManager[Any]:
        return self._ddp.no_sync()


class Fsdp(Engine):
    """Every process holds a part of the weights and of the optimiser (FSDP2, ``fully_shard``).

    A forward pass is a thing that all do together, so the processes' batches are equal in number and
    none of them can split one on its own.
    """

    splits_on_out_of_memory = False

    def __init__(self, objective: Objective, processes: Processes):
        super().__init__(objective, processes)
        mesh = dist.init_device_mesh(processes.device.type, (processes.size,))
        for layer in self.net.encoder.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.net, mesh=mesh)
        register_fsdp_forward_method(self.net, "loss")
        if processes.device.type == "cpu":  # gloo can add, but not average
            self._sharded.set_force_sum_reduction_for_comms(True)

    @property
    def _sharded(self) -> FSDPModule:
        assert isinstance(self.net, FSDPModule)  # fully_shard changed its class
        return self.net

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        self._sharded.set_requires_gradient_sync(last)
        return nullcontext()

    def dropping(self) -> AbstractContextManager[Any]:
        # gradients that wait for an exchange lie where zero_grad() does not reach
        return self.accumulating(last=True)

    def clip(self, largest: float) -> Tensor:
        norm = super().clip(largest)
        return norm.full_tensor() if isinstance(norm, dist.tensor.DTensor) else norm

    def weights_written(self) -> None:
        # without a backward pass, what the root gathered for a forward pass stays for the next one
        self._sharded.reshard()

    def store(self, folder: Path) -> Store:
        return ShardedStore(folder, self.processes)


ENGINES = {"ddp": Ddp, "fsdp": Fsdp}


def build_engine(net: Recogniser, config: TrainConfig, processes: Processes) -> Engine:
    """The engine for these processes; a process that torchrun did not start needs none."""
    for layer in net.encoder.layers:
        if config.checkpoint_activations:
            _recompute_in_backward(layer)
        if config.compile:
            layer.compile(dynamic=True)
    objective = Objective(net)
    if not processes.joined:
        return Engine(objective, processes)
    return ENGINES[config.parallel](objective, processes)


def _recompute_in_backward(layer: nn.Module) -> None:
    """Keeps a layer's input only and computes it once more for the gradient (Chen et al. 2016,
    arXiv 1604.06174): a third more work for a fraction of the memory."""
    forward = layer.forward

    def recomputed(*args: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False)

    layer.forward = recomputed  # type: ignore[method-assign]
