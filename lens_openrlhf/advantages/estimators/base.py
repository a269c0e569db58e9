"""What an estimator is: a step's responses in, one advantage a response or a token out. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .batch import TOKEN_NEEDS, Batch

if TYPE_CHECKING:
    from torch import Tensor

# By how the answers are drawn: what a Config must say of it.
SAMPLING = {"plain": (), "until_positive": ("rounds", "oversample", "stop"), "by_weight": (), "scored": ("scorer",)}
POLICY_LOSSES = ("ppo", "reinforce", "topr")
OPTION_TYPES = (bool, int, float, str)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an estimator gives back.

    Attributes:
        advantage: [N], one for all tokens of a response, or [T], one a token.
        per_token: whether it is the latter. Of a bare tensor the shape decides.
        confidence: [N] probability of each response, for the records; by default exp of mean_logprob.
        metrics: numbers of the step by name, or None where there is nothing to average.
    """

    advantage: Tensor
    per_token: bool = False
    confidence: Tensor | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    """For an estimator without options."""


class Estimator:
    """Base of all estimators: responses of a step to advantages, with state if it likes.

    A subclass names itself and what it needs; `advantages` is the method. Every data-parallel rank calls it with the
    same batch, all responses of the step, so that it comes to the same result and state everywhere.

    Attributes:
        name: as in `--algo.advantage.estimator`.
        paper: authors and year.
        Config: dataclass of its options, see :func:`lens_openrlhf.advantages.config.option`; a bad value raises
            ValueError there.
        needs: of "logprobs", "entropies", "self_certainty": numbers of every token that `advantages` reads. They are
            gathered from all ranks.
        extras: names that `advantages` reads with `Batch.extra`; whoever samples the answers must give them.
        defaults: options of OpenRLHF by dotted name that become the paper's where the user gives nothing else.
        requires: options of OpenRLHF by dotted name that must have this value, and why: {name: (value, reason)}.
        learns_from_negative_groups: whether a group without a right answer has any advantage other than 0.
        compares_answers: whether it needs more than one answer to a prompt.
        verified: whether it reads the verifier's outcome or the reward; otherwise they are recorded only.
        reads_reward: whether it reads the reward after shaping, and not the outcome alone.
        sampling: how the answers are drawn: "plain", "until_positive" (Reinforce-Ada's rounds; Config has `rounds`,
            `oversample` and `stop`), "by_weight" (prompts by `prompt_weights`) or "scored" (plain, and the steps of
            wrong answers get a score; Config has `scorer`).
        policy_loss: "ppo", as OpenRLHF has it; "reinforce", without importance ratio; "topr", with one that is cut at 1
            for negative advantages.
    """

    name: ClassVar[str] = "custom"
    paper: ClassVar[str] = ""
    Config: ClassVar[type] = NoConfig
    needs: ClassVar[frozenset[str]] = frozenset()
    extras: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}
    requires: ClassVar[Mapping[str, tuple[Any, str]]] = {}
    learns_from_negative_groups: ClassVar[bool] = True
    compares_answers: ClassVar[bool] = True
    verified: ClassVar[bool] = True
    reads_reward: ClassVar[bool] = True
    sampling: ClassVar[str] = "plain"
    policy_loss: ClassVar[str] = "ppo"
    source: ClassVar[str]  # where a user's own or a package's comes from

    def __init__(self, config: Any = None):
        self.config = self.Config() if config is None else config

    @classmethod
    def options(cls) -> tuple[Field, ...]:
        """The fields of its Config."""
        return fields(cls.Config)

    def advantages(self, batch: Batch) -> Tensor | Result:
        """Advantages [N] or [T] of the batch."""
        raise NotImplementedError(f"{type(self).__name__} does not define advantages(batch)")

    @property
    def remembers(self) -> bool:
        """Whether it keeps state across steps."""
        return type(self).state_dict is not Estimator.state_dict

    @property
    def least_answers(self) -> int:
        """Answers to a prompt without which it could teach nothing."""
        return 2 if self.compares_answers else 1

    def updated(self, status: Mapping[str, float]) -> None:
        """Called after the step's update with what OpenRLHF reports of it (`ppo_kl`), the same on every rank."""

    def prompt_weights(self, prompts: Tensor) -> Tensor:
        """[P] float64 above 0, how often each of `prompts` [P] int64 is to be drawn; for sampling "by_weight"."""
        raise NotImplementedError(f"{type(self).__name__} has sampling 'by_weight' and no prompt_weights(prompts)")

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart; tensors, numbers, texts, lists and dicts.

        An estimator that defines this gets its batch on the CPU, where its state is: checkpoints are loaded there, and
        prompts are drawn there. What an estimator adds up by means of its own has one order there, too; a last place
        that ranks disagree about would otherwise be remembered, and grow with the steps.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""


class EstimatorError(ValueError):
    """An estimator that raised, or gave back what cannot be used; the message names it and its file."""


def check_declared(estimator: type[Estimator], source: str) -> None:
    """What an estimator says of itself.

    Raises:
        EstimatorError: it needs what no batch has, is sampled for in an unknown way, or has options that no command
            line can give.
    """
    place = f"{estimator.name} ({source})"
    unknown = set(estimator.needs) - set(TOKEN_NEEDS)
    if unknown:
        raise EstimatorError(f"{place}: needs {', '.join(sorted(unknown))}; known: {', '.join(TOKEN_NEEDS)}")
    for name, known in (("sampling", tuple(SAMPLING)), ("policy_loss", POLICY_LOSSES)):
        value = getattr(estimator, name)
        if value not in known:
            raise EstimatorError(f"{place}: has {name} {value!r}; known: {', '.join(known)}")
    if not is_dataclass(estimator.Config):
        raise EstimatorError(f"{place}: its Config is no dataclass")
    for wanted in SAMPLING[estimator.sampling]:
        if wanted not in {entry.name for entry in estimator.options()}:
            raise EstimatorError(f"{place}: has sampling {estimator.sampling!r}, but its Config has no {wanted}")
    for entry in estimator.options():
        if not isinstance(entry.default, OPTION_TYPES):
            raise EstimatorError(
                f"{place}: option {entry.name} has no default of type "
                f"{', '.join(kind.__name__ for kind in OPTION_TYPES)}"
            )
