"""The page around the numbers: what it says of the runs, and the one file."""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from importlib import resources
from pathlib import Path

import pytest

from lens_openrlhf import __version__
from lens_openrlhf.reporting import page
from lens_openrlhf.reporting.page import report_data, to_json
from lens_openrlhf.reporting.runs import Evaluation, Problem, Run

MODEL = {"actor.model_name_or_path": "/models/Qwen/7B"}


def run(name: str, *steps: float, evaluated: int | None = None, **more) -> Run:
    """steps: the time of each."""
    metrics = [{"step": i, "time": t} for i, t in enumerate(steps, 1)]
    evaluations = [] if evaluated is None else [Evaluation(evaluated, 1, {"all": [0]}, {}, None, None, set())]
    return Run(Path(name), name, metrics=metrics, evaluations=evaluations, **more)


def data(*runs: Run, **more) -> dict:
    return report_data(runs, sample_steps=0, **more)


def facts(*runs: Run) -> dict[str, str]:
    found = data(*runs)["facts"]
    assert all(len(entry) == 2 for entry in found) and len(dict(found)) == len(found)
    return dict(found)


@pytest.fixture
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


DAY = 86_400.0


def test_what_was_run(utc):
    first = run("a", 0.0, DAY, DAY, seed="10", git_commit="0123456789abcdef", versions={"torch": "2.1", "vllm": "1"},
                options=MODEL | {"data.prompt_dataset": "/data/a/train.jsonl", "eval.dataset": "/data/a/test.jsonl",
                                 "rollout.n_samples_per_prompt": 8, "rollout.batch_size": 16, "actor.adam.lr": 1e-4,
                                 "other": 1})  # fmt: skip
    second = run("b", 0.0, DAY, 2 * DAY, seed="9", git_commit="0123456789abXXXX", versions={"vllm": "2", "ray": "3"},
                 options=first.options | {"actor.adam.lr": 1e-5, "eval.dataset": None})  # fmt: skip
    assert data(first, second, run("c", 0.0, DAY, 5.0, seed="9", git_commit="fedcba9876543210"))["facts"] == [
        ["seeds", "9, 10"],
        ["steps", "3"],
        ["model", "Qwen/7B"],
        ["training data", "a/train.jsonl"],
        ["evaluation data", "a/test.jsonl"],
        ["answers a prompt", "8"],
        ["prompts a step", "16"],
        ["learning rate", "0.0001, 1e-05"],
        ["date", "1970-01-01 to 1970-01-03"],
        ["versions", "torch 2.1, vllm 1 / 2, ray 3"],
        ["git commit", "0123456789ab, fedcba987654"],
    ]
    assert data(Run(Path("empty"), "empty"))["facts"] == [["steps", "0"]]
    assert facts(run("a", 5.0, 9 * DAY, 7.0))["date"] == "1970-01-01", "of the first and the last step"
    assert facts(run("a", 0.0, DAY))["date"] == "1970-01-01 to 1970-01-02"


@pytest.mark.parametrize(
    ("runs", "steps"),
    [
        ([(2, 2), (2, None)], "2"),
        ([(1, None), (3, None), (2, None)], "1 to 3"),
        ([(1, 4), (3, 5)], "1 to 3 of 5"),
        ([(2, 4), (2, 2)], "2 of 4"),
        ([(3, 3), (2, 2)], "2 to 3"),
        ([(3, 2)], "3"),
    ],
)
def test_how_far_the_runs_are(runs, steps):
    assert facts(*(run(str(i), *[0.0] * n, planned=p) for i, (n, p) in enumerate(runs)))["steps"] == steps


def test_options_that_tell_arms_apart_and_those_of_all():
    runs = [
        run("a", options={"z": 1, "same": True, "alpha": 1, "a": None, "train.seed": 1, "logger.x": "p"}),
        run("b", options={"z": 1, "same": True, "alpha": 1, "a": None, "train.seed": 2, "logger.x": "q"}),
        run("c", options={"z": 2, "same": True, "alpha": 1, "a": None, "new": 1, "train.seed": 1, "logger.x": "p"}),
        run("d"),
    ]
    found = data(*runs)
    assert found["options"] == {"apart": [["z", ["1", "2", ""]]], "common": []}
    assert data(*runs[:3])["options"] == {
        "apart": [["z", ["1", "2"]]],
        "common": [["same", "on"], ["alpha", "1"], ["a", "–"], ["train.seed", "1"], ["logger.x", "p"]],
    }
    late = [Run(Path("e"), "e", "arm", Path("c")), Run(Path("f"), "f", "arm", Path("c"), options={"z": 3})]
    assert data(*late)["options"] == {"apart": [], "common": [["z", "3"]]}


NO_METRICS = "No metrics.jsonl with steps, so no curves over training."
NO_EVALUATION = (
    "No evaluation in eval.jsonl, so no Pass@k; train with --eval.dataset and --eval.steps, --eval.at_start or "
    "--eval.at_end."
)
NO_SPLITS = "No splits in eval.jsonl, so Pass@k of all prompts only."
NO_SAMPLES = "No samples/, so no reliability diagram, no actual z and no answers to read."


def test_what_is_not_there_is_told_with_the_runs_that_lack_it():
    assert data(Run(Path("a"), "a"), Run(Path("b"), "b"))["missing"] == [NO_METRICS, NO_EVALUATION, NO_SAMPLES]
    split = run("split", 0.0, evaluated=1)
    split.evaluations[-1].splits["level"] = {1}
    assert data(split, run("b", evaluated=1), run("c", 0.0))["missing"] == [
        f"{NO_METRICS} Runs: b.",
        f"{NO_EVALUATION} Runs: c.",
        f"{NO_SPLITS} Runs: b.",
        NO_SAMPLES,
    ]
    split.evaluations.insert(0, run("x", evaluated=0).evaluations[0])
    assert data(split)["missing"] == [NO_SAMPLES]
    read = run("read", 0.0, evaluated=1, samples={1: Path("/nowhere/step-000001.parquet")})
    assert data(read, split)["missing"] == [f"{NO_SPLITS} Runs: read.", f"{NO_SAMPLES} Runs: split."]


def test_all_that_the_page_is_given():
    runs = [
        run("a", 0.0, seed="1", planned=9, options={"x": 1}, problems=[Problem("f1", "w1"), Problem("f2", "w2")]),
        run("b", 0.0, 0.0, options={"x": 2}, problems=[Problem("f3", "w1")]),
    ]
    before = time.time()
    found = data(*runs, warnings=("careful",))
    made = time.mktime(time.strptime(found.pop("made"), "%Y-%m-%d %H:%M"))
    assert before - 60 <= made <= time.time()
    for name in ("facts", "options", "missing"):  # above
        found.pop(name)
    penalty = found.pop("penalty")
    assert penalty["histograms"] == {} and len(penalty["z"]) == len(penalty["w"]) == 99
    assert found == {
        "live": False,
        "version": __version__,
        "arms": [
            {"label": "x=1", "runs": [{"name": "a", "seed": "1", "step": 1, "planned": 9}]},
            {"label": "x=2", "runs": [{"name": "b", "seed": None, "step": 2, "planned": None}]},
        ],
        "evaluation": None,
        "curves": {},
        "width": 1,
        "seconds": {},
        "ends": {},
        "reliability": {"confidence": [], "windows": {}},
        "counted": 0,
        "samples": [
            {"arm": arm, "run": name, "seed": seed, "recorded": 0, "texts": {}}
            for arm, (name, seed) in enumerate((("a", "1"), ("b", None)))
        ],
        "warnings": ["careful"],
        "problems": [{"what": "w1", "where": ["f1", "f3"]}, {"what": "w2", "where": ["f2"]}],
    }
    assert data(*runs, live=True)["live"] is True and data(*runs)["warnings"] == []


def test_answers_of_the_run_with_most_steps_are_counted(comparison):
    from lens_openrlhf.reporting.runs import find_runs

    runs = find_runs([comparison])[:2]
    for step in (3, 4, 5):
        del runs[0].samples[step]
    found = data(*runs)
    assert found["counted"] == 12
    assert set(found["penalty"]["histograms"]) == set(found["reliability"]["windows"]) == {"all", "first", "last"}


def test_no_text_can_end_the_element_it_stands_in():
    assert to_json({"a": ["<b>é", None, 1.5]}) == '{"a":["\\u003cb>\\u00e9",null,1.5]}'
    with pytest.raises(ValueError):
        to_json({"a": float("nan")})


def test_the_file_holds_everything_once():
    found = data(run("a<b>", options={"x": 1}), run("$style", options={"y": 2}))
    text = page.page(found)
    static = resources.files("lens_openrlhf.reporting").joinpath("static")
    names = {entry.name for entry in static.iterdir()}
    assert {*page.STYLES, *page.SCRIPTS, "template.html"} == names
    assert len(page.STYLES) + len(page.SCRIPTS) == len(names) - 1

    def own(name):
        return static.joinpath(name).read_text(encoding="utf-8")

    assert "".join(map(own, page.STYLES)) in text and "\n".join(map(own, page.SCRIPTS)) in text
    assert "<title>LENS report: a&lt;b&gt;, $style</title>" in text
    assert "connect-src 'none'" in text and "connect-src 'self'" not in text
    assert "connect-src 'self'" in page.page(found | {"live": True})
    (embedded,) = re.findall(r'id="report-data">(.*?)</script>', text)
    assert json.loads(embedded) == json.loads(json.dumps(found))
    from plotly.offline import get_plotlyjs

    packed = max(re.findall(r"[A-Za-z0-9+/=]{1000,}", text), key=len)
    assert base64.b64decode(packed) == zlib.compress(get_plotlyjs().encode(), 9), "as small as it gets"


def test_styles_and_scripts_are_joined_in_their_order():
    assert page.STYLES == ("page.css", "controls.css", "cards.css", "answers.css", "media.css")
    assert page.SCRIPTS[0] == "base.js" and page.SCRIPTS[-1] == "main.js"


def test_the_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    page.write(path, "é\ud800")
    assert path.read_bytes() == "é?".encode() and list(tmp_path.iterdir()) == [path]

    def replace(partial, target):
        assert partial == tmp_path / "page.html.partial" and partial.read_text() == "new" and target == path
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="no"):
        page.write(path, "new")
    assert path.read_bytes() == "é?".encode() and list(tmp_path.iterdir()) == [path]
