"""The advantages in the PPO actor, on OpenRLHF's own experiences and replay buffer."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lens_openrlhf.advantages import reference
from lens_openrlhf.training.commandline import openrlhf_command, options
from lens_openrlhf.training.commandline.estimator import make_estimator
from lens_openrlhf.training.hooks.actor import LensPolicyModel
from lens_openrlhf.training.hooks.columns import needs_of
from lens_openrlhf.training.hooks.experience import LensExperienceMaker
from lens_openrlhf.training.hooks.tags import ROLLOUT_INDEX

from ..conftest import MINIMAL, make_experiences, make_samples

GROUP = 4
# negative, mixed, positive, mixed, negative, mixed
SCORES = [0.0] * 4 + [1.0, 0.0, 0.0, 0.0] + [1.0] * 4 + [1.0, 1.0, 1.0, 0.0] + [0.0] * 4 + [0.0, 1.0, 0.0, 1.0]
LENGTHS = [5, 9, 1, 30, 7, 7, 2, 12, 3, 4, 5, 6, 11, 1, 1, 8, 40, 3, 17, 5, 6, 2, 9, 10]


def replay_buffer():
    from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer

    return NaiveReplayBuffer(sample_batch_size=4)


def actor_with(args, buffer, mesh):
    """LensPolicyModel with what compute_advantages needs; its models are not."""
    actor = object.__new__(LensPolicyModel)
    actor.estimator = make_estimator(args)
    actor.needs = actor.estimator and needs_of(actor.estimator)
    actor.step = 0
    actor.strategy = SimpleNamespace(args=args, ds_device_mesh=mesh)
    actor.trainer = SimpleNamespace(replay_buffer=buffer)
    return actor


def run_one_rank(args, mesh, scores=SCORES, lengths=LENGTHS, rewards=None):
    """(buffer items in rollout order, metrics) after the hook."""
    buffer = replay_buffer()
    for experience in make_experiences(args, make_samples(scores, lengths, rewards=rewards), LensExperienceMaker):
        buffer.append(experience)
    order = [int(item.info[ROLLOUT_INDEX]) for item in buffer.items]
    metrics = actor_with(args, buffer, mesh).compute_advantages()
    return [item for _, item in sorted(zip(order, buffer.items, strict=True), key=lambda pair: pair[0])], metrics


def expected_advantages(args, samples):
    """The reference on the samples' own log-probabilities, packed here by hand."""
    tokens = [s.action_log_probs[0][s.action_mask[0].bool()] for s in samples]
    cu_seqlens = torch.tensor([0] + [len(t) for t in tokens]).cumsum(0)
    scores = torch.cat([s.scores for s in samples])
    rewards = torch.cat([s.rewards for s in samples])
    cu_groups = torch.arange(0, len(samples) + 1, GROUP)
    config = make_estimator(args).config
    return reference.lens_advantages(
        torch.cat(tokens), cu_seqlens, scores, cu_groups, config, rewards=rewards
    ).advantage


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--algo.lens.alpha", "2"],
        ["--algo.lens.scope", "mixed"],
        ["--algo.lens.preference", "length", "--algo.lens.gamma", "1.9"],
        ["--algo.lens.preference", "policy"],
    ],
)
def test_advantages_are_the_references(parse, one_rank_mesh, more):
    args = parse(*more, "--rollout.micro_batch_size", "5")
    items, metrics = run_one_rank(args, one_rank_mesh)
    assert math.isfinite(metrics["lens/difficulty"])  # with policy it is infinite in the negative groups
    expected = expected_advantages(args, make_samples(SCORES, LENGTHS))
    for item, advantage in zip(items, expected, strict=True):
        mask = item.action_mask.bool()
        torch.testing.assert_close(item.advantages[mask], advantage.float().expand(int(mask.sum())))
        assert not item.advantages[~mask].any()
        assert ROLLOUT_INDEX not in item.info
        torch.testing.assert_close(item.info["return"], advantage.float())


def test_scope_none_is_openrlhfs_group_norm(parse, one_rank_mesh):
    args = parse("--algo.lens.scope", "none")
    items, _ = run_one_rank(args, one_rank_mesh)
    plain = parse("--algo.kl.init_coef", "0", estimator="group_norm")
    by_openrlhf = make_experiences(plain, make_samples(SCORES, LENGTHS))
    for ours, theirs in zip(items, by_openrlhf, strict=True):
        mask = ours.action_mask.bool()
        torch.testing.assert_close(
            ours.advantages[mask], theirs.advantages[0][: len(mask)][mask], rtol=1e-5, atol=0, check_dtype=False
        )


def test_constant_groups_get_exactly_zero_where_group_norm_amplifies_rounding(parse, one_rank_mesh):
    args = parse("--algo.lens.scope", "none", "--rollout.n_samples_per_prompt", "16", "--train.batch_size", "16")
    items, _ = run_one_rank(args, one_rank_mesh, scores=[0.1] * 16, lengths=[3] * 16)
    assert all(not item.advantages.any() for item in items)


@pytest.mark.parametrize("estimator", ["reinforce", "rloo", "reinforce_baseline", "group_norm", "dr_grpo"])
def test_openrlhfs_own_estimators_are_bitwise_untouched(parse, estimator):
    """What our classes leave in the replay buffer, against OpenRLHF's experience maker and parser alone."""
    # OpenRLHF's main block with argparse as it is, on the same command line.
    import argparse
    import sys
    from unittest.mock import patch

    argv = [*MINIMAL, "--algo.advantage.estimator", estimator]
    with patch.object(sys, "argv", ["train_ppo_ray", *argv]):
        own = openrlhf_command.parse(argparse.ArgumentParser)
    theirs = make_experiences(own, make_samples(SCORES, LENGTHS))

    args = parse(estimator=estimator)
    buffer = replay_buffer()
    for experience in make_experiences(args, make_samples(SCORES, LENGTHS)):
        buffer.append(experience)
    fitted = []
    actor = actor_with(args, buffer, None)
    actor.actor = SimpleNamespace(train=lambda: None)
    # The update itself is OpenRLHF's; what it would see is recorded.
    actor.trainer.ppo_train = lambda kl_ctl: fitted.extend(buffer.items) or {}
    assert actor.fit() == {}
    assert len(fitted) == len(theirs)
    for ours, other in zip(fitted, theirs, strict=True):
        assert torch.equal(ours.advantages, other.advantages[0][: len(ours.advantages)])
        assert torch.equal(ours.returns, other.returns[0][: len(ours.returns)])


def test_raw_correctness_decides_the_group_kind_not_the_shaped_reward(parse, one_rank_mesh):
    # A right but truncated answer is shaped to -0.5: the group stays mixed, and its reward is what is normalised.
    scores, rewards = [1.0, 0.0, 0.0, 0.0], [-0.5, 0.0, 0.0, 0.0]
    args = parse()
    items, metrics = run_one_rank(args, one_rank_mesh, scores=scores, lengths=[4, 5, 6, 7], rewards=rewards)
    assert (metrics["lens/mixed_groups"], metrics["lens/negative_groups"]) == (1.0, 0.0)
    assert items[0].info["return"] < 0
    expected = expected_advantages(args, make_samples(scores, [4, 5, 6, 7], rewards=rewards))
    torch.testing.assert_close(torch.stack([i.info["return"] for i in items]), expected.float())


def test_openrlhfs_length_penalty_reaches_the_shaped_reward_only(parse, one_rank_mesh):
    args = parse("--reward.overlong_buffer_len", "8", "--rollout.max_new_tokens", "16")
    items, metrics = run_one_rank(args, one_rank_mesh, scores=[0.0] * 4, lengths=[4, 16, 6, 7])
    assert metrics["lens/negative_groups"] == 1.0
    assert items[1].info["return"] == min(item.info["return"] for item in items)


def test_the_clip_range_holds(parse, one_rank_mesh):
    args = parse("--reward.clip_range", "-0.5", "0.5")
    items, _ = run_one_rank(args, one_rank_mesh)
    assert max(float(item.advantages.abs().max()) for item in items) == 0.5


def test_metrics(parse, one_rank_mesh):
    _, metrics = run_one_rank(parse(), one_rank_mesh)
    assert metrics["lens/negative_groups"] == pytest.approx(2 / 6)
    assert metrics["lens/positive_groups"] == pytest.approx(1 / 6)
    assert metrics["lens/mixed_groups"] == pytest.approx(3 / 6)
    assert metrics["lens/rescued_samples"] == pytest.approx(8 / 24)
    negative_tokens = sum(LENGTHS[:4]) + sum(LENGTHS[16:20])
    assert metrics["lens/rescued_tokens"] == pytest.approx(negative_tokens / sum(LENGTHS))
    assert metrics["lens/abs_advantage_positive"] == 0
    assert 0 < metrics["lens/abs_advantage_negative"] <= 0.25 / GROUP
    assert 0 < metrics["lens/confidence_wrong"] < 1
    assert metrics["lens/empty_responses"] == 0
    # 24 samples in micro-batches of one: none is left over.
    assert metrics["lens/dropped_samples"] == 0


def test_nan_log_probabilities_are_named(parse, one_rank_mesh):
    args = parse()
    buffer = replay_buffer()
    samples = make_samples(SCORES, LENGTHS)
    samples[3].action_log_probs[0, -1] = torch.nan
    for experience in make_experiences(args, samples, LensExperienceMaker):
        buffer.append(experience)
    with pytest.raises(ValueError, match="response 3 .* NaN"):
        actor_with(args, buffer, one_rank_mesh).compute_advantages()


def test_answers_without_a_score_stop_the_run(parse):
    samples = make_samples(SCORES, LENGTHS)
    samples[5].scores = samples[5].rewards = None
    with pytest.raises(ValueError, match="1 of 24 answers came back without a score"):
        make_experiences(parse(), samples, LensExperienceMaker)


def test_rollout_log_probabilities_that_are_missing_are_named(parse, one_rank_mesh):
    with pytest.raises(ValueError, match="confidence_from rollout: a sample has no rollout_log_probs"):
        run_one_rank(parse("--algo.lens.confidence_from", "rollout"), one_rank_mesh)


def _shuffled(first_rank: int) -> list[list[int]]:
    order = list(range(24))
    random.Random(first_rank).shuffle(order)
    return [order[:first_rank], order[first_rank:]]


# Samples dealt out to two ranks at random, in unequal shares; with 24 the second rank has none.
DEALS = {f"{n} of 24 on the first rank": (_shuffled(n), None) for n in (12, 5, 24)}
DEALS["the second rank fails"] = (_shuffled(12), 1)


# One that remembers, and one with a number a token.
OTHERS = {"spo": ["--algo.advantage.estimator", "spo"], "by token": ["--algo.lens.estimator_path", "{}:by_token"]}
BY_TOKEN = "def by_token(batch):\n    return -batch.logprobs * batch.rewards[batch.response_of]\n"
BY_TOKEN += "\n\nby_token.needs = {'logprobs'}\n"


def with_other(name, file, buffer, mesh):
    """(advantages of the tokens of each item, the estimator's state as text) after two steps on the same buffer."""
    words = [word.format(file) for word in OTHERS[name]]
    actor = actor_with(options.parse([*MINIMAL, *words]), buffer, mesh)
    tags = [dict(item.info) for item in buffer.items]
    for _ in range(2):
        for item, info in zip(buffer.items, tags, strict=True):
            item.info = dict(info)
        actor.compute_advantages()
    return [item.advantages.tolist() for item in buffer.items], str(actor.estimator.state_dict())


def _rank_main(rank, world, store, results, file):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    from torch.distributed.device_mesh import init_device_mesh

    args = options.parse([*MINIMAL, "--algo.advantage.estimator", "lens"])
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("dp",))
    for name, (deal, failing_rank) in DEALS.items():
        samples = make_samples(SCORES, LENGTHS)
        if rank == failing_rank:
            for sample in samples:
                sample.action_log_probs[:] = torch.nan
        buffer = replay_buffer()
        experiences = make_experiences(args, samples, LensExperienceMaker)
        for index in deal[rank]:
            buffer.append(experiences[index])
        try:
            metrics = actor_with(args, buffer, mesh).compute_advantages()
            advantages = [float(item.info["return"]) for item in buffer.items]
            results.put((name, rank, advantages, {k: v for k, v in metrics.items() if k != "lens/seconds"}, ""))
        except ValueError as error:
            results.put((name, rank, [], {}, str(error)))
    deal = _shuffled(5)
    for name in OTHERS:
        buffer = replay_buffer()
        experiences = make_experiences(args, make_samples(SCORES, LENGTHS), LensExperienceMaker)
        for index in deal[rank]:
            buffer.append(experiences[index])
        results.put((name, rank, *with_other(name, file, buffer, mesh), ""))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """{case: [(rank, advantages, metrics, error) of each rank]} from two real processes on gloo."""
    context = mp.get_context("spawn")
    results = context.Queue()
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "my.py").write_text(BY_TOKEN)
    arguments = (2, folder / "store", results, folder / "my.py")
    ranks = [context.Process(target=_rank_main, args=(rank, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=180)
        assert process.exitcode == 0
    found = {name: [] for name in (*DEALS, *OTHERS)}
    for _ in range(2 * len(found)):
        name, *result = results.get(timeout=5)
        found[name].append(result)
    return found


@pytest.mark.parametrize("case", [name for name, (_, failing_rank) in DEALS.items() if failing_rank is None])
def test_groups_that_straddle_ranks_get_the_same_advantages(parse, one_rank_mesh, two_ranks, case):
    items, metrics = run_one_rank(parse(), one_rank_mesh)
    expected = [float(item.info["return"]) for item in items]
    for rank, advantages, rank_metrics, error in two_ranks[case]:
        assert not error
        # Bitwise: the group stage is the same on every rank.
        assert advantages == [expected[index] for index in DEALS[case][0][rank]]
        for name, value in rank_metrics.items():
            assert value == metrics[name], name


@pytest.mark.parametrize("name", OTHERS)
def test_state_and_numbers_of_every_token_are_the_same_on_all_ranks(one_rank_mesh, two_ranks, tmp_path, name):
    (tmp_path / "my.py").write_text(BY_TOKEN)
    buffer = replay_buffer()
    args = options.parse([*MINIMAL, "--algo.advantage.estimator", "lens"])
    for experience in make_experiences(args, make_samples(SCORES, LENGTHS), LensExperienceMaker):
        buffer.append(experience)
    expected, state = with_other(name, tmp_path / "my.py", buffer, one_rank_mesh)
    for rank, advantages, rank_state, _ in two_ranks[name]:
        assert advantages == [expected[index] for index in _shuffled(5)[rank]]
        assert rank_state == state and (name != "spo" or "tracker" in state)


def test_a_rank_that_fails_makes_every_rank_raise(two_ranks):
    for _, _, _, error in two_ranks["the second rank fails"]:
        assert "data-parallel rank 1" in error and "NaN" in error
