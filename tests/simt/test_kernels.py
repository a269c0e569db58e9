"""The CUDA kernels of csrc, run in the emulator, against the reference; these tests are what the mutants must fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens_openrlhf.advantages import LensConfig, ops, reference
from lens_openrlhf.advantages.config import PREFERENCES
from lens_openrlhf.advantages.ops import STATUS_OK
from tests.advantages.comparison import assert_near

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Around the widths of a team (8), a warp (32) and a block (256), the limits of who reduces a response (128, 4096), a
# chunk (1024) and a span (32768).
LENGTHS = [
    *(0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 1000, 1023, 1024, 1025, 2047, 2048),
    *(3000, 4095, 4096, 4097, 8191, 8193, 10_000),
]
LONG = [32_767, 32_768, 32_769, 40_000, 65_537, 100_000]


def offsets_of(lengths, dtype=np.int64) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(dtype)


def random_logprobs(count: int, dtype: str, seed: int = 0) -> torch.Tensor:
    """Over many magnitudes, so that a dropped or repeated element shows, and in single and double precision the order.

    Of fewer magnitudes the sum of single ones would be exact in double, and in any order the same.
    """
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.rand(count, generator=generator, dtype=torch.float64) * 9 - 7
    return -(10.0**exponent).to(DTYPES[dtype])


def raw(values: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray((values.view(torch.int16) if values.element_size() == 2 else values).numpy())


def run(simt, values: torch.Tensor, dtype: str, offsets, mask=None, **launch):
    mean, lengths, status = simt.segment_mean(raw(values), dtype, offsets, mask, **launch)
    return torch.from_numpy(mean), torch.from_numpy(lengths), status


def status_word(index: int, code: int, value: float) -> int:
    """As csrc/lens.h has it, and torch in an int64."""
    word = (code >= 4) << 63 | index << 36 | code << 32 | int(np.float32(value).view(np.uint32))
    return word - (word >> 63 << 64)


def check(simt, lengths, dtype: str, *, mask=False, offset_dtype=np.int64, **launch) -> torch.Tensor:
    offsets = offsets_of(lengths, offset_dtype)
    values = random_logprobs(int(offsets[-1]), dtype)
    selected = np.random.default_rng(1).random(len(values)) < 0.7 if mask else None
    mean, counts, status = run(simt, values, dtype, offsets, selected, **launch)
    expected = reference.segment_mean(
        values, torch.from_numpy(offsets), None if selected is None else torch.from_numpy(selected)
    )
    assert status == STATUS_OK
    assert torch.equal(counts, expected.lengths)
    assert_near(mean, expected.mean_logprob, "mean_logprob")
    # The same tree as on the CPU: not nearly, but bit for bit.
    op = ops.segment_mean(
        values, torch.from_numpy(offsets), None if selected is None else torch.from_numpy(selected)
    ).mean_logprob
    assert torch.equal(mean.view(torch.int64), op.view(torch.int64))
    return mean


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset_dtype", [np.int32, np.int64])
def test_every_length(simt, dtype, offset_dtype):
    order = np.random.default_rng(2).permutation(len(LENGTHS))
    check(simt, [LENGTHS[i] for i in order], dtype, offset_dtype=offset_dtype, seed=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("unit", "warp_tokens", "grid"), [(1, 4096, 1), (4, 4096, 2), (1, 1024, 3), (4, 32_768, 0)])
def test_masks_and_plans(simt, dtype, unit, warp_tokens, grid):
    lengths = LENGTHS + LENGTHS[::-1] + [5, 2000, 3, 300] + [300]  # units all short, all long, mixed and incomplete
    check(simt, lengths, dtype, mask=True, unit=unit, warp_tokens=warp_tokens, grid=grid, seed=unit)


@pytest.mark.parametrize(
    ("total", "responses", "plan"),
    [
        (0, 5, (4, 1, 4096)),
        (3000, 3, (3, 1, 4096)),
        # More responses than the 32 warps, of a mean length that teams reduce.
        (33 * 128, 33, (4, 4, 4096)),
        (33 * 128 + 1, 33, (4, 1, 4096)),
        (32 * 128, 32, (4, 1, 4096)),
        # A warp's share of the tokens, at most a span.
        (32 * 5000, 32, (4, 1, 5000)),
        (32 * 32_768, 9, (4, 1, 32_768)),
        (10**9, 9, (4, 1, 32_768)),
    ],
)
def test_the_plan(simt, total, responses, plan):
    """(blocks, unit, warp_tokens) on a device that holds 4 blocks at once."""
    assert simt.segment_plan(total, responses, 4) == plan


def test_a_mask_may_be_of_any_bytes(simt):
    """Whatever is not 0 selects."""
    lengths = [5, 100, 700, 5000]
    values = random_logprobs(sum(lengths), "float32")
    values[5:50:3] = 0.5
    mask = np.random.default_rng(3).choice(np.array([0, 1, 2, 128, 255], dtype=np.uint8), len(values))
    mask[5:50:3] = 0
    bytes_, ones = (run(simt, values, "float32", offsets_of(lengths), m) for m in (mask.view(bool), mask != 0))
    assert bytes_[2] == ones[2] == STATUS_OK
    assert torch.equal(bytes_[0], ones[0]) and torch.equal(bytes_[1], ones[1])
    values[5 + 4], mask[5 + 4] = 0.25, 2
    assert run(simt, values, "float32", offsets_of(lengths), mask.view(bool))[2] == status_word(1, 3, 0.25)


def test_long_responses(simt):
    check(simt, [3, *LONG, 0, 17], "float32", seed=1)
    check(simt, [100_000], "bfloat16", mask=True, seed=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", [False, True])
def test_a_warp_reduces_up_to_a_span(simt, dtype, mask):
    check(simt, [1025, 2048, 2049, 32_767, 32_768, 5], dtype, mask=mask, warp_tokens=32_768, seed=7)


@pytest.mark.parametrize("width", [0, 1, 7, 100, 128, 129, 1300, 5000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_a_padded_batch(simt, width, dtype):
    """Whose rows are longer than the responses, and those of the mask longer again."""
    rows, unit = 9, 4 if width <= 128 else 1
    values = random_logprobs(rows * (width + 3), dtype).view(rows, width + 3)
    mask = np.random.default_rng(1).random((rows, width + 8)) < 0.7
    selected = torch.from_numpy(mask[:, :width])
    mean, counts, status = run(simt, values, dtype, None, mask, width=width, unit=unit, seed=width)
    packed = values[:, :width][selected]
    expected = reference.segment_mean(packed, torch.nn.functional.pad(selected.sum(1).cumsum(0), (1, 0)))
    assert status == STATUS_OK and torch.equal(counts, expected.lengths)
    assert_near(mean, expected.mean_logprob, "mean_logprob")
    op = ops.segment_mean(values[:, :width], None, selected).mean_logprob
    assert torch.equal(mean.view(torch.int64), op.view(torch.int64))
    plain, _, _ = run(simt, values, dtype, None, width=width, unit=unit, seed=width)
    assert torch.equal(
        plain.view(torch.int64), ops.segment_mean(values[:, :width], None).mean_logprob.view(torch.int64)
    )


def test_many_short_responses_fill_several_blocks(simt):
    lengths = np.random.default_rng(0).integers(0, 40, 700)
    check(simt, lengths, "float32", seed=4)
    check(simt, lengths, "float64", seed=6)
    check(simt, lengths, "float16", mask=True, unit=1, seed=5)


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_a_small_grid_goes_over_all_responses(simt, grid):
    check(simt, LENGTHS, "float32", grid=grid, seed=grid)


def test_one_response_longer_than_all_others_together(simt):
    lengths = [5] * 40 + [50_000] + [130] * 10
    check(simt, lengths, "float32", seed=6)


def test_bits_depend_on_the_response_alone(simt):
    """Not on where it lies, on its neighbours, the grid, the plan or the schedule."""
    alone = {n: check(simt, [n], "float32") for n in (5, 100, 700, 5000, 40_000)}
    for n, expected in alone.items():
        values = random_logprobs(n, "float32")
        for shift in (1, 2, 3, 5, 7, 11, 13, 15):
            padding = random_logprobs(shift, "float32", seed=shift)
            mean, _, _ = run(
                simt, torch.cat([padding, values, padding]), "float32", offsets_of([shift, n, shift]), seed=shift
            )
            assert torch.equal(mean[1:2].view(torch.int64), expected.view(torch.int64))


@pytest.mark.parametrize("seed", range(6))
def test_bits_do_not_depend_on_the_schedule(simt, seed):
    lengths = [3, 0, 200, 5000, 1, 33_000, 64]
    first = check(simt, lengths, "float32", seed=100, in_flight=1)
    again = check(
        simt,
        lengths,
        "float32",
        seed=seed,
        in_flight=1 + seed % 4,
        unit=[1, 4][seed % 2],
        warp_tokens=[4096, 16_384][seed % 2],
    )
    assert torch.equal(first.view(torch.int64), again.view(torch.int64))


@pytest.mark.parametrize("length", [5, 100, 700, 5000, 33_000])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize(("value", "code"), [(float("nan"), 2), (0.5, 3), (float("inf"), 3)])
def test_bad_values_are_found_wherever_they_are(simt, length, place, value, code):
    position = {"first": 0, "middle": length // 2, "last": length - 1}[place]
    lengths = [7, length, 9]
    values = random_logprobs(sum(lengths), "float32")
    values[7 + position] = value
    _, _, status = run(simt, values, "float32", offsets_of(lengths), seed=length)
    assert (status >> 36 & 2**27 - 1, status >> 32 & 15) == (1, code)
    # What the mask leaves out may be anything.
    mask = np.ones(len(values), dtype=bool)
    mask[7 + position] = False
    mean, counts, status = run(simt, values, "float32", offsets_of(lengths), mask, seed=length)
    assert status == STATUS_OK and counts[1] == length - 1 and not mean[0].isnan()


def test_the_first_fault_of_many_is_reported(simt):
    """The smallest status word; what the mask leaves out has none."""
    lengths = [4, 100, 5000, 40_000, 6]
    offsets = offsets_of(lengths)
    rng = np.random.default_rng(4)
    values = random_logprobs(sum(lengths), "float32")
    mask = rng.random(len(values)) < 0.6
    for first in (3, 2, 1):
        part = slice(offsets[first], offsets[first + 1])
        faulty = torch.from_numpy(rng.random(lengths[first]) < 0.3)
        values[part][faulty] = torch.from_numpy(rng.uniform(0.1, 9, int(faulty.sum()))).float()
        values[part][torch.from_numpy(~mask[part])] = np.nan
        least = values[part][faulty & torch.from_numpy(mask[part])].min().item()
        _, _, status = run(simt, values, "float32", offsets, mask)
        assert status == status_word(first, 3, least)
        if first == 3:
            _, _, status = run(simt, values, "float32", offsets)
            assert status == status_word(3, 2, np.nan)


def test_rounding_above_zero_counts_as_zero(simt):
    values = torch.tensor([0.0009, -1.0, 0.001])
    mean, _, status = run(simt, values, "float32", offsets_of([3]))
    assert status == STATUS_OK and mean.item() == -1.0 / 3


def test_minus_infinity_is_legal(simt):
    values = random_logprobs(300, "float32")
    values[150] = -np.inf
    mean, _, status = run(simt, values, "float32", offsets_of([300]))
    assert status == STATUS_OK and mean.item() == -np.inf


@pytest.mark.parametrize(
    "offsets",
    [
        [1, 4, 9, 12],
        [0, 6, 4, 12],
        [0, 4, 9, 13],
        [0, 4, 9, 11],
        [0, -2, 9, 12],
        [0, 4, 99, 12],
        [0, 4, 999, 12],
        [0, 4, 9999, 12],
    ],
)
@pytest.mark.parametrize("offset_dtype", [np.int32, np.int64])
def test_bad_offsets_are_found_and_nothing_is_read(simt, offsets, offset_dtype):
    _, _, status = run(simt, random_logprobs(12, "float32"), "float32", np.array(offsets, dtype=offset_dtype))
    assert status >> 32 & 15 == 1


def test_offsets_beyond_32_bits(simt):
    """The blocks around a response of more than 2^31 tokens; the one that would reduce it is not run."""
    huge = 2**31 + 100
    lengths = [9, 40, huge, 77, 300]
    offsets = offsets_of(lengths)
    # NumPy's zeros take no memory until they are written.
    values = torch.from_numpy(np.zeros(int(offsets[-1]), dtype=np.float16))
    tail = random_logprobs(377, "float16")
    values[-377:] = tail
    mean, counts, status = run(simt, values, "float16", offsets, grid=5, blocks=[3, 4], seed=1, in_flight=2)
    expected = reference.segment_mean(tail, torch.tensor([0, 77, 377]))
    assert status == STATUS_OK
    assert counts[3:].tolist() == [77, 300]
    assert_near(mean[3:], expected.mean_logprob, "mean_logprob")


@pytest.mark.parametrize("far", ["values", "mask"])
def test_rows_beyond_32_bits(simt, far):
    """Rows of three tokens, those of the values or of the mask so far apart that the last lies beyond 2^31."""
    rows, wide, narrow = 5, 2**29 + 8, 4
    values = torch.from_numpy(np.zeros((rows, wide if far == "values" else narrow), dtype=np.float16))
    mask = np.zeros((rows, wide if far == "mask" else narrow), dtype=bool)
    values[:, :3] = random_logprobs(rows * 3, "float16").view(rows, 3)
    mask[:, :3] = np.arange(rows * 3).reshape(rows, 3) % 4 > 0
    mean, counts, status = run(simt, values, "float16", None, mask, width=3)
    expected = ops.segment_mean(values[:, :3], None, torch.from_numpy(mask[:, :3]))
    assert status == STATUS_OK and torch.equal(counts, expected.lengths)
    assert torch.equal(mean, expected.mean_logprob)


# ---- group stage

GROUP_SIZES = [1, 2, 3, 16, 31, 32, 33, 64, 100, 1024]
CONFIGS = {
    "default": LensConfig(),
    "sequence": LensConfig(confidence="sequence"),
    "max": LensConfig(difficulty="max", alpha=1.0),
    "negative": LensConfig(scope="negative"),
    "mixed": LensConfig(scope="mixed"),
    "none": LensConfig(scope="none"),
    "length": LensConfig(preference="length"),
    "length with gamma": LensConfig(preference="length", gamma=1.9),
    "policy": LensConfig(preference="policy"),
}


def random_groups(sizes, seed=0):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    mean = -(10.0 ** rng.uniform(-3, 2, n))
    lengths = rng.integers(0, 50, n)
    # Not read where a response is empty, so anything may stand there.
    mean[lengths == 0] = rng.choice([np.nan, 0.0, 7.0], np.count_nonzero(lengths == 0))
    correctness = np.zeros(n)
    offsets = offsets_of(sizes)
    for g, size in enumerate(sizes):
        part = slice(offsets[g], offsets[g + 1])
        correctness[part] = [0.0, 1.0, -1.0, -2.0][g % 4]
        if g % 4 == 2:
            correctness[part] = (rng.random(size) < 0.4).astype(float)
        if g % 4 == 3:
            correctness[part] = rng.random(size)
        if g % 8 in (4, 5):  # all wrong and all right, but for rounding
            correctness[part] = np.abs(correctness[part] - rng.choice([0, 2.0**-53], size))
    rewards = correctness + rng.normal(0, 0.1, n)
    return mean, lengths.astype(np.int64), correctness, rewards, offsets


def random_preference(count: int) -> np.ndarray:
    """Over many magnitudes; subnormal numbers in the first all-wrong group of 100."""
    preference = 10.0 ** np.random.default_rng(1).uniform(-3, 3, count)
    preference[182:282] *= 1e-320
    return preference


def run_groups(simt, mean, lengths, correctness, rewards, offsets, config, **launch):
    return simt.group_advantages(
        mean,
        lengths,
        correctness,
        rewards,
        offsets,
        alpha=config.alpha,
        lens_mixed=config.penalises_mixed,
        lens_uniform=config.penalises_uniform,
        sequence_confidence=config.confidence == "sequence",
        importance_difficulty=config.difficulty == "importance",
        preference=PREFERENCES.index(config.preference),
        gamma=config.gamma,
        **launch,
    )


@pytest.mark.parametrize(
    ("config", "tensor"),
    [(config, False) for config in CONFIGS.values()] + [(CONFIGS[name], True) for name in ("default", "max", "mixed")],
    ids=[*CONFIGS, "tensor", "tensor max", "tensor mixed"],
)
@pytest.mark.parametrize("offset_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("own_rewards", [False, True])
def test_groups_equal_the_reference(simt, config, tensor, offset_dtype, own_rewards):
    mean, lengths, correctness, rewards, offsets = random_groups(GROUP_SIZES * 4)
    if not own_rewards:
        rewards = correctness
    rho = random_preference(len(mean)) if tensor else None
    found = run_groups(simt, mean, lengths, correctness, rewards, offsets.astype(offset_dtype), config, rho=rho, seed=2)
    call = {
        "config": config,
        "rewards": torch.from_numpy(rewards),
        "preference": torch.from_numpy(rho) if tensor else None,
    }
    expected = reference.group_advantages(*map(torch.from_numpy, (mean, lengths, correctness, offsets)), **call)
    assert found["status"] == STATUS_OK
    for name in ("confidence", "importance_difficulty", "difficulty"):
        assert_near(torch.from_numpy(found[name]), getattr(expected, name), name)
    assert found["group_kind"].tolist() == expected.group_kind.tolist()
    np.testing.assert_allclose(found["calibrated_reward"], expected.calibrated_reward, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["advantage"], expected.advantage, rtol=1e-8, atol=1e-10)
    # Formulas and sums are the CPU operator's: the same bits.
    op = ops.group_advantages(*map(torch.from_numpy, (mean, lengths, correctness, offsets)), **call)
    for name in ("advantage", "calibrated_reward", "confidence", "importance_difficulty", "difficulty"):
        assert torch.equal(torch.from_numpy(found[name]).view(torch.int64), getattr(op, name).view(torch.int64)), name


@pytest.mark.parametrize("grid", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_group_bits_do_not_depend_on_grid_or_schedule(simt, grid, seed):
    data = random_groups(GROUP_SIZES * 2, seed=7)
    first = run_groups(simt, *data, LensConfig(), grid=2, seed=50)
    again = run_groups(simt, *data, LensConfig(), grid=grid, seed=seed, block=[256, 64][seed % 2])
    for name in ("advantage", "calibrated_reward", "confidence", "importance_difficulty", "difficulty", "group_kind"):
        np.testing.assert_array_equal(found := first[name], again[name])
        assert found.dtype == again[name].dtype


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [(0, np.nan, 9), (0, 0.5, 10), (1, -3, 7), (2, 1.5, 5), (2, np.nan, 5), (2, -0.1, 5), (3, np.inf, 6)],
)
@pytest.mark.parametrize("response", [0, 40, 149])
def test_bad_scalars_are_found(simt, field, value, code, response):
    data = random_groups([50, 1, 99])
    data[1][:] = 10
    data[0][:] = -1.0
    data[field][response] = value
    found = run_groups(simt, *data, LensConfig())
    assert (found["status"] >> 36 & 2**27 - 1, found["status"] >> 32 & 15) == (response, code)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("response", [0, 40, 149])
def test_bad_preferences_are_found(simt, value, response):
    data = random_groups([50, 1, 99])
    rho = random_preference(150)
    rho[[response, 149]] = value
    found = run_groups(simt, *data, LensConfig(), rho=rho)
    assert (found["status"] >> 36 & 2**27 - 1, found["status"] >> 32 & 15) == (response, 8)


def test_the_first_bad_scalar_of_many_is_reported(simt):
    data = random_groups([50, 1, 99])
    data[1][:] = 10
    data[0][:] = -1.0
    for response in (140, 60, 50, 49, 33):
        data[2][response] = 2.0
    found = run_groups(simt, *data, LensConfig(), seed=1)
    assert found["status"] == status_word(33, 5, 2.0)


# Groups that overlap would be written by two warps at once: harmless, as nothing of it is used, but a race.
@pytest.mark.parametrize("offsets", [[1, 10, 20], [0, 20, 10, 10], [0, 10, 21], [0, 10, 19], [0, -1, 20]])
def test_bad_group_offsets_are_found_and_nothing_is_read(simt, offsets):
    mean, lengths, correctness, rewards, _ = random_groups([20])
    found = run_groups(simt, mean, lengths, correctness, rewards, np.array(offsets), LensConfig())
    assert found["status"] >> 32 & 15 == 4
