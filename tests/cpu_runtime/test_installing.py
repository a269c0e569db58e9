"""What is put behind OpenRLHF's CUDA calls, and when: on stand-ins of the modules, as other tests use the real ones."""

from __future__ import annotations

import importlib
import os
import sys
from importlib import metadata
from types import ModuleType, SimpleNamespace

import pytest
import torch

from lens_openrlhf import cpu_runtime
from lens_openrlhf.cpu_runtime import padding, weight_sync


def test_what_the_defaults_and_variables_become():
    assert cpu_runtime.CPU_DEFAULTS == {
        "ds.attn_implementation": "sdpa",
        "vllm.sync_backend": "gloo",
        "vllm.enforce_eager": True,
        "vllm.gpu_memory_utilization": 0.1,
    }
    assert cpu_runtime.VLLM_VARIABLES == {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@pytest.mark.parametrize(
    ("built_without", "available", "required"), [(True, False, True), (False, False, True), (False, True, False)]
)
def test_it_is_required_where_torch_finds_no_cuda(monkeypatch, built_without, available, required):
    monkeypatch.setattr(cpu_runtime, "_torch_without_cuda", lambda: built_without)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert cpu_runtime.required() is required


@pytest.mark.parametrize(
    ("cuda", "hip", "without"),
    [(None, None, True), ("13.0", None, False), (None, "6.3", False), ("13.0", "6.3", False)],
)
def test_a_torch_that_is_not_imported_is_known_by_its_version_file(monkeypatch, tmp_path, cuda, hip, without):
    (tmp_path / "version.py").write_text(f"cuda = {cuda!r}\nhip = {hip!r}\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=f"{tmp_path}/__init__.py"))
    assert cpu_runtime._torch_without_cuda() is False, "it is imported, and can be asked"
    monkeypatch.delitem(sys.modules, "torch")
    assert cpu_runtime._torch_without_cuda() is without


@pytest.mark.parametrize(
    ("installed", "for_cpu"),
    [({"vllm": "0.29.0"}, False), ({"vllm": "0.29.0+cpu"}, True), ({"vllm-cpu": "0.29.0"}, True)],
)
def test_which_vllm_is_a_build_for_cpus(monkeypatch, installed, for_cpu):
    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert cpu_runtime.vllm_for_cpu() is for_cpu


@pytest.mark.parametrize(
    ("required", "for_cpu", "platform_is_cpu", "can"),
    [(False, None, None, True), (True, True, None, True), (True, False, True, True), (True, False, False, False)],
)
def test_whether_vllm_can_sample_here(monkeypatch, required, for_cpu, platform_is_cpu, can):
    """A None is not to be asked: vLLM's import takes seconds."""

    def answer(value):
        assert value is not None
        return value

    platforms = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: answer(platform_is_cpu))
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setattr(cpu_runtime, "required", lambda: required)
    monkeypatch.setattr(cpu_runtime, "vllm_for_cpu", lambda: answer(for_cpu))
    assert cpu_runtime.without_sampler() == (
        None
        if can
        else "no GPU is visible, and this vLLM is a build for CUDA: see that `nvidia-smi -L` lists one and that "
        "CUDA_VISIBLE_DEVICES does not hide it, or install the CPU's stack, as `make setup` does without a GPU"
    )


NAMES = ("current_device", "set_device", "current_stream", "synchronize")


@pytest.fixture
def cuda_kept(monkeypatch):
    for name in NAMES:
        monkeypatch.setattr(torch.cuda, name, getattr(torch.cuda, name))


def test_the_device_of_a_process_without_cuda(cuda_kept):
    cpu_runtime._patch_torch_cuda()
    device = torch.cuda.current_device()
    assert device == "cpu" and torch.zeros(1, device=device).to(device).device.type == "cpu"
    assert f"cuda:{device}" == "cuda:0" and f"{device:>3}" == "  0"
    assert torch.cuda.set_device(1) is None
    assert torch.cuda.current_stream() is torch.cuda.current_stream(0) is None
    assert torch.cuda.synchronize() is torch.cuda.synchronize(0) is None
    functions = [getattr(torch.cuda, name) for name in NAMES]
    assert [function.__name__ for function in functions] == list(NAMES)
    assert len(set(map(id, functions))) == 4, "torch.compile refuses to see one twice"


def test_deepspeed_takes_torchs_adam_unless_it_offloads():
    configs = {
        "trains": {"optimizer": {"type": "Adam", "params": {"lr": 1}}, "zero_optimization": {}},
        "evaluates": {"zero_optimization": {}},
    }

    def get_train_ds_config(name, offload="none"):
        return configs[name] | {"zero_optimization": {"offload_optimizer": {"device": offload}}}

    module = SimpleNamespace(
        get_train_ds_config=get_train_ds_config,
        init_device_mesh=lambda *args, **kwargs: (args, kwargs),
        DeepspeedStrategy=type("Strategy", (), {"moving_average": lambda self, *args: self.seen.append(args)}),
    )
    cpu_runtime._patch_strategy(module)
    assert module.get_train_ds_config("trains") == {
        "optimizer": {"type": "Adam", "params": {"lr": 1, "torch_adam": True}},
        "zero_optimization": {"offload_optimizer": {"device": "none"}},
    }
    assert module.get_train_ds_config("trains", offload="cpu")["optimizer"]["params"] == {"lr": 1}
    assert "optimizer" not in module.get_train_ds_config("evaluates")
    assert configs["trains"]["optimizer"] == {"type": "Adam", "params": {"lr": 1}}

    assert module.init_device_mesh("cuda", (2, 1), mesh_dim_names=("dp", "tp")) == (
        ("cpu", (2, 1)),
        {"mesh_dim_names": ("dp", "tp")},
    )
    strategy = module.DeepspeedStrategy()
    strategy.seen = []
    strategy.moving_average("model", "ema", 0.9, "cuda")
    strategy.moving_average("model", "ema", device="cuda")
    assert strategy.seen == [("model", "ema", 0.9, "cpu"), ("model", "ema", 0.992, "cpu")]


class Work:
    def __init__(self, log):
        self.log = log

    def wait(self):
        self.log.append("waited")


def test_every_collective_has_ended_when_it_comes_back():
    class Backend:
        def send(self):
            return Work([])

    def collective(name):
        def method(self, log, result, **more):
            """Its own."""
            log.append((name, more))
            return result(log)

        method.__name__ = name
        return method

    for name in cpu_runtime.COLLECTIVES:
        setattr(Backend, name, collective(name))
    module = SimpleNamespace(TorchBackend=Backend, build_shm_op=lambda: "compiled")
    send = Backend.send
    cpu_runtime._patch_deepspeed_comm(module)
    assert module.build_shm_op() is None and Backend.send is send
    for name in cpu_runtime.COLLECTIVES:
        log = []
        work = getattr(Backend(), name)(log, Work, group=1)
        assert isinstance(work, Work) and log == [(name, {"group": 1}), "waited"]
        assert getattr(Backend(), name)(log, lambda log: None) is None and len(log) == 3
        assert getattr(Backend, name).__doc__ == "Its own."


def test_weights_go_over_gloo():
    module = SimpleNamespace()
    cpu_runtime._patch_process_group(module)
    assert vars(module) == {"stateless_init_process_group": weight_sync.connect}


def test_the_modules_that_are_patched():
    assert cpu_runtime._PATCHES == {
        "deepspeed.comm.torch": cpu_runtime._patch_deepspeed_comm,
        "openrlhf.utils.deepspeed.deepspeed": cpu_runtime._patch_strategy,
        "openrlhf.utils.distributed_util": cpu_runtime._patch_process_group,
    }


@pytest.fixture
def bare(monkeypatch, tmp_path, cuda_kept):
    """A process in which nothing is installed, whose modules to be patched are `late_a`, `openrlhf.late_b` and `gone`:
    each has `value = 1`, of which the patch makes 2."""

    def patch(module):
        module.value += 1

    finders = [finder for finder in sys.meta_path if type(finder).__name__ != "_PatchOnImport"]
    monkeypatch.setattr(sys, "meta_path", finders)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] in ("flash_attn", "openrlhf")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(cpu_runtime, "_PATCHES", {"late_a": patch, "openrlhf.late_b": patch, "gone": patch})
    monkeypatch.setattr(padding, "register", lambda: sys.modules.update(flash_attn=ModuleType("flash_attn")))
    monkeypatch.setenv("DS_ACCELERATOR", "to be restored")
    monkeypatch.delenv("DS_ACCELERATOR")
    (tmp_path / "late_a.py").write_text("value = 1\n")
    (tmp_path / "other.py").write_text("from late_a import value\n")
    (tmp_path / "openrlhf").mkdir()
    (tmp_path / "openrlhf" / "__init__.py").touch()
    (tmp_path / "openrlhf" / "late_b.py").write_text("value = 1\n")
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield finders
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_is_patched_when_it_is_imported(bare):
    cpu_runtime.install()
    ours = bare[0]
    for name, value in (("other", 2), ("late_a", 2), ("openrlhf.late_b", 2)):
        assert importlib.import_module(name).value == value
        assert bare[0] is ours, "it finds the next one, too"
    with pytest.raises(ModuleNotFoundError, match="gone"):
        import gone  # noqa: F401
    assert bare[0] is ours
    assert importlib.util.find_spec("tests.cpu_runtime.no_such") is None


def test_installing_again_does_nothing(bare, monkeypatch):
    cpu_runtime.install()
    first, device = list(bare), torch.cuda.current_device
    assert type(first[0]).__name__ == "_PatchOnImport" and device() == "cpu"
    cpu_runtime.install()
    assert bare == first and torch.cuda.current_device is device


def test_what_is_there_already_is_patched_at_once(bare):
    import late_a

    cpu_runtime.install()
    assert late_a.value == 2 and "openrlhf.late_b" not in sys.modules


def test_openrlhfs_own_modules_must_not_be_there_already(bare):
    import late_a
    import openrlhf.late_b  # noqa: F401

    with pytest.raises(RuntimeError) as caught:
        cpu_runtime.install()
    assert str(caught.value) == "the CPU runtime must be installed before late_a, openrlhf.late_b is imported"
    assert late_a.value == 1 and not any(type(finder).__name__ == "_PatchOnImport" for finder in bare)


@pytest.mark.parametrize("chosen", [None, "cuda"])
def test_deepspeed_is_told_of_the_cpu_unless_somebody_chose(bare, monkeypatch, chosen):
    if chosen:
        monkeypatch.setenv("DS_ACCELERATOR", chosen)
    cpu_runtime.install()
    assert os.environ["DS_ACCELERATOR"] == (chosen or "cpu")


@pytest.mark.parametrize("installed", [True, False])
def test_stand_ins_for_flash_attention_where_it_is_missing(bare, monkeypatch, tmp_path, installed):
    if installed:
        (tmp_path / "flash_attn.py").write_text("")
    elif importlib.util.find_spec("flash_attn") is not None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "flash_attn" else find(name))
    cpu_runtime.install()
    assert ("flash_attn" in sys.modules) is not installed
