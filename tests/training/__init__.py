"""Tests of what touches OpenRLHF. Before any of them, in spawned processes too, OpenRLHF must become importable."""

from lens_openrlhf.training import cpu

if cpu.required():
    cpu.install()
