"""Weights from the actor to vLLM over gloo, in place of NCCL."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=10)


class GlooGroup:
    """A process group outside torch.distributed's default one, with PyNccl's `broadcast`."""

    def __init__(self, host: str, port: int, rank: int, world_size: int):
        # A store of its own making would listen on every address of the machine.
        listener = None
        if rank == 0:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family).detach()
        self._store = dist.TCPStore(
            host, port, world_size, is_master=rank == 0, timeout=TIMEOUT, master_listen_fd=listener
        )
        self._group: Any = dist.ProcessGroupGloo(self._store, rank, world_size, TIMEOUT)
        self.rank = rank

    def broadcast(self, tensor: torch.Tensor, src: int, stream: object = None) -> None:
        """Fill `tensor` on every rank with rank `src`'s values; `stream` has no meaning on a CPU."""
        options = dist.BroadcastOptions()
        options.rootRank = src
        # Gloo knows no bfloat16; the bytes are what has to arrive.
        payload = tensor.detach().contiguous()
        self._group.broadcast([payload.reshape(-1).view(torch.uint8)], options).wait()
        if self.rank != src and payload.data_ptr() != tensor.data_ptr():
            tensor.copy_(payload)


def connect(master_address: str, master_port: int, rank: int, world_size: int, device: object) -> GlooGroup:
    """Stands for OpenRLHF's `stateless_init_process_group`."""
    return GlooGroup(master_address, master_port, rank, world_size)


class CpuWorkerWrap:
    """vLLM's worker extension on CPU, in place of OpenRLHF's WorkerWrap; vLLM mixes it into its worker.

    vLLM's CPU layers repack their weights when they are loaded, so a single parameter cannot be replaced: the
    update is collected and loaded as a whole with its last parameter, which OpenRLHF marks by `empty_cache`.
    """

    model_runner: Any  # of the worker

    def init_process_group(
        self,
        master_address: str,
        master_port: int,
        rank_offset: int,
        world_size: int,
        group_name: str,
        backend: str = "gloo",
        use_ray: bool = False,
    ) -> None:
        rank = dist.get_rank() + rank_offset
        self._update_group = connect(master_address, master_port, rank, world_size, "cpu")
        self._update: list[tuple[str, torch.Tensor]] = []

    def update_weight(self, name: str, dtype: torch.dtype, shape: Sequence[int], empty_cache: bool = False) -> None:
        weight = torch.empty(shape, dtype=dtype)
        self._update_group.broadcast(weight, src=0)
        self._update.append((name, weight))
        if empty_cache:
            self.model_runner.reload_weights(weights_iterator=iter(self._update))
            self._update = []
