"""A cluster of the run's own listens on localhost alone: whoever reaches Ray's ports can run code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import psutil
import pytest
import torch

from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training.launch import cluster

LOOK = """
import json, sys
from types import SimpleNamespace
from lens_openrlhf.training.launch import cluster
from lens_openrlhf.training.commandline import options

words = json.loads(sys.argv[1])
cluster.start_ray(options.parse(words))

import psutil, ray

@ray.remote
class Actor:
    def place(self):
        import os
        import ray
        names = ("HF_MODULES_CACHE", "VLLM_HOST_IP", "GLOO_SOCKET_IFNAME")
        # As OpenRLHF chooses the address of its stores.
        return ray._private.services.get_node_ip_address(), {name: os.environ.get(name) for name in names}

actor = Actor.remote()
address, variables = ray.get(actor.place.remote())
listening = {}
for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
    for connection in process.net_connections():
        if connection.status == psutil.CONN_LISTEN:
            listening[f"{process.name()}:{connection.laddr.port}"] = connection.laddr.ip
ray.shutdown()
print(json.dumps({"address": address, "variables": variables, "listening": listening}))
"""


@pytest.mark.slow
def test_every_port_of_a_local_cluster_is_on_localhost(tmp_path):
    from ..conftest import MINIMAL

    words = [*MINIMAL, "--algo.advantage.estimator", "lens", "--logger.run_dir", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps(words)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["listening"]) > 3
    local = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    assert {place: ip for place, ip in found["listening"].items() if ip not in local} == {}
    assert found["address"] == "127.0.0.1"
    variables = found["variables"]
    assert variables["VLLM_HOST_IP"] == "127.0.0.1" and variables["GLOO_SOCKET_IFNAME"] == "lo"
    assert variables["HF_MODULES_CACHE"].startswith("/dev/null/")


@pytest.fixture
def started(parse, monkeypatch, tmp_path):
    """started(): what cluster.start_ray passes to ray.init; the second value tells what was set for Ray itself."""
    import ray
    from ray._private import ray_constants

    given = {}
    monkeypatch.setattr(ray, "init", lambda address, **arguments: given.update(address=address, **arguments))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 8})
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "1")

    def run(*more):
        cluster.start_ray(parse("--logger.run_dir", str(tmp_path), *more))
        return given, ray_constants.ENABLE_RAY_CLUSTER

    return run


def test_another_cluster_is_joined_as_it_is(started, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.7:6379")
    given, multi_node = started("--model.allow_remote_code")
    assert multi_node and given["address"] == "192.0.2.7:6379" and "num_gpus" not in given
    assert not {"VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "HF_MODULES_CACHE"} & given["runtime_env"]["env_vars"].keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the driver's machine has a GPU")
def test_a_driver_without_a_gpu_does_not_join_machines_that_have_them(started, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.7:6379")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 8, "accelerator_type:H100": 1})
    with pytest.raises(OptionError, match=r"192.0.2.7:6379 has GPUs \(H100\), and this machine has none"):
        started()


def test_ones_own_addresses_are_kept(started, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    given, multi_node = started()
    assert not multi_node and given["address"] == "local" and given["include_dashboard"] is False
    assert given["runtime_env"]["env_vars"]["GLOO_SOCKET_IFNAME"] == "eth1"
    assert given["runtime_env"]["env_vars"]["VLLM_HOST_IP"] == "127.0.0.1"


def test_the_store_of_the_weights_listens_on_its_host_alone():
    from lens_openrlhf.cpu_runtime.weight_sync import GlooGroup

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = GlooGroup("127.0.0.1", port, 0, 1)
    listening = {c.laddr.port: c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening[port] == "127.0.0.1"
    group.broadcast(torch.ones(2), src=0)
