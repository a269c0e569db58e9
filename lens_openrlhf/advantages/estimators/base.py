"""What an estimator is: a step's responses in, one advantage a response or a token out. Needs torch alone."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..config import ROUNDING, GroupKind, LensConfig
from ..lazily import torch

if TYPE_CHECKING:
    from torch import Tensor

TOKEN_NEEDS = ("logprobs", "entropies", "self_certainty")
# By how the answers are drawn: what a Config must say of it.
SAMPLING = {"plain": (), "until_positive": ("rounds", "oversample", "stop"), "by_weight": (), "scored": ("scorer",)}
POLICY_LOSSES = ("ppo", "reinforce", "topr")
OPTION_TYPES = (bool, int, float, str)
GRPO = LensConfig(scope="none")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The responses of one step in rollout order, those to one prompt side by side: N responses to Q prompts.

    Attributes:
        mean_logprob: [N] float64, mean log-probability of a response's action tokens, nats.
        lengths: [N] int64, its number of action tokens.
        correctness: [N] float64, the verifier's raw outcome in [0, 1].
        rewards: [N] float64, the reward after shaping.
        cu_groups: [Q+1] int64; prompt g's responses are `cu_groups[g]:cu_groups[g+1]`.
        prompts: [Q] int64, a number for each prompt, the same whenever it comes again; None where it is not known.
        step: number of the training step, from 1.
        logprobs, entropies, self_certainty: [T] float32, a number for each action token, packed; None unless the
            estimator's `needs` has the name. Nats: log pi of the token; the entropy of the distribution it was drawn
            from; the divergence of that from the uniform one, KL(uniform || pi).
        cu_seqlens: [N+1] int64; response i's tokens are `cu_seqlens[i]:cu_seqlens[i+1]`. None without those.
        extras: [N] float64 by name, what the side that sampled the responses knows of them.
    """

    mean_logprob: Tensor
    lengths: Tensor
    correctness: Tensor
    rewards: Tensor
    cu_groups: Tensor
    prompts: Tensor | None = None
    step: int = 1
    logprobs: Tensor | None = None
    entropies: Tensor | None = None
    self_certainty: Tensor | None = None
    cu_seqlens: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def group_of(self) -> Tensor:
        """[N] int64, the group of every response."""
        sizes = self.cu_groups.diff()
        return torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)

    @property
    def response_of(self) -> Tensor:
        """[T] int64, the response of every token."""
        lengths = self.cu_seqlens.diff()
        return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)

    def group_sum(self, values: Tensor) -> Tensor:
        """[N] to [Q], see :func:`segment_sum`; of values' dtype, and 0 for a group without responses."""
        return segment_sum(values, self.cu_groups.diff()).to(values.dtype)

    def group_mean(self, values: Tensor) -> Tensor:
        """[N] to [Q]."""
        return self.group_sum(values) / self.cu_groups.diff()

    def extra(self, name: str, remedy: str) -> Tensor:
        """[N] float64, the extra of that name.

        Raises:
            ValueError: it is missing; the message says what to do.
        """
        if name not in self.extras:
            raise ValueError(f"the batch has no {name} of its responses: {remedy}")
        return self.extras[name]

    @property
    def kinds(self) -> Tensor:
        """[Q] int8, see GroupKind."""
        return group_kinds(self.correctness, self.cu_groups)

    def grpo(self, rewards: Tensor) -> Tensor:
        """[N] float64: `rewards` [N] normalised within their groups, (r - mean) / std; 0 where all are the same."""
        from ..ops import group_advantages

        return group_advantages(
            self.mean_logprob, self.lengths, self.correctness, self.cu_groups, GRPO, rewards=rewards
        ).advantage

    def token_mean(self, values: Tensor) -> Tensor:
        """[T] to [N] float64: the mean over a response's tokens, 0 for an empty one."""
        return segment_sum(values, self.cu_seqlens.diff()) / self.lengths.clamp(min=1)


def segment_sum(values: Tensor, sizes: Tensor) -> Tensor:
    """Sums of values that stand side by side, added one after the other, on every device alike.

    Of a column torch adds a segment in one thread, on CUDA as on the CPU, so that the bits depend on nothing but the
    segment's values. `index_add` and its like add on CUDA as the threads happen to come, and ranks would differ.

    Args:
        values: [T], any real dtype; added in float64.
        sizes: [N] int64, how many values each segment has, T in all.

    Returns:
        [N] float64, 0 for an empty segment.

    Raises:
        RuntimeError: sizes that are negative or not T in all.
    """
    column = values.double()[:, None]
    return torch.segment_reduce(column, "sum", lengths=sizes, unsafe=len(sizes) == 0)[:, 0]  # it cannot check none


def group_range(values: Tensor, cu_groups: Tensor) -> tuple[Tensor, Tensor]:
    """[Q] each, the least and the largest of values [N] in every group; inf and -inf for a group without responses."""
    sizes = cu_groups.diff()
    group = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    low = values.new_full((len(sizes),), math.inf).scatter_reduce(0, group, values, "amin")
    return low, values.new_full((len(sizes),), -math.inf).scatter_reduce(0, group, values, "amax")


def group_kinds(correctness: Tensor, cu_groups: Tensor) -> Tensor:
    """[Q] int8, the GroupKind of every group by raw correctness [N]."""
    low, high = group_range(correctness, cu_groups)
    uniform = torch.where(1 - high <= ROUNDING, int(GroupKind.POSITIVE), int(GroupKind.NEGATIVE))
    return torch.where(high - low > ROUNDING, int(GroupKind.MIXED), uniform).to(torch.int8)


def same_rewards(rewards: Tensor, cu_groups: Tensor) -> Tensor:
    """[Q] bool, the groups whose rewards [N] differ by rounding at most, so that GRPO gives them 0."""
    low, high = group_range(rewards, cu_groups)
    return high - low <= ROUNDING * torch.maximum(high.abs(), low.abs()).clamp(min=1)


def tokens_of(responses: Tensor, lengths: Tensor) -> Tensor:
    """Where the tokens of some responses, one after the other, lie among those of all.

    Args:
        responses: [M] int64, which ones, in any order.
        lengths: [N] int64, tokens of every response.

    Returns:
        [T'] int64.
    """
    chosen = lengths[responses]
    shift = (lengths.cumsum(0) - lengths)[responses] - (chosen.cumsum(0) - chosen)
    return torch.arange(int(chosen.sum()), device=lengths.device) + shift.repeat_interleave(chosen)


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
        Config: dataclass of its options, see :func:`option`; a bad value raises ValueError there.
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


def described(estimator: Estimator | type[Estimator]) -> str:
    """The estimator's name and where it stands, for messages."""
    source = getattr(estimator, "source", None)
    if source is None:
        try:
            source = inspect.getsourcefile(estimator if isinstance(estimator, type) else type(estimator))
        except (TypeError, OSError):  # defined at a prompt or in a notebook
            source = None
    return f"estimator {estimator.name}" + (f" ({source})" if source else "")


@contextmanager
def asked(estimator: Estimator, method: str) -> Iterator[None]:
    """Around a call of one of the estimator's methods; what it raises comes as an EstimatorError that names both."""
    try:
        yield
    except Exception as error:
        raise EstimatorError(f"{described(estimator)}: {method} raised {type(error).__name__}: {error}") from error


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


def made(kind: type[Estimator], values: Mapping[str, Any]) -> Estimator:
    """The estimator with these values of its Config.

    Raises:
        EstimatorError: its Config or it itself raised; names it and its file.
        ValueError: its Config refuses a value.
    """
    try:
        config = kind.Config(**values)
    except ValueError:
        raise
    except Exception as error:
        raise EstimatorError(f"{described(kind)}: its Config raised {type(error).__name__}: {error}") from error
    try:
        return kind(config)
    except Exception as error:
        raise EstimatorError(f"{described(kind)}: __init__ raised {type(error).__name__}: {error}") from error


def _for_estimator(estimator: Estimator, batch: Batch) -> Batch:
    """The batch as the estimator gets it: numbers of responses are copies, as the records have those of the batch; and
    on the CPU for one that remembers, see :meth:`Estimator.state_dict`."""
    names = ("mean_logprob", "lengths", "correctness", "rewards", "cu_groups")
    batch = replace(batch, **{name: getattr(batch, name).clone() for name in names})
    if batch.correctness.is_cpu or not estimator.remembers:
        return batch
    moved = {name: v.cpu() for name, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    return replace(batch, extras={name: v.cpu() for name, v in batch.extras.items()}, **moved)


def _check_batch(estimator: Estimator, batch: Batch) -> None:
    for need in estimator.needs:
        if getattr(batch, need) is None:
            raise EstimatorError(
                f"{described(estimator)}: needs {need} of every token, which the batch does not have: "
                f"Batch({need}=…, cu_seqlens=…), or --{need} of lens-openrlhf advantages"
            )


def run(estimator: Estimator, batch: Batch) -> Result:
    """The estimator's advantages of `batch`, checked; float64 on the batch's device.

    Warns where rewards differ from the outcome that the estimator reads instead.

    Raises:
        EstimatorError: it raised, needs what the batch lacks, or gave back NaN, infinity, another shape or device.
    """
    _check_batch(estimator, batch)
    named = described(estimator)
    if estimator.verified and not estimator.reads_reward and not torch.equal(batch.rewards, batch.correctness):
        warnings.warn(f"{named}: reads the verifier's outcome; that rewards differ from it has no effect", stacklevel=2)
    given, home = _for_estimator(estimator, batch), batch.correctness.device
    device = given.correctness.device
    with asked(estimator, "advantages"):
        result = estimator.advantages(given)
    n, tokens = len(batch.lengths), None if batch.cu_seqlens is None else int(batch.cu_seqlens[-1])
    if isinstance(result, torch.Tensor):
        if estimator.needs and tokens == n and tuple(result.shape) == (n,) and not (batch.lengths == 1).all():
            raise EstimatorError(
                f"{named}: gave back [{n}], which may be one a response or one a token, as there are {n} of both; "
                "give back Result(advantage=…, per_token=…)"
            )
        result = Result(advantage=result, per_token=tuple(result.shape) == (tokens,) != (n,))
    if not isinstance(result, Result) or not isinstance(result.advantage, torch.Tensor):
        raise EstimatorError(f"{named}: gave back {type(result).__name__}, expected a tensor or a Result")
    advantage = result.advantage
    if tuple(advantage.shape) != (tokens if result.per_token else n,):
        a_token = f" or [{tokens}], one a token" if tokens is not None else ""
        hint = "" if a_token else f" (one a token only with needs of {', '.join(TOKEN_NEEDS)})"
        raise EstimatorError(
            f"{named}: gave back shape {list(advantage.shape)}, expected [{n}], one a response{a_token}{hint}"
        )
    if advantage.device != device:
        raise EstimatorError(f"{named}: gave back advantages on {advantage.device}, expected {device}")
    if advantage.dtype.is_complex:
        raise EstimatorError(f"{named}: gave back {advantage.dtype}, expected real numbers")
    advantage = advantage.detach().double()
    bad = (~advantage.isfinite()).nonzero()
    if len(bad):
        what = "token" if result.per_token else "response"
        raise EstimatorError(f"{named}: {what} {int(bad[0])} has advantage {advantage[bad[0]].item()!r}")
    return Result(
        advantage=advantage.to(home),
        per_token=result.per_token,
        confidence=_confidence(named, result.confidence, batch, device),
        metrics=_metrics(named, result),
    )


def _confidence(named: str, confidence: object, batch: Batch, device: torch.device) -> Tensor:
    """[N], what the estimator says, on `device`, or exp of the mean log-probability; NaN where there is no token."""
    n, empty = len(batch.lengths), batch.lengths == 0
    if confidence is None:
        return torch.where(empty, math.nan, batch.mean_logprob.clamp(max=0).exp())
    if not isinstance(confidence, torch.Tensor):
        raise EstimatorError(f"{named}: gave back {type(confidence).__name__} as confidence, expected a tensor [{n}]")
    if tuple(confidence.shape) != (n,) or confidence.device != device:
        raise EstimatorError(
            f"{named}: gave back a confidence of shape {list(confidence.shape)} on {confidence.device}, expected [{n}] "
            f"on {device}"
        )
    confidence = confidence.to(empty.device)
    bad = (~(confidence.isfinite() | empty)).nonzero()
    if len(bad):
        raise EstimatorError(f"{named}: response {int(bad[0])} has confidence {confidence[bad[0]].item()!r}")
    return confidence


def _metrics(named: str, result: Result) -> dict[str, float | None]:
    if not isinstance(result.metrics, Mapping):
        raise EstimatorError(f"{named}: gave back {type(result.metrics).__name__} as metrics, expected a dict")
    for name, value in result.metrics.items():
        if not isinstance(value, int | float | None):
            raise EstimatorError(f"{named}: metric {name!r} is {value!r}, expected a number or None")
    return dict(result.metrics)


def from_function(function: Callable[[Batch], Tensor | Result], name: str, source: str) -> type[Estimator]:
    """An estimator class around a function of a batch; `function.needs`, if it is there, is its needs."""

    class FromFunction(Estimator):
        def advantages(self, batch: Batch) -> Tensor | Result:
            return function(batch)

    FromFunction.name, FromFunction.source = name, source
    FromFunction.needs = frozenset(getattr(function, "needs", ()))
    check_declared(FromFunction, source)
    return FromFunction
