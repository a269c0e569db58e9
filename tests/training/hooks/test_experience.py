"""What experiences carry: tags of their samples, and statistics of their tokens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

from lens_openrlhf.run_folder.log import RunLog
from lens_openrlhf.training.hooks.experience import LensExperienceMaker, WithStatistics, require_scores
from lens_openrlhf.training.hooks.tags import PROMPT, ROLLOUT_INDEX, TAGS, prompt_id

from ..conftest import make_experiences, make_samples


def test_every_experience_is_tagged_with_its_samples(parse):
    samples = make_samples([1.0, 0.0, 0.0, 0.0] * 2, [3, 2, 4, 1] * 2)
    experiences = make_experiences(parse("--rollout.micro_batch_size", "3"), samples, LensExperienceMaker)
    assert [experience.info[ROLLOUT_INDEX].tolist() for experience in experiences] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    prompts = [prompt_id(f"prompt {i}") for i in range(8)]
    assert [experience.info[PROMPT].tolist() for experience in experiences] == [prompts[:3], prompts[3:6], prompts[6:]]
    for experience in experiences:
        assert experience.info[ROLLOUT_INDEX].dtype == experience.info[PROMPT].dtype == torch.int64
        assert sum(name.startswith(TAGS) for name in experience.info) == 2


class Step(LensExperienceMaker):
    """Made of what the actor's ranks gave back, the other models' results after it."""

    def __init__(self, args, given):
        super().__init__(
            *[None] * 4, SimpleNamespace(value=0.0), SimpleNamespace(args=args), SimpleNamespace(pad_token_id=0)
        )
        self.given = given


@pytest.fixture
def step(parse, monkeypatch):
    """step(maker, samples) -> experiences, with the actor's results that `maker` was given."""

    def make(self, experiences):
        flat = [self._flatten_results([results], 1) for results in (self.given, [None] * len(experiences))]
        for experience, logprobs, value in zip(experiences, *flat, strict=True):
            experience.action_log_probs, experience.values = logprobs, value
        return experiences

    monkeypatch.setattr(RemoteExperienceMaker, "make_experience", make)
    monkeypatch.setattr("openrlhf.trainer.ppo_utils.experience_maker.ray", SimpleNamespace(get=lambda refs: refs))
    return lambda given, size="2": Step(parse("--rollout.micro_batch_size", size), given)


def test_statistics_of_one_experience_alone(step):
    entropies = torch.rand(4, 6)
    maker = step([WithStatistics(-torch.ones(4, 6), {"entropies": entropies, "self_certainty": -entropies})], "4")
    (alone,) = maker.make_experience_batch(make_samples([1.0, 0.0, 0.0, 0.0], [3, 3, 3, 3]))
    assert torch.equal(alone.values, entropies) and torch.equal(alone.returns, -entropies)


def test_statistics_stay_with_the_step_that_they_are_of(step):
    samples = make_samples([1.0, 0.0, 0.0, 0.0], [3, 3, 3, 3])
    widths = (6, 6)
    with_statistics = [
        WithStatistics(-torch.ones(2, width), {"entropies": torch.full((2, width), 1.0 + i)})
        for i, width in enumerate(widths)
    ]
    maker = step(with_statistics)
    first, second = maker.make_experience_batch(samples)
    assert torch.equal(first.values, torch.full((2, 6), 1.0)) and torch.equal(second.values, torch.full((2, 6), 2.0))
    assert torch.equal(first.action_log_probs, -torch.ones(2, 6))
    maker.given = [-2 * torch.ones(2, width) for width in widths]  # the same maker, and an actor that brings none
    for experience in maker.make_experience_batch(make_samples([1.0, 0.0, 0.0, 0.0], [3, 3, 3, 3])):
        assert experience.values is None and torch.equal(experience.action_log_probs, -2 * torch.ones(2, 6))
    maker.given = with_statistics  # of two experiences, where there are three
    with pytest.raises(ValueError):
        maker.make_experience_batch(make_samples([1.0] * 6, [3] * 6))


@pytest.mark.parametrize(
    ("causes", "said"),
    [
        ([], "it raised or could not be reached; train.log has its message"),
        (["no server"], "no server"),
        (["first", "last"], "last"),
    ],
)
def test_answers_without_a_score_name_the_last_cause(tmp_path, causes, said):
    samples = make_samples([1.0, 0.0, 0.0], [1, 2, 3])
    log = RunLog(tmp_path)
    for cause in causes:
        log.event("reward_failed", cause=cause)
        log.event("sampled", cause="another")
    require_scores(samples, tmp_path)
    for i, count in ((1, 1), (2, 2)):
        samples[i].scores = None
        with pytest.raises(ValueError) as caught:
            require_scores(samples, str(tmp_path))
        expected = f"{count} of 3 answers came back without a score from --reward.remote_url ({said})"
        assert str(caught.value) == expected
