"""Both libraries in a fresh Python, what they register, and a result that was worked by hand."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys

import torch

from .device import Cpu, Cuda
from .rows import Rows

OPERATORS = ("segment_mean", "group_advantages", "lens_advantages")


def run(device: Cuda | Cpu, rows: Rows) -> None:
    fresh = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import lens_openrlhf.advantages"], stderr=subprocess.PIPE, text=True
    )
    rows.check("import in a fresh Python", fresh.returncode == 0, says=fresh.stderr.strip()[-300:] or "nothing")

    from lens_openrlhf.advantages import lens_advantages

    for name in ("_C", "_C_cuda"):
        spec = importlib.util.find_spec(f"lens_openrlhf.{name}")
        loaded = f"lens_openrlhf.{name}" in sys.modules
        rows.check(
            f"lens_openrlhf.{name}",
            loaded or (name == "_C_cuda" and device.kind == "cpu"),
            found=spec.origin if spec else "not built",
            loaded=loaded,
        )
    for name in OPERATORS:
        key = device.kind.upper()
        known = hasattr(torch.ops.lens_openrlhf, name)
        registered = known and torch._C._dispatch_has_kernel_for_dispatch_key(f"lens_openrlhf::{name}", key)
        rows.check(f"lens_openrlhf::{name} for {key}", registered)

    # Two answers, both wrong, with confidences 1/2 and 1/4. D = 2 * 1/2, so the penalties are
    # 1/2 * (1/2) / (1 - 1/2) = 1/2 and 1/2 * (1/4) / (1 - 1/4) = 1/6. Centred and weighted by 1/4: -1/24 and 1/24.
    values = torch.tensor([0.5, 0.5, 0.25], dtype=torch.float64).log().to(device.kind)
    result = lens_advantages(
        values,
        torch.tensor([0, 2, 3], device=device.kind),
        torch.zeros(2, device=device.kind),
        torch.tensor([0, 2], device=device.kind),
    )
    found = result.advantage.tolist()
    good = all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(found, (-1 / 24, 1 / 24), strict=True))
    rows.check("advantages worked by hand", good, found=str([float(f"{a:.15g}") for a in found]))
