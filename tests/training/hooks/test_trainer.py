"""Whole runs of OpenRLHF's trainers with our classes, in this process: who is asked for what, and what is recorded."""

from __future__ import annotations

import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

from lens_openrlhf.advantages.estimators.reinforce_ada import ReinforceAdaConfig
from lens_openrlhf.run_folder.log import RunLog, read
from lens_openrlhf.training.hooks.experience import LensExperienceMaker
from lens_openrlhf.training.hooks.tags import EXTRA, PROMPT, ROLLOUT_INDEX, prompt_id
from lens_openrlhf.training.hooks.trainer import LensPPO, LensPPOAsync, evaluation_due

from .in_process import Group, Run, write_prompts

LABELS = ["0100", "0000", "1111", "0010", "0110"]
HELD_OUT = ["01", "00", "11"]  # two answers each
BOTH = pytest.mark.parametrize("kind", [LensPPO, LensPPOAsync])


@pytest.fixture
def make(tmp_path, monkeypatch, parse):
    """make(*options) -> a Run of LABELS two at a time, evaluated on HELD_OUT where `evaluated`."""

    def run(*more, estimator="lens", states=None, evaluated=True, labels=LABELS, asynchronous=False):
        words = ["--data.prompt_dataset", write_prompts(tmp_path / "train.jsonl", labels), "--data.label_key", "label"]
        words += ["--rollout.batch_size", "2", "--train.batch_size", "8", "--logger.run_dir", str(tmp_path / "run")]
        if evaluated:
            held_out = write_prompts(tmp_path / "eval.jsonl", HELD_OUT, level=[1, 2, 1])
            words += ["--eval.dataset", held_out, "--eval.n_samples_per_prompt", "2", "--eval.temperature", "0.25"]
        if asynchronous:
            words += ["--train.async_enable"]
        if states:
            words += ["--ckpt.load_enable"]
            (tmp_path / "run" / "checkpoints" / "_actor").mkdir(parents=True)
        (tmp_path / "run").mkdir(exist_ok=True)
        return Run(monkeypatch, parse(*words, *more, estimator=estimator), states)

    return run


def fitted(run, kind):
    """The run after its fit, and its trainer."""
    trainer = run.start(kind)
    trainer.fit()
    return run, trainer


def sampling(answers, evaluation=False):
    return {"event": "sampling", "answers": answers, "tokens": 256, "evaluation": evaluation}


def evaluating(step):
    return [{"event": "evaluating", "step": step}, sampling(6, True), {"event": "sampled"}]


TRAINING = [sampling(8), {"event": "sampled"}]
TRAINING_ONE = [sampling(4), {"event": "sampled"}]
STEPS = {"event": "steps", "total": 3}
EVALUATED = {
    "scores": [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]],
    "lengths": [[1, 2]] * 3,
    "truncated": [[False, True]] * 3,
    "splits": {"level": [1, 2, 1]},
    "pass_at_k": {
        "all": {"1": [0.5, pytest.approx(3**-0.5 / 2)], "2": [pytest.approx(2 / 3), pytest.approx(1 / 3)]},
        "level=1": {"1": [0.75, 0.25], "2": [1.0, 0.0]},
        "level=2": {"1": [0.0, None], "2": [0.0, None]},
    },
    "eval_default_pass1": 0.5,
    "eval_default_pass2": pytest.approx(2 / 3),
    "eval_default_response_length_mean": 1.5,
    "eval_default_truncated_rate": 0.5,
    "eval_response_length_mean": 1.5,
    "eval_truncated_rate": 0.5,
    "eval_num_samples": 6.0,
}
OPENRLHFS = sorted(name for name in EVALUATED if name.startswith("eval_"))
BY_K = sorted(f"{split}pass@{k}" for split in ("", "level=1/", "level=2/") for k in (1, 2))
UPDATE = ["fit", "broadcast", "take_columns"]
BEST = "eval_default_pass1"


def ready(*names):
    return [{"event": "ready", "where": name} for name in names]


def test_a_run_is_recorded_from_its_start_to_its_end(make):
    ends = ["--eval.at_start", "--eval.at_end", "--eval.steps", "2", "--ckpt.save_steps", "2"]
    run, _ = fitted(make(*ends, "--logger.wandb.key", "key"), LensPPO)
    assert run.events == [
        *[STEPS, *ready("LensPPO"), *evaluating(0), *TRAINING, *TRAINING, *evaluating(2), *TRAINING_ONE],
        *evaluating(3),
    ]
    assert [(line["step"], line["policy_loss"], line["lens/dropped_samples"]) for line in run.steps] == [
        (1, 0.25, 0.0),
        (2, 0.5, 0.0),
        (3, 0.75, 0.0),
    ]
    assert run.evaluations == [{"step": step, **EVALUATED} for step in (0, 2, 3)]
    seconds = [line["seconds"] for line in read(f"{run.folder}/eval.jsonl")]
    assert all(0 <= number < 60 for number in seconds)
    assert run.calls == [
        *[*UPDATE, *UPDATE, ("global_step2", [0, 2, 4], None, None), ("best_global_step2", [0, 2, 4], BEST, 0.5)],
        *UPDATE,
    ]
    # The others are not asked for what only one need say.
    assert run.others.calls == [call for call in run.calls if call != "take_columns"]
    for tracker in run.trackers:
        assert tracker.lines == [
            *[("eval", 0, OPENRLHFS), ("eval", 0, BY_K), ("train", 1, 0.25), ("train", 2, 0.5)],
            *[("eval", 2, OPENRLHFS), ("eval", 2, BY_K), ("train", 3, 0.75), ("eval", 3, OPENRLHFS), ("eval", 3, BY_K)],
            "closed",
        ]
    assert len(run.trackers) == 2
    temperatures = Counter((n, temperature) for _, n, temperature in run.engine.calls)
    assert temperatures == {(2, 0.25): 9, (4, 0.5): 5}


def test_an_asynchronous_run_is_recorded_likewise(make):
    ends = ["--eval.at_start", "--eval.at_end", "--eval.steps", "1", "--ckpt.save_steps", "3"]
    run, _ = fitted(make(*ends, "--logger.wandb.key", "key", asynchronous=True), LensPPOAsync)
    parts = ready("LensGenerateSamples", "LensTraining", "LensPPOAsync")
    assert run.events == [
        *[STEPS, *parts, *evaluating(0), *TRAINING, *TRAINING, *evaluating(1), *TRAINING_ONE],
        *evaluating(3),
    ]
    assert [(line["step"], line["policy_loss"]) for line in run.steps] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert run.evaluations == [{"step": step, **EVALUATED} for step in (0, 1, 3)]
    best = ("best_global_step1", [0, 2, 4], BEST, 0.5)  # by the weights of the second step, which OpenRLHF has by then
    assert run.calls == [*UPDATE, *UPDATE, best, *UPDATE, ("global_step3", [1, 3, 5], BEST, 0.5)]
    for tracker in run.trackers:
        assert tracker.lines == [
            *[("eval", 0, sorted(OPENRLHFS + BY_K)), ("train", 1, 0.25), ("train", 2, 0.5)],
            *[("eval", 1, sorted(OPENRLHFS + BY_K)), ("train", 3, 0.75), ("eval", 3, sorted(OPENRLHFS + BY_K))],
            "closed",
        ]
    assert len(run.trackers) == 2


@BOTH
def test_without_options_nothing_is_evaluated_at_the_ends(make, kind):
    run, _ = fitted(make("--ckpt.save_steps", "-1", asynchronous=kind is LensPPOAsync), kind)
    assert run.evaluations == [] and len(run.steps) == 3 and run.calls == [*UPDATE, *UPDATE, *UPDATE]


def test_what_ended_an_episode_goes_on_with_the_next(make):
    """Both the checkpoint of the step and the best one; and an evaluation that was due is not made again at the end."""
    run, _ = fitted(make("--eval.at_end", "--eval.steps", "3", "--ckpt.save_steps", "3"), LensPPO)
    assert run.calls[-2:] == [("global_step3", [1, 3, 5], None, None), ("best_global_step3", [1, 3, 5], BEST, 0.5)]
    assert [line["step"] for line in run.evaluations] == [3]


GOING_ON = {"episode": 0, "global_step": 1, "total_consumed_prompts": 2, "data_loader_state_dict": {}}


@pytest.mark.parametrize("made_before", [False, True])
@BOTH
def test_a_run_that_goes_on_makes_the_evaluation_that_it_missed(make, kind, made_before):
    run = make("--eval.steps", "1", states=GOING_ON, asynchronous=kind is LensPPOAsync)
    if made_before:
        RunLog(run.folder).evaluation(1, {}, {})
    run, _ = fitted(with_state(run, kind), kind)
    # The asynchronous side learns of the last step when it has sampled all.
    assert [line["step"] for line in run.evaluations] == ([1, 2, 3] if kind is LensPPO else [1])
    assert [line["step"] for line in run.steps] == [2, 3]
    # vLLM has the checkpoint's weights before it answers.
    assert run.calls[: 2 if made_before else 3] == ["broadcast"] * (1 if made_before else 2) + ["fit"]
    first = run.events.index({"event": "evaluating", "step": 1}) if not made_before else None
    assert first is None or first < run.events.index(sampling(8))


@BOTH
def test_without_evaluation_data_nothing_is_evaluated(make, kind):
    run = make("--eval.steps", "1", states=GOING_ON, evaluated=False, asynchronous=kind is LensPPOAsync)
    run, _ = fitted(with_state(run, kind), kind)
    assert run.evaluations == [] and run.steps[0]["step"] == 2 and run.calls[:2] == ["broadcast", "fit"]
    assert [event for event in run.events if event["event"] == "evaluating"] == []


def with_state(run, kind):
    """The run, whose checkpoint knows the state of the data after the first two prompts."""
    trainer = run.start(LensPPO)
    trainer.samples_generator.generate_samples(**trainer.generate_kwargs)
    state = trainer.prompts_dataloader.state_dict()
    run.actor.states = run.others.states = run.actor.states | {"data_loader_state_dict": state}
    run.engine.calls.clear()
    (RunLog(run.folder).folder / "events.jsonl").unlink()
    return run


@BOTH
def test_a_run_without_a_step_left_is_evaluated_at_its_end_only(make, kind):
    states = GOING_ON | {"episode": 1, "global_step": 3}
    ends = ["--eval.at_start", "--eval.at_end", "--eval.steps", "2"]
    run = make(*ends, states=states, asynchronous=kind is LensPPOAsync)
    run, _ = fitted(with_state(run, kind), kind)
    assert [line["step"] for line in run.evaluations] == [3] and run.steps == []


@pytest.mark.parametrize(
    ("step", "every", "at_start", "recorded", "due"),
    [
        (0, 2, True, [], True),
        (0, 2, False, [], False),
        (0, 2, True, [0], False),
        (0, 2, True, [2], True),
        (4, 2, False, [], True),
        (4, 2, False, [2], True),
        (4, 2, False, [4], False),
        (3, 2, True, [], False),
        (3, math.inf, True, [], False),
    ],
)
def test_when_an_evaluation_comes_first(tmp_path, step, every, at_start, recorded, due):
    log = RunLog(tmp_path)
    for made in recorded:
        log.evaluation(made, {}, {})
    args = SimpleNamespace(eval=SimpleNamespace(steps=every, at_start=at_start))
    assert evaluation_due(args, log, step) is due


# What is kept of the answers


def test_answers_are_kept_with_what_the_actor_knows(make):
    run, _ = fitted(make("--logger.sample_prompts", "1", evaluated=False), LensPPO)
    order = [prompt for prompt, *_ in run.engine.calls]
    for step, prompts in ((1, order[:2]), (2, order[2:4]), (3, order[4:])):
        rows = run.samples(step)
        labels = [LABELS[int(prompt[1:])] for prompt in prompts]
        assert rows["step"] == [step] * 4 * len(prompts)
        assert rows["correctness"] == [float(score) for label in labels for score in label]
        assert rows["advantage"] == [float(i) for i in range(4 * len(prompts))]
        assert rows["truncated"] == [False, True] * 2 * len(prompts)
        assert rows["tokens"] == [1, 2, 3, 4] * len(prompts)
        assert rows["response"] == ["i", "ij", "ijk", "ijkl"] + [None] * 4 * (len(prompts) - 1)
        assert rows["prompt"] == [prompts[0]] * 4 + [None] * 4 * (len(prompts) - 1)
        assert rows["label"] == [labels[0]] * 4 + [None] * 4 * (len(prompts) - 1)
        assert rows["prompt_id"] == [i for i in range(len(prompts)) for _ in range(4)]


def test_texts_of_no_prompt_or_nothing_at_all_may_be_kept(make, tmp_path):
    run, _ = fitted(make("--logger.sample_prompts", "0", evaluated=False), LensPPO)
    assert run.samples(1)["response"] == [None] * 8 and run.samples(1)["tokens"] == [1, 2, 3, 4] * 2
    again, _ = fitted(make("--logger.sample_prompts", "-1", "--logger.run_dir", str(tmp_path / "other")), LensPPO)
    assert again.calls == ["fit", "broadcast"] * 3 and not (tmp_path / "other" / "samples").exists()


@BOTH
def test_experiences_are_made_by_the_groups_that_there_are(make, kind):
    run = make(evaluated=False, asynchronous=kind is LensPPOAsync)
    groups = [Group(run.actor) for _ in range(4)]
    trainer = run.start(kind, groups)
    training = trainer if kind is LensPPO else run.ray.actors[1]
    maker = training.experience_maker
    made_of = (maker.actor_model_group, maker.critic_model_group, maker.reward_model_group, maker.initial_model_group)
    assert made_of == tuple(groups)
    assert (maker.kl_ctl, maker.strategy, maker.tokenizer) == (training.kl_ctl, training.strategy, training.tokenizer)
    assert training.args is maker.strategy.args


def test_steps_are_counted_from_what_fit_is_given(make):
    run = make("--ckpt.save_steps", "-1", evaluated=False)
    run.start(LensPPO).fit(5)
    assert [line["step"] for line in run.steps] == [6, 7, 8] and run.calls == ["broadcast", *UPDATE * 3]


def test_a_training_side_without_a_step_ends_where_it_began(make):
    run = make(evaluated=False, asynchronous=True)
    trainer = run.start(LensPPOAsync)
    for given, last in (((), 0), ((4,), 4)):
        trainer.rollout_queue.put("done")
        run.ray.actors[1].fit(*given)
        assert run.ray.actors[1].get_last_step() == last


@BOTH
def test_experiences_say_where_they_come_from(make, kind):
    run, trainer = fitted(make(evaluated=False, asynchronous=kind is LensPPOAsync), kind)
    training = trainer if kind is LensPPO else run.ray.actors[1]
    assert type(training.experience_maker) is LensExperienceMaker
    tags = [
        (int(i), int(prompt))
        for experience in run.actor.seen
        for i, prompt in zip(experience.info[ROLLOUT_INDEX], experience.info[PROMPT], strict=True)
    ]
    order = [prompt_id(prompt) for prompt, *_ in run.engine.calls]
    steps = (order[:2], order[2:4], order[4:])
    assert tags == [(4 * i + j, prompt) for step in steps for i, prompt in enumerate(step) for j in range(4)]


@BOTH
def test_statistics_of_tokens_come_with_their_experiences(make, kind):
    run = make(estimator="rent", evaluated=False, asynchronous=kind is LensPPOAsync)
    run.actor.statistics = True
    run, _ = fitted(run, kind)
    assert len(run.actor.seen) == 20
    for experience in run.actor.seen:
        assert torch.equal(experience.values, 0.5 * experience.sequences[:, 1:])
        assert torch.equal(experience.action_log_probs, -torch.ones_like(experience.values))


def test_openrlhfs_own_estimators_get_its_own_experiences(make):
    run = make(estimator="rloo", evaluated=False)
    run.actor.ours = False
    run, trainer = fitted(run, LensPPO)
    assert type(trainer.experience_maker) is RemoteExperienceMaker
    assert not [name for experience in run.actor.seen for name in experience.info if name.startswith("lens_")]
    rows = run.samples(1)
    assert rows["confidence"] == [None] * 8 and rows["response"] == ["i", "ij", "ijk", "ijkl"] * 2


# Which prompts, and how they are answered


@BOTH
def test_the_order_of_prompts_follows_the_seed(make, tmp_path, kind):
    labels = ["01"] * 12

    def order(seed):
        run = make("--train.seed", seed, labels=labels, evaluated=False, asynchronous=kind is LensPPOAsync)
        torch.manual_seed(len(seed))  # what the process was at before
        trainer = run.start(kind)
        loader = (trainer if kind is LensPPO else run.ray.actors[0]).prompts_dataloader
        return [prompt for _, prompts, *_ in loader for prompt in prompts]

    first, again, other = order("7"), order("7"), order("18")
    assert first == again != other and sorted(first) == sorted(other) == sorted(f"p{i}" for i in range(12))


def test_prompts_are_weighed_before_each_step(make):
    run = make("--train.seed", "5", estimator="spo", evaluated=False)
    trainer = run.start(LensPPO)
    sampler = trainer.prompts_dataloader.sampler
    assert trainer.samples_generator.prompts_dataloader is trainer.prompts_dataloader
    assert (sampler.block, sampler.generator.initial_seed()) == (2, 5)
    assert sampler.weights.tolist() == [1.0] * 5
    trainer.fit()
    asked = ("prompt_weights", [prompt_id(f"p{i}") for i in range(5)])
    assert run.calls == [asked, *[*UPDATE, asked] * 3] and run.others.calls == ["fit", "broadcast"] * 3
    assert sampler.weights.tolist() == [3 + i for i in range(1, 6)]


def test_prompts_are_not_weighed_for_other_estimators(make):
    run = make(evaluated=False)
    trainer = run.start(LensPPO)
    assert not hasattr(trainer.prompts_dataloader.sampler, "weights") and trainer.samples_generator.rounds is None
    plain = make(estimator="rloo", evaluated=False).start(LensPPO)
    assert not hasattr(plain.prompts_dataloader.sampler, "weights") and plain.samples_generator.rounds is None


@BOTH
def test_training_prompts_are_answered_in_rounds_and_others_are_not(make, kind):
    run = make("--eval.at_start", estimator="reinforce_ada", asynchronous=kind is LensPPOAsync)
    run, _ = fitted(run, kind)
    rounds = ReinforceAdaConfig()
    trained = [call for call in run.engine.calls if call == rounds]
    assert len(trained) == 5 and run.engine.calls[:3] == [(f"p{i}", 2, 0.25) for i in range(3)]


def test_steps_of_wrong_answers_are_scored_before_the_update(make, tmp_path):
    judge = tmp_path / "judge.py"
    judge.write_text("def share(prompt, response, label):\n    return len(response) / 8 if label == '0000' else 2\n")
    scorer = ["--algo.spectral.scorer", f"{judge}:share"]
    run, _ = fitted(make(*scorer, estimator="spectral", evaluated=False), LensPPO)
    wrong = prompt_id("p1")
    scores = {
        int(experience.info[ROLLOUT_INDEX][0]) % 4: experience.info[EXTRA + "step_score"].tolist()
        for experience in run.actor.seen
        if experience.info[PROMPT].tolist() == [wrong]
    }
    assert scores == {i: [(i + 1) / 8] for i in range(4)}
    others = [e for e in run.actor.seen if e.info[PROMPT].tolist() != [wrong]]
    assert len(others) == 16 and all(e.info[EXTRA + "step_score"].tolist() == [0] for e in others)


def test_an_answer_without_a_score_ends_the_run_before_steps_are_scored(make, tmp_path):
    (tmp_path / "judge.py").write_text("def share(prompt, response, label):\n    return 2\n")
    scorer = ["--algo.spectral.scorer", f"{tmp_path / 'judge.py'}:share"]
    run = make(*scorer, estimator="spectral", evaluated=False, labels=["00?0", "0000"])
    with pytest.raises(
        ValueError, match=r"^1 of 8 answers came back without a score from --reward.remote_url \(it rai"
    ):
        fitted(run, LensPPO)


def test_an_evaluation_without_a_score_ends_the_run(make, tmp_path):
    run = make("--eval.at_start")
    file = tmp_path / "eval.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"label": "?1"}) + "\n" for row in rows))
    RunLog(run.folder).event("reward_failed", cause="first")
    RunLog(run.folder).event("reward_failed", cause="no server")
    RunLog(run.folder).event("sampled")
    with pytest.raises(ValueError, match=r"^3 of 6 answers came back without .*--reward.remote_url \(no server\)$"):
        fitted(run, LensPPO)
