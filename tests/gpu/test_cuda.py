"""The operators on CUDA: equal to the reference and, bit for bit, to the CPU; graphs, streams, devices, sanitizers."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from benchmarks.gpu_stages import ROOT, batches, sanitizer
from benchmarks.gpu_stages.estimators import TOLERANCE, make_batch, moved
from lens_openrlhf.advantages import LensConfig, estimators, lens_advantages, reference, segment_mean

LENGTHS = [0, 1, 31, 32, 33, 127, 128, 129, 1023, 1024, 1025, 4096, 4097, 32_769, 100_000, 5]
CONFIGS = [
    LensConfig(),
    LensConfig(confidence="sequence", difficulty="max"),
    LensConfig(scope="none"),
    LensConfig(preference="length", gamma=1.9),
    LensConfig(preference="policy"),
]

two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make(device, dtype: torch.dtype = torch.float32):
    """On the CPU: logprobs, cu_seqlens, correctness, cu_groups, and a mask. The first group is all wrong."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(device.pick(LENGTHS * 4, LENGTHS[:-4] * 2))
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    exponents = torch.rand(int(cu_seqlens[-1]), generator=generator, dtype=torch.float64) * 5 - 3
    correctness = (torch.rand(len(lengths), generator=generator) < 0.3).double()
    correctness[:12] = 0
    cu_groups = torch.tensor([0, 12, *range(16, len(lengths) + 1, 8)])
    mask = torch.rand(len(exponents), generator=generator) < 0.8
    return (-(10.0**exponents)).to(dtype), cu_seqlens, correctness, cu_groups, mask


def raw(values, cu_seqlens, correctness, cu_groups):
    """Both stages of the raw operator, which never waits for the device: advantages."""
    tokens = batches.Tokens(values, cu_seqlens, None)
    return batches.lens_advantages(tokens, correctness, correctness, cu_groups)[0][0]


@pytest.mark.parametrize("dtype", batches.DTYPES)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_reference_and_the_cpu(device, dtype, config, masked):
    *tensors, mask = make(device, dtype)
    mask = mask if masked else None
    found = lens_advantages(
        *(t.to(device.kind) for t in tensors), config, mask=None if mask is None else mask.to(device.kind)
    )
    on_cpu = lens_advantages(*tensors, config, mask=mask)
    expected = reference.lens_advantages(*tensors, config, mask=mask)
    for name, value in found._asdict().items():
        torch.testing.assert_close(value.cpu(), getattr(expected, name), rtol=1e-8, atol=1e-10, equal_nan=True)
        assert batches.same_bits(value, getattr(on_cpu, name)), name


def test_a_preference_equals_the_cpu(device):
    *tensors, _ = make(device)
    rho = 10 ** torch.linspace(-3, 3, len(tensors[2]), dtype=torch.float64)
    found = lens_advantages(*(t.to(device.kind) for t in tensors), preference=rho.to(device.kind))
    expected = lens_advantages(*tensors, preference=rho)
    for name, value in found._asdict().items():
        assert batches.same_bits(value, getattr(expected, name)), name


@pytest.mark.parametrize("dtype", batches.DTYPES)
@pytest.mark.parametrize("prompt", [0, 1, 333])
def test_a_padded_batch_equals_the_cpu(device, dtype, prompt):
    """The answers behind their prompts, x[:, prompt:], whose rows do not follow one another."""
    _, _, correctness, cu_groups, _ = make(device, dtype)
    rows = len(correctness)
    values = batches.logprobs(rows * 2000, dtype, prompt).view(rows, 2000)[:, prompt:]
    mask = (torch.arange(rows * 2000) % 7 != 0).view(rows, 2000)[:, prompt:]
    there = batches.to((values, mask), device.kind)
    assert there[0].stride() == values.stride()
    found = lens_advantages(there[0], None, correctness.to(device.kind), cu_groups.to(device.kind), mask=there[1])
    expected = lens_advantages(values.contiguous(), None, correctness, cu_groups, mask=mask.contiguous())
    assert batches.same_bits(found.advantage, expected.advantage)


@a_gpu
def test_a_slice_is_not_copied(device):
    whole = -torch.rand(512, 40_000, device=device.kind)
    part = whole[:, 20_000:]
    segment_mean(part, None)
    before = device.allocated()
    device.forget_peak()
    segment_mean(part, None)
    assert device.peak() - before < part.numel()  # bytes: a quarter of a copy


def test_the_fused_operator_equals_the_two(device):
    for seed in range(device.pick(40, 2)):
        chance = random.Random(seed)
        lengths = batches.ragged(chance)
        tokens = batches.to(batches.random_tokens(chance, lengths), device.kind)
        correctness, rewards = batches.random_outcomes(chance, len(lengths))
        groups = correctness, rewards, batches.offsets(batches.random_sizes(chance, len(lengths)))
        groups, switches = batches.to(groups, device.kind), chance.choice(batches.SWITCHES)
        responses, counts, difficulties, kinds, _ = batches.lens_advantages(tokens, *groups, switches)
        mean, lengths_found, _ = batches.segment_mean(tokens)
        *expected, _ = batches.group_advantages(batches.Groups(mean, lengths_found, *groups), switches)
        found = (*responses[:3], *difficulties, kinds)
        assert all(batches.same_bits(a, b) for a, b in zip(found, expected, strict=True)), seed
        assert batches.same_bits(responses[3], mean) and batches.same_bits(counts, lengths_found), seed


def test_graph_capture_and_replay(device):
    *tensors, _ = make(device)
    tensors = [t.to(device.kind) for t in tensors]
    advantage = raw(*tensors).clone()
    replay = device.captured(lambda: advantage.copy_(raw(*tensors)))
    tensors[0].mul_(0.5)
    advantage.zero_()
    replay()
    device.synchronize()
    assert torch.equal(advantage, raw(*tensors))


def test_raw_operators_do_not_wait_and_a_status_read_does(device):
    """By an event behind 50 ms of work: torch's sync debug mode does not see waits inside an extension."""
    *tensors, _ = make(device)
    values, cu_seqlens, correctness, cu_groups = (t.to(device.kind) for t in tensors)
    tokens = batches.Tokens(values, cu_seqlens, None)
    mean, lengths, _ = batches.segment_mean(tokens)
    groups = batches.Groups(mean, lengths, correctness, correctness, cu_groups)
    calls = [
        lambda: batches.segment_mean(tokens),
        lambda: batches.group_advantages(groups),
        lambda: raw(values, cu_seqlens, correctness, cu_groups),
    ]
    for call in calls:
        call()  # kernels are loaded at their first launch, which may wait
        done = device.occupied()
        call()
        assert not done()
    done = device.occupied()
    lens_advantages(values, cu_seqlens, correctness, cu_groups)
    assert done() or device.kind == "cpu"


def test_current_stream(device):
    *tensors, _ = make(device)
    tensors = [t.to(device.kind) for t in tensors]
    expected = raw(*tensors)
    late = torch.zeros_like(tensors[0])
    with device.stream():
        # The values come late, and only this stream waits for them.
        device.occupied()
        late.copy_(tensors[0])
        found = raw(late, *tensors[1:])
    device.synchronize()
    assert torch.equal(found, expected)


@two_gpus
def test_a_device_that_is_not_the_current_one(device):
    *tensors, mask = make(device, torch.bfloat16)
    expected = lens_advantages(*tensors, mask=mask)
    assert torch.cuda.current_device() == 0
    found = lens_advantages(*(t.to("cuda:1") for t in tensors), mask=mask.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    for name, value in found._asdict().items():
        assert value.device == torch.device("cuda:1"), name
        assert batches.same_bits(value, getattr(expected, name)), name


@two_gpus
def test_tensors_of_two_devices_are_refused():
    with pytest.raises(ValueError, match="cu_seqlens: is on cuda:1, the other tensors on cuda:0"):
        segment_mean(-torch.rand(4, device="cuda:0"), torch.tensor([0, 4], device="cuda:1"))


@pytest.mark.parametrize("bad", [float("nan"), 1.0])
def test_errors_name_the_response(device, bad):
    *tensors, _ = make(device)
    tensors[0][int(tensors[1][9]) + 7] = bad
    with pytest.raises(ValueError, match="response 9 has a token"):
        lens_advantages(*(t.to(device.kind) for t in tensors))


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", estimators.names())
def test_an_estimator_gives_the_cpus_numbers(device, deterministic, name):
    here = make_batch(device.pick(64, 8))
    there, kind = moved(here, device.kind), estimators.find(name)
    found = estimators.run(kind(), there).advantage
    expected = estimators.run(kind(), here).advantage
    torch.testing.assert_close(found.cpu(), expected, rtol=TOLERANCE, atol=TOLERANCE * 1e-3)


@a_gpu
@pytest.mark.parametrize("tool", sanitizer.TOOLS)
def test_compute_sanitizer(tool):
    found = shutil.which(sanitizer.SANITIZER)
    assert found, f"{sanitizer.SANITIZER} is not on PATH: it comes with the CUDA toolkit"
    done = subprocess.run(
        [found, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu_stages.launch", "small"],
        cwd=ROOT,
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    good, says = sanitizer.verdict(done.returncode, done.stdout)
    assert good, says + done.stdout[-3000:]


def _gather(rank: int, port: int) -> None:
    from lens_openrlhf.advantages.across_ranks import gather

    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=60))
    columns = {
        "whole": torch.full((3 + rank,), 2**62 + rank, device="cuda"),
        "real": torch.full((3 + rank,), 0.1 * rank, dtype=torch.float64, device="cuda"),
    }
    tokens = {"logprobs": torch.full((5 * rank,), -1.5, device="cuda")}  # none on the first rank
    gathered = gather(columns, tokens, None, dist.group.WORLD)
    assert gathered.counts == [3, 4] and gathered.columns["whole"].tolist() == [2**62] * 3 + [2**62 + 1] * 4
    assert gathered.columns["real"].tolist() == [0.0] * 3 + [0.1] * 4
    assert gathered.token_counts == [0, 5] and gathered.tokens["logprobs"].tolist() == [-1.5] * 5
    with pytest.raises(ValueError, match="rank 1: broken"):
        gather(columns, tokens, ValueError("broken") if rank else None, dist.group.WORLD)
    dist.destroy_process_group()


@two_gpus
def test_gather_over_nccl():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_gather, args=(port,), nprocs=2)
