"""What lets OpenRLHF run where there is no CUDA; installed only there.

OpenRLHF names CUDA directly in a few places. `install` puts a CPU meaning behind each of them, in this process.
It has to run before openrlhf is imported: in the driver, in every Ray worker (as Ray's
worker_process_setup_hook) and, through the worker extension, in vLLM's own processes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.util
import os
import runpy
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from ..advantages.lazily import torch

# OpenRLHF's defaults that mean CUDA, and what they become without it.
CPU_DEFAULTS = {
    "ds.attn_implementation": "sdpa",
    "vllm.sync_backend": "gloo",
    "vllm.enforce_eager": True,
    "vllm.gpu_memory_utilization": 0.1,
}
# vLLM's CPU engine would take most of the memory for its cache, and bind its threads to cores that others use.
VLLM_VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
# "uni" is "mp" to vLLM's CPU platform, which binds threads in a process of the model's own. Without binding it only
# costs: another start, and two processes that take a core each to wait for the other.
UNI_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


def required() -> bool:
    """Whether this machine needs the CPU runtime.

    A torch that is built without CUDA has none; its version file says so without the seconds that importing it takes.
    """
    return _torch_without_cuda() or not torch.cuda.is_available()


def _torch_without_cuda() -> bool:
    if "torch" in sys.modules:
        return False  # it can be asked
    spec = importlib.util.find_spec("torch")
    assert spec and spec.origin
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return version["cuda"] is None and version["hip"] is None


def vllm_for_cpu() -> bool:
    """Whether the installed vLLM is a build for CPUs, found as vLLM finds it (vllm.platforms), without importing it."""
    try:
        return "cpu" in metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return bool(metadata.version("vllm-cpu"))


def without_sampler() -> str | None:
    """Why vLLM cannot sample on this machine, or None: a build for CUDA has no device where there is no GPU."""
    if not required() or vllm_for_cpu():
        return None
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return None
    return (
        "no GPU is visible, and this vLLM is a build for CUDA: see that `nvidia-smi -L` lists one and "
        "that CUDA_VISIBLE_DEVICES does not hide it, or install the CPU's stack, as `make setup` does without a GPU"
    )


class CpuDevice(str):
    """torch.cuda.current_device() of a process without CUDA.

    As an argument of `.to` or `device=` it is "cpu". OpenRLHF also writes it into f"cuda:{...}", where only an
    index is legal; the device so named is replaced before it is used (CpuActorTrainer).
    """

    def __new__(cls) -> CpuDevice:
        return super().__new__(cls, "cpu")

    def __format__(self, spec: str) -> str:
        return format("0", spec)


def _patch_torch_cuda() -> None:
    # One function each: torch.compile keeps a rule for every function of torch.cuda and refuses to see one twice.
    def current_device() -> CpuDevice:
        return CpuDevice()

    def set_device(device: Any) -> None:
        return None

    def current_stream(device: Any = None) -> None:
        return None

    def synchronize(device: Any = None) -> None:
        return None

    cuda: Any = torch.cuda  # as its own give other types
    cuda.current_device = current_device
    cuda.set_device = set_device
    cuda.current_stream = current_stream
    cuda.synchronize = synchronize


def _patch_strategy(module: Any) -> None:
    """openrlhf.utils.deepspeed.deepspeed: the device mesh and EMA are told "cuda"; DeepSpeed's own Adam would be
    compiled when a run first starts, which takes longer than many a run, so torch's is used."""
    make_config = module.get_train_ds_config

    def get_train_ds_config(*args: Any, **kwargs: Any) -> dict[str, Any]:
        config = make_config(*args, **kwargs)
        if "optimizer" in config and config["zero_optimization"]["offload_optimizer"]["device"] == "none":
            config["optimizer"] = {
                **config["optimizer"],
                "params": {**config["optimizer"]["params"], "torch_adam": True},
            }
        return config

    module.get_train_ds_config = get_train_ds_config
    make_mesh = module.init_device_mesh

    def init_device_mesh(device_type: Any, *args: Any, **kwargs: Any) -> Any:
        return make_mesh("cpu", *args, **kwargs)

    module.init_device_mesh = init_device_mesh
    average = module.DeepspeedStrategy.moving_average

    def moving_average(self: Any, model: Any, model_ema: Any, beta: float = 0.992, device: str = "cpu") -> None:
        average(self, model, model_ema, beta, "cpu")

    module.DeepspeedStrategy.moving_average = moving_average


def _patch_process_group(module: Any) -> None:
    """openrlhf.utils.distributed_util: the group that carries weights to vLLM is NCCL's."""
    from .weight_sync import connect

    module.stateless_init_process_group = connect


def _patch_deepspeed_comm(module: Any) -> None:
    """deepspeed.comm.torch: ZeRO-3 waits for the last of several asynchronous collectives only, which is enough on
    a CUDA stream. Gloo runs them on several threads, in no order, so each is waited for here. And gloo does the work of
    DeepSpeed's shared-memory collectives, which would be compiled first."""

    def build_shm_op() -> None:
        return None

    module.build_shm_op = build_shm_op

    def finished(method: Callable) -> Callable:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            work = method(*args, **kwargs)
            if hasattr(work, "wait"):
                work.wait()
            return work

        return call

    for name in COLLECTIVES:
        setattr(module.TorchBackend, name, finished(getattr(module.TorchBackend, name)))


# The methods of DeepSpeed's TorchBackend that can be told to return unfinished work.
COLLECTIVES = (
    "all_gather",
    "all_gather_base",
    "all_gather_coalesced",
    "all_gather_into_tensor",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
)

_PATCHES = {
    "deepspeed.comm.torch": _patch_deepspeed_comm,
    "openrlhf.utils.deepspeed.deepspeed": _patch_strategy,
    "openrlhf.utils.distributed_util": _patch_process_group,
}


class _PatchOnImport(importlib.abc.MetaPathFinder):
    """Patches each module right after it is imported, so that `from module import name` elsewhere sees the result,
    and processes that need none of them do not pay for importing them."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in _PATCHES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None:
            return None
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            _PATCHES[name](module)

        loader.exec_module = exec_module
        return spec


def install() -> None:
    """Give OpenRLHF's CUDA calls a CPU meaning in this process. Calling it again does nothing."""
    if any(isinstance(finder, _PatchOnImport) for finder in sys.meta_path):
        return
    # OpenRLHF's modules copy each other's names when they are imported; DeepSpeed's may be patched at any time.
    late = [name for name in _PATCHES if name in sys.modules]
    if any(name.startswith("openrlhf.") for name in late):
        raise RuntimeError(f"the CPU runtime must be installed before {', '.join(late)} is imported")
    for name in late:
        _PATCHES[name](sys.modules[name])
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _patch_torch_cuda()
    if importlib.util.find_spec("flash_attn") is None:
        from . import padding

        padding.register()
    sys.meta_path.insert(0, _PatchOnImport())
