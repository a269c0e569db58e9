"""Both libraries in a fresh Python, what they register, and a result that was worked by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import torch

from .device import Cpu, Cuda
from .rows import Rows

OPERATORS = ("segment_mean", "group_advantages", "lens_advantages")


def run(device: Cuda | Cpu, rows: Rows) -> None:
    fresh = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import lens_openrlhf.advantages.ops"], stderr=subprocess.PIPE, text=True
    )
    rows.check("import in a fresh Python", fresh.returncode == 0, says=fresh.stderr.strip()[-300:] or "nothing")

    from lens_openrlhf.advantages import extension, lens_advantages

    rows.check("_C, for CPU tensors", extension.find("_C") is not None, says=extension.find("_C"))
    problem = extension.device_problem(torch.device(device.kind))
    rows.check("_C_cuda, for this device", problem is None, says=problem or extension.find("_C_cuda") or "not built")
    for name in OPERATORS:
        operator, key = f"lens_openrlhf::{name}", device.kind.upper()
        known = operator in extension.operators()
        registered = known and torch._C._dispatch_has_kernel_for_dispatch_key(operator, key)
        rows.check(f"{operator} for {key}", registered)

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
