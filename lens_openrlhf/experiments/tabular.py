"""LENS and GRPO on a table: softmax policies over a few answers, where nothing but the advantages differs.

Every question has one confident wrong answer and a right one that is hardly ever sampled, so nearly all groups are all
wrong. GRPO's advantages are 0 there: it waits until a right answer turns up by luck. LENS gives the confident wrong
answer a lower advantage than the other wrong ones, so its logit falls, and the probability that this sets free goes to
the other answers, the right one included. That one is therefore sampled sooner, and mixed groups do the rest.
In a negative group nothing tells right from wrong: a larger alpha shortens the wait, it does not aim.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..advantages import LensConfig
from ..advantages.lazily import torch
from ..commands import Parser, check_out, main_of
from ..evaluation import mean_and_error
from ..inputs import OptionError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from torch import Tensor

RIGHT, CONFIDENT_WRONG = 0, 1  # columns of the table
MOST, MOST_CELLS = 10**6, 10**8  # of anything that is counted, and of a table


class Batch(NamedTuple):
    """G sampled answers to each of Q questions."""

    answers: Tensor  # [Q, G] int64, columns of the table
    logprobs: Tensor  # [Q, G] float64, log-probability of each; an answer is one token, so also its mean
    correctness: Tensor  # [Q, G] float64, 0 or 1


Estimator = Callable[[Batch], "Tensor"]  # a batch to its advantages, [Q, G] float64


def lens(config: LensConfig) -> Estimator:
    """The project's own operator as an estimator; scope "none" is GRPO."""

    def advantages(batch: Batch) -> Tensor:
        from ..advantages import group_advantages

        questions, samples = batch.answers.shape
        return group_advantages(
            batch.logprobs.reshape(-1),
            torch.ones(questions * samples, dtype=torch.int64),
            batch.correctness.reshape(-1),
            torch.arange(0, questions * samples + 1, samples),
            config,
        ).advantage.view(questions, samples)

    return advantages


ARMS: dict[str, Estimator] = {
    "GRPO": lens(LensConfig(scope="none")),
    "LENS, alpha 0.25": lens(LensConfig(alpha=0.25)),
    "LENS, alpha 1": lens(LensConfig(alpha=1.0)),
    "LENS, alpha 4": lens(LensConfig(alpha=4.0)),
    "LENS, alpha 0.25, difficulty max": lens(LensConfig(alpha=0.25, difficulty="max")),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The table and its training.

    Raises:
        ValueError: naming the setting, for values that make no table or no training.
    """

    questions: int = 400
    answers: int = 20
    samples: int = 16  # G, answers sampled to a question in a step
    steps: int = 200
    lr: float = 1.0  # of plain SGD on the logits, a question's own gradient
    right: float = 0.001  # initial probability of the right answer
    wrong: float = 0.9  # of the confident wrong one; the others share what is left

    def __post_init__(self) -> None:
        for name, least in {"questions": 1, "answers": 3, "samples": 2, "steps": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least {least}")
            if getattr(self, name) > MOST:
                raise ValueError(f"{name} {getattr(self, name)}: expected at most {MOST}")
        if self.questions * max(self.answers, self.samples) > MOST_CELLS:
            raise ValueError(
                f"questions {self.questions}: with {self.answers} answers and {self.samples} samples the table is too "
                "large; expected fewer"
            )
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr {self.lr}: expected a positive number")
        if not (0 < self.right and 0 < self.wrong and self.right + self.wrong < 1):
            raise ValueError(
                f"right {self.right} and wrong {self.wrong}: expected positive probabilities that leave some for the "
                "other answers"
            )


class Curves(NamedTuple):
    """One run: the mean probability of the right answer before and after every step, negative groups in every step."""

    right: Tensor  # [steps + 1] float64
    negative: Tensor  # [steps] float64


def initial_logits(settings: Settings) -> Tensor:
    """[Q, A] float64 log-probabilities of the policy before training."""
    rest = (1 - settings.right - settings.wrong) / (settings.answers - 2)
    probabilities = torch.full((settings.questions, settings.answers), rest, dtype=torch.float64)
    probabilities[:, RIGHT], probabilities[:, CONFIDENT_WRONG] = settings.right, settings.wrong
    return probabilities.log()


def sample(logits: Tensor, samples: int, generator: torch.Generator) -> Batch:
    """`samples` answers to each question of `logits` [Q, A]."""
    logprobs = logits.log_softmax(1)
    answers = torch.multinomial(logprobs.exp(), samples, replacement=True, generator=generator)
    return Batch(answers, logprobs.gather(1, answers), (answers == RIGHT).double())


def gradient(logits: Tensor, batch: Batch, advantages: Tensor) -> Tensor:
    """[Q, A]: the policy-gradient estimator (1/G) sum_i A_i grad log pi(o_i), with respect to each question's logits.

    The gradient of log pi(o) is onehot(o) - pi.
    """
    chosen = torch.zeros_like(logits).scatter_add_(1, batch.answers, advantages)
    return (chosen - advantages.sum(1, keepdim=True) * logits.softmax(1)) / batch.answers.shape[1]


def simulate(estimator: Estimator, settings: Settings, seed: int) -> Curves:
    """Train the table by plain gradient ascent; the same seed gives the same curves."""
    generator = torch.Generator().manual_seed(seed)
    logits = initial_logits(settings)
    right, negative = [logits.softmax(1)[:, RIGHT].mean()], []
    for _ in range(settings.steps):
        batch = sample(logits, settings.samples, generator)
        negative.append((batch.correctness.sum(1) == 0).double().mean())
        logits = logits + settings.lr * gradient(logits, batch, estimator(batch))
        right.append(logits.softmax(1)[:, RIGHT].mean())
    return Curves(torch.stack(right), torch.stack(negative))


def run(arms: Mapping[str, Estimator], settings: Settings, seeds: Sequence[int]) -> dict[str, Curves]:
    """Every arm over all seeds: curves with a first dimension of seeds."""
    runs = {label: [simulate(estimator, settings, seed) for seed in seeds] for label, estimator in arms.items()}
    return {label: Curves(*(torch.stack(part) for part in zip(*curves, strict=True))) for label, curves in runs.items()}


def table(results: Mapping[str, Curves], settings: Settings) -> str:
    """Right answer and negative groups half-way and at the end, means with standard errors over seeds."""

    def cell(values: Tensor) -> str:
        mean, error = mean_and_error(values.tolist())
        return f"{mean:.3f}" + (f" ± {error:.3f}" if len(values) > 1 else "")

    half, end = settings.steps // 2, settings.steps
    width = max(map(len, results)) + 2
    rows = [
        f"{'':{width}}{'right answer':^32}{'negative groups':^32}".rstrip(),
        f"{'':{width}}" + "".join(f"{f'step {step}':>16}" for step in (half, end, half, end)),
    ]
    for label, curves in results.items():
        values = (
            curves.right[:, half],
            curves.right[:, end],
            curves.negative[:, half - 1],
            curves.negative[:, end - 1],
        )
        rows.append(f"{label:{width}}" + "".join(f"{cell(value):>16}" for value in values))
    return "\n".join(rows)


def figure(results: Mapping[str, Curves]) -> go.Figure:
    """Both curves over the steps, with bands of one standard error over seeds: a plotly Figure."""
    import plotly.graph_objects as go
    from plotly.colors import hex_to_rgb, qualitative
    from plotly.subplots import make_subplots

    titles = ("mean probability of the right answer", "share of negative groups")
    plot = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.1, subplot_titles=titles)
    for number, (label, curves) in enumerate(results.items()):
        color = qualitative.D3[number % len(qualitative.D3)]
        dash = "solid" if number < 4 else "dot"  # lines may lie on each other
        for row, values in enumerate(curves, 1):
            mean = values.mean(0)
            steps = list(range(row - 1, row - 1 + len(mean)))  # the right answer also before the first step
            shared = {"legendgroup": label, "name": label}
            if len(values) > 1:
                error = values.std(0) / len(values) ** 0.5
                band = go.Scatter(
                    x=steps + steps[::-1],
                    y=torch.cat([mean + error, (mean - error).flip(0)]).tolist(),
                    fill="toself",
                    fillcolor=f"rgba{(*hex_to_rgb(color), 0.2)}",
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    **shared,
                )
                plot.add_trace(band, row=row, col=1)
            line = go.Scatter(
                x=steps,
                y=mean.tolist(),
                mode="lines",
                line={"color": color, "dash": dash},
                showlegend=row == 1,
                **shared,
            )
            plot.add_trace(line, row=row, col=1)
    plot.update_yaxes(range=[0, 1.02])
    plot.update_xaxes(title_text="step", row=2, col=1)
    plot.update_layout(
        template="plotly_white", hovermode="x unified", legend={"orientation": "h", "y": -0.12}, margin={"t": 40}
    )
    return plot


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="lens-openrlhf simulate",
        description="LENS and GRPO side by side on a table of answers with one confident mistake a question.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    helps = {
        "questions": "questions, each with logits of its own",
        "answers": "answers to choose from",
        "samples": "answers sampled to a question in a step",
        "steps": "training steps",
        "lr": "learning rate of plain SGD on the logits",
        "right": "initial probability of the right answer",
        "wrong": "initial probability of the confident wrong answer; the others share the rest",
    }
    for name, text in helps.items():
        default = getattr(Settings, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    parser.add_argument("--seeds", type=int, default=8, help="number of seeds")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE.html", default=None, help="figure as a web page")
    return parser


def parse(argv: Sequence[str]) -> tuple[Settings, int, Path | None]:
    """Settings, number of seeds and the figure's file.

    Raises:
        OptionError: values that cannot work.
        SystemExit: --help.
    """
    options = vars(_parser().parse_args(argv))
    seeds, out = options.pop("seeds"), options.pop("out")
    try:
        settings = Settings(**options)
    except ValueError as error:
        raise OptionError(f"--{error}") from None
    if not 1 <= seeds <= MOST:
        raise OptionError(f"--seeds {seeds}: expected 1 to {MOST}")
    if out:
        check_out(out)
    return settings, seeds, out


def _run(parsed: tuple[Settings, int, Path | None]) -> int:
    settings, seeds, out = parsed
    torch.set_num_threads(1)  # the tables are too small to share
    results = run(ARMS, settings, range(seeds))
    print(
        f"{settings.questions} questions, {settings.answers} answers (right {settings.right:g}, confident wrong "
        f"{settings.wrong:g}), {settings.samples} samples, learning rate {settings.lr:g}, {seeds} seeds\n"
    )
    print(table(results, settings))
    if out:
        figure(results).write_html(out, include_plotlyjs=True)
        print(f"\nfigure: {out}")
    return 0


main = main_of(parse, _run)
