"""An estimator that is another method at every step, so that one run tries them all on real rollouts."""

from __future__ import annotations

from lens_openrlhf.advantages import estimators
from lens_openrlhf.advantages.estimators import Batch, Estimator, Result

# Those that have a say in what is sampled have runs of their own.
METHODS = [name for name in estimators.names() if estimators.find(name).sampling == "plain"]


def made(name: str) -> Estimator:
    """The method with its defaults, but for one that needs more answers than four."""
    kind = estimators.find(name)
    return kind(kind.Config(k=2)) if name == "passk" else kind()


class EveryMethod(Estimator):
    needs = frozenset().union(*(estimators.find(name).needs for name in METHODS))

    def __init__(self, config=None):
        super().__init__(config)
        self.methods = {name: made(name) for name in METHODS}

    def advantages(self, batch: Batch) -> Result:
        return estimators.run(self.methods[METHODS[(batch.step - 1) % len(METHODS)]], batch)
