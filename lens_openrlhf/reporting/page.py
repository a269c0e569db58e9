"""The page: everything it shows as one JSON object, and the HTML file around it."""

from __future__ import annotations

import base64
import html
import json
import string
import time
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from .. import __version__
from . import arms as arm_module
from .arms import Arm
from .confidence import penalty_data, reliability_data, windows
from .curves import curve_data
from .evaluations import evaluation_data
from .runs import Problem, Run
from .samples import read_samples
from .texts import text_data

# Options that say what was run, in the page's words.
FACTS = {
    "model": "actor.model_name_or_path",
    "training data": "data.prompt_dataset",
    "evaluation data": "eval.dataset",
    "answers a prompt": "rollout.n_samples_per_prompt",
    "prompts a step": "rollout.batch_size",
    "learning rate": "actor.adam.lr",
}


# Joined in this order.
STYLES = ("page.css", "controls.css", "cards.css", "answers.css", "media.css")
# Joined in this order into one function.
SCRIPTS = (
    *("base.js", "colours.js", "controls.js", "figures.js", "drawing.js", "saving.js", "tables.js", "answers.js"),
    "main.js",
)


def _joined(values: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _steps(runs: Sequence[Run]) -> str:
    """Such as 60, 20 to 60, or 20 to 40 of 60 where runs are not at their end."""
    done = [run.last_step for run in runs]
    text = f"{min(done)} to {max(done)}" if min(done) < max(done) else str(max(done))
    unfinished = [run.planned for run in runs if run.planned and run.last_step < run.planned]
    return f"{text} of {max(unfinished)}" if unfinished else text


def _dates(runs: Sequence[Run]) -> str:
    times = [record["time"] for run in runs for record in (run.metrics[:1] + run.metrics[-1:]) if "time" in record]
    days = [time.strftime("%Y-%m-%d", time.localtime(t)) for t in (min(times), max(times))] if times else []
    return " to ".join(dict.fromkeys(days))


def _facts(arms: Sequence[Arm]) -> list[list[str]]:
    runs = [run for arm in arms for run in arm.runs]
    facts = {"seeds": _joined(sorted({run.seed for run in runs if run.seed}, key=lambda s: (len(s), s)))}
    facts["steps"] = _steps(runs)
    for name, option in FACTS.items():
        facts[name] = _joined([arm_module.shown(run.options[option]) for run in runs if run.options.get(option)])
    facts["date"] = _dates(runs)
    packages = dict.fromkeys(name for run in runs for name in run.versions)
    facts["versions"] = ", ".join(
        f"{name} {' / '.join(dict.fromkeys(run.versions[name] for run in runs if name in run.versions))}"
        for name in packages
    )
    facts["git commit"] = _joined([run.git_commit[:12] for run in runs if run.git_commit])
    return [[name, value] for name, value in facts.items() if value]


def _options(arms: Sequence[Arm]) -> dict[str, list]:
    """Options by name, one value an arm, those that tell arms apart and the others; of runs with a config.json."""
    first = [next((run.options for run in arm.runs if run.options), {}) for arm in arms]
    names = dict.fromkeys(name for options in first for name in options)
    apart = arm_module.differing([arm.runs[0] for arm in arms])
    rows = {name: [arm_module.shown(options[name]) if name in options else "" for options in first] for name in names}
    return {
        "apart": [[name, rows[name]] for name in apart],
        "common": [[name, values[0]] for name, values in rows.items() if len(set(values)) == 1],
    }


def _grouped(problems: Sequence[Problem]) -> list[dict]:
    """Problems by what is wrong, as a fault of one run is often that of its neighbours."""
    grouped: dict[str, list[str]] = {}
    for problem in problems:
        grouped.setdefault(problem.what, []).append(problem.where)
    return [{"what": what, "where": where} for what, where in grouped.items()]


def _missing(runs: Sequence[Run]) -> list[str]:
    """What the runs have not, and what the page therefore lacks."""

    def told(without: list[Run], what: str) -> list[str]:
        names = "" if len(without) == len(runs) else f" Runs: {', '.join(run.name for run in without)}."
        return [what + names] if without else []

    last = {run.folder: run.evaluations[-1] for run in runs if run.evaluations}
    return [
        *told([run for run in runs if not run.metrics], "No metrics.jsonl with steps, so no curves over training."),
        *told(
            [run for run in runs if run.folder not in last],
            "No evaluation in eval.jsonl, so no Pass@k; train with --eval.dataset and --eval.steps, --eval.at_start or "
            "--eval.at_end.",
        ),
        *told(
            [run for run in runs if run.folder in last and not last[run.folder].splits],
            "No splits in eval.jsonl, so Pass@k of all prompts only.",
        ),
        *told(
            [run for run in runs if not run.samples],
            "No samples/, so no reliability diagram, no actual z and no answers to read.",
        ),
    ]


def report_data(runs: Sequence[Run], *, sample_steps: int, warnings: Sequence[str] = (), live: bool = False) -> dict:
    """Everything the page shows, as plain JSON: numbers, texts and null."""
    arms = arm_module.group(runs)
    samples = {run.folder: read_samples(run) for run in runs}
    by_arm = [[samples[run.folder] for run in arm.runs] for arm in arms]
    parts = windows([step for steps in samples.values() for step in steps])
    evaluation = evaluation_data(arms)
    data = {
        "live": live,
        "version": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "facts": _facts(arms),
        "arms": [
            {
                "label": arm.label,
                "runs": [
                    {"name": run.name, "seed": run.seed, "step": run.last_step, "planned": run.planned}
                    for run in arm.runs
                ],
            }
            for arm in arms
        ],
        "options": _options(arms),
        "evaluation": evaluation,
        **curve_data(arms, samples),
        "reliability": reliability_data(by_arm, parts),
        "penalty": penalty_data(by_arm, parts),
        "counted": max(map(len, samples.values()), default=0),
        "samples": text_data(arms, samples, sample_steps),
    }
    data["warnings"] = list(warnings)
    data["missing"] = _missing(runs)
    data["problems"] = _grouped([problem for run in runs for problem in run.problems])
    return data


def to_json(data: dict) -> str:
    """ASCII without `<`, so that no text of a run can end the script element it stands in."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _own(name: str) -> str:
    return resources.files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def _plotly() -> str:
    """plotly.js, deflated: the page is a third of the size, and the browser parses it once the text is shown."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(zlib.compress(get_plotlyjs().encode(), 9)).decode()


def page(data: dict) -> str:
    """The self-contained HTML document of :func:`report_data`'s result."""
    labels = ", ".join(arm["label"] for arm in data["arms"])
    return string.Template(_own("template.html")).substitute(
        title=html.escape(f"LENS report: {labels}"),
        style="".join(map(_own, STYLES)),
        data=to_json(data),
        script="\n".join(map(_own, SCRIPTS)),
        plotly=_plotly(),
        connect="'self'" if data["live"] else "'none'",
    )


def write(path: Path, text: str) -> None:
    """Write the page, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="replace")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
