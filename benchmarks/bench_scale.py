"""What a step costs beside the model as samples and ranks grow: measured where that runs here, simulated where not.

Measured: the controller (one process: OpenRLHF's handling of samples, Ray's transport, our tags and records), what a
rank does with its own samples, the advantages of all samples (every rank computes them), the all-gather with real gloo
ranks on this machine, and the verifiers. Simulated: the all-gather over a network, and a pool for each vLLM engine.

    make bench-scale [ARGS="--tokens 1000 --latency 10e-6 --bandwidth 25e9"]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lens_openrlhf import cpu_runtime
from lens_openrlhf.training.commandline import options
from lens_openrlhf.training.commandline.estimator import make_estimator

from .scaling import Network, fit_ring, pool_seconds, ring_all_gather

GROUP = 16
SAMPLES, RANKS = (100, 10_000, 1_000_000), (8, 64, 512, 4096)
ROW_BYTES = 6 * 8
SIZES_BYTES = 3 * 8  # that every rank gathers first
# Of the model's own work: 2 FLOPs a parameter and token for log-probabilities, 6 for the update, and the sampling.
FLOPS_A_PARAMETER = 10


def timed(action: Callable, *arguments: object) -> float:
    """Median seconds of three calls."""
    found = []
    for _ in range(3):
        start = time.perf_counter()
        action(*arguments)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def arguments() -> SimpleNamespace:
    """Of a run with groups of GROUP; nothing is loaded for it."""
    words = ["--actor.model_name_or_path", "m", "--data.prompt_dataset", "p", "--reward.remote_url", "r.py"]
    words += ["--vllm.num_engines", "1", "--actor.num_gpus_per_node", "1", "--rollout.micro_batch_size", "16"]
    return options.parse([*words, "--rollout.n_samples_per_prompt", str(GROUP), "--algo.advantage.estimator", "lens"])


def rollouts(count: int, tokens: int) -> list:
    """Samples as they come from vLLM, one answer each, with prompts of 100 tokens."""
    from openrlhf.trainer.ppo_utils.experience import Experience

    generator = torch.Generator().manual_seed(0)
    samples = []
    for i in range(count):
        length = int(torch.randint(tokens // 2, tokens + tokens // 2, (), generator=generator))
        total = 100 + length
        mask = torch.zeros(1, total - 1, dtype=torch.long)
        mask[:, 99:] = 1
        score = torch.tensor([float(i % 5 == 0)])
        samples.append(
            Experience(
                sequences=torch.randint(2, 90, (1, total), generator=generator),
                attention_mask=torch.ones(1, total, dtype=torch.long),
                action_mask=mask,
                action_log_probs=-torch.rand(1, total - 1, generator=generator) * mask,
                kl=torch.zeros(1, total - 1),
                rewards=score,
                scores=score,
                response_length=torch.tensor([length]),
                truncated=torch.tensor([False]),
                total_length=torch.tensor([float(total)]),
                prompts=[f"prompt {i // GROUP}"],
                labels=[""],
                images=[None],
                mm_train_inputs=[None],
                info={"reward": score, "score": score},
            )
        )
    return samples


def maker_of(args: SimpleNamespace, kind: type):
    """An experience maker whose models are not there: samples keep the log-probabilities they came with."""
    strategy, tokenizer = SimpleNamespace(args=args), SimpleNamespace(pad_token_id=0)
    maker = kind(None, None, None, None, SimpleNamespace(value=0.0), strategy, tokenizer)
    maker.make_experience = lambda experiences: experiences
    return maker


def controller_parts(args: SimpleNamespace, count: int, tokens: int) -> dict[str, float]:
    """Seconds of a step of `count` samples, by part."""
    import ray
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    from lens_openrlhf.training.hooks.experience import LensExperienceMaker
    from lens_openrlhf.training.hooks.samples import write_samples

    samples = rollouts(count, tokens)
    there = ray.put(samples)

    def make(kind: type) -> list:
        return maker_of(args, kind).make_experience_batch(ray.get(there))

    experiences = make(LensExperienceMaker)
    plain, tagged, arrive = timed(make, RemoteExperienceMaker), timed(make, LensExperienceMaker), timed(ray.get, there)
    # What goes out and comes back: token ids and masks to be scored, log-probabilities, and the experiences.
    to_score = [(e.sequences, e.action_mask, e.attention_mask) for e in experiences]
    scored = ray.put([e.action_log_probs for e in experiences])
    sent = timed(ray.put, to_score) + timed(ray.get, scored) + timed(ray.put, experiences)
    numbers = {name: [0.5] * count for name in ("reward", "confidence", "advantage")}
    columns = numbers | {"index": list(range(count)), "kind": ["mixed"] * count}
    with tempfile.TemporaryDirectory() as folder:
        kept = timed(write_samples, folder, 1, samples, columns, None, GROUP, 0)
    return {
        "Ray's transport": arrive + sent,
        "OpenRLHF's batches and advantages": plain - arrive,
        "our tags": tagged - plain,
        "our samples/": kept,
    }


def measure_controller(args: SimpleNamespace, counts: Iterable[int], tokens: int) -> dict[str, float]:
    """Microseconds a sample of the last count, by part."""
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it would tell of a later version
    ray.init(num_cpus=1, include_dashboard=False, logging_level="error", object_store_memory=4 * 2**30)
    found: dict[str, float] = {}
    try:
        for count in counts:
            parts = controller_parts(args, count, tokens)
            found = {name: seconds / count * 1e6 for name, seconds in parts.items()}
            print(f"  {count:>9,} samples: " + ", ".join(f"{name} {v:.0f}" for name, v in found.items()), flush=True)
    finally:
        ray.shutdown()
    return found


def measure_rank(args: SimpleNamespace, count: int, tokens: int) -> dict[str, float]:
    """Microseconds a sample of a rank's own: its row, and setting its advantages."""
    from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer

    from lens_openrlhf.training.hooks.advantages import set_advantages
    from lens_openrlhf.training.hooks.columns import needs_of, pack
    from lens_openrlhf.training.hooks.experience import LensExperienceMaker

    buffer = NaiveReplayBuffer(sample_batch_size=4)
    for experience in maker_of(args, LensExperienceMaker).make_experience_batch(rollouts(count, tokens)):
        buffer.append(experience)
    needs, values = needs_of(make_estimator(args)), torch.zeros(count, dtype=torch.float64)
    tags = [dict(item.info) for item in buffer.items]

    def set_all() -> None:
        for item, info in zip(buffer.items, tags, strict=True):
            item.info = info  # setting takes the tags away
        set_advantages(buffer.items, values, per_token=False)

    packing = timed(pack, buffer.items, needs, "cpu")
    return {"a sample's row": packing / count * 1e6, "setting its advantages": timed(set_all) / count * 1e6}


def gathered_rows(count: int, rank: int):
    """What a rank holds after the gather of `count` samples."""
    from lens_openrlhf.advantages.across_ranks import Gathered
    from lens_openrlhf.training.hooks.columns import REAL, WHOLE

    generator = torch.Generator().manual_seed(1)
    position = torch.randperm(count, generator=generator)
    right = (torch.rand(count, generator=generator) < 0.2).double()
    logprob, length = -torch.rand(count, generator=generator).double(), torch.full((count,), 1000)
    values = (position, position // GROUP, length, logprob, right, right)
    counts = [0] * rank + [count]
    return Gathered(dict(zip((*WHOLE, *REAL), values, strict=True)), {}, counts, [0] * len(counts), rank)


def measure_advantages(args: SimpleNamespace) -> dict[int, tuple[float, float]]:
    """Seconds for all samples, by their number: on every rank, and what rank 0 has to do besides for samples/."""
    from lens_openrlhf.training.hooks.advantages import compute
    from lens_openrlhf.training.hooks.columns import needs_of

    estimator, found = make_estimator(args), {}
    for count in SAMPLES:
        seconds = []
        for rank in (1, 0):
            gathered = gathered_rows(count - count % GROUP, rank)
            seconds.append(timed(compute, gathered, estimator, needs_of(estimator), GROUP, 1, (-10, 10)))
        found[count] = seconds[0], max(0.0, seconds[1] - seconds[0])
    return found


def _gather_in_rank(rank: int, world: int, store: str, counts: list[int], found) -> None:
    from lens_openrlhf.advantages.across_ranks import gather

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(minutes=5)
    )
    for count in counts:
        rows = max(1, count // world)
        columns = {str(i): torch.rand(rows, dtype=torch.float64) for i in range(ROW_BYTES // 8)}
        seconds = []
        for _ in range(5):
            dist.barrier()
            start = time.perf_counter()
            gather(columns, {}, None, dist.group.WORLD)
            seconds.append(time.perf_counter() - start)
        slowest = torch.tensor(statistics.median(seconds), dtype=torch.float64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        if rank == 0:
            found.append((world, rows, float(slowest)))
    dist.destroy_process_group()


def measure_gather(ranks: Iterable[int], counts: list[int]) -> list[tuple[int, int, float]]:
    """(ranks, rows of a rank, seconds of the slowest rank) with as many processes on this machine."""
    import lens_openrlhf.advantages.across_ranks  # noqa: F401  # once, before the ranks are forked

    results = []
    context = mp.get_context("fork")
    for world in ranks:
        with tempfile.TemporaryDirectory() as folder, context.Manager() as manager:
            found = manager.list()
            arguments = (world, str(Path(folder) / "store"), counts, found)
            mp.start_processes(_gather_in_rank, args=arguments, nprocs=world, start_method="fork")
            results += list(found)
    return results


ANSWERS = [
    (r"so the result is \boxed{%d}", "%d"),
    (r"\boxed{\frac{%d}{7}}", r"\frac{%d}{7}"),
    (r"\boxed{x^2 + %dx - 4}", "(x + %d)^2"),
    (r"\boxed{\sqrt{%d}}", "%d^{1/2}"),
    (r"\boxed{(%d, 3)}", "(%d, 3)"),
    (r"\boxed{\{1, 2, %d\}}", r"\{%d, 2, 1\}"),
]


def measure_verifiers(count: int) -> tuple[np.ndarray, float, int]:
    """Seconds of single checks one after another, answers a second with the pool as it is, and its workers."""
    from lens_openrlhf.rewards import pool, verify_answer

    checks = [(ANSWERS[i % len(ANSWERS)][0] % i, ANSWERS[i % len(ANSWERS)][1] % i) for i in range(count)]
    for response, label in checks[:8]:
        verify_answer(response, label)  # the workers start
    services = []
    for response, label in checks:
        start = time.perf_counter()
        verify_answer(response, label)
        services.append(time.perf_counter() - start)
    start = time.perf_counter()
    with ThreadPoolExecutor(64) as threads:
        list(threads.map(lambda check: verify_answer(*check), checks))
    throughput = count / (time.perf_counter() - start)
    workers = pool.Settings.from_env().workers
    pool.shutdown()
    return np.array(services), throughput, workers


def scale_table(
    controller: float,
    of_rank: float,
    advantages: dict[int, tuple[float, float]],
    services: np.ndarray,
    settings: argparse.Namespace,
) -> list[str]:
    """Seconds of a step by part, for every number of samples and ranks."""
    network = Network(settings.latency, settings.bandwidth, settings.jitter)
    parts = ("controller", "verifiers", "own rows", "gather", "with tokens", "advantages", "samples/", "the model")
    lines = [f"{'samples':>9} {'ranks':>6} " + "".join(f"{part:>13}" for part in parts) + "  most beside the model"]
    for samples in SAMPLES:
        for ranks in RANKS:
            if samples < ranks:
                continue
            rng = np.random.default_rng(0)
            share = -(-samples // ranks)
            engines = min(ranks, 32)  # the slowest of so many stands for all
            checked = max(pool_seconds(rng.choice(services, share), settings.workers) for _ in range(engines))
            sizes = ring_all_gather(ranks, SIZES_BYTES, network, rng)
            rows = ring_all_gather(ranks, share * ROW_BYTES, network, rng)
            tokens = ring_all_gather(ranks, share * settings.tokens * 4, network, rng)
            flops = samples * settings.tokens * settings.parameters * FLOPS_A_PARAMETER
            own, columns = advantages[samples]
            seconds = dict(
                zip(
                    parts,
                    (
                        samples * controller * 1e-6,
                        checked,
                        share * of_rank * 1e-6,
                        sizes + rows,
                        sizes + rows + tokens,
                        own,
                        columns,
                        flops / ranks / settings.flops,
                    ),
                    strict=True,
                )
            )
            worst = max((part for part in parts if part != "the model"), key=seconds.__getitem__)
            lines.append(
                f"{samples:>9,} {ranks:>6,} "
                + "".join(f"{_seconds(seconds[part]):>13}" for part in parts)
                + f"  {worst}"
            )
    return lines


def _seconds(value: float) -> str:
    for limit, unit, factor in ((1e-3, "µs", 1e6), (1.0, "ms", 1e3)):
        if value < limit:
            return f"{value * factor:.0f} {unit}"
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tokens", type=int, default=1000, help="mean tokens of an answer (default: 1000)")
    add("--controller_samples", type=int, nargs="+", default=[128, 1024, 4096], help="default: 128 1024 4096")
    add("--gloo_ranks", type=int, nargs="+", default=[2, 4, 8, 16, 32], help="default: 2 4 8 16 32")
    add("--gloo_samples", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="default: 1000 10000 100000")
    add("--checks", type=int, default=600, help="answers to verify (default: 600)")
    add("--workers", type=int, default=8, help="verifiers of an engine in the simulation (default: 8)")
    add("--latency", type=float, default=10e-6, help="assumed, seconds of a hop between ranks (default: 10e-6)")
    add("--jitter", type=float, default=5e-6, help="assumed, mean delay of a hop besides (default: 5e-6)")
    add("--bandwidth", type=float, default=25e9, help="assumed, bytes a second between ranks (default: 25e9)")
    add("--parameters", type=float, default=8e9, help="of the model that the rest is compared with (default: 8e9)")
    add("--flops", type=float, default=4e14, help="assumed, FLOPs a second that a GPU reaches (default: 4e14)")
    settings = parser.parse_args()
    if cpu_runtime.required():
        cpu_runtime.install()
    args, cores = arguments(), len(os.sched_getaffinity(0))
    print(f"{cores} cores, torch {torch.__version__}, {settings.tokens} tokens an answer, groups of {GROUP}\n")

    # First, as the ranks are forked, which processes with many threads should not be.
    print("all-gather of the samples' rows, gloo, all ranks on this machine", flush=True)
    gathered = measure_gather(settings.gloo_ranks, settings.gloo_samples)
    for world, rows, seconds in gathered:
        print(f"  {world:>3} ranks, {rows:>7,} rows each: {_seconds(seconds)}")
    fitted, error = fit_ring([(world, rows * ROW_BYTES, seconds) for world, rows, seconds in gathered], cores)
    print(
        f"  as a ring of hops that share {cores} cores: {fitted.latency * 1e6:.0f} µs a hop, "
        f"{fitted.bandwidth / 1e9:.2f} GB/s, median error {error:.0%}\n"
    )

    print("controller, µs a sample", flush=True)
    controller = measure_controller(args, settings.controller_samples, settings.tokens)
    of_rank = measure_rank(args, 512, settings.tokens)
    print("\na rank's own samples, µs a sample: " + ", ".join(f"{name} {v:.0f}" for name, v in of_rank.items()))
    advantages = measure_advantages(args)
    print("\nadvantages of all samples, on every rank (and on rank 0 besides, for samples/)")
    for count, (every, first) in advantages.items():
        print(f"  {count:>9,} samples: {_seconds(every)} ({_seconds(first)})")
    services, throughput, workers = measure_verifiers(settings.checks)
    print(
        f"\nverifiers: {np.median(services) * 1e3:.1f} ms a check through the pool (median; 99%: "
        f"{np.quantile(services, 0.99) * 1e3:.1f}, most {services.max() * 1e3:.1f}), {throughput:.0f} a second with "
        f"{workers} worker(s) here"
    )
    print(
        f"\na step by part; assumed: a hop of {settings.latency * 1e6:g} + {settings.jitter * 1e6:g} µs, "
        f"{settings.bandwidth / 1e9:g} GB/s, {settings.parameters / 1e9:g}B parameters at {settings.flops:.0e} FLOP/s"
    )
    table = scale_table(sum(controller.values()), sum(of_rank.values()), advantages, services, settings)
    print("\n".join(table))


if __name__ == "__main__":
    main()
