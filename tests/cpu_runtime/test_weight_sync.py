"""Weights over gloo: two ranks of one process, and vLLM's worker extension."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from lens_openrlhf.cpu_runtime import weight_sync
from lens_openrlhf.cpu_runtime.weight_sync import CpuWorkerWrap, GlooGroup, connect


def free_port(host: str) -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return probe.getsockname()[1]


def pair(host: str = "127.0.0.1") -> tuple[list[GlooGroup], int, ThreadPoolExecutor]:
    port, threads = free_port(host), ThreadPoolExecutor(2)
    return list(threads.map(lambda rank: connect(host, port, rank, 2, "cpu"), range(2))), port, threads


def broadcast(groups, threads, tensors, src: int) -> None:
    list(threads.map(lambda group, tensor: group.broadcast(tensor, src, stream=None), groups, tensors))


@pytest.mark.parametrize("src", [0, 1])
def test_every_rank_gets_the_sources_bits(src):
    groups, _, threads = pair()
    assert [group.rank for group in groups] == [0, 1]
    generator = torch.Generator().manual_seed(3)
    for dtype in (torch.bfloat16, torch.float32, torch.int64):
        sent = (100 * torch.randn(3, 5, generator=generator)).to(dtype)
        for lay in (lambda t: t.clone(), lambda t: t.clone().T.contiguous().T, lambda t: torch.nn.Parameter(t, False)):
            tensors = [lay(sent if rank == src else torch.zeros_like(sent)) for rank in range(2)]
            broadcast(groups, threads, tensors, src)
            assert all(torch.equal(tensor, sent) for tensor in tensors)


def test_a_parameter_of_the_source_is_left_as_it_is():
    groups, _, threads = pair()
    parameter = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T)
    version, target = parameter._version, torch.zeros(2, 2)
    broadcast(groups, threads, [parameter, target], 0)
    assert target.tolist() == [[1, 3], [2, 4]] and parameter._version == version


def test_the_store_listens_on_its_own_address_alone():
    groups, port, _ = pair()
    assert len(groups) == 2
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=10)


def test_an_address_of_the_sixth_version():
    try:
        free_port("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    groups, _, threads = pair("::1")
    tensors = [torch.tensor([7]), torch.tensor([0])]
    broadcast(groups, threads, tensors, 0)
    assert tensors[1].item() == 7


def test_an_update_may_take_ten_minutes(monkeypatch):
    assert weight_sync.TIMEOUT == timedelta(minutes=10)
    made = {}
    monkeypatch.setattr(dist, "TCPStore", lambda *args, **kwargs: made.update(store=(args, kwargs)) or "store")
    monkeypatch.setattr(dist, "ProcessGroupGloo", lambda *args: made.update(group=args))
    GlooGroup("host", 29500, 3, 4)
    expected = {"is_master": False, "timeout": weight_sync.TIMEOUT, "master_listen_fd": None}
    assert made == {"store": (("host", 29500, 4), expected), "group": ("store", 3, 4, weight_sync.TIMEOUT)}


def test_a_worker_joins_behind_the_actor(monkeypatch):
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(weight_sync, "connect", lambda *args: args)
    worker = CpuWorkerWrap()
    worker.init_process_group("host", 29500, 2, 5, "group")
    assert worker._update_group == ("host", 29500, 3, 5, "cpu")


def test_an_update_is_loaded_as_a_whole_with_its_last_parameter(monkeypatch):
    def filled(tensor, src):
        assert src == 0
        tensor.fill_(len(sent))
        sent.append((tuple(tensor.shape), tensor.dtype))

    sent, loaded = [], []
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(weight_sync, "connect", lambda *_: SimpleNamespace(broadcast=filled))
    worker = CpuWorkerWrap()
    worker.model_runner = SimpleNamespace(reload_weights=lambda weights_iterator: loaded.append(dict(weights_iterator)))
    worker.init_process_group("host", 29500, 1, 2, "group")
    worker.update_weight("a", torch.bfloat16, (2, 3))
    worker.update_weight("b", torch.float32, [1])
    assert loaded == []
    worker.update_weight("c", torch.float32, (1,), empty_cache=True)
    worker.update_weight("a", torch.bfloat16, (2, 3), empty_cache=True)
    assert sent == [((2, 3), torch.bfloat16), ((1,), torch.float32), ((1,), torch.float32), ((2, 3), torch.bfloat16)]
    assert [{name: tensor.flatten()[0].item() for name, tensor in update.items()} for update in loaded] == [
        {"a": 0, "b": 1, "c": 2},
        {"a": 3},
    ]
