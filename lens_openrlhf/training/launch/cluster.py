"""The Ray that a run uses: one of its own, which listens on localhost alone, or a cluster that is joined."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ... import cpu_runtime
from ...inputs import OptionError
from ...run_folder.log import REWARD_TIMEOUT_VARIABLE, RUN_DIR_VARIABLE
from ..commandline.gpus import gpus_needed, ray_cluster
from ..hooks import remote_code
from . import reaper

# How long a cluster's machines may take to join it.
CLUSTER_SECONDS, CLUSTER_POLL_SECONDS = 300, 1
ACCELERATOR = "accelerator_type:"  # what Ray calls the kind of a GPU that it has found, among a cluster's resources


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
    runtime_env: dict[str, Any] = {"env_vars": variables}
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
