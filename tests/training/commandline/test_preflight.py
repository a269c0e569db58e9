"""What is looked at before a run starts: models, functions, folders, the network; and on which side of each limit."""

from __future__ import annotations

import os
import shutil
import socket
from types import SimpleNamespace

import pytest
import torch

from lens_openrlhf import cpu_runtime
from lens_openrlhf.advantages.estimators import EstimatorError
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training.commandline import model_shape, preflight
from lens_openrlhf.training.commandline.plan import Memory

SHAPE = model_shape.KNOWN["qwen2.5-3b"]  # 16 heads, a context of 32,768


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://some.where:8080/path", ("some.where", 8080)),
        ("http://some.where/path", ("some.where", 80)),
        ("https://some.where", ("some.where", 443)),
        ("https://some.where:8443", ("some.where", 8443)),
        ("grpc://some.where:9", ("some.where", 9)),
        ("grpc://some.where", None),
        ("some.where:8080", None),
        ("http://:8080", None),
        ("http://some.where:99999999", None),
        ("math_verify", None),
    ],
)
def test_a_reward_server_is_called_once(args, monkeypatch, url, place):
    calls = []

    def connect(address, timeout):
        calls.append((address, timeout))
        return SimpleNamespace(close=lambda: calls.append("closed"))

    monkeypatch.setattr(socket, "create_connection", connect)
    if place is None:
        with pytest.raises(OptionError) as caught:
            preflight._check_functions(args({"reward.remote_url": [url]}))
        assert str(caught.value) == (
            f"--reward.remote_url {url}: expected math-verify, a .py file with a reward_func, or an address such as "
            "http://host:port/path"
        )
        assert calls == []
        return
    preflight._check_functions(args({"reward.remote_url": [url]}))
    assert calls == [(place, 5), "closed"]

    def refuse(address, timeout):
        raise OSError("nobody is there")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(OptionError, match=f"^--reward.remote_url {url}: .* cannot be reached .nobody is there.; start"):
        preflight._check_functions(args({"reward.remote_url": [url]}))


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"reward.remote_url": ["there.py"]}, None),
        ({"reward.remote_url": ["there.py", "absent.py"]}, "--reward.remote_url absent.py: no such file"),
        ({"reward.remote_url": ["folder.py"]}, "--reward.remote_url folder.py: no such file"),
        ({"reward.remote_url": None}, None),
        ({"reward.remote_url": ["absent.py"], "train.agent_func_path": "there.py"}, None),
        ({"train.agent_func_path": "absent.py"}, "--train.agent_func_path absent.py: no such file"),
        ({"train.agent_func_path": "folder.py"}, "--train.agent_func_path folder.py: no such file"),
    ],
)
def test_functions_are_files(args, tmp_path, changes, missing):
    (tmp_path / "there.py").touch()
    (tmp_path / "folder.py").mkdir()
    if missing is None:
        preflight._check_functions(args(changes))
    else:
        with pytest.raises(OptionError, match=f"^{missing}$"):
            preflight._check_functions(args(changes))


def test_an_estimators_state_and_scorer_are_looked_at(args, tmp_path, monkeypatch):
    (tmp_path / "there.py").touch()
    changes = {"reward.remote_url": ["there.py"], "algo.lens.estimator": "spectral"}
    checked = []
    monkeypatch.setattr(preflight, "check_state", lambda estimator: checked.append(estimator.name))
    with pytest.raises(OptionError, match="--algo.spectral.scorer is missing: FILE.py:NAME"):
        preflight._check_functions(args(changes))
    assert checked == ["spectral"]

    def refuse(estimator):
        raise EstimatorError("its state is not whole")

    monkeypatch.setattr(preflight, "check_state", refuse)
    with pytest.raises(OptionError, match="^its state is not whole$"):
        preflight._check_functions(args(changes))
    preflight._check_functions(args({**changes, "algo.lens.enabled": False}))


@pytest.mark.parametrize(
    ("changes", "models"),
    [
        ({}, [("actor", "model")]),
        ({"critic.model_name_or_path": "c"}, [("actor", "model"), ("critic", "c")]),
        ({"reward.model_name_or_path": "r"}, [("actor", "model")]),
        ({"reward.model_name_or_path": "r", "reward.remote_url": None}, [("actor", "model"), ("reward", "r")]),
        ({"reward.remote_url": None, "model.allow_remote_code": True}, [("actor", "model")]),
    ],
)
def test_every_model_that_is_loaded_is_looked_at_twice(args, tmp_path, monkeypatch, changes, models):
    """At first quickly where a folder's config says all of it; and as transformers sees it in the end."""
    checked, told = [], []
    monkeypatch.setattr(preflight, "check_model", lambda *given, **quick: checked.append((*given, *quick.values())))
    (tmp_path / "c").mkdir()
    monkeypatch.setattr(model_shape, "as_written", lambda name: SHAPE if name in ("c", "r") else None)
    for name in ("check_gpus", "check_shape"):
        monkeypatch.setattr(preflight, name, lambda *_, name=name: told.append(name))
    checks = (lambda args: pytest.fail("the first is called by itself"), lambda args: None, lambda args: ["one", "two"])
    monkeypatch.setattr(preflight, "_CHECKS", (*checks, lambda args: told.append("last") or ["three"]))
    given = args(changes)
    assert preflight.check_surroundings(given) == ["one", "two", "three"]
    allowed = given.model.allow_remote_code
    rows = [(f"--{part}.model_name_or_path", name, allowed) for part, name in models]
    assert checked == [*((*row, row[1] == "c") for row in rows), *rows] and told == ["check_gpus", "last"]


def test_all_that_is_wrong_is_told_at_once(args, monkeypatch):
    def refuse(text):
        def check(args):
            raise OptionError(text)

        return check

    monkeypatch.setattr(preflight, "_CHECKS", (refuse("a"), lambda args: ["w"], lambda args: None, refuse("b")))
    monkeypatch.setattr(preflight, "_check_models", refuse("c"))
    assert preflight.problems(args({}), with_models=False) == (["a", "b"], ["w"])
    assert preflight.problems(args({}), with_models=True) == (["a", "b", "c"], ["w"])


def test_what_is_checked_and_in_which_order():
    assert [check.__name__ for check in preflight._CHECKS] == [
        *("check_gpus", "check_prompts", "check_evaluation_prompts", "_check_functions", "_check_run_folder"),
        *("_check_port", "_check_sampler"),
    ]


@pytest.mark.parametrize(
    ("fine", "refused", "told"),
    [
        (
            {"data.max_len": 32768},
            {"data.max_len": 32769},
            "--data.max_len 32769: model takes 32768 tokens, prompt and answer together; use at most that",
        ),
        (
            {"vllm.tensor_parallel_size": 8},
            {"vllm.tensor_parallel_size": 3},
            "--vllm.tensor_parallel_size 3: does not divide the 16 attention heads of model; use a divisor of that",
        ),
        (
            {"ds.tensor_parallel_size": 16},
            {"ds.tensor_parallel_size": 32},
            "--ds.tensor_parallel_size 32: does not divide the 16 attention heads of model; use a divisor of that",
        ),
    ],
)
def test_the_models_shape(args, fine, refused, told):
    preflight.check_shape(args(fine), SHAPE)
    with pytest.raises(OptionError) as caught:
        preflight.check_shape(args(refused), SHAPE)
    assert str(caught.value) == told


def test_what_certainly_does_not_fit_a_gpu(args):
    def memory(cache: int) -> Memory:
        return Memory({"weights": 3 << 30, "Adam": 5 << 30}, {"logits": 99 << 30}, 99 << 30, 0, {}, cache, {})

    preflight.check_memory(args({}), memory(1), 8 << 30)
    with pytest.raises(OptionError) as caught:
        preflight.check_memory(args({}), memory(1), (8 << 30) - 1)
    assert str(caught.value).startswith("weights, gradients and Adam's state take 8 GiB on each GPU, which has 8: use")
    with pytest.raises(OptionError) as caught:
        preflight.check_memory(args({"vllm.gpu_memory_utilization": 0.25}), memory(0), 8 << 30)
    assert str(caught.value).startswith("--vllm.gpu_memory_utilization 0.25: of 8 GiB this leaves vLLM no room for")


def test_the_gpu_that_is_here_decides(args, monkeypatch):
    monkeypatch.setattr(preflight, "_check_models", lambda args: None)
    monkeypatch.setattr(model_shape, "find", lambda name: (SHAPE if name == "model" else None, False))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(total_memory=(5 + number) << 30)
    )
    for on_cpu, cluster, changes, refused in (
        (False, None, {}, True),
        (True, None, {}, False),
        (False, "10.0.0.1:6379", {}, False),
        (False, None, {"actor.model_name_or_path": "other"}, False),
        (False, None, {"ds.lora.rank": 8}, False),
    ):
        monkeypatch.setattr(cpu_runtime, "required", lambda on_cpu=on_cpu: on_cpu)
        monkeypatch.setattr(preflight, "ray_cluster", lambda cluster=cluster: cluster)
        if refused:
            with pytest.raises(OptionError, match="state take 46 GiB on each GPU, which has 5: use"):
                preflight._check_model(args(changes))
        else:
            preflight._check_model(args(changes))
    with pytest.raises(OptionError, match="takes 32768 tokens"):
        preflight._check_model(args({"data.max_len": 40000}))
    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    monkeypatch.setattr(preflight, "ray_cluster", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    preflight._check_model(args({}))


@pytest.fixture
def disk(monkeypatch):
    """disk(places={path: free bytes}) -> the places that are asked for."""

    def make(places: dict[str, int]) -> list:
        asked = []

        def usage(place):
            asked.append(str(place))
            return SimpleNamespace(free=places.get(str(place), 1 << 40))

        monkeypatch.setattr(shutil, "disk_usage", usage)
        return asked

    return make


def test_a_run_folder_that_can_be_written(args, tmp_path, disk, monkeypatch):
    asked = disk({str(tmp_path): 1 << 30, "/tmp": 1 << 30})
    preflight._check_run_folder(args({"logger.run_dir": str(tmp_path / "a" / "b")}))
    assert asked == [str(tmp_path), "/tmp"]
    disk({str(tmp_path): (1 << 30) - 1})
    with pytest.raises(OptionError) as caught:
        preflight._check_run_folder(args({"logger.run_dir": str(tmp_path / "a" / "b")}))
    assert str(caught.value) == (
        f"--logger.run_dir {tmp_path}: only 1024 MiB are free on its disk, and a run needs at least 1024 MiB; free "
        "some or choose another disk"
    )
    disk({"/tmp": 5 << 20})
    with pytest.raises(OptionError, match="^Ray's temporary folder /tmp: only 5 MiB are free on its disk"):
        preflight._check_run_folder(args({"logger.run_dir": str(tmp_path)}))
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)
    with pytest.raises(OptionError, match=f"^--logger.run_dir {tmp_path}/a: {tmp_path} is not writable$"):
        preflight._check_run_folder(args({"logger.run_dir": str(tmp_path / "a")}))


def test_two_runs_are_not_mixed(args, tmp_path, disk):
    disk({})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").touch()
    changes = {"logger.run_dir": str(tmp_path / "run")}
    preflight._check_run_folder(args(changes))
    (tmp_path / "run" / "metrics.jsonl").touch()
    with pytest.raises(OptionError, match=f"^--logger.run_dir {tmp_path}/run: holds a run already, and two would be"):
        preflight._check_run_folder(args(changes))
    preflight._check_run_folder(args({**changes, "ckpt.load_enable": True}))


def test_a_port_is_needed(args, monkeypatch):
    bound = []

    class Socket(SimpleNamespace):
        def __enter__(self):
            return self

        def __exit__(self, *error):
            bound.append("closed")

        def bind(self, address):
            bound.append(address)
            if len(bound) > 2:
                raise OSError("all are taken")

    monkeypatch.setattr(socket, "socket", Socket)
    preflight._check_port(args({}))
    assert bound == [("", 0), "closed"]
    with pytest.raises(OptionError, match="^no network port is free on this machine .all are taken.; Ray and vLLM"):
        preflight._check_port(args({}))


def test_what_samples_is_needed_here_or_in_the_cluster(args, monkeypatch):
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: "nothing samples here")
    with pytest.raises(OptionError, match="^nothing samples here$"):
        preflight._check_sampler(args({}))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    preflight._check_sampler(args({}))
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: None)
    preflight._check_sampler(args({}))
