"""A step's answers in samples/, and evaluations in the data's order."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lens_openrlhf.advantages import estimators, lens_advantages
from lens_openrlhf.advantages.across_ranks import gather
from lens_openrlhf.evaluation import pass_at_k
from lens_openrlhf.evaluation.splits import default_split_columns
from lens_openrlhf.run_folder.samples import COLUMNS
from lens_openrlhf.training.hooks.advantages import compute
from lens_openrlhf.training.hooks.columns import needs_of, pack
from lens_openrlhf.training.hooks.evaluation import EvaluationSet, evaluation_record, tracked
from lens_openrlhf.training.hooks.experience import LensExperienceMaker
from lens_openrlhf.training.hooks.samples import write_samples

from ..conftest import make_experiences, make_samples

SCORES = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
LENGTHS = [3, 5, 4, 2, 6, 1, 3, 4, 2, 2, 5, 3]


class Letters:
    """A tokenizer whose token 2 is b, 3 is c and so on."""

    def decode(self, tokens, skip_special_tokens):
        return "".join(chr(97 + int(token) % 26) for token in tokens)


def columns_of(args, samples):
    items = []
    for experience in make_experiences(args, samples, LensExperienceMaker):
        for i in range(len(experience.scores)):
            length = int(experience.attention_mask[i].sum())
            items.append(
                SimpleNamespace(
                    scores=experience.scores[i],
                    rewards=experience.rewards[i],
                    action_log_probs=experience.action_log_probs[i],
                    action_mask=experience.action_mask[i],
                    info={name: value[i] for name, value in experience.info.items()},
                    length=length,
                )
            )
    # As if another rank, or dynamic batching, had reordered them.
    items = items[5:] + items[:5]
    estimator = estimators.find("lens")()
    gathered = gather(*pack(items, needs_of(estimator), "cpu"), None, None)
    return compute(gathered, estimator, needs_of(estimator), 4, 1, (-10, 10)).columns


def test_samples_hold_what_the_update_used_in_rollout_order(parse, tmp_path):
    samples = make_samples(SCORES, LENGTHS)
    path = write_samples(tmp_path, 12, samples, columns_of(parse(), samples), Letters(), 4, 1)
    assert path == tmp_path / "samples" / "step-000012.parquet" and not list(path.parent.glob("*.part"))
    kept = pd.read_parquet(path)
    assert list(kept.columns) == list(COLUMNS)
    assert kept["index"].tolist() == list(range(12)) and kept["step"].unique() == [12]
    assert kept["prompt_id"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert kept["correctness"].tolist() == SCORES and kept["tokens"].tolist() == LENGTHS
    assert kept["kind"].tolist() == ["mixed"] * 4 + ["negative"] * 4 + ["positive"] * 4
    tokens = [s.action_log_probs[0][s.action_mask[0].bool()] for s in samples]
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    expected = lens_advantages(torch.cat(tokens), offsets, torch.tensor(SCORES), torch.tensor([0, 4, 8, 12]))
    assert kept["advantage"].tolist() == pytest.approx(expected.advantage.tolist())
    assert kept["confidence"].tolist() == pytest.approx(expected.confidence.tolist())


def test_texts_are_kept_of_the_first_prompts(parse, tmp_path):
    samples = make_samples(SCORES, LENGTHS)
    kept = pd.read_parquet(write_samples(tmp_path, 1, samples, columns_of(parse(), samples), Letters(), 4, 2))
    assert kept["prompt"][:8].tolist() == [f"prompt {i}" for i in range(8)] and kept["prompt"][8:].isna().all()
    for text, sample, length in zip(kept["response"][:8], samples, LENGTHS, strict=False):
        assert text == Letters().decode(sample.sequences[0, -length:], True)


def test_without_lens_there_is_no_confidence_but_all_the_rest(tmp_path):
    samples = make_samples(SCORES, LENGTHS, rewards=[s - 0.5 for s in SCORES])
    kept = pd.read_parquet(write_samples(tmp_path, 3, samples, None, Letters(), 4, 0))
    assert kept["confidence"].isna().all() and kept["advantage"].isna().all() and kept["response"].isna().all()
    assert kept["kind"].tolist() == ["mixed"] * 4 + ["negative"] * 4 + ["positive"] * 4
    assert kept["reward"].tolist() == [s - 0.5 for s in SCORES]


def held_out(*prompts):
    return EvaluationSet(SimpleNamespace(prompts=list(prompts), labels=[7] * len(prompts)), None, {})


def answers_to(*prompts, n=2):
    return [SimpleNamespace(prompts=[p], labels=[7], number=(at, i)) for at, p in enumerate(prompts) for i in range(n)]


def test_evaluations_are_in_the_datas_order_whatever_finished_first():
    ordered = held_out("a", "b", "a", "c").in_order(answers_to("c", "a", "b", "a"), 2)
    assert [prompt[0].prompts[0] for prompt in ordered] == ["a", "b", "a", "c"]
    assert [[answer.number for answer in prompt] for prompt in ordered] == [
        [(1, 0), (1, 1)],
        [(2, 0), (2, 1)],
        [(3, 0), (3, 1)],
        [(0, 0), (0, 1)],
    ]


def test_an_unanswered_prompt_is_an_error():
    with pytest.raises(ValueError, match="no answers to the prompt 'b'"):
        held_out("a", "b").in_order(answers_to("a", "a"), 2)


def test_the_record_has_every_k_and_split():
    samples = make_samples(SCORES, LENGTHS)
    prompts = [samples[i : i + 4] for i in range(0, 12, 4)]
    record = json.loads(json.dumps(evaluation_record(prompts, {"level": [5, 1, 5]}, None)))
    assert record["lengths"] == [LENGTHS[i : i + 4] for i in range(0, 12, 4)]
    assert list(record["pass_at_k"]) == ["all", "level=1", "level=5"]
    assert list(record["pass_at_k"]["all"]) == ["1", "2", "4"]
    assert record["pass_at_k"]["level=5"]["2"][0] == pytest.approx((pass_at_k(2, 4, 2) + 1) / 2)
    assert tracked(record)["level=1/pass@4"] == 0 and tracked(record)["pass@1"] == 0.5
    assert list(evaluation_record(prompts, {}, [3])["pass_at_k"]["all"]) == ["3"]


def test_columns_that_name_single_prompts_or_hold_lists_are_not_split_by():
    columns = {"level": [1, 2, None] * 20, "source": [f"page {i}" for i in range(60)], "type": [["a", "b"]] * 60}
    assert default_split_columns(columns) == ["level"]
    assert default_split_columns({"datasource": ["x"], "other": ["y"]}) == ["datasource"]
