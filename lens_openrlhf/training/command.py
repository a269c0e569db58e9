"""Puts the training run together: options, checks, run folder, Ray, OpenRLHF's own `train`, summary."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from .. import cpu_runtime
from ..inputs import OptionError
from ..process import (
    Held,
    complain,
    ended,
    explain,
    git_commit,
    holding,
    interrupt_once,
    log_traceback,
    output_to,
    versions,
    write_atomically,
)
from ..run_folder.log import REWARD_TIMEOUT_VARIABLE, RUN_DIR_VARIABLE
from .checkpoints import checkpoints
from .commandline import dry_run, options, profiles, records
from .commandline.estimator import make_estimator
from .commandline.gpus import gpus_needed, ray_cluster
from .commandline.preflight import check_surroundings
from .hooks import remote_code
from .launch import reaper
from .launch.console import Console
from .launch.summary import summary_table

# Set by the deepspeed launcher and torchrun; Ray's actors set their own.
LAUNCHER_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
)
# How long a cluster's machines may take to join it.
CLUSTER_SECONDS, CLUSTER_POLL_SECONDS = 300, 1
ACCELERATOR = "accelerator_type:"  # what Ray calls the kind of a GPU that it has found, among a cluster's resources


def drives() -> bool:
    """Whether this process drives the run: a launcher starts one process a GPU, and Ray needs one in all."""
    name = "RANK" if "RANK" in os.environ else "LOCAL_RANK"
    try:
        return int(os.environ.get(name, "0")) == 0
    except ValueError:
        raise OptionError(f"{name}={os.environ[name]!r}: is no rank, which launchers set; unset it") from None


def install_hooks(args: SimpleNamespace) -> None:
    """Exchange the classes that OpenRLHF's `train` builds the run from, in this process."""
    import openrlhf.cli.train_ppo_ray as command
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import openrlhf.trainer.ray.vllm_engine as vllm_engine

    from .hooks.actor import LensPolicyModelActor
    from .hooks.rollout import LensRolloutActor, LensRolloutActorWithLogprobs
    from .hooks.trainer import LensPPOTrainer, LensPPOTrainerAsync

    estimator = make_estimator(args)
    from_rollout = getattr(estimator and estimator.config, "confidence_from", "actor") == "rollout"
    command.PolicyModelActor = LensPolicyModelActor
    vllm_engine.RolloutRayActor = LensRolloutActorWithLogprobs if from_rollout else LensRolloutActor
    ppo_trainer.PPOTrainer = LensPPOTrainer
    ppo_trainer_async.PPOTrainerAsync = LensPPOTrainerAsync


def stay_on_localhost() -> dict[str, str]:
    """Have a cluster that is about to be started listen on 127.0.0.1 alone: whoever reaches Ray's ports can run code.

    Ray does so where it takes the machine for a laptop, and has this switch for it (`_node_ip_address="127.0.0.1"` it
    replaces by the machine's address). Returns what the cluster's processes need beside it.
    """
    from ray._private import ray_constants

    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for Ray's processes, which are started from this one
    ray_constants.ENABLE_RAY_CLUSTER = False  # it was read when Ray was imported
    # vLLM and gloo would take the address of a network card.
    return {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}


def start_ray(args: SimpleNamespace, log_to_driver: bool = True) -> None:
    """Start a Ray of the run's own, which listens on localhost, or join the cluster at RAY_ADDRESS. Without CUDA its
    own has one logical GPU for each process that asks.

    Raises:
        OptionError: a cluster that has too few GPUs.
    """
    import ray

    cluster = ray_cluster()

    # OpenRLHF's own settings, which its `train` makes only where Ray is not running yet.
    variables = {
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "true"),
        "NCCL_DEBUG": os.environ.get("NCCL_DEBUG", "WARN"),
        "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": os.environ.get("RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "1"),
    }
    variables[RUN_DIR_VARIABLE] = args.logger.run_dir
    if reaper.MARK in os.environ:
        # For workers of a cluster that is joined.
        variables |= {name: os.environ[name] for name in (reaper.MARK, reaper.KEEP_ENVIRONMENT)}
    variables[REWARD_TIMEOUT_VARIABLE] = str(args.reward.timeout)
    if not args.model.allow_remote_code:
        variables |= remote_code.forbid()
    resources = {}
    if not cluster:
        variables |= {name: os.environ.get(name, value) for name, value in stay_on_localhost().items()}
        # Ray would keep a record of the last 100,000 calls, a quarter of a GiB, for a dashboard that there is none of.
        os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    runtime_env = {"env_vars": variables}
    # A job may have been submitted with some of these; they are in our environment and so above already.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    if cpu_runtime.required():
        ranks = args.actor.num_nodes * args.actor.num_gpus_per_node
        variables |= {
            "DS_ACCELERATOR": "cpu",
            # Ray would give every actor one thread.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks))),
        } | {name: os.environ.get(name, value) for name, value in cpu_runtime.VLLM_VARIABLES.items()}
        runtime_env["worker_process_setup_hook"] = cpu_runtime.install
        # The deepspeed launcher names a device even here, and Ray would take it for a limit.
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if not cluster:  # which brings its own
            logical = gpus_needed(args)
            # A CPU for each of them, and for the trainers and queues.
            resources = {"num_gpus": logical, "num_cpus": max(os.cpu_count() or 1, logical + 4)}
    ray.init(
        cluster or "local",
        runtime_env=runtime_env,
        include_dashboard=False,
        log_to_driver=log_to_driver,
        **resources,
    )
    if cluster:
        _check_driver(ray.cluster_resources(), cluster)
        _wait_for_gpus(gpus_needed(args), cluster)


def _check_driver(resources: Mapping[str, float], cluster: str) -> None:
    """Raises OptionError where the driver would treat the GPUs of a cluster as if there were none."""
    kinds = [name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)]
    if kinds and cpu_runtime.required():
        raise OptionError(
            f"the Ray cluster at {cluster} has GPUs ({', '.join(kinds)}), and this machine has none: start the command "
            "on one of the cluster's that has (`ray job submit` does so where the head has)"
        )


def _wait_for_gpus(needed: int, cluster: str) -> None:
    """The machines of a cluster may still be joining; without an end Ray would wait for ever.

    Raises:
        OptionError: after CLUSTER_SECONDS.
    """
    import ray

    deadline = time.monotonic() + CLUSTER_SECONDS
    while (there := int(ray.cluster_resources().get("GPU", 0))) < needed:
        if time.monotonic() > deadline:
            raise OptionError(
                f"the options ask for {needed} GPUs and the Ray cluster at {cluster} has {there}: start Ray on more "
                "machines (`ray status` lists them), or ask for fewer"
            )
        time.sleep(CLUSTER_POLL_SECONDS)


def write_config(args: SimpleNamespace, argv: Sequence[str], resume: checkpoints.Resume | None = None) -> None:
    """config.json: what the user chose, every option, what it runs on, and when the run went on from a checkpoint."""
    folder = Path(args.logger.run_dir)
    record = {
        "command": records.without_secrets(argv, args),
        "options": records.chosen(args),
        "versions": versions(),
        "git_commit": git_commit(),
        "resumed": checkpoints.history(folder, resume),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", json.dumps(record, indent=2, default=str) + "\n")


def stop_everything(but: int | None = None) -> None:
    """Shut Ray down and end what it left of our own processes (vLLM's engine cores outlive a killed actor).

    `but` is the process id of a child that stays.
    """
    import psutil
    import ray

    ours = [child for child in psutil.Process().children(recursive=True) if child.pid != but]
    if ray.is_initialized():
        ray.shutdown()
    _, alive = psutil.wait_procs(ours, timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def run(args: SimpleNamespace) -> None:
    """Train, in a process where OpenRLHF can run."""
    if cpu_runtime.required():
        cpu_runtime.install()
    import openrlhf.cli.train_ppo_ray as command

    install_hooks(args)
    start_ray(args)
    # ray.init puts a handler of its own on SIGTERM.
    interrupt_once()
    command.train(args)


def _hold(args: SimpleNamespace, stack: contextlib.ExitStack) -> None:
    """Keep other runs out of the folders that this one writes.

    Raises:
        OptionError: another one is there.
    """
    run, checkpoints_folder = Path(args.logger.run_dir), Path(args.ckpt.path)
    places = {"--logger.run_dir": run}
    if (args.ckpt.save_steps > 0 or args.ckpt.load_enable) and run not in checkpoints_folder.parents:
        places["--ckpt.path"] = checkpoints_folder
    for option, folder in places.items():
        try:
            stack.enter_context(holding(folder))
        except Held as held:
            raise OptionError(f"{option} {folder}: {held} trains there; wait for it, or name another folder") from None


def _prepare(argv: Sequence[str], stack: contextlib.ExitStack, make: Callable[[], None] | None) -> SimpleNamespace:
    """The checked arguments of a run whose folder is ready for it.

    Raises:
        OptionError: what cannot work, before anything expensive.
    """
    chosen: list[str] = []
    args = options.parse(argv, say=chosen.append)
    if make:
        make()
    for warning in check_surroundings(args):
        complain(f"warning: {warning}")
    plan = dry_run.announcement(args)
    _hold(args, stack)
    resume = checkpoints.check(args, records.chosen(args))
    write_config(args, argv, resume)
    for line in [*chosen, *plan, *checkpoints.go_on(args, resume)]:
        print(line, flush=True)
    if args.train.enable_ema and args.ckpt.save_steps > 0:
        complain(
            "warning: --train.enable_ema: OpenRLHF's checkpoints do not hold the averaged weights; a run that goes on "
            "from one has to do without"
        )
    return args


def _train(args: SimpleNamespace, started: float) -> int:
    """Train with the output in the run folder's train.log and a line a step here; returns the exit status."""
    folder = Path(args.logger.run_dir)
    full = args.logger.console == "full"
    redirect = contextlib.nullcontext(sys.stdout) if full else output_to(folder / "train.log")
    problem, status = None, 0
    with redirect as terminal:
        watcher = reaper.start()
        console = Console(folder, terminal, quiet=full)
        try:
            with console:
                run(args)
        except KeyboardInterrupt:
            problem, status = "interrupted", 130
        except Exception as error:
            log_traceback()
            problem, status = explain(error), 1
        finally:
            stop_everything(but=watcher.pid)
            watcher.stdin.close()
    if problem:
        complain(f"error: {problem}" if status == 1 else problem)
        complain(f"what was written is in {folder}; the full log is {folder / 'train.log'}")
        return status
    print(summary_table(folder, time.monotonic() - started, shutil.get_terminal_size().columns))
    return 0


def _main(argv: Sequence[str], make: Callable[[], None] | None) -> int:
    if not drives():
        return 0
    for name in LAUNCHER_VARIABLES:
        os.environ.pop(name, None)
    interrupt_once()
    if profiles.DRY_RUN in argv:
        print(dry_run.main(argv))
        return 0
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        return _train(_prepare(argv, stack, make), started)


def main(argv: Sequence[str] | None = None, make: Callable[[], None] | None = None) -> int:
    """The training command. Returns the process's exit status; every failure ends in one line that says why.

    `make` makes what a profile's options name, once they have been checked.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    return ended(lambda: _main(argv, make), OptionError, "interrupted before the run began")


if __name__ == "__main__":
    sys.exit(main())
