"""Figures from kept answers: by enumeration, in the extremes, and what must always hold."""

from __future__ import annotations

import itertools
import json
import math
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_openrlhf.evaluation.figures import check_ks, majority, summarise, table
from lens_openrlhf.inputs import OptionError

from .conftest import frame


def test_pass_at_k_is_the_mean_over_prompts_of_all_draws():
    correctness = [[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]]
    found = summarise(frame(correctness), ks=[1, 2, 3, 4])["splits"]["all"]["pass_at_k"]
    for k in (1, 2, 3, 4):
        shares = [fmean(map(any, itertools.combinations(scores, k))) for scores in correctness]
        assert found[str(k)]["mean"] == pytest.approx(fmean(shares))


def test_only_full_correctness_is_right():
    found = summarise(frame([[0.5, 1.0], [0.99, 0.0]]))["splits"]["all"]
    assert found["pass_at_k"]["1"]["mean"] == 0.25 and found["pass_at_k"]["2"]["mean"] == 0.5


def test_extremes_are_exact():
    for score in (0, 1):
        (figures,) = summarise(frame([[score] * 8] * 5, same_as=[[0] * 8] * 5))["splits"].values()
        for estimate in (*figures["pass_at_k"].values(), figures["majority"]):
            assert estimate == {"mean": score, "error": 0, "low": score, "high": score}


@st.composite
def answers(draw):
    prompts, n = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    bits = st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=prompts, max_size=prompts)
    return draw(bits), draw(st.lists(st.sampled_from("xyz"), min_size=prompts, max_size=prompts))


@settings(deadline=None, max_examples=40)
@given(answers(), st.randoms())
def test_monotone_in_k_blind_to_order_and_splits_add_up(drawn, random):
    correctness, levels = drawn
    n = len(correctness[0])
    summary = summarise(frame(correctness, level=levels), ks=range(1, n + 1))
    everything = summary["splits"]["all"]
    means = [everything["pass_at_k"][str(k)]["mean"] for k in range(1, n + 1)]
    assert means == sorted(means) and 0 <= means[0] and means[-1] <= 1
    assert means[0] == pytest.approx(fmean(map(fmean, correctness)))
    assert means[-1] == pytest.approx(fmean(map(any, correctness)))

    order = random.sample(range(len(correctness)), len(correctness))
    shuffled = frame([correctness[i] for i in order], level=[levels[i] for i in order])
    again = summarise(shuffled, ks=range(1, n + 1))["splits"]
    assert list(again) == list(summary["splits"])
    for split, figures in again.items():
        for k, estimate in figures["pass_at_k"].items():
            assert estimate == pytest.approx(summary["splits"][split]["pass_at_k"][k], abs=1e-12)

    parts = [figures for split, figures in summary["splits"].items() if split != "all"]
    assert sum(part["prompts"] for part in parts) == everything["prompts"] == len(correctness)
    weighted = sum(part["prompts"] * part["pass_at_k"]["1"]["mean"] for part in parts) / len(correctness)
    assert weighted == pytest.approx(means[0])


@pytest.mark.parametrize(
    ("correct", "same_as", "expected"),
    [
        ([1, 1, 0], [0, 0, 1], 1.0),
        ([1, 0, 0], [0, 1, 1], 0.0),
        ([1, 0], [0, 1], 1 / 2),  # a tie
        ([1, 0, 0, 0, 0], [0, 1, 2, None, None], 1 / 3),  # those without an answer do not vote
        ([1, 0, 0, 0], [0, None, None, None], 1.0),
        ([0, 0], [None, None], 0.0),
        ([1, 0, 0, 0], [0, 0, 1, 1], 1 / 4),  # read alike, graded apart
    ],
)
def test_majority_vote(correct, same_as, expected):
    assert majority(correct, same_as) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_majority_vote_is_the_mean_over_the_winners(votes):
    counts = {vote: votes.count(vote) for vote in votes}
    winners = [vote for vote in counts if counts[vote] == max(counts.values())]
    assert majority([vote == 0 for vote in votes], votes) == pytest.approx(winners.count(0) / len(winners))


def test_lengths_truncation_and_failures():
    rows = frame([[0, 0], [0, 0]])
    rows["outcome"] = ["timeout", "error", "no_answer", "wrong"]
    figures = summarise(rows)["splits"]["all"]
    assert figures["mean_tokens"] == fmean([0, 1, 10, 11]) and figures["truncated"] == 0.5
    assert figures["timeout"] == figures["error"] == figures["no_answer"] == 0.25


def test_a_reward_file_has_no_failures_to_count():
    summary = summarise(frame([[0, 1]], outcome=None))
    assert [summary["splits"]["all"][name] for name in ("timeout", "error", "no_answer")] == [None] * 3
    assert table(summary).splitlines()[-1].split()[-3:] == ["–"] * 3


def test_values_of_a_split_come_in_order_and_missing_ones_are_shown():
    found = summarise(frame([[1]] * 4, level=["10", "9", None, "hard"]))["splits"]
    assert list(found) == ["all", "level=9", "level=10", "level=hard", "level=none"]


def test_split_by_chooses_columns():
    rows = frame([[1], [0]], level=["1", "2"], source=["a", "a"])
    assert list(summarise(rows, split_by=["source"])["splits"]) == ["all", "source=a"]
    assert list(summarise(rows, split_by=[])["splits"]) == ["all"]
    with pytest.raises(OptionError, match="--split_by type: .*there are: level, source"):
        summarise(rows, split_by=["type"])


@pytest.mark.parametrize(("k", "named"), [(3, "--k 3: there are 2 answers"), (0, "--k 0")])
def test_impossible_k_is_named(k, named):
    with pytest.raises(OptionError, match=named):
        summarise(frame([[1, 0]]), ks=[k])


def test_answers_that_are_not_complete_are_refused():
    with pytest.raises(OptionError, match="prompt 1 has 1 answers and others have 2"):
        summarise(frame([[1, 0], [1, 0]]).iloc[:3])


def test_summary_is_json_even_for_a_single_prompt():
    summary = summarise(frame([[1, 0, 1]]))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["splits"]["all"]["pass_at_k"]["1"]["error"] is None


def test_table_shows_every_figure_in_80_columns():
    names = ["a name of a split that is far too long for its place", "b"]
    summary = summarise(frame([[1] * 12, [0] * 12], datasource=names), ks=range(1, 13))
    text = table(summary)
    assert max(map(len, text.splitlines())) <= 80
    for k, estimate in summary["splits"]["all"]["pass_at_k"].items():
        assert text.count(f"Pass@{k} ") + text.count(f"Pass@{k}\n") == 1
        assert math.isclose(estimate["mean"], 0.5)
    assert "maj@12" in text and "a name of" in text and "…" in text and "  b (1)" in text


# Right are 2, 1 and 0 of 4. The votes: a tie of a right answer and a wrong one; of a right and two wrong ones; none.
TABLE = """\
3 prompts, 4 answers each; below each figure its 95% interval

                        Pass@1    Pass@2    Pass@3    Pass@4     maj@4
all (3)                  0.250     0.444     0.583     0.667     0.278
                     0.00–0.50 0.00–0.83 0.00–1.00 0.00–1.00 0.00–0.50
level
  1 (2)                  0.250     0.417     0.500     0.500     0.250
                     0.00–0.50 0.00–0.83 0.00–1.00 0.00–1.00 0.00–0.50
  2 (1)                  0.250     0.500     0.750     1.000     0.333
                     0.25–0.25 0.50–0.50 0.75–0.75 1.00–1.00 0.33–0.33
datasource
  a very long n… (1)     0.500     0.833     1.000     1.000     0.500
                     0.50–0.50 0.83–0.83 1.00–1.00 1.00–1.00 0.50–0.50
  bbbbbbbbbbbbbb (2)     0.125     0.250     0.375     0.500     0.167
                     0.00–0.25 0.00–0.50 0.00–0.75 0.00–1.00 0.00–0.33

                        tokens truncated no answer time-outs    errors
all (3)                   11.5     33.3%     16.7%     16.7%      8.3%
level
  1 (2)                   11.5     37.5%      0.0%     25.0%      0.0%
  2 (1)                   11.5     25.0%     50.0%      0.0%     25.0%
datasource
  a very long n… (1)       1.5     50.0%      0.0%     25.0%      0.0%
  bbbbbbbbbbbbbb (2)      16.5     25.0%     25.0%     12.5%     12.5%"""


def test_the_table_worked_out_by_hand():
    same_as = [[0, 1, 1, 0], [0, 1, 2, None], [None] * 4]
    splits = {"level": ["1", "2", "1"], "datasource": ["a very long name", *["b" * 14] * 2]}
    rows = frame([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], same_as=same_as, **splits)
    rows["outcome"] = [
        *("correct", "wrong", "timeout", "correct"),
        *("error", "no_answer", "correct", "no_answer"),
        *("wrong", "wrong", "timeout", "wrong"),
    ]
    rows.loc[3, "truncated"] = True
    summary = summarise(rows, ks=[4, 1, 2, 3, 1])
    assert table(summary) == TABLE
    assert {name: value for name, value in summary.items() if name != "splits"} == {
        "prompts": 3,
        "samples": 4,
        "interval": "95%, percentile bootstrap over prompts, 10000 resamples",
    }
    found = summary["splits"]["level=2"]
    single = {
        name: {"mean": value, "error": None, "low": value, "high": value}
        for name, value in (("1", 0.25), ("2", 0.5), ("3", 0.75), ("4", 1.0), ("majority", 1 / 3))
    }
    majority_vote = single.pop("majority")
    assert found == {
        **{"prompts": 1, "pass_at_k": single, "majority": majority_vote, "mean_tokens": 11.5, "truncated": 0.25},
        **{"no_answer": 0.5, "timeout": 0.0, "error": 0.25},
    }
    assert list(found) == [
        *("prompts", "pass_at_k", "majority", "mean_tokens", "truncated", "no_answer", "timeout", "error"),
    ]
    assert list(found["pass_at_k"]) == ["1", "2", "3", "4"]
    assert summary["splits"]["all"]["pass_at_k"]["1"]["error"] == pytest.approx(math.sqrt(1 / 16 / 3))


def test_more_columns_than_fit_go_on_below():
    lines = table(summarise(frame([[1] * 7]), ks=range(1, 7))).splitlines()
    assert [line.split() for line in lines if "@" in line] == [
        [f"Pass@{k}" for k in range(1, 7)],
        ["maj@7"],
    ]
    assert lines[1] == lines[5] == lines[9] == "" and len(lines) == 12


def test_without_ks_they_are_powers_of_two_and_columns_are_those_that_were_kept():
    rows = frame([[1, 0, 0, 0, 0]] * 2, topic=["b", "a"], level=["2", "2"])
    splits = summarise(rows)["splits"]
    assert list(splits) == ["all", "topic=a", "topic=b", "level=2"]
    assert list(splits["all"]["pass_at_k"]) == ["1", "2", "4"]
    assert list(summarise(rows, split_by=["level", "topic", "level"])["splits"]) == [
        *("all", "level=2", "topic=a", "topic=b"),
    ]
    with pytest.raises(OptionError, match="--split_by x: was not kept with the answers; there are: none"):
        summarise(frame([[1]]), split_by=["x"])


def test_one_outcome_that_is_missing_makes_a_reward_files_evaluation():
    rows = frame([[0, 1]])
    rows.loc[1, "outcome"] = None
    assert summarise(rows)["splits"]["all"]["error"] is None


def test_as_many_as_there_are_answers_may_be_drawn():
    check_ks([], 1)
    check_ks([1, 4], 4)
    with pytest.raises(OptionError, match="--k 5: there are 4 answers to a prompt; use a smaller k, or more --samples"):
        check_ks([1, 5], 4)
    with pytest.raises(OptionError, match="--k 0: k counts answers and is at least 1"):
        check_ks([1, 0], 4)
