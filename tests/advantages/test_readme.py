"""README's example of the Python interface, which needs torch alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lens_openrlhf.advantages import reference

README = Path(__file__).parents[2] / "README.md"


def test_the_example_gives_the_references_advantages():
    (code,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(compile(code, str(README), "exec"), names)
    given = [names[name] for name in ("logprobs", "cu_seqlens", "correctness", "cu_groups")]
    expected = reference.lens_advantages(*given, names["LensConfig"](alpha=0.25))
    assert names["result"].advantage.tolist() == pytest.approx(expected.advantage.tolist(), rel=1e-6, abs=1e-12)
    assert (expected.advantage != 0).all(), "all wrong, and learned from"
