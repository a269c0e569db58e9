"""The stages of gpu_check.py: a module each with `run(device, rows)`, in the order of what they prove."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Stage(NamedTuple):
    name: str  # its module's, too
    seconds: float  # time limit
    proves: str


STAGES = (
    Stage("build", 180, "the extension compiles here, for this card"),
    Stage("load", 60, "both libraries load, the operators are registered and give a result worked by hand"),
    Stage("bits", 75, "results have the CPU's bits, whatever the lengths, types, shifts and strides"),
    Stage("faults", 45, "bad data gets the CPU's status and message, nothing outside is read, the device stays usable"),
    Stage("suite", 90, "tests/gpu passes"),
    Stage("bandwidth", 90, "how fast the segmented mean is, beside the card's copy and what else computes the same"),
    Stage("latency", 30, "what a call costs, by its parts, and that a raw call does not wait for the device"),
    Stage("counters", 75, "what the kernels wait for, by the profiler's counters"),
    Stage("streams", 30, "four streams at once give the same bits, and memory comes back"),
    Stage("estimators", 30, "every estimator gives the CPU's advantages, and the same ones twice"),
    Stage("hook", 45, "the actor's gather and hook, on a model's log-probabilities, give the CPU's advantages"),
    Stage("compiled", 75, "opcheck, torch.compile and autocast"),
    Stage("sanitizer", 150, "compute-sanitizer's four tools find nothing"),
    Stage("trl_trainer", 60, "LensGRPOTrainer takes real steps"),
    Stage("ppo_actor", 150, "OpenRLHF's PPO actor with LENS takes a real step"),
)
