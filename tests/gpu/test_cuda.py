"""The operators on CUDA: equal to the reference and, bit for bit, to the CPU; graphs, streams, devices, sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from lens_openrlhf.advantages import LensConfig, lens_advantages, reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LENGTHS = [0, 1, 31, 32, 33, 127, 128, 129, 1023, 1024, 1025, 4096, 4097, 32_769, 100_000, 5]
CONFIGS = [
    LensConfig(),
    LensConfig(confidence="sequence", difficulty="max"),
    LensConfig(scope="none"),
    LensConfig(preference="length", gamma=1.9),
    LensConfig(preference="policy"),
]


def make(dtype: torch.dtype, repeats: int = 4):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS * repeats)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    exponents = torch.rand(int(cu_seqlens[-1]), generator=generator, dtype=torch.float64) * 5 - 3
    correctness = (torch.rand(len(lengths), generator=generator) < 0.3).double()
    correctness[: len(LENGTHS)] = 0
    cu_groups = torch.arange(0, len(lengths) + 1, len(LENGTHS))
    mask = torch.rand(len(exponents), generator=generator) < 0.8
    return (-(10.0**exponents)).to(dtype), cu_seqlens, correctness, cu_groups, mask


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_reference_and_the_cpu(dtype, config, masked):
    *tensors, mask = make(dtype)
    mask = mask if masked else None
    found = lens_advantages(*(t.cuda() for t in tensors), config, mask=None if mask is None else mask.cuda())
    on_cpu = lens_advantages(*tensors, config, mask=mask)
    expected = reference.lens_advantages(*tensors, config, mask=mask)
    for name, value in found._asdict().items():
        torch.testing.assert_close(value.cpu(), getattr(expected, name), rtol=1e-8, atol=1e-10, equal_nan=True)
        assert torch.equal(
            value.cpu().contiguous().view(torch.uint8), getattr(on_cpu, name).contiguous().view(torch.uint8)
        ), name


def test_a_preference_equals_the_cpu():
    *tensors, _ = make(torch.float32)
    rho = 10 ** torch.linspace(-3, 3, len(tensors[2]), dtype=torch.float64)
    found = lens_advantages(*(t.cuda() for t in tensors), preference=rho.cuda())
    expected = lens_advantages(*tensors, preference=rho)
    for name, value in found._asdict().items():
        assert torch.equal(value.cpu().nan_to_num(-7), getattr(expected, name).nan_to_num(-7)), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_padded_batch_equals_the_cpu(dtype):
    values, _, correctness, cu_groups, mask = make(dtype)
    values, mask = values[: 64 * 2000].view(64, 2000), mask[: 64 * 2000].view(64, 2000)
    found = lens_advantages(values.cuda(), None, correctness.cuda(), cu_groups.cuda(), mask=mask.cuda())
    expected = lens_advantages(values, None, correctness, cu_groups, mask=mask)
    assert torch.equal(found.advantage.cpu(), expected.advantage)


def raw(values, cu_seqlens, correctness, cu_groups):
    """The raw operators, which never wait for the device."""
    ops = torch.ops.lens_openrlhf
    mean, lengths, first = ops.segment_mean(values, cu_seqlens, None)
    *outputs, second = ops.group_advantages(
        mean, lengths, correctness, correctness, cu_groups, 0.25, True, True, False, True, 0, 0.0, None
    )
    return outputs[0], first, second


def test_graph_capture_and_replay():
    *tensors, _ = make(torch.float32)
    tensors = [t.cuda() for t in tensors]
    raw(*tensors)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        advantage, _, _ = raw(*tensors)
    tensors[0].mul_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(advantage, raw(*tensors)[0])


def test_no_synchronisation():
    *tensors, _ = make(torch.float32)
    tensors = [t.cuda() for t in tensors]
    torch.cuda.set_sync_debug_mode("error")
    try:
        raw(*tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_current_stream():
    *tensors, _ = make(torch.float32)
    tensors = [t.cuda() for t in tensors]
    expected = raw(*tensors)[0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # The values come late, and only this stream waits for them.
        late = torch.zeros_like(tensors[0])
        torch.cuda._sleep(100_000_000)
        late.copy_(tensors[0])
        found = raw(late, *tensors[1:])[0]
    stream.synchronize()
    assert torch.equal(found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_second_device():
    *tensors, _ = make(torch.bfloat16)
    expected = lens_advantages(*tensors)
    found = lens_advantages(*(t.to("cuda:1") for t in tensors))
    assert found.advantage.device == torch.device("cuda:1")
    assert torch.equal(found.advantage.cpu(), expected.advantage)


@pytest.mark.parametrize("bad", [float("nan"), 1.0])
def test_errors_name_the_response(bad):
    *tensors, _ = make(torch.float32)
    tensors[0][int(tensors[1][9]) + 7] = bad
    with pytest.raises(ValueError, match="response 9 has a token"):
        lens_advantages(*(t.cuda() for t in tensors))


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer(tool):
    found = shutil.which("compute-sanitizer")
    assert found, "compute-sanitizer is not on PATH: it comes with the CUDA toolkit"
    program = (
        "from tests.gpu.test_cuda import make, raw, DTYPES\n"
        "for dtype in DTYPES:\n"
        "    raw(*(t.cuda() for t in make(dtype, 1)[:-1]))\n"
    )
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(
        [found, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def _gather(rank: int, port: int) -> None:
    from lens_openrlhf.training.gather import gather

    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=60))
    rows = torch.full((3 + rank, 5), float(rank), dtype=torch.float64, device="cuda")
    tokens = torch.full((5 * rank, 2), float(rank), device="cuda")  # none on the first rank
    gathered = gather(rows, tokens, "", dist.group.WORLD)
    assert gathered.counts == [3, 4] and gathered.rows[:, 0].tolist() == [0.0] * 3 + [1.0] * 4
    assert gathered.token_counts == [0, 5] and gathered.tokens.tolist() == [[1.0, 1.0]] * 5
    with pytest.raises(ValueError, match="rank 1: broken"):
        gather(rows, tokens, "broken" if rank else "", dist.group.WORLD)
    dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_gather_over_nccl():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_gather, args=(port,), nprocs=2)
