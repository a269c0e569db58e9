"""LENS: GRPO that learns from groups in which every answer is wrong, inside OpenRLHF.

`lens_openrlhf.advantages` is the algorithm and needs torch alone; `lens_openrlhf.training` is what joins
it to OpenRLHF.
"""

__version__ = "0.1.0"
