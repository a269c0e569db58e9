"""The tiny profile: a small model with confident mistakes, trainable by RL on a laptop's CPU.

A character-level model of about 1.6 million parameters learns to add and subtract column by column from
worked demonstrations.  Some demonstrations are wrong on purpose: when a column needs a carry or a borrow, a
seeded table says for its pair of digits how often the demonstrations remember it, from nine times in ten down
to one time in two hundred.  The model picks up these habits and so answers some questions well, some by luck
and many wrongly sixteen times out of sixteen, as larger models do on hard questions, while the right procedure
stays rare but reachable, for RL to find.

    python -m lens_openrlhf.demo --out DIR
"""

from .build import DemoPaths, prepare

__all__ = ["DemoPaths", "prepare"]
