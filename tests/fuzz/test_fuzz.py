"""Random calls, sound and unsound: sound ones equal the reference, unsound ones raise ValueError, nothing crashes.

LENS_FUZZ_CASES sets how many (`make fuzz`: the long run).
"""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lens_openrlhf.advantages import LensConfig, ops, reference
from tests.advantages.comparison import advantage_error, assert_near, reward_error
from tests.simt.build import ROOT, compiler

CASES = int(os.environ.get("LENS_FUZZ_CASES", "3000"))
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TOLERANCE = ops.LOGPROB_TOLERANCE

FAULTS = [
    *("offset start", "offset end", "offset decreases", "offset negative", "group start", "group end"),
    *("group decreases", "nan", "positive", "infinite", "correctness", "correctness nan", "reward infinite"),
    *("dtype", "rank", "too few", "mask size", "offset dtype", "preference"),
]
# What looks odd and is legal.
HARMLESS = ["strided", "expanded", "minus infinity", "rounding", "masked nan"]


def make_call(seed: int) -> dict:
    """A sound call."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 9, rng.integers(0, 5))
    n = int(sizes.sum())
    longest = [3, 40, 300][rng.integers(3)]
    lengths = rng.integers(0, longest, n)
    offset_dtype = [torch.int32, torch.int64][rng.integers(2)]
    total = int(lengths.sum())
    values = -(10.0 ** rng.uniform(-4, [0, 1, 4][rng.integers(3)], total))
    correctness = [np.zeros, np.ones][rng.integers(2)](n) if rng.random() < 0.3 else rng.integers(0, 2, n).astype(float)
    return {
        "logprobs": torch.from_numpy(values).to(DTYPES[rng.integers(4)]),
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], lengths.cumsum()])).to(offset_dtype),
        "correctness": torch.from_numpy(correctness),
        "cu_groups": torch.from_numpy(np.concatenate([[0], sizes.cumsum()])).to(offset_dtype),
        "rewards": torch.from_numpy(correctness - rng.random(n)) if rng.random() < 0.5 else None,
        "mask": torch.from_numpy(rng.random(total) < 0.8) if rng.random() < 0.5 else None,
        "preference": torch.from_numpy(10.0 ** rng.uniform(-3, 3, n)) if rng.random() < 0.3 else None,
    }


def change(call: dict, what: str, place: int) -> bool:
    """Put a fault or an oddity into the call; whether it did and the call must raise."""
    logprobs, cu_seqlens, cu_groups = call["logprobs"], call["cu_seqlens"], call["cu_groups"]
    total, n, groups = len(logprobs), len(call["correctness"]), len(cu_groups) - 1
    token, response = place % max(total, 1), place % max(n, 1)
    selected = total > 0 and (call["mask"] is None or bool(call["mask"][token]))
    if what == "offset start" and n:
        cu_seqlens[0] = 1
        return True
    if what == "offset end":
        cu_seqlens[-1] += 1
        return True
    if what == "offset decreases" and n > 1:
        cu_seqlens[1] = total + 1
        return True
    if what == "offset negative" and n > 1:
        cu_seqlens[1] = -1
        return True
    if what == "group start" and groups:
        cu_groups[0] = 1
        return True
    if what == "group end":
        cu_groups[-1] += 1
        return True
    if what == "group decreases" and groups > 1:
        cu_groups[1] = n + 1
        return True
    if what in ("nan", "positive", "infinite") and selected:
        logprobs[token] = {"nan": math.nan, "positive": 0.25, "infinite": math.inf}[what]
        return True
    if what.startswith("correctness") and n:
        call["correctness"][response] = math.nan if what.endswith("nan") else [1.5, -0.25][place % 2]
        return True
    if what == "reward infinite" and n:
        call["rewards"] = call["correctness"].clone()
        call["rewards"][response] = -math.inf
        return True
    if what == "preference" and call["preference"] is not None and n:
        call["preference"][response] = [0.0, -1.0, math.nan, math.inf][place % 4]
        return True
    if what == "dtype":
        call["logprobs"] = logprobs.to(torch.complex64 if place % 2 else torch.int32)
        return True
    if what == "rank":
        call["logprobs"] = logprobs[None]
        return True
    if what == "too few" and n:
        call["correctness"] = call["correctness"][:-1]
        return True
    if what == "mask size":
        call["mask"] = torch.ones(total + 1, dtype=torch.bool)
        return True
    if what == "offset dtype":
        call["cu_seqlens"] = cu_seqlens.double()
        return True
    if what == "strided":
        call["logprobs"] = torch.stack([logprobs, -logprobs], dim=1)[:, 0]
    if what == "expanded" and n:
        call["correctness"] = torch.zeros(()).expand(n)
    if what == "minus infinity" and selected:
        logprobs[token] = -math.inf
    if what == "rounding" and selected:
        logprobs[token] = TOLERANCE / 2
    if what == "masked nan" and total:
        call["mask"] = torch.ones(total, dtype=torch.bool) if call["mask"] is None else call["mask"]
        call["mask"][token] = False
        logprobs[token] = math.nan
    return False


def assert_equals_the_reference(call: dict, config: LensConfig) -> None:
    found, expected = ops.lens_advantages(**call, config=config), reference.lens_advantages(**call, config=config)
    assert torch.equal(found.group_kind, expected.group_kind) and torch.equal(found.lengths, expected.lengths)
    for name in ("mean_logprob", "confidence", "importance_difficulty", "difficulty"):
        assert_near(getattr(found, name), getattr(expected, name), name)
    bounds = call["cu_groups"].tolist()
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        rewards = expected.calibrated_reward[start:end]
        if not len(rewards):
            continue
        error = reward_error(len(rewards), rewards)
        # The means' own rounding reaches the penalties through the exponential.
        error *= 1 + 8 * max(1.0, -expected.mean_logprob[start:end].nan_to_num(neginf=0.0).min().item())
        assert (found.calibrated_reward[start:end] - rewards).abs().max() <= error
        divisor = min(1.0, rewards.std().item() + 1e-9) if len(rewards) > 1 else 1.0
        scale = error / reward_error(len(rewards), rewards)
        bound = advantage_error(rewards, divisor) * scale
        assert (found.advantage[start:end] - expected.advantage[start:end]).abs().max() <= bound


configs = st.one_of(
    st.builds(
        LensConfig,
        scope=st.sampled_from(["both", "mixed", "negative", "none"]),
        confidence=st.sampled_from(["geometric", "sequence"]),
        difficulty=st.sampled_from(["importance", "max"]),
        preference=st.sampled_from(["none", "policy"]),
    ),
    st.builds(LensConfig, preference=st.just("length"), gamma=st.sampled_from([0.0, 0.5, 1.9])),
)


@settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**63),
    changes=st.lists(st.sampled_from(FAULTS + HARMLESS), max_size=2),
    place=st.integers(0, 10_000),
    config=configs,
)
def test_python_entry(seed, changes, place, config):
    call = make_call(seed)
    if config.preference != "none":
        call["preference"] = None  # two do not go together
    must_raise = False
    for what in changes:
        if must_raise:
            break  # the tensors may no longer have the form that a second change expects
        must_raise = change(call, what, place)
    if must_raise:
        with pytest.raises(ValueError):
            ops.lens_advantages(**call, config=config)
    else:
        assert_equals_the_reference(call, config)


def test_cpp_entry(tmp_path):
    target = tmp_path / "fuzz_target"
    source = Path(__file__).parent / "target.cpp"
    flags = ["-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-Wno-psabi", "-fsanitize=address,undefined"]
    flags += ["-fno-sanitize-recover=undefined", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'cpu'}"]
    done = subprocess.run([compiler(), *flags, str(source), "-o", str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for level in ("baseline", "avx2", "avx512"):
        done = subprocess.run(
            [str(target), str(CASES), "1"],
            env={**os.environ, "LENS_CPU_LEVEL": level},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{level}: {done.stdout}{done.stderr[-3000:]}"
        assert done.stdout == f"{CASES} cases\n"
