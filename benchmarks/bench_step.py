"""What LENS costs in a training step: the tiny profile with plain GRPO and with LENS's operator, in turn.

`--algo.lens.scope none` computes GRPO's own advantages with LENS's operator and gather, so that both arms train alike
and only the way there differs. Shown are the run's own metric, `lens/seconds`, and the difference of the medians of
whole steps, which also holds whatever the metric does not see.

    make bench-step [ARGS="--rounds 3 --steps 10"]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lens_openrlhf.advantages import lens_advantages
from lens_openrlhf.run_folder.log import METRICS, read
from lens_openrlhf.training.commandline import profiles

ARMS = {
    "OpenRLHF's group_norm": ["--algo.advantage.estimator", "group_norm", "--algo.kl.init_coef", "0"],
    "lens, scope none": ["--algo.advantage.estimator", "lens", "--algo.lens.scope", "none"],
}
PAPER = (2048, 4096)  # responses and tokens of a step with the longest answers
H100_BYTES_PER_S = 3.35e12


def profile_options(steps: int) -> list[str]:
    """The tiny profile without its evaluations and estimator, for `steps` steps."""
    words = profiles.expand(["--profile", "tiny", "--logger.run_dir", "unused"])
    profiles.make(words)
    options, skip = [], False
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            skip = word.startswith(("--eval.", "--algo.", "--logger.run_dir", "--data.max_samples"))
            flag = following.startswith("--")
            if skip and flag:
                continue
        if not skip:
            options.append(word)
    batch = int(options[options.index("--rollout.batch_size") + 1])
    return [*options, "--data.max_samples", str(batch * steps)]


def train(options: list[str], arm: list[str], folder: Path, seed: int) -> list[dict]:
    """The steps' metrics of one run; the first step, which warms everything up, is left out."""
    command = [sys.executable, "-m", "lens_openrlhf.cli", "train", *options, *arm]
    command += ["--logger.run_dir", str(folder), "--train.seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"a run failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return read(folder / METRICS)[1:]


def paper_seconds() -> float:
    """The operator on a step of the paper's size, here."""
    responses, tokens = PAPER
    logprobs = -torch.rand(responses * tokens)
    cu_seqlens = torch.arange(0, responses * tokens + 1, tokens)
    correctness = (torch.rand(responses) < 0.3).double()
    cu_groups = torch.arange(0, responses + 1, 16)
    mask = torch.ones(len(logprobs), dtype=torch.bool)  # as training passes one
    times = []
    for _ in range(12):
        start = time.perf_counter()
        lens_advantages(logprobs, cu_seqlens, correctness, cu_groups, rewards=correctness, mask=mask)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each arm, in turn (default: 2)")
    parser.add_argument("--steps", type=int, default=8, help="steps a run, the first not counted (default: 8)")
    settings = parser.parse_args()
    if settings.rounds < 1 or settings.steps < 2:
        parser.error("--rounds must be at least 1 and --steps at least 2")
    options = profile_options(settings.steps)
    steps: dict[str, list[dict]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(settings.rounds):
            # In turn, so that neither always has the warmer machine.
            for name in list(ARMS)[:: 1 if turn % 2 == 0 else -1]:
                folder = Path(scratch) / f"{turn}-{list(ARMS).index(name)}"
                found = train(options, ARMS[name], folder, seed=42 + turn)
                steps[name] += found
                seconds = statistics.median(s["timing/step_total"] for s in found)
                print(f"round {turn + 1}: {name:<24} median step {seconds:.2f} s", flush=True)

    plain, lens = (statistics.median(s["timing/step_total"] for s in steps[name]) for name in ARMS)
    own = statistics.median(s["lens/seconds"] for s in steps["lens, scope none"])
    spread = statistics.stdev(s["timing/step_total"] for s in steps["OpenRLHF's group_norm"])
    print(
        f"\nmedian step: {plain:.3f} s plain, {lens:.3f} s with LENS's operator "
        f"(standard deviation of a step {spread:.2f} s)"
    )
    print(f"difference of the medians: {lens - plain:+.3f} s, {(lens - plain) / plain:+.2%} of a step")
    print(f"lens/seconds, gather included: {own * 1e3:.1f} ms, {own / lens:.2%} of a step")
    responses, tokens = PAPER
    here, floor = paper_seconds(), responses * tokens * 5 / H100_BYTES_PER_S
    print(
        f"a step of {responses} x {tokens} tokens in fp32, with a mask: {here * 1e3:.1f} ms on this CPU (measured), "
        f"at least {floor * 1e6:.0f} µs on an H100 (its memory's floor, not measured)"
    )


if __name__ == "__main__":
    main()
