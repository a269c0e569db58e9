"""A step's answers in samples/, and evaluations in the data's order."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from lens_openrlhf.advantages import estimators, lens_advantages
from lens_openrlhf.advantages.across_ranks import gather
from lens_openrlhf.evaluation import pass_at_k
from lens_openrlhf.evaluation.splits import default_split_columns
from lens_openrlhf.run_folder.samples import COLUMNS
from lens_openrlhf.training.hooks import evaluation
from lens_openrlhf.training.hooks.advantages import compute
from lens_openrlhf.training.hooks.columns import needs_of, pack
from lens_openrlhf.training.hooks.data_sets import blending_datasets
from lens_openrlhf.training.hooks.evaluation import EvaluationSet, evaluation_record, evaluation_set, tracked
from lens_openrlhf.training.hooks.experience import LensExperienceMaker
from lens_openrlhf.training.hooks.samples import response_text, write_samples

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
    assert kept["label"][:8].tolist() == [f"label {i}" for i in range(8)] and kept["label"][8:].isna().all()
    assert kept["truncated"].tolist() == [i % 3 == 1 for i in range(12)] and kept["response"][8:].isna().all()
    for text, sample, length in zip(kept["response"][:8], samples, LENGTHS, strict=False):
        assert text == Letters().decode(sample.sequences[0, -length:], True)


def test_without_lens_there_is_no_confidence_but_all_the_rest(tmp_path):
    samples = make_samples(SCORES, LENGTHS, rewards=[s - 0.5 for s in SCORES])
    kept = pd.read_parquet(write_samples(tmp_path, 3, samples, None, Letters(), 4, 0))
    assert kept["confidence"].isna().all() and kept["advantage"].isna().all() and kept["response"].isna().all()
    assert kept["kind"].tolist() == ["mixed"] * 4 + ["negative"] * 4 + ["positive"] * 4
    assert kept["reward"].tolist() == [s - 0.5 for s in SCORES]


def test_what_openrlhf_knows_of_answers_without_a_score(tmp_path):
    samples = make_samples(SCORES, LENGTHS)
    samples[1].scores, samples[2].rewards = None, None
    kept = pq.read_table(write_samples(tmp_path, 3, samples, None, Letters(), 4, 0)).to_pydict()
    assert kept["index"] == list(range(12)) and kept["prompt_id"] == [0] * 4 + [1] * 4 + [2] * 4
    assert kept["kind"] == [None] * 4 + ["negative"] * 4 + ["positive"] * 4
    assert kept["correctness"] == [1.0, None, *SCORES[2:]] and kept["reward"] == [1.0, 0.0, None, *SCORES[3:]]
    # The last group may be of fewer answers.
    kept = pq.read_table(write_samples(tmp_path, 4, samples[:6], None, Letters(), 4, 1)).to_pydict()
    assert kept["kind"] == [None] * 4 + ["negative"] * 2 and kept["step"] == [4] * 6
    assert [text is None for text in kept["prompt"]] == [False] * 4 + [True] * 2


def test_a_response_is_all_that_comes_after_the_prompt():
    def sample(mask):
        return SimpleNamespace(sequences=torch.tensor([[0, 1, 2, 3, 4, 5]]), action_mask=torch.tensor([mask]))

    assert response_text(sample([0, 1, 1, 1, 1]), Letters()) == "cdef"
    assert response_text(sample([1, 0, 0, 1, 0]), Letters()) == "bcdef"  # tool output, and what the turn ends with
    assert response_text(sample([0, 0, 0, 0, 1]), Letters()) == "f"
    assert response_text(sample([0, 0, 0, 0, 0]), Letters()) == ""
    asked = []
    letters = SimpleNamespace(decode=lambda tokens, skip_special_tokens: asked.append(skip_special_tokens))
    response_text(sample([0, 1, 1, 1, 1]), letters)
    assert asked == [True]


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


def test_a_prompt_that_comes_with_two_labels_has_its_own_answers():
    data = EvaluationSet(SimpleNamespace(prompts=["a", "a"], labels=[7, "8"]), None, {})
    answers = [SimpleNamespace(prompts=["a"], labels=[label], number=label) for label in ("8", 7)]
    assert [[answer.number for answer in prompt] for prompt in data.in_order(answers, 1)] == [[7], ["8"]]
    with pytest.raises(ValueError, match="no answers to the prompt 'a'"):
        data.in_order(answers[:1], 1)


def test_a_long_prompt_is_cut_in_the_message():
    with pytest.raises(ValueError) as caught:
        held_out("b" * 500).in_order([], 1)
    assert str(caught.value) == f"the evaluation has no answers to the prompt '{'b' * 200}'"


def test_an_unanswered_prompt_is_an_error():
    with pytest.raises(ValueError, match="no answers to the prompt 'b'"):
        held_out("a", "b").in_order(answers_to("a", "a"), 2)


def test_the_record_has_every_k_and_split():
    samples = make_samples(SCORES, LENGTHS)
    prompts = [samples[i : i + 4] for i in range(0, 12, 4)]
    record = json.loads(json.dumps(evaluation_record(prompts, {"level": [5, 1, 5]}, None)))
    assert record["scores"] == [SCORES[i : i + 4] for i in range(0, 12, 4)]
    assert record["truncated"] == [[i % 3 == 1 for i in range(start, start + 4)] for start in range(0, 12, 4)]
    assert record["splits"] == {"level": [5, 1, 5]}
    assert record["lengths"] == [LENGTHS[i : i + 4] for i in range(0, 12, 4)]
    assert list(record["pass_at_k"]) == ["all", "level=1", "level=5"]
    assert list(record["pass_at_k"]["all"]) == ["1", "2", "4"]
    assert record["pass_at_k"]["level=5"]["2"][0] == pytest.approx((pass_at_k(2, 4, 2) + 1) / 2)
    assert tracked(record)["level=1/pass@4"] == 0 and tracked(record)["pass@1"] == 0.5
    assert list(evaluation_record(prompts, {}, [3])["pass_at_k"]["all"]) == ["3"]
    assert list(evaluation_record(prompts[:1], {}, None)["pass_at_k"]["all"]) == ["1", "2", "4"]


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_no_wrong_answer(score):
    samples = make_samples([1.0, score, 0.0, score], LENGTHS[:4])
    with pytest.raises(ValueError, match=r"^2 of 4 answers of the evaluation have a score that is no number"):
        evaluation_record([samples[:2], samples[2:]], {}, None)


def test_curves_are_named_by_split_and_k():
    record = {"pass_at_k": {"all": {1: (0.5, 0.1), 2: (0.75, None)}, "level=1": {1: (0.25, 0.0)}}}
    assert tracked(record) == {"pass@1": 0.5, "pass@2": 0.75, "level=1/pass@1": 0.25}


@pytest.fixture
def evaluated(tmp_path, parse):
    """evaluated(*options) -> the set of six prompts, and what OpenRLHF's loader was made with."""

    def make(*more):
        file = tmp_path / "eval.jsonl"
        rows = [{"input": f"p{i}", "label": str(i), "level": i % 2, "type": "x", "mine": i // 3} for i in range(6)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        args = parse("--eval.dataset", str(file), "--data.label_key", "label", "--data.max_samples", "2", *more)
        given = []
        strategy = SimpleNamespace(args=args, print=lambda *_: None, is_rank_0=lambda: False)
        strategy.setup_dataloader = lambda *words: given.append(words) or "loader"
        return evaluation_set(strategy, None), given

    return make


def test_all_held_out_prompts_are_evaluated_one_by_one_in_their_order(evaluated):
    found, ((dataset, batch_size, pinned, shuffle, collate),) = evaluated()
    assert found.dataset is dataset and found.dataloader == "loader"
    assert (batch_size, pinned, shuffle) == (1, True, False)  # as OpenRLHF has it
    assert collate == dataset.collate_fn
    assert dataset.prompts == [f"p{i}" for i in range(6)] and dataset.labels == [str(i) for i in range(6)]
    assert found.splits == {"level": [0, 1] * 3, "type": ["x"] * 6}


@pytest.mark.parametrize(("limit", "kept"), [("3", 3), ("6", 6), ("9", 6)])
def test_or_the_first_ones(evaluated, limit, kept):
    found, _ = evaluated("--eval.max_samples", limit, "--data.input_template", "Q: {}")
    assert found.dataset.prompts == [f"Q: p{i}" for i in range(kept)]
    assert found.splits == {"level": ([0, 1] * 3)[:kept], "type": ["x"] * kept}


def test_splits_may_be_by_other_columns(evaluated):
    found, _ = evaluated("--eval.split_by", "mine", "level")
    assert found.splits == {"mine": [0, 0, 0, 1, 1, 1], "level": [0, 1] * 3}


def test_the_split_is_the_evaluations(evaluated, monkeypatch):
    asked = []

    def read(datasets, probabilities, strategy, dataset_split):
        asked.append((probabilities, dataset_split))
        return blending_datasets(datasets, probabilities, strategy)

    monkeypatch.setattr(evaluation, "blending_datasets", read)
    found, _ = evaluated("--eval.split", "test")
    assert asked == [(None, "test")] and len(found.dataset.prompts) == 6


def test_without_evaluation_data_there_is_no_set(parse):
    assert evaluation_set(SimpleNamespace(args=parse()), None) is None


def test_columns_that_name_single_prompts_or_hold_lists_are_not_split_by():
    columns = {"level": [1, 2, None] * 20, "source": [f"page {i}" for i in range(60)], "type": [["a", "b"]] * 60}
    assert default_split_columns(columns) == ["level"]
    assert default_split_columns({"datasource": ["x"], "other": ["y"]}) == ["datasource"]
