"""Keeps a model's own code from running in a run, whatever the model's files say by the time they are loaded.

OpenRLHF loads every model with `trust_remote_code=True`. Preflight refuses models that bring code (inputs.check_model),
but files and hub repositories can change between the check and the load. Before transformers runs a model's code it
copies it into the folder HF_MODULES_CACHE, and no folder can be made under a file.
"""

from __future__ import annotations

import os

VARIABLE = "HF_MODULES_CACHE"
NOWHERE = f"{os.devnull}/a model's code needs --model.allow_remote_code"


def forbid() -> dict[str, str]:
    """Forbid it in this process; returns the environment that forbids it in others."""
    import transformers.dynamic_module_utils as modules

    modules.HF_MODULES_CACHE = NOWHERE
    return {VARIABLE: NOWHERE}


def forbidden() -> bool:
    """Whether this process was started with that environment."""
    return os.environ.get(VARIABLE) == NOWHERE
