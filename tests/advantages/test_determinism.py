"""The bits of a result depend on the values alone: not on place, neighbours, threads or the instruction set."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from lens_openrlhf.advantages import LensConfig, ops

from .comparison import assert_same_bits

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LENGTHS = [0, 1, 7, 8, 31, 32, 33, 100, 1023, 1024, 1025, 5000, 32_768, 32_769, 70_000]


def make(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    cu_seqlens = torch.nn.functional.pad(torch.tensor(LENGTHS).cumsum(0), (1, 0))
    exponents = torch.rand(int(cu_seqlens[-1]), generator=generator, dtype=torch.float64) * 5 - 3
    mask = torch.rand(len(exponents), generator=generator) < 0.8
    return -(10.0**exponents).to(dtype), cu_seqlens, mask


def digest() -> str:
    """A digest of results over dtypes, masks, group sizes and switches."""
    state = hashlib.sha256()
    for dtype in DTYPES:
        values, cu_seqlens, mask = make(dtype)
        for chosen in (None, mask):
            for config, rho in (
                (LensConfig(), None),
                (LensConfig(confidence="sequence", difficulty="max"), None),
                (LensConfig(preference="length", gamma=1.9), None),
                (LensConfig(preference="policy"), None),
                (LensConfig(), torch.arange(1, len(LENGTHS) + 1) / 8),
            ):
                correctness = (torch.arange(len(LENGTHS)) % 3 == 0).double()
                cu_groups = torch.tensor([0, 1, 4, 15])
                for tensor in ops.lens_advantages(
                    values, cu_seqlens, correctness, cu_groups, config, mask=chosen, preference=rho
                ):
                    state.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def digest_elsewhere(**variables: str) -> str:
    program = "from tests.advantages.test_determinism import digest; print(digest())"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_instruction_sets_and_threads(level, threads):
    """A processor that lacks a set takes the next one, so that this passes, with less to show, everywhere."""
    assert digest_elsewhere(LENS_CPU_LEVEL=level, OMP_NUM_THREADS=threads) == digest()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", range(1, 16))
def test_place_in_the_buffer(dtype, shift):
    values, cu_seqlens, _ = make(dtype)
    moved = torch.cat([-torch.ones(shift, dtype=dtype), values])
    expected = ops.segment_mean(values, cu_seqlens).mean_logprob
    found = ops.segment_mean(moved, torch.cat([torch.zeros(1, dtype=torch.int64), cu_seqlens + shift])).mean_logprob
    assert_same_bits(found[1:], expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_of_the_responses(dtype):
    values, cu_seqlens, _ = make(dtype)
    expected = ops.segment_mean(values, cu_seqlens).mean_logprob
    order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(1))
    parts = [values[cu_seqlens[i] : cu_seqlens[i + 1]] for i in order]
    offsets = torch.nn.functional.pad(torch.tensor(LENGTHS)[order].cumsum(0), (1, 0))
    assert_same_bits(ops.segment_mean(torch.cat(parts), offsets).mean_logprob, expected[order])


def test_every_half_is_converted_exactly():
    """All 65,536 bit patterns of both 16-bit types, as responses of one token."""
    for dtype in (torch.float16, torch.bfloat16):
        values = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
        values = values[values.double() <= 0]  # what is no log-probability is refused elsewhere
        found = ops.segment_mean(values, torch.arange(len(values) + 1)).mean_logprob
        assert torch.equal(found, values.double())


def test_an_unknown_instruction_set_is_refused():
    program = "import lens_openrlhf.advantages.ops"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "LENS_CPU_LEVEL": "avx1024"}, capture_output=True, text=True
    )
    assert done.returncode and "LENS_CPU_LEVEL='avx1024': expected baseline, avx2, avx512" in done.stderr
