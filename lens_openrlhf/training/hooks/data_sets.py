"""OpenRLHF's reading of data sets, from files and folders of any name."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from openrlhf.datasets.utils import blending_datasets as theirs

from ...inputs import SPECIAL, data_names, place_and_split, plain_name


def blending_datasets(datasets: str, *args: Any, **kwargs: Any) -> Any:
    """OpenRLHF's function of this name. It splits names at commas and @, and `datasets` takes brackets for a pattern:
    what lies here at such a path is read through a link."""
    with contextlib.ExitStack() as stack:

        def readable(name: str) -> str:
            place, split = place_and_split(name)
            if SPECIAL.isdisjoint(place) or not Path(place).exists():
                return name
            return f"{stack.enter_context(plain_name(Path(place)))}{f'@{split}' if split else ''}"

        return theirs(",".join(map(readable, data_names(datasets))), *args, **kwargs)
