"""The command `advantages`: hand-worked groups in every form a file can have, and what it refuses."""

from __future__ import annotations

import json
import math
import random
import re
import sys
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lens_openrlhf.advantages import lens_advantages
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.outside import command

# Worked out in tests/advantages/test_hand_worked.py: confidences 0.8, 0.4, 0.2, 0.2, all wrong.
CONFIDENCES = [0.8, 0.4, 0.2, 0.2]
ALL_WRONG = [-25 / 672, 3 / 672, 11 / 672, 11 / 672]


def hand_worked(**more) -> list[dict]:
    """Two groups of four whose rows are mixed up: all wrong, and all right."""
    rows = []
    for i, confidence in enumerate(CONFIDENCES):
        for prompt, reward in (("right", 1), ("wrong", 0)):
            rows.append(
                {"prompt": prompt, "reward": reward, "logprobs": [math.log(confidence)] * (i + 1), "id": i, **more}
            )
    return rows


def write_lines(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_table(path, rows) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.fixture
def run(capsys):
    """The command: its standard output. An error is raised as the OptionError it prints."""

    def call(*words) -> str:
        words = [str(word) for word in words]
        status = command.main(words)
        out, err = capsys.readouterr()
        if status:
            assert status == 2 and err.count("\n") == 1 and err.startswith("error: ")
            raise OptionError(err.removeprefix("error: ").strip())
        return out

    return call


def read(path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("source", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("target", ["b.jsonl", "b.parquet"])
def test_hand_worked_groups_in_any_order_and_format(run, tmp_path, source, target):
    rows = hand_worked()
    write = write_table if source.endswith("parquet") else write_lines
    run(write(tmp_path / source, rows), "-o", tmp_path / target)
    after = read(tmp_path / target)
    assert [{k: v for k, v in row.items() if k != "advantage"} for row in after] == rows
    for row in after:
        expected = 0 if row["reward"] else ALL_WRONG[row["id"]]
        assert row["advantage"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", ["logprobs", "mean_logprob", "confidence"])
def test_every_form_of_log_probabilities_gives_the_same(run, tmp_path, form):
    rows = hand_worked()
    for row in rows:
        values = row.pop("logprobs")
        mean = sum(values) / len(values)
        row["what"] = {"logprobs": values, "mean_logprob": mean, "confidence": math.exp(mean)}[form]
        row["n"], row["outcome"], row["q"] = len(values), row.pop("reward") == 1, [{"role": row.pop("prompt")}]
    options = () if form == "logprobs" else ("--length", "n")
    file = write_lines(tmp_path / "a.jsonl", rows)
    out = tmp_path / "b.jsonl"
    run(file, "--prompt", "q", "--correctness", "outcome", f"--{form}", "what", *options, "-o", out)
    assert [row["advantage"] for row in read(out) if not row["outcome"]] == pytest.approx(ALL_WRONG, rel=1e-9)


def test_the_summary_says_what_lens_would_have_learned_from(run, tmp_path):
    # 8 answers to "mixed", one of them right: GRPO's advantages there, nothing from the other two.
    rows = hand_worked() + [
        {"prompt": "mixed", "reward": int(i == 0), "logprobs": [-1.0] * 2, "id": i} for i in range(8)
    ]
    out = run(write_lines(tmp_path / "a.jsonl", rows), "--estimator", "grpo", "lens")
    assert "16 samples, 3 groups, 1 step" in out
    table = {}
    for line in out.splitlines()[3:]:
        name, *cells = re.split(r"\s{2,}", line.strip())
        table.setdefault(name, []).append(cells)
    assert table["negative"] == [["mixed", "positive", "all"]]
    assert table["groups"] == [["1", "1", "1", "3"]] and table["samples"] == [["4", "8", "4", "16"]]
    assert table["rescued samples"] == [["0", "0", "0", "0"], ["4", "0", "0", "4"]]
    grpo, lens = table["share of |advantage|"]
    assert grpo == ["0.0%", "100.0%", "0.0%", "100.0%"]
    # One of 8 right: 7/8 and 1/8 over the std 0.35355: 2.4749 and 7 times 0.35355, together 4.9497. The std's
    # penalty shifts nothing, as all are equally confident. Negative: 50/672, of all 1.48%.
    assert lens[0] == f"{(50 / 672) / (50 / 672 + 4.949747):.1%}" == "1.5%"
    tokens = (25 * 1 + 3 * 2 + 11 * 3 + 11 * 4) / 672
    assert table["the same by tokens"][1][0] == f"{tokens / (tokens + 2 * 4.949747):.1%}"
    assert table["mean |advantage|"][1][0] == f"{50 / 672 / 4:.4g}"


def test_groups_are_of_a_step_and_equal_the_operator(run, tmp_path):
    """Random rollouts of three steps against one call of the operator for each."""
    draw = random.Random(0)
    rows = [
        {
            "prompt_id": q,
            "step": step,
            "reward": float(draw.random() < 0.3),
            "logprobs": [-draw.random() for _ in range(n)],
        }
        for step in (1, 2, 3)
        for q in range(6)
        for n in [draw.randint(1, 9) for _ in range(4)]
    ]
    expected = []
    for start in range(0, 72, 24):
        part = rows[start : start + 24]
        lengths = torch.tensor([0, *(len(row["logprobs"]) for row in part)])
        expected += lens_advantages(
            torch.tensor([v for row in part for v in row["logprobs"]], dtype=torch.float64),
            lengths.cumsum(0),
            torch.tensor([row["reward"] for row in part]),
            torch.arange(0, 25, 4),
        ).advantage.tolist()
    order = list(range(72))
    draw.shuffle(order)
    files = [
        write_table(tmp_path / f"{k}.parquet", [rows[i] for i in part])
        for k, part in enumerate((order[:30], order[30:]))
    ]
    run(*files, "-o", tmp_path / "out.parquet")
    found = [row["advantage"] for row in read(tmp_path / "out.parquet")]
    assert found == pytest.approx([expected[i] for i in order], rel=1e-12)


def test_options_and_several_estimators(run, tmp_path):
    file = write_lines(tmp_path / "a.jsonl", hand_worked())
    out = tmp_path / "b.jsonl"
    run(file, "--estimator", "lens", "grpo", "--algo.lens.alpha", "1", "-o", out)
    wrong = [row for row in read(out) if not row["reward"]]
    assert [row["advantage_lens"] for row in wrong] == pytest.approx([4 * a for a in ALL_WRONG])
    assert [row["advantage_grpo"] for row in wrong] == [0] * 4


OWN = """
import torch
def by_token(batch):
    return batch.logprobs + batch.entropies * batch.correctness[batch.response_of]
by_token.needs = ("logprobs", "entropies")
def remembered(batch):
    return torch.full((len(batch.lengths),), float("nan") if batch.prompts is None else 10.0 * batch.step) \\
        + batch.prompts[batch.group_of]
"""


def test_an_estimator_of_ones_own_that_gives_one_number_a_token(run, tmp_path):
    (tmp_path / "my.py").write_text(OWN)
    rows = [row | {"entropies": [0.5] * len(row["logprobs"])} for row in hand_worked()]
    for target in ("b.jsonl", "b.parquet"):
        out = tmp_path / target
        file = write_lines(tmp_path / "a.jsonl", rows)
        text = run(file, "--estimator_path", f"{tmp_path}/my.py:by_token", "-o", out)
        for row in read(out):
            expected = [value + 0.5 * row["reward"] for value in row["logprobs"]]
            assert row["advantage"] == pytest.approx(expected, rel=1e-6)
    assert "by_token" in text
    with pytest.raises(OptionError, match="--entropies COLUMN"):
        run(write_lines(tmp_path / "c.jsonl", hand_worked()), "--estimator_path", f"{tmp_path}/my.py:by_token")


def test_what_else_an_estimator_reads_of_every_answer_is_a_column(run, tmp_path):
    rows = [row | {"step_score": row["id"] / 4, "drawn": 8, "drawn_std": 0.5} for row in hand_worked()]
    rows = [row | {"drawn_mean": 0.75 * row["reward"]} for row in rows]
    random.Random(0).shuffle(rows)
    out = tmp_path / "out.parquet"
    options = ["--estimator", "spectral", "reinforce_ada", "--algo.spectral.beta", "0"]
    run(write_lines(tmp_path / "a.jsonl", rows), *options, "-o", out)
    # Shares of right steps 0, 1/4, 1/2, 3/4: mean 3/8, unbiased variance (2 x 9/64 + 2 x 1/64) / 3 = 5/48.
    std = math.sqrt(5 / 48)
    for row in read(out):
        spectral = (row["step_score"] - 3 / 8) / std if row["prompt"] == "wrong" else 0
        assert row["advantage_spectral"] == pytest.approx(spectral, abs=1e-6)
        assert row["advantage_reinforce_ada"] == row["reward"] - row["drawn_mean"]


@pytest.mark.parametrize("filters", ["default", "ignore"])  # as PYTHONWARNINGS sets them
def test_rewards_that_a_method_does_not_read_are_said(tmp_path, capsys, filters):
    warnings.simplefilter(filters)  # pytest puts the filters back
    rows = [row | {"correctness": row["reward"], "reward": row["reward"] - 0.25} for row in hand_worked()]
    file = write_lines(tmp_path / "a.jsonl", rows)
    assert command.main([file, "--estimator", "grpo"]) == 0 and not capsys.readouterr().err
    assert command.main([file, "--estimator", "nsr"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("warning: estimator nsr (") and err.count("\n") == 1 and "no effect" in err


def test_a_prompt_keeps_its_number_over_steps_where_the_column_tells_it(run, tmp_path):
    (tmp_path / "my.py").write_text(OWN)
    rows = [
        {"prompt_id": prompt, "step": step, "reward": 0, "logprobs": [-1.0]}
        for step, prompt in ((2, "b"), (1, "b"), (1, "a"), (2, "a"))
    ]
    file, mine = write_lines(tmp_path / "a.jsonl", rows), f"{tmp_path}/my.py:remembered"
    run(file, "--estimator_path", mine, "--prompt", "prompt_id", "-o", tmp_path / "b.jsonl")
    assert [row["advantage"] for row in read(tmp_path / "b.jsonl")] == [20, 10, 11, 21]
    with pytest.raises(OptionError, match="NoneType.*step 1"):
        run(file, "--estimator_path", mine)


def run_folder(folder, **options):
    """A run's samples, with its config.json; a step's prompts count from 0."""
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"options": options}))
    for step in (1, 2):
        rows = [
            {"step": step, "index": i, "prompt_id": 0, "prompt": None, "correctness": 0.0, "reward": 0.0}
            | {"tokens": 3, "confidence": confidence, "advantage": 7.0, "kind": "negative"}
            for i, confidence in enumerate(CONFIDENCES)
        ]
        write_table(folder / f"samples/step-{step:06}.parquet", rows)
    return folder


def test_a_run_folder_is_read_as_it_is(run, tmp_path):
    out = tmp_path / "out.parquet"
    text = run(run_folder(tmp_path / "run"), "-o", out)
    assert "8 samples, 2 groups, 2 steps" in text and "confidence, length from tokens" in text
    assert [row["advantage"] for row in read(out)] == pytest.approx(ALL_WRONG * 2)


def test_confidences_of_whole_answers_are_refused(run, tmp_path):
    with pytest.raises(OptionError, match="step-000001.parquet.*--algo.lens.confidence sequence"):
        run(run_folder(tmp_path / "run", **{"algo.lens.confidence": "sequence"}))


def test_an_empty_response_counts_in_its_group_and_needs_no_log_probability(run, tmp_path):
    rows = [row | {"prompt": "q", "reward": 0} for row in hand_worked()[:4]]
    rows[1]["logprobs"] = []
    run(write_lines(tmp_path / "a.jsonl", rows), "-o", tmp_path / "b.jsonl")
    # The empty one takes no penalty, the others of its group do, so it ends above them.
    advantage = [row["advantage"] for row in read(tmp_path / "b.jsonl")]
    assert max(advantage) == advantage[1] > 0 and sum(advantage) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logprobs": [-1.0, math.nan]}, r"row 3, column logprobs: token 2 of the list is empty or NaN"),
        ({"logprobs": [-1.0, None]}, r"row 3, column logprobs: token 2 of the list is empty or NaN"),
        ({"logprobs": [0.5]}, r"row 3, column logprobs: token 1 of the list is 0.5; a log-probability is .* at most 0"),
        ({"logprobs": None}, r"row 3, column logprobs: is empty, expected a list"),
        ({"reward": 1.5}, r"row 3, column reward: 1.5, expected 0 to 1; name .* --correctness COLUMN"),
        ({"reward": None}, r"row 3, column reward: empty or NaN"),
        ({"prompt": None}, r"row 3, column prompt: is empty or NaN; every response needs its prompt"),
        ({"step": 1.5}, r"row 3, column step: 1.5, expected a whole number"),
        ({"entropies": [1.0, 1.0, 1.0]}, r"row 3, column entropies: has 3 numbers for 2 tokens \(logprobs\)"),
        ({"entropies": [1.0, math.inf]}, r"row 3, column entropies: token 2 of the list is inf"),
    ],
)
def test_bad_rows_are_named(run, tmp_path, format, change, message):
    (tmp_path / "my.py").write_text(OWN)
    rows = [row | {"step": 1.0, "reward": float(row["reward"])} for row in hand_worked()]
    rows = [row | {"entropies": [1.0] * len(row["logprobs"])} for row in rows]
    rows[2] = rows[2] | change
    write = write_table if format == "parquet" else write_lines
    with pytest.raises(OptionError, match=rf"^{re.escape(str(tmp_path))}/a.{format}: {message}"):
        run(write(tmp_path / f"a.{format}", rows), "--estimator_path", f"{tmp_path}/my.py:by_token")


def test_a_value_of_another_type_is_named_with_its_row(run, tmp_path):
    rows = hand_worked()
    rows[4] = rows[4] | {"reward": "right"}
    with pytest.raises(OptionError, match='row 5, column reward: "right", expected numbers'):
        run(write_lines(tmp_path / "a.jsonl", rows))
    table = [row | {"reward": str(row["reward"])} for row in hand_worked()]
    with pytest.raises(OptionError, match="column reward is string, expected numbers"):
        run(write_table(tmp_path / "a.parquet", table))


def without(name, **more):
    return [{k: v for k, v in row.items() if k != name} | more for row in hand_worked()]


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        (without("prompt"), [], r"no column says which responses share a prompt \(columns: .*--prompt COLUMN"),
        (without("reward"), [], r"no column has the outcome .*--correctness COLUMN or --reward COLUMN"),
        (without("logprobs"), [], r"no column has log-probabilities .*--logprobs, --mean_logprob or --confidence"),
        (without("logprobs", mean_logprob=-1.0), [], r"mean_logprob is a response's, but .*--length COLUMN"),
        (without("logprobs", mean_logprob=0.5, length=3), [], "column mean_logprob: 0.5; a log-probability"),
        (without("logprobs", confidence=1.5, length=3), [], r"column confidence: 1.5; .* in \[0, 1\]"),
        (without("logprobs", confidence=None, length=3), [], r"column confidence: empty or NaN"),
        (
            without("logprobs", confidence=0.5, length=-1),
            [],
            "column length: -1.0, expected a whole number of at least 0",
        ),
        (hand_worked(), ["--reward", "score"], r"--reward score: .* has no such column; it has prompt, reward"),
        (hand_worked(), ["--estimator", "nonesuch"], "--estimator nonesuch: unknown estimator; known: lens, grpo"),
        (hand_worked(), ["--estimator", "spectral"], "no column is named step_score, which the estimator needs of ev"),
        (hand_worked(step_score=None), ["--estimator", "spectral"], "column step_score: empty or NaN; a finite number"),
        (hand_worked(step_score=2), ["--estimator", "spectral"], r"response 0 has step_score 2.0, expected \[0, 1\]"),
        (hand_worked(), ["--algo.spectral.scorer", "a.py:f", "--estimator", "spectral"], "unrecognized arguments"),
        (hand_worked(), ["--estimator", "lens", "lens"], "--estimator lens: .* is there already"),
        (hand_worked(), ["--algo.lens.alpha", "-1"], r"--algo.lens.alpha=-1.0: expected a finite number >= 0"),
        (
            hand_worked(),
            ["--algo.grpo.alpha", "1"],
            r"--algo.grpo.alpha 1; did you mean --algo.lens.alpha. Else see .*--help",
        ),
        (hand_worked(), ["--estimator_path", "my.py"], r"--estimator_path my.py: expected FILE.py:NAME"),
        (hand_worked(), ["--logprobs", "id", "--confidence", "id"], "--confidence id: --logprobs says the same"),
        (hand_worked(), ["--length", "id"], "--length id: the lists in logprobs have their length; leave it out"),
        (hand_worked(), ["-o", "out.csv"], "-o out.csv: expected a name that ends in .jsonl or .parquet"),
        ([], [], "has no rows"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(run, tmp_path, rows, words, message):
    with pytest.raises(OptionError, match=message):
        run(write_lines(tmp_path / "a.jsonl", rows), *words)


def test_files_are_checked_before_they_are_read(run, tmp_path):
    file = write_lines(tmp_path / "a.jsonl", hand_worked())
    for places, message in (
        ([tmp_path / "b.jsonl"], "b.jsonl: no such file"),
        ([tmp_path / "a.csv"], "expected a .jsonl or .parquet file, or a run folder"),
        ([tmp_path], "a folder without samples/step-"),
        ([file, file], "is named twice"),
        (["--estimator", "lens", file], "unknown estimator; .*ROLLOUTS come first"),
        ([file, "-o", file], "is one of the files that are read"),
    ):
        with pytest.raises(OptionError, match=message):
            run(*places)
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    with pytest.raises(OptionError, match="c.parquet: cannot be read as parquet"):
        run(tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_text('{"prompt": "q"}\n{\n')
    with pytest.raises(OptionError, match="d.jsonl: line 2 is not JSON"):
        run(tmp_path / "d.jsonl", "--reward", "prompt", "--logprobs", "prompt")
    more = write_lines(tmp_path / "e.jsonl", without("reward"))
    with pytest.raises(OptionError, match="e.jsonl: has no column reward; all files need the same columns"):
        run(file, more)


def test_nothing_half_written_is_left(run, tmp_path):
    rows = [row | {"id": row["id"] if row["reward"] else "x"} for row in hand_worked()]
    file = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(OptionError, match="no common form as a table .*; write .jsonl"):
        run(file, "-o", tmp_path / "b.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_the_example_of_the_docs_prints_what_they_show(run, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs/outside.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    line, shown = re.search(r"```console\n\$ lens-openrlhf advantages (.*?)\n(.*?)```", text, re.DOTALL).groups()
    assert run(*line.split()) == shown
    assert (tmp_path / "advantages.parquet").exists()


SPO = {"prior_value": 0.25, "prior_weight": 2.0, "rho_min": 0.5, "rho_max": 0.75}


def tracked(rows: list[dict]) -> list[float]:
    """SPO's advantages worked out with plain loops, step by step; nothing moves the policy, so rho is rho_max."""
    right_and_wrong: dict[str, list[float]] = {}
    found = [math.nan] * len(rows)
    prior = [SPO["prior_weight"] * SPO["prior_value"], SPO["prior_weight"] * (1 - SPO["prior_value"])]
    for step in sorted({row["step"] for row in rows}):
        at = [i for i, row in enumerate(rows) if row["step"] == step]
        before = {rows[i]["prompt"]: right_and_wrong.get(rows[i]["prompt"], prior) for i in at}
        raw = [rows[i]["reward"] - before[rows[i]["prompt"]][0] / sum(before[rows[i]["prompt"]]) for i in at]
        mean = sum(raw) / len(raw)
        std = math.sqrt(sum((value - mean) ** 2 for value in raw) / (len(raw) - 1))
        for i, value in zip(at, raw, strict=True):
            found[i] = (value - mean) / (std + 1e-8)
        for prompt, counts in before.items():
            outcomes = [rows[i]["reward"] for i in at if rows[i]["prompt"] == prompt]
            seen = (sum(outcomes), len(outcomes) - sum(outcomes))
            right_and_wrong[prompt] = [SPO["rho_max"] * old + new for old, new in zip(counts, seen, strict=True)]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_tracker_of_prompts_whose_answers_come_mixed_up(run, tmp_path, seed):
    """Prompts by turns and in another order in every step, steps by turns, and a prompt that comes late."""
    draw = random.Random(seed)
    chances = {"easy": 0.9, "hard": 0.2, "never": 0.0, "all": 1.0}
    rows = [
        {"prompt": prompt, "step": step, "reward": float(draw.random() < chance), "logprobs": [-1.0]}
        for step in (3, 4, 10)
        for prompt, chance in chances.items()
        for _ in range(draw.randint(1, 4))
        if (step, prompt) != (3, "all") and (step, prompt) != (4, "hard")
    ]
    draw.shuffle(rows)
    options = [word for name, value in SPO.items() for word in (f"--algo.spo.{name}", value)]
    out = tmp_path / "out.jsonl"
    run(write_lines(tmp_path / "a.jsonl", rows), "--estimator", "spo", *options, "-o", out)
    assert [row["advantage"] for row in read(out)] == pytest.approx(tracked(rows), rel=1e-9)


def test_several_files_and_columns_of_any_name_give_the_same(run, tmp_path):
    """Every column under another name, beside one with the usual name that holds something else."""
    (tmp_path / "my.py").write_text(OWN)
    draw = random.Random(0)
    rows = []
    for i in range(24):
        values = [-draw.random() for _ in range(1 + i % 3)]
        rows.append({"prompt": f"q{i % 3}", "step": 1 + i % 2, "correctness": float(i % 4 == 0), "logprobs": values})
        rows[-1] |= {"reward": rows[-1]["correctness"] - 0.125 * (i % 5), "entropies": [draw.random() for _ in values]}
        rows[-1] |= {"self_certainty": [draw.random() for _ in values]}
    renamed = [
        {f"my_{name}": value for name, value in row.items()}
        | {"prompt": "q", "prompt_id": 0, "step": 9, "correctness": 0.5, "reward": 0.5, "logprobs": [-9.0]}
        | {"entropies": [9.0], "self_certainty": [9.0]}
        for row in rows
    ]
    names = ["lens", "grpo", "rl_zvp", "intuitor", "rent"]
    words = ["--estimator", *names, "--estimator_path", f"{tmp_path}/my.py:by_token"]
    out = run(write_lines(tmp_path / "a.jsonl", rows), *words, "-o", tmp_path / "a.out.jsonl")
    read_in_order = "prompt, step, correctness, reward, logprobs, entropies, self_certainty"
    assert out.splitlines()[1] == f"columns read: {read_in_order}"
    files = [write_lines(tmp_path / f"{n}.jsonl", part) for n, part in enumerate((renamed[:7], renamed[7:]))]
    columns = [word for name in rows[0] for word in (f"--{name}", f"my_{name}")]
    run(*files, *words, *columns, "-o", tmp_path / "b.out.jsonl")
    found = [
        [{k: v for k, v in row.items() if k.startswith("advantage_")} for row in read(tmp_path / f"{name}.out.jsonl")]
        for name in "ab"
    ]
    assert found[0] == found[1]
    assert set(found[0][0]) == {f"advantage_{name}" for name in [*names, "by_token"]}
    assert len({json.dumps(row) for row in found[0]}) == 24


MORE = """
import torch
steps = []
def every_other(batch):
    steps.append(batch.step)
    if batch.step % 2:
        return batch.correctness + batch.step
    return torch.arange(len(batch.logprobs)) + 100.0 * batch.step
every_other.needs = ("logprobs",)
def broken(batch):
    return batch.correctness / (batch.step - 7)
"""


def test_steps_come_in_order_and_numbers_are_a_tokens_once_any_is(run, tmp_path, monkeypatch):
    (tmp_path / "more.py").write_text(MORE)
    rows = [
        {"prompt": prompt, "step": step, "reward": 1, "logprobs": [-1.0] * n}
        for step, prompt, n in ((4, "a", 2), (3, "a", 3), (4, "b", 1), (12, "a", 1), (3, "b", 0), (4, "a", 2))
    ]
    out = tmp_path / "out.jsonl"
    run(write_lines(tmp_path / "a.jsonl", rows), "--estimator_path", f"{tmp_path}/more.py:every_other", "-o", out)
    # In step 4 the tokens of prompt a come first: 0 to 3, then that of b.
    found = [[400.0, 401.0], [4.0, 4.0, 4.0], [404.0], [1200.0], [], [402.0, 403.0]]
    assert [row["advantage"] for row in read(out)] == found
    assert sys.modules["lens_estimator_more"].steps == [3, 4, 12]


def test_what_an_estimator_could_not_do_names_the_step(run, tmp_path):
    (tmp_path / "more.py").write_text(MORE)
    rows = [{"prompt": "a", "step": step, "reward": 1, "logprobs": [-1.0]} for step in (9, 7)]
    with pytest.raises(OptionError) as refused:
        run(write_lines(tmp_path / "a.jsonl", rows), "--estimator_path", f"{tmp_path}/more.py:broken")
    assert str(refused.value) == f"estimator broken ({tmp_path}/more.py): response 0 has advantage inf (step 7)"


def test_labels_that_no_answer_should_be_graded_by_are_said(tmp_path, capsys, small_pool):
    rows = [
        row | {"label": label} for row, label in zip(hand_worked(), ["5", "2e-3", 5, "???", "2e-3"] * 2, strict=False)
    ]
    file = write_lines(tmp_path / "a.jsonl", rows)
    assert command.main([file]) == 0
    out, err = capsys.readouterr()
    assert err.startswith(
        "warning: 2 of 4 labels cannot be graded by, which may be why groups are all wrong; the first: the label "
        "'2e-3' has two readings"
    )
    assert err.endswith("; lens-openrlhf grade shows them\n") and err.count("\n") == 1
    assert command.main([write_lines(tmp_path / "b.jsonl", [row | {"label": "5"} for row in rows])]) == 0
    assert capsys.readouterr() == (out.replace("a.jsonl", "b.jsonl"), "")


def test_a_warning_is_said_once_for_each_estimator_whatever_the_steps(tmp_path, capsys):
    rows = [row | {"correctness": row["reward"], "reward": 0.5, "step": n // 4} for n, row in enumerate(hand_worked())]
    file = write_lines(tmp_path / "a.jsonl", rows)
    assert command.main([file, "--estimator", "nsr", "psr", "grpo"]) == 0
    assert [line.split(" (")[0] for line in capsys.readouterr().err.splitlines()] == [
        "warning: estimator nsr",
        "warning: estimator psr",
    ]


def test_what_is_printed_and_written(run, tmp_path):
    rows = hand_worked()[::2] * 300
    folder = tmp_path / "a\x1b[31m"
    folder.mkdir()
    shown = str(folder).replace("\x1b", "\\x1b")
    out = run(write_lines(folder / "a.jsonl", rows), "--estimator", "grpo", "-o", folder / "b.jsonl")
    lines = out.splitlines()
    assert lines[0] == f"{shown}/a.jsonl: 1,200 samples, 1 groups, 1 step"
    assert lines[-1] == f"{shown}/b.jsonl: 1,200 rows with advantage"
    assert lines[5].split() == ["samples", "0", "0", "1,200", "1,200"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--estimator", "a.jsonl"], "--estimator a.jsonl: unknown estimator; known: {known}; ROLLOUTS come first"),
        (["--estimator", "b.jsonl"], "--estimator b.jsonl: unknown estimator; known: {known}"),
        (
            ["--estimator_path", "a.jsonl"],
            "--estimator_path a.jsonl: expected FILE.py:NAME, a function of a batch or an Estimator subclass",
        ),
        (
            ["--estimator_path", "own/lens.py:lens", "more.py:lens"],
            "--estimator_path more.py:lens: an estimator of the name lens is there already",
        ),
        (
            ["--estimator_path", "own/lens.py:lens", "--estimator", "lens"],
            "--estimator_path own/lens.py:lens: an estimator of the name lens is there already",
        ),
        (
            ["--estimator", "lens", "--estimator", "lens"],
            "--estimator lens: an estimator of the name lens is there already",
        ),
        (
            ["--algo.lens.gamma", "-2"],
            "--algo.lens.gamma=-2.0: expected a finite number >= 0 (on the scale of confidences)",
        ),
        (
            ["--algo.lens.scope", "all"],
            "argument --algo.lens.scope: invalid choice: 'all' (choose from 'both', 'mixed', 'negative', 'none'); "
            "{end}",
        ),
        (
            ["--algo.lens.confidence_from", "actor"],
            "unrecognized arguments: --algo.lens.confidence_from actor; did you mean --algo.lens.confidence? Else "
            "{end}",
        ),
        (["--estimator", "grpo", "--algo.lens.alpha", "1"], "unrecognized arguments: --algo.lens.alpha 1; {end}"),
        (["--rew", "reward"], "unrecognized arguments: --rew reward; did you mean --reward? Else {end}"),
        (["--estimato", "grpo"], "unrecognized arguments: --estimato grpo; did you mean --estimator? Else {end}"),
        (
            ["--mean_logprob", "id", "--confidence", "reward"],
            "--confidence reward: --mean_logprob says the same; give one of them",
        ),
        (
            ["--logprobs", "id", "--mean_logprob", "reward"],
            "--mean_logprob reward: --logprobs says the same; give one of them",
        ),
    ],
)
def test_words_that_cannot_be_together(run, tmp_path, monkeypatch, words, message):
    from lens_openrlhf.advantages.estimators import names

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    for name in ("own/lens.py", "more.py"):
        Path(name).write_text("def lens(batch):\n    return batch.correctness\n")
    with pytest.raises(OptionError) as refused:
        run(write_lines(Path("a.jsonl"), hand_worked()), *words)
    end = "see lens-openrlhf advantages --help"
    assert str(refused.value) == message.format(known=", ".join(names()), end=end)


def test_an_estimator_that_does_not_start_is_named(run, tmp_path):
    (tmp_path / "odd.py").write_text(
        "from lens_openrlhf.advantages.estimators import Estimator\n"
        "class Odd(Estimator):\n    def __init__(self, config=None):\n        raise RuntimeError('not today')\n"
    )
    with pytest.raises(OptionError) as refused:
        run(write_lines(tmp_path / "a.jsonl", hand_worked()), "--estimator_path", f"{tmp_path}/odd.py:Odd")
    assert str(refused.value) == f"estimator Odd ({tmp_path}/odd.py): __init__ raised RuntimeError: not today"


def test_which_estimators_are_asked(run, tmp_path):
    (tmp_path / "my.py").write_text("def mine(batch):\n    return batch.correctness\n")
    file, mine = write_lines(tmp_path / "a.jsonl", hand_worked()), f"{tmp_path}/my.py:mine"

    def asked(*words) -> list[str]:
        lines = run(file, *words).splitlines()[6:]
        return [line for line in lines if not line.startswith(" ")]

    assert asked() == ["lens"] and asked("--estimator_path", mine) == ["mine"]
    assert asked("--estimator_path", mine, "--estimator", "grpo") == ["grpo", "mine"]
    assert asked("--estimator", "nsr", "--estimator", "grpo", "psr") == ["nsr", "grpo", "psr"]


@pytest.mark.parametrize(
    ("words", "there", "absent"),
    [
        ([], ["--algo.lens.alpha VALUE"], ["--algo.lens.confidence_from", "--algo.spo"]),
        (["--estimator", "spo", "passk"], ["--algo.spo.half_life VALUE", "--algo.passk.k VALUE"], ["--algo.lens"]),
        (["--estimator", "reinforce_ada"], ["--algo.reinforce_ada.scale"], ["--algo.reinforce_ada.rounds"]),
    ],
)
@pytest.mark.parametrize("ask", ["-h", "--help"])
def test_help_has_the_options_of_the_estimators_that_are_named(capsys, words, there, absent, ask):
    with pytest.raises(SystemExit) as end:
        command.main([*words, ask])
    said = capsys.readouterr().out
    assert end.value.code == 0 and said.startswith("usage: lens-openrlhf advantages ROLLOUTS...")
    assert all(word in said for word in there) and not any(word in said for word in absent)
    assert all(f"--{name} COLUMN" in said for name in command.COLUMN_OPTIONS)
    assert "options of " + (words[1] if words else "lens") + ":" in said
