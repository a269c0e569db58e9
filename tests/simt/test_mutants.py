"""The planted bugs keep up with the kernels. That each is caught takes long: `make mutants`."""

from __future__ import annotations

import shutil

from .build import ROOT
from .mutants import MUTANTS


def test_each_has_a_name_of_its_own():
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)


def test_each_changes_the_kernels(tmp_path):
    for mutant in MUTANTS:
        source = ROOT / "csrc" / mutant.file
        shutil.copy(source, tmp_path)
        mutant.apply(tmp_path)
        assert (tmp_path / mutant.file).read_text() != source.read_text(), mutant.name
