"""Run folders as docs/run_folder.md has them, of a tabular policy whose answers are drawn from known distributions.

A question has one right answer and a few wrong ones, the first of them a favourite mistake. Skill grows over training
and moves probability to the right answer, less on hard questions. Answers are drawn from the policy, their tokens'
log-probabilities sum to the answer's own and some of style, and everything after that is the project's own code.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lens_openrlhf.advantages import GroupKind, LensAdvantages, LensConfig, lens_advantages
from lens_openrlhf.advantages.estimators import Batch
from lens_openrlhf.evaluation import mean_and_error, pass_at_k
from lens_openrlhf.run_folder.group_metrics import group_metrics
from lens_openrlhf.run_folder.log import RunLog

LEVELS = 5
WRONG = 4
KS = (1, 2, 4, 8, 16)
START = 1_790_000_000.0  # Unix seconds, so that pages are the same every time


@dataclass
class Questions:
    level: np.ndarray  # [P] 1 to LEVELS
    numbers: np.ndarray  # [P, 2] what is to be added
    ease: np.ndarray  # [P] added to the right answer's logit

    @classmethod
    def draw(cls, count: int, generator: np.random.Generator) -> Questions:
        level = generator.integers(1, LEVELS + 1, count)
        numbers = generator.integers(10 ** (level // 2), 10 ** (level // 2 + 1), (2, count)).T
        return cls(level, numbers, generator.normal(0, 0.7, count))

    def __getitem__(self, rows) -> Questions:
        return Questions(self.level[rows], self.numbers[rows], self.ease[rows])

    def policy(self, skill: float) -> np.ndarray:
        """[P, 1 + WRONG] probability of each answer, the right one first."""
        logits = np.zeros((len(self.level), 1 + WRONG))
        logits[:, 0] = skill - 1.2 * self.level + self.ease
        logits[:, 1] = 1.5
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    def text(self, row: int, answer: int) -> str:
        total = int(self.numbers[row].sum())
        said = total if answer == 0 else total + (10, 1, -1, 100)[answer - 1]
        return f"I add the ones, then the tens.\nSo the sum is \\boxed{{{said}}}."


@dataclass
class Answers:
    chosen: np.ndarray  # [P, n]
    lengths: np.ndarray  # [P * n] tokens
    logprobs: torch.Tensor  # [sum of lengths] packed
    truncated: np.ndarray  # [P * n]

    @property
    def correctness(self) -> torch.Tensor:
        return torch.from_numpy((self.chosen.reshape(-1) == 0).astype(np.float64))

    @classmethod
    def draw(cls, questions: Questions, skill: float, n: int, generator: np.random.Generator) -> Answers:
        policy = questions.policy(skill)
        chosen = np.stack([generator.choice(1 + WRONG, n, p=p) for p in policy])
        lengths = 8 + generator.poisson(6 + questions.level.repeat(n))
        surprise = -np.log(np.take_along_axis(policy, chosen, axis=1)).reshape(-1)
        tokens = [s * generator.dirichlet(np.full(k, 0.5)) for s, k in zip(surprise, lengths, strict=True)]
        packed = -(np.concatenate(tokens) + generator.exponential(0.03, lengths.sum()))
        return cls(chosen, lengths, torch.from_numpy(packed), lengths >= 22)

    def advantages(self, config: LensConfig) -> tuple[LensAdvantages, torch.Tensor]:
        """And the group offsets."""
        prompts, n = self.chosen.shape
        cu_seqlens = torch.from_numpy(np.concatenate([[0], self.lengths.cumsum()]))
        cu_groups = torch.arange(prompts + 1) * n
        return lens_advantages(self.logprobs, cu_seqlens, self.correctness, cu_groups, config), cu_groups


def write_config(folder: Path, **options) -> None:
    """config.json of a run; `options` by dotted name, added to what every run has."""
    folder.mkdir(parents=True, exist_ok=True)
    every = {
        "actor.model_name_or_path": "/models/tiny-adder",
        "data.prompt_dataset": "/data/sums/train.jsonl",
        "eval.dataset": "/data/sums/heldout.jsonl",
        "actor.adam.lr": 1e-4,
        "rollout.batch_size": 16,
        "rollout.n_samples_per_prompt": 16,
        "algo.advantage.estimator": "lens",
        "algo.lens.scope": "both",
        "algo.lens.alpha": 0.25,
        "algo.lens.difficulty": "importance",
        "train.seed": 1,
        "logger.run_dir": str(folder),
    }
    config = {
        "command": ["--algo.advantage.estimator", "lens"],
        "options": every | options,
        "versions": {"python": "3.11.7", "lens_openrlhf": "0.1.0", "torch": "2.13.0+cpu", "openrlhf": "0.11.2"},
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def write_samples(
    path: Path, step: int, questions: Questions, answers: Answers, result: LensAdvantages, texts: int
) -> None:
    """samples/step-*.parquet, with the texts of the first `texts` prompts."""
    prompts, n = answers.chosen.shape
    of_prompt = np.arange(prompts).repeat(n)
    kinds = {kind.value: name.lower() for name, kind in GroupKind.__members__.items()}

    def text(of) -> list[str | None]:
        return [of(p, a) if p < texts else None for p, a in zip(of_prompt, answers.chosen.reshape(-1), strict=True)]

    correctness = answers.correctness.numpy()
    table = {
        "step": pa.array(np.full(prompts * n, step), pa.int32()),
        "index": pa.array(np.arange(prompts * n), pa.int32()),
        "prompt_id": pa.array(of_prompt, pa.int32()),
        "prompt": pa.array(
            text(lambda p, a: f"What is {questions.numbers[p][0]} + {questions.numbers[p][1]}?"), pa.string()
        ),
        "response": pa.array(text(questions.text), pa.string()),
        "label": pa.array(text(lambda p, a: str(questions.numbers[p].sum())), pa.string()),
        "correctness": pa.array(correctness, pa.float64()),
        "reward": pa.array(correctness, pa.float64()),
        "tokens": pa.array(answers.lengths, pa.int32()),
        "truncated": pa.array(answers.truncated, pa.bool_()),
        "confidence": pa.array(result.confidence.numpy(), pa.float64()),
        "advantage": pa.array(result.advantage.numpy(), pa.float64()),
        "kind": pa.array([kinds[k] for k in result.group_kind.repeat_interleave(n).tolist()], pa.string()),
    }
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), path)


class Trainer:
    """Writes a run folder step by step."""

    def __init__(
        self, folder: Path, *, seed: int = 1, rate: float = 0.08, prompts: int = 16, n: int = 16, heldout: int = 64,
        texts: int = 2, planned: int = 24, samples: bool = True, **options,
    ):  # fmt: skip
        write_config(folder, **{"train.seed": seed} | options)
        lens = {k.rsplit(".", 1)[-1]: v for k, v in options.items() if k.startswith("algo.lens.")}
        self.config = LensConfig(**lens)
        self.folder, self.log, self.n, self.prompts, self.texts, self.samples = (
            folder,
            RunLog(folder),
            n,
            prompts,
            texts,
            samples,
        )
        self.generator = np.random.default_rng([seed, zlib.crc32(str(options).encode())])
        self.heldout = Questions.draw(heldout, np.random.default_rng(0))
        self.start = 2.4 + 0.1 * self.generator.normal()
        self.rate = rate
        self.clock = START
        self.log.event("steps", total=planned)

    def skill(self, step: int) -> float:
        return self.start + 3 * (1 - np.exp(-self.rate * step / 3))

    def step(self, step: int) -> None:
        questions = Questions.draw(self.prompts, self.generator)
        answers = Answers.draw(questions, self.skill(step - 1), self.n, self.generator)
        result, cu_groups = answers.advantages(self.config)
        correctness = answers.correctness
        batch = Batch(
            mean_logprob=result.mean_logprob,
            lengths=result.lengths,
            correctness=correctness,
            rewards=correctness,
            cu_groups=cu_groups,
        )
        seconds = {name: float(self.generator.gamma(40, mean / 40)) for name, mean in
                   (("generation", 3.2), ("make_experience", 1.6), ("ppo_train", 4.4), ("broadcast", 0.1))}  # fmt: skip
        status = {
            **group_metrics(batch, result.advantage.abs(), result.confidence),
            "lens/difficulty": result.difficulty.mean().item(),
            "rollout/reward_mean": correctness.mean().item(),
            "rollout/response_length_mean": answers.lengths.mean(),
            "rollout/truncated_rate": answers.truncated.mean(),
            "policy_loss": float(self.generator.normal(0, 1e-3)),
            **{f"timing/{name}": value for name, value in seconds.items()},
            "timing/step_total": sum(seconds.values()),
        }
        self.clock += status["timing/step_total"]
        record = {"step": step, "time": self.clock, **status}
        self.log._append("metrics.jsonl", record)
        if self.samples:
            write_samples(
                self.folder / f"samples/step-{step:06d}.parquet", step, questions, answers, result, self.texts
            )

    def evaluate(self, step: int) -> None:
        answers = Answers.draw(self.heldout, self.skill(step), max(KS), self.generator)
        prompts, n = answers.chosen.shape
        right = (answers.chosen == 0).sum(axis=1)
        splits = {
            "level": self.heldout.level.tolist(),
            "datasource": ["short" if level < 3 else "long" for level in self.heldout.level],
        }
        parts = {"all": np.ones(prompts, bool)}
        parts |= {f"{c}={v}": np.array(values) == v for c, values in splits.items() for v in dict.fromkeys(values)}
        record = {
            "step": step,
            "time": self.clock,
            "seconds": 4.0,
            "scores": (answers.chosen == 0).astype(float).tolist(),
            "lengths": answers.lengths.reshape(prompts, n).tolist(),
            "truncated": answers.truncated.reshape(prompts, n).tolist(),
            "splits": splits,
            "pass_at_k": {
                name: {str(k): list(mean_and_error([pass_at_k(int(c), n, k) for c in right[part]])) for k in KS}
                for name, part in parts.items()
            },
        }
        self.log._append("eval.jsonl", record)


def write_run(folder: Path, steps: int = 24, every: int = 6, **settings) -> Path:
    """A finished run of `steps` steps, evaluated before the first and after every `every`."""
    trainer = Trainer(folder, planned=steps, **settings)
    trainer.evaluate(0)
    for step in range(1, steps + 1):
        trainer.step(step)
        if step % every == 0:
            trainer.evaluate(step)
    return folder


ARMS = {"grpo": ("none", 0.06), "lens": ("both", 0.1)}  # scope, and how fast skill grows


def write_comparison(folder: Path, seeds: int = 3, steps: int = 24, arms: dict = ARMS, **settings) -> Path:
    """A finished comparison's folder."""
    for name, (scope, rate) in arms.items():
        for seed in range(1, seeds + 1):
            options = {"algo.lens.scope": scope}
            write_run(folder / "runs" / name / f"seed-{seed}", steps, seed=seed, rate=rate, **options, **settings)
    (folder / "spec.yaml").write_text("# as read\n")
    listing = {"arms": [{"name": n, "options": {"algo.lens.scope": s}} for n, (s, _) in arms.items()]}
    (folder / "compare.json").write_text(json.dumps(listing | {"seeds": list(range(1, seeds + 1))}))
    return folder
