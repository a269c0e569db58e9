"""How a run's Ray is started or joined, and how all that a run started is ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from lens_openrlhf import cpu_runtime
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training.hooks import remote_code
from lens_openrlhf.training.launch import cluster, reaper

READ = (
    *("TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "OMP_NUM_THREADS", "RAY_ADDRESS"),
    *("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"),
    *("RAY_OVERRIDE_JOB_RUNTIME_ENV", "RAY_task_events_report_interval_ms", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"),
    *(reaper.MARK, reaper.KEEP_ENVIRONMENT),
)
OPENRLHFS = {"TOKENIZERS_PARALLELISM": "true", "NCCL_DEBUG": "WARN", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}
OURS = {"LENS_RUN_DIR": "/runs/a", "LENS_REWARD_TIMEOUT": "2.5"}
NO_CODE = {"HF_MODULES_CACHE": "nowhere"}
LOCAL = {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
CPU = {"DS_ACCELERATOR": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@pytest.fixture
def start(args, monkeypatch):
    """start(on_cpu, cores, {variable: value}, {option: value}) -> how ray.init is called, for a run of three actor
    processes and two engines, and the environment after it."""
    import ray
    from ray._private import ray_constants

    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(remote_code, "forbid", lambda: dict(NO_CODE))
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR in READ

    def run(on_cpu: bool, cores: int | None, environment: dict, changes: dict | None = None, resources=None, **more):
        for name in READ:
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        calls = []
        monkeypatch.setattr(cpu_runtime, "required", lambda: on_cpu)
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(ray, "init", lambda *places, **words: calls.append((places, words)))
        monkeypatch.setattr(ray, "cluster_resources", lambda: resources or {})
        sizes = {"actor.num_gpus_per_node": 3, "vllm.num_engines": 2, "logger.run_dir": "/runs/a"}
        cluster.start_ray(args({**sizes, "reward.timeout": 2.5, **(changes or {})}), **more)
        ((places, words),) = calls
        return places, words, {name: os.environ[name] for name in (*READ, "CUDA_VISIBLE_DEVICES") if name in os.environ}

    return run


FOR_RAY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_task_events_report_interval_ms": "0"}
OVERRIDE = {"RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}


@pytest.mark.parametrize(
    ("cores", "threads", "cpus"), [(8, "2", 9), (2, "1", 9), (None, "1", 9), (9, "3", 9), (10, "3", 10), (64, "21", 64)]
)
def test_a_ray_of_its_own_without_cuda(start, cores, threads, cpus):
    """A thread for each rank's share of the cores; a CPU for each logical GPU and four more."""
    places, words, environment = start(True, cores, {})
    assert places == ("local",)
    variables = {**OPENRLHFS, **OURS, **NO_CODE, **LOCAL, **CPU, "OMP_NUM_THREADS": threads}
    assert words == {
        "runtime_env": {"env_vars": variables, "worker_process_setup_hook": cpu_runtime.install},
        "include_dashboard": False,
        "log_to_driver": True,
        "num_gpus": 5,
        "num_cpus": cpus,
    }
    assert environment == {**FOR_RAY, **OVERRIDE}, "no device is named here"


def test_nodes_share_the_cores_too(start):
    _, words, _ = start(True, 12, {}, {"actor.num_nodes": 2})
    assert words["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "2" and words["num_gpus"] == 8


def test_a_ray_of_its_own_with_cuda(start):
    places, words, environment = start(False, 8, {}, {"model.allow_remote_code": True}, log_to_driver=False)
    assert places == ("local",)
    assert words == {
        "runtime_env": {"env_vars": {**OPENRLHFS, **OURS, **LOCAL}},
        "include_dashboard": False,
        "log_to_driver": False,
    }
    assert environment == {**FOR_RAY, **OVERRIDE, "CUDA_VISIBLE_DEVICES": "0"}


def test_what_the_environment_says_is_kept(start):
    given = {name: f"my {name}" for name in (*OPENRLHFS, *LOCAL, *CPU, "OMP_NUM_THREADS") if name != "DS_ACCELERATOR"}
    rays = {"RAY_OVERRIDE_JOB_RUNTIME_ENV": "0", "RAY_task_events_report_interval_ms": "7"}
    mark = {reaper.MARK: "abc", reaper.KEEP_ENVIRONMENT: "1"}
    _, words, environment = start(True, 8, {**given, **rays, **mark})
    assert words["runtime_env"]["env_vars"] == {**OURS, **NO_CODE, **given, "DS_ACCELERATOR": "cpu", **mark}
    assert environment == {**FOR_RAY, **given, **rays, **mark}


def test_a_cluster_is_joined(start):
    address = {"RAY_ADDRESS": "10.0.0.1:6379"}
    places, words, environment = start(True, 8, address, resources={"GPU": 5.0})
    assert places == ("10.0.0.1:6379",)
    variables = {**OPENRLHFS, **OURS, **NO_CODE, **CPU, "OMP_NUM_THREADS": "2"}
    assert words == {
        "runtime_env": {"env_vars": variables, "worker_process_setup_hook": cpu_runtime.install},
        "include_dashboard": False,
        "log_to_driver": True,
    }
    assert environment == {**address, **OVERRIDE}
    gpus = {"GPU": 5.0, "accelerator_type:H100": 1.0, "accelerator_type:A100": 2.0}
    start(False, 8, address, resources=gpus)
    with pytest.raises(OptionError, match=r"^the Ray cluster at 10.0.0.1:6379 has GPUs \(H100, A100\), and this mach"):
        start(True, 8, address, resources=gpus)


@pytest.mark.parametrize("joins", [0, 1, 300, 301, None])
def test_machines_may_still_be_joining(monkeypatch, joins):
    """For five minutes; a look a second."""
    import ray

    seconds = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(time, "sleep", lambda more: seconds.append(seconds.pop() + more))
    there = {} if joins is None else {"GPU": 3.0}
    monkeypatch.setattr(
        ray, "cluster_resources", lambda: {"GPU": 4.0} if joins is not None and seconds[0] >= 1000 + joins else there
    )
    if joins is None:
        with pytest.raises(OptionError, match="ask for 4 GPUs and the Ray cluster at there has 0: start Ray on more"):
            cluster._wait_for_gpus(4, "there")
        assert seconds == [1301.0]
    else:
        cluster._wait_for_gpus(4, "there")
        assert seconds == [1000.0 + joins]


@pytest.mark.parametrize("running", [True, False])
def test_what_was_started_is_ended_but_for_one(monkeypatch, running):
    import ray

    done = []
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(3)]
    try:
        ours = [psutil.Process(process.pid) for process in sleepers]
        gone = psutil.Popen([sys.executable, "-c", "pass"])
        gone.wait()
        monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: ours if recursive else [])
        monkeypatch.setattr(ray, "is_initialized", lambda: running)
        monkeypatch.setattr(ray, "shutdown", lambda: done.append("shut down"))
        wait = psutil.wait_procs

        def patient(processes, timeout):
            done.append((timeout, len(processes)))
            sleepers[0].kill()  # one ends by itself
            sleepers[0].wait()
            ended, alive = wait(processes, timeout=0.05)
            return ended, [gone, *alive]  # and one before it can be killed

        monkeypatch.setattr(psutil, "wait_procs", patient)
        cluster.stop_everything(but=sleepers[1].pid)
        assert sleepers[1].poll() is None
        sleepers[2].wait(timeout=20)
        assert done == [*(["shut down"] if running else []), (5, 2), (5, 2)]
    finally:
        for process in sleepers:
            process.kill()
            process.wait()
