"""The emulator finds each kind of fault it is there for, and none in sound kernels."""

from __future__ import annotations

import numpy as np
import pytest

BLOCK = 64
SEEDS = range(8)

# Sound kernels: (numbers before, constants, launch, numbers after).
ONES = [1.0] * BLOCK
COUNT = [float(i) for i in range(BLOCK)]
SOUND = {
    "scale": ([1.0] * 100, [3.0], {"grid": 2}, [3.0] * 100),
    "block_sum": ([0.0] * 5, COUNT, {"grid": 5, "initialised": False}, [sum(COUNT)] * 5),
    "warp_exchange": (ONES, [0.0], {"initialised": False}, [float(i ^ 1) + 1 for i in range(BLOCK)]),
    "atomic_total": ([0.0], [2.0], {"grid": 3}, [2.0 * 3 * BLOCK]),
    "dynamic_reverse": (ONES, COUNT, {"dynamic_shared": 4 * BLOCK, "grid": 1}, COUNT[::-1]),
    "vector_copy": ([0.0] * 4 * BLOCK, [float(i) for i in range(4 * BLOCK)], {}, [float(i) for i in range(4 * BLOCK)]),
}

# Faulty kernels: (numbers, constants, launch, kind of fault, what the message says).
NUMBERS = [0.0] * BLOCK
FAULTY = {
    "barrier_in_a_branch": (NUMBERS, [0.0], {}, "barrier", "__syncthreads"),
    "barrier_after_return": (NUMBERS, [0.0], {}, "barrier", "thread 3 does not reach: it has returned"),
    "shuffle_with_returned_lane": (NUMBERS, [0.0], {}, "shuffle", "lane 5, which has returned"),
    "shuffle_outside_its_mask": (NUMBERS, [0.0], {}, "shuffle", "lane 20, which is not in its mask"),
    "shuffle_mask_without_itself": (NUMBERS, [0.0], {}, "shuffle", "leaves its own lane out"),
    "shuffle_in_a_branch": (NUMBERS, [0.0], {}, "barrier", "it waits in a warp operation"),
    "misaligned_vector": (NUMBERS, [0.0] * (4 * BLOCK + 8), {}, "misaligned", "not aligned to 16"),
    "read_past_the_end": (NUMBERS, [0.0] * BLOCK, {"grid": 2}, "bounds", "constants (256 bytes)"),
    "write_past_the_end": (NUMBERS, [0.0], {}, "bounds", "writes 4 bytes at byte 256 of numbers"),
    "write_to_constants": (NUMBERS, [0.0] * BLOCK, {}, "bounds", "read-only"),
    "vector_across_the_end": (NUMBERS, [0.0] * (4 * BLOCK - 2), {}, "bounds", "beyond its end"),
    "read_unwritten": (NUMBERS, [0.0], {"initialised": False}, "uninitialised", "of numbers"),
    "read_unwritten_shared": (NUMBERS, [0.0], {}, "uninitialised", "shared memory"),
    "dynamic_beyond_what_was_asked": (NUMBERS, [0.0], {"dynamic_shared": 4 * BLOCK}, "bounds", "asked for"),
    "block_sum_without_barrier": ([0.0], COUNT, {}, "race", "shared memory"),
    "shuffle_as_if_it_ordered_memory": (NUMBERS, [0.0], {}, "", "shared memory"),
    "blocks_write_the_same": (NUMBERS, [0.0], {"grid": 2}, "race", "written by block"),
    "plain_total": ([0.0], [1.0], {}, "race", "of numbers"),
    "atomic_beside_plain": ([0.0], [1.0], {}, "race", "of numbers"),
    "plain_before_two_atomics": ([0.0], [1.0], {"grid": 2}, "race", "of numbers"),
    "endless": (NUMBERS, [0.0], {"max_accesses": 10_000}, "endless", "does not come to an end"),
}


def test_every_example_is_tried(simt):
    assert set(simt.example_names()) == set(SOUND) | set(FAULTY)


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("seed", SEEDS)
def test_sound_kernels_pass_under_every_schedule(simt, name, seed):
    numbers, constants, launch, expected = SOUND[name]
    found = simt.run_example(name, numbers, constants, block=BLOCK, seed=seed, **launch)
    np.testing.assert_array_equal(found, np.float32(expected))


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("seed", SEEDS)
def test_faults_are_found_under_every_schedule(simt, name, seed):
    numbers, constants, launch, kind, message = FAULTY[name]
    with pytest.raises(simt.Fault) as caught:
        simt.run_example(name, numbers, constants, block=BLOCK, seed=seed, **launch)
    # Some faults show in one of two ways, as the schedule has it.
    assert caught.value.kind == kind or not kind
    assert message in str(caught.value)
    assert f"{name}, block " in str(caught.value) and ", thread " in str(caught.value)


def test_a_seed_repeats_its_schedule(simt):
    def message(seed: int) -> str:
        with pytest.raises(simt.Fault) as caught:
            simt.run_example("plain_total", [0.0], [1.0], block=BLOCK, grid=4, seed=seed)
        return str(caught.value)

    assert message(5) == message(5)
    assert len({message(seed) for seed in range(8)}) > 1


def test_launches_that_no_device_accepts(simt):
    for launch in ({"block": 0}, {"block": 2048}, {"grid": 0}, {"dynamic_shared": 1 << 20}):
        with pytest.raises(ValueError, match="no device accepts"):
            simt.run_example("scale", [1.0], [1.0], **launch)
