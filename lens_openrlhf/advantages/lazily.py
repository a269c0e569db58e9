"""torch, imported when something of it is first used.

It takes two seconds to import, and command lines read what an estimator says of itself (its options, its defaults)
without computing anything: `from ..lazily import torch` in place of `import torch`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch  # as: for others to import from here
else:

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("torch"), name)

    torch = _Torch()
