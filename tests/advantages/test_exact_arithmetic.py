"""Both implementations against the paper's formulas in exact arithmetic (exact.py), extremes included."""

import math

import torch
from hypothesis import given

from lens_openrlhf.advantages import LensConfig

from .comparison import advantage_error, assert_near, assert_within, reward_error
from .exact import exact_group
from .strategies import AND_ROUNDED, configs, group_batches, token_batches


@given(groups=group_batches(AND_ROUNDED), switches=configs)
def test_every_output_is_the_papers(implementation, groups, switches):
    config = LensConfig(**switches)
    result = groups.advantages(implementation, config)
    for g, span in enumerate(groups.spans()):
        expected = exact_group(groups, span, config)
        calibrated = torch.tensor(expected.calibrated_reward, dtype=torch.float64)
        assert result.group_kind[g] == expected.kind
        assert_near(result.confidence[span], expected.confidence, "confidence")
        assert_near(result.importance_difficulty[g], expected.importance_difficulty, "importance_difficulty")
        assert_near(result.difficulty[g], expected.difficulty, "difficulty")
        error = reward_error(len(calibrated), calibrated)
        assert_within(result.calibrated_reward[span], calibrated, error, "calibrated_reward")
        error = advantage_error(calibrated, expected.divisor)
        assert_within(result.advantage[span], expected.advantage, error, "advantage")


@given(groups=group_batches(AND_ROUNDED))
def test_the_outputs_have_one_entry_a_response_or_a_group(implementation, groups):
    result = groups.advantages(implementation, LensConfig())
    responses, count = len(groups.mean_logprob), len(groups.cu_groups) - 1
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in result._asdict().items()}
    assert shapes == {
        "advantage": ((responses,), torch.float64),
        "calibrated_reward": ((responses,), torch.float64),
        "confidence": ((responses,), torch.float64),
        "importance_difficulty": ((count,), torch.float64),
        "difficulty": ((count,), torch.float64),
        "group_kind": ((count,), torch.int8),
    }


@given(batch=token_batches())
def test_the_mean_is_over_the_selected_tokens(implementation, batch):
    result = implementation.segment_mean(*batch)
    bounds = batch.cu_seqlens.tolist()
    logprobs, selected = batch.logprobs.double(), None if batch.mask is None else batch.mask != 0
    assert result.mean_logprob.dtype == torch.float64 and result.lengths.dtype == torch.int64
    for i, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        tokens = logprobs[start:end] if selected is None else logprobs[start:end][selected[start:end]]
        tokens = tokens.clamp(max=0).tolist()
        mean = math.fsum(tokens) / len(tokens) if tokens else math.nan
        assert result.lengths[i] == len(tokens)
        assert_near(result.mean_logprob[i], mean, "mean_logprob")
