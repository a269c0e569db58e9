"""A long run, and what it leaves growing: memory and open files of every process, and the time of a step.

Small batches of the tiny profile, so that thousands of steps take less than an hour on a laptop.

    make soak [ARGS="--steps 2000 --out runs/soak"]
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from lens_openrlhf.demo import prepare
from lens_openrlhf.process import cache_folder
from lens_openrlhf.run_folder.log import EVENTS, METRICS, Follower, read

PROMPTS, SAMPLES = 8, 4
SECONDS = 10.0
SMALL = 100  # MiB; what is smaller is drawn together
WARM_UP = 0.2  # of the run; allocators and caches fill first
TABLE = "processes.csv"


def command(out: Path, steps: int) -> list[str]:
    """A run of `steps` steps with a checkpoint every hundred."""
    demo = prepare(cache_folder() / "demo")
    episode = 64  # steps
    options = {
        "--logger.run_dir": out / "run",
        "--actor.model_name_or_path": demo.model,
        "--data.prompt_dataset": demo.train,
        "--data.input_key": "prompt",
        "--data.label_key": "label",
        "--data.max_len": 96,
        "--data.max_samples": PROMPTS * episode,
        "--train.num_episodes": -(-steps // episode),
        "--reward.remote_url": "math-verify",
        "--algo.advantage.estimator": "lens",
        "--rollout.batch_size": PROMPTS,
        "--rollout.n_samples_per_prompt": SAMPLES,
        "--rollout.max_new_tokens": 40,
        "--rollout.micro_batch_size": PROMPTS * SAMPLES,
        "--train.batch_size": PROMPTS * SAMPLES,
        "--train.micro_batch_size": PROMPTS * SAMPLES,
        "--actor.adam.lr": "1e-6",
        "--actor.num_gpus_per_node": 1,
        "--vllm.num_engines": 1,
        "--ckpt.save_steps": 100,
        "--ckpt.max_num": 2,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "lens_openrlhf.cli", "train", *words]


def name_of(process: psutil.Process) -> str:
    """What a process does; Ray and vLLM name theirs, and of others Python's module or script is told."""
    name, words = process.name(), process.cmdline()
    if not name.startswith("python"):
        return name
    if any("multiprocessing" in word for word in words):
        return "workers of multiprocessing"
    told = [word for word in words[1:] if not word.startswith("-")]
    return told[0].rpartition("/")[2].removesuffix(".py").rpartition(".")[2] if told else name


def sample(driver: psutil.Process, names: dict[int, str]) -> Iterator[tuple[str, float, int]]:
    """(name, MiB that are its own, open files) of all processes of a name together, and of the shared memory."""
    sums: dict[str, list] = {}
    for process in [driver, *driver.children(recursive=True)]:
        try:
            name = names.get(process.pid) or name_of(process)
            facts = process.memory_full_info().uss / 2**20, process.num_fds()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        sums[name] = [a + b for a, b in zip(sums.get(name, (0, 0)), facts, strict=True)]
    for name, (mib, files) in sums.items():
        yield name, mib, files
    shared = Path("/dev/shm")  # Ray's objects and gloo's: nobody's own
    if shared.is_dir():
        yield "shared memory", psutil.disk_usage(str(shared)).used / 2**20, len(list(shared.iterdir()))


def watch(out: Path, steps: int) -> int:
    """Run, and write a line a process every few seconds. Returns the run's exit status."""
    out.mkdir(parents=True, exist_ok=True)
    began, step, metrics = time.monotonic(), 0, Follower(out / "run" / METRICS)
    with open(out / TABLE, "w", newline="", buffering=1) as file:
        table = csv.writer(file)
        table.writerow(["seconds", "step", "process", "mib", "files"])
        with subprocess.Popen(command(out, steps)) as run:
            driver = psutil.Process(run.pid)
            while run.poll() is None:
                ready = [event for event in read(out / "run" / EVENTS) if event["event"] == "ready"]
                names = {run.pid: "driver"} | {event["pid"]: event["where"] for event in ready}
                step += len(metrics.new())
                now = round(time.monotonic() - began, 1)
                for row in sample(driver, names):
                    table.writerow([now, step, *row])
                time.sleep(SECONDS)
    return run.returncode


def report(out: Path) -> None:
    """What grew after the warm-up, a plot of it, and the time of a step by quarters, all of it told and not judged."""
    import pandas as pd
    import plotly.express as px

    rows = pd.read_csv(out / TABLE)
    steps = read(out / "run" / METRICS)
    settled = rows[rows["step"] > WARM_UP * len(steps)]
    edges = [f"{sign} {what}" for what in ("MiB", "files") for sign in ("first", "middle", "last")]
    print(f"{f'medians of tenths after step {WARM_UP * len(steps):.0f}':<34}", *(f"{edge:>12}" for edge in edges))
    for name, of in settled.groupby("process"):
        edge = max(1, len(of) // 10)
        parts = (of.head(edge), of.iloc[(len(of) - edge) // 2 :].head(edge), of.tail(edge))
        print(f"{name:<34}", *(f"{part[what].median():>12.0f}" for what in ("mib", "files") for part in parts))
    seconds = [record["timing/step_total"] for record in steps]
    quarter = max(1, len(seconds) // 4)
    shown = ", ".join(f"{statistics.median(seconds[i * quarter : (i + 1) * quarter]):.2f}" for i in range(4))
    print(f"{len(seconds)} steps; median seconds a step by quarters: {shown}")
    small = rows.groupby("process")["mib"].transform("median") < SMALL
    rows["process"] = rows["process"].mask(small, "all others together")
    drawn = rows[rows["step"] > 0].groupby(["step", "seconds", "process"], as_index=False)["mib"].sum()
    by_size = drawn.groupby("process")["mib"].median().sort_values(ascending=False).index.tolist()
    px.line(
        drawn,
        x="step",
        y="mib",
        color="process",
        category_orders={"process": by_size},
        labels={"mib": "MiB of its own"},
        range_y=[0, 1.1 * drawn["mib"].max()],
    ).write_html(out / "soak.html")
    print(f"plot: {out / 'soak.html'}; numbers: {out / TABLE}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    arguments = parser.parse_args()
    status = watch(arguments.out, arguments.steps)
    report(arguments.out)
    return status


if __name__ == "__main__":
    sys.exit(main())
