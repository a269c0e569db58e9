"""Tests of what touches OpenRLHF. Before any of them, in spawned processes too, OpenRLHF must become importable."""

from lens_openrlhf import cpu_runtime

if cpu_runtime.required():
    cpu_runtime.install()
