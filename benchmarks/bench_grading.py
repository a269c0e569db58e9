"""How often graders are wrong, on both sides: right answers graded wrong, and wrong ones graded right.

    make bench-grading ARGS="--qwen CLONE --verl CLONE --open-instruct CLONE"

Labels are those of `benchmarks/grading/own.py` and, with --qwen, of the public sets in a clone of QwenLM/Qwen2.5-Math
(`evaluation/data/*/test.jsonl`). For every label there are right answers in several writings and wrong ones near it
(`grading/cases.py`), the same for every grader: this project's, as it is and as it was at an older commit, Math-Verify
alone, and the ones in the clones. Each runs in a process of its own, with a time limit for a call; what fails is no
mark, and counted. Every verdict that is not what it should be goes to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.grading import sources
from benchmarks.grading.cases import Case, make
from benchmarks.grading.own import BY_HAND, own_cases
from benchmarks.grading.process import Grader

HERE = Path(__file__).parents[1]
OLD_COMMIT = "80525a4"
OURS = "this project"


@dataclass
class Group:
    """Labels of one origin with their cases."""

    name: str
    cases: dict[str, list[Case]]


@dataclass
class Marks:
    """What a grader did with one group."""

    refused: dict[str, str] = field(default_factory=dict)
    wrong: list[tuple[Case, str]] = field(default_factory=list)  # with what failed, if anything did
    graded: Counter = field(default_factory=Counter)  # right and wrong answers
    failures: int = 0
    seconds: list[float] = field(default_factory=list)


def own_group(answers: int, seed: int) -> Group:
    """All that is written by hand, and of what is made for a label at most `answers` right and as many wrong ones."""
    cases: dict[str, dict[str, Case]] = defaultdict(dict)
    made: Counter = Counter()
    for _, case in own_cases(seed):
        made[case.label, case.right] += case.rule != BY_HAND
        if case.rule == BY_HAND or made[case.label, case.right] <= answers:
            cases[case.label].setdefault(case.response, case)
    return Group("own", {label: list(found.values()) for label, found in cases.items()})


def public_group(clone: Path, name: str, most: int, answers: int, seed: int, undecided: Counter) -> Group:
    """At most `most` labels of a set, and for each at most `answers` right answers and as many wrong ones."""
    labels = sources.public_labels(clone, name)
    if 0 < most < len(labels):
        labels = random.Random(f"{seed} {name}").sample(labels, most)
    cases = {}
    for label in labels:
        found = make(label, seed, undecided)
        cases[label] = [case for side in (True, False) for case in [c for c in found if c.right == side][:answers]]
    return Group(name, cases)


def mark(grader: Grader, group: Group) -> Marks:
    marks = Marks()
    for label, cases in group.cases.items():
        verdict = grader.ask(label)
        if reason := verdict.get("refused") or verdict.get("error"):
            marks.refused[label] = reason
            continue
        for case in cases:
            verdict = grader.ask(label, case.response)
            marks.graded[case.right] += 1
            marks.failures += "error" in verdict
            marks.seconds.append(verdict["seconds"])
            if verdict.get("right", False) != case.right:
                marks.wrong.append((case, verdict.get("error", "")))
    return marks


def row(name: str, groups: list[Group], marks: dict[str, Marks], among: dict[str, set[str]]) -> str:
    """One line of a table, over the labels in `among` of every group."""
    labels = refused = 0
    graded, mistakes, spoilt = Counter(), Counter(), {True: set(), False: set()}
    for group in groups:
        ours, mine = among[group.name], marks[group.name]
        labels += len(ours)
        refused += len(ours & mine.refused.keys())
        graded.update(case.right for label in ours - mine.refused.keys() for case in group.cases[label])
        for case, _ in mine.wrong:
            if case.label in ours:
                mistakes[case.right] += 1
                spoilt[case.right].add((group.name, case.label))
    used = max(1, labels - refused)
    cells = [name, str(refused)]
    for side in (True, False):
        share = 100 * mistakes[side] / max(1, graded[side])
        cells += [f"{mistakes[side]} ({share:.2f}%)", f"{len(spoilt[side])} ({100 * len(spoilt[side]) / used:.1f}%)"]
    seconds = [second for group in groups for second in marks[group.name].seconds]
    cells += [str(sum(marks[group.name].failures for group in groups))]
    cells += [f"{1000 * statistics.median(seconds):.2f}" if seconds else "–"]
    return f"| {' | '.join(cells)} |"


def table(title: str, groups: list[Group], found: dict[str, dict[str, Marks]], among: dict[str, set[str]]) -> None:
    labels = sum(map(len, among.values()))
    sides = Counter(case.right for group in groups for label in among[group.name] for case in group.cases[label])
    print(f"\n{title}: {labels} labels, {sides[True]} right answers, {sides[False]} wrong ones\n")
    print("| grader | labels refused | false wrong | labels with one | false right | labels with one | failures | ms |")
    print("|---|---|---|---|---|---|---|---|")
    for name, marks in found.items():
        print(row(name, groups, marks, among))


def graders(options: argparse.Namespace, folder: Path) -> dict[str, Grader]:
    """By the name of their row. One that is absent is named with the reason."""
    other = options.python or sys.executable
    wanted = [
        (OURS, "lens", sys.executable, lambda place: place.symlink_to(HERE)),
        (
            f"this project at {OLD_COMMIT}",
            "lens",
            sys.executable,
            lambda place: sources.commit_of_this(OLD_COMMIT, place),
        ),
        ("Math-Verify", "math-verify", sys.executable, lambda place: None),
        ("Math-Verify, boxes first", "math-verify-boxed", sys.executable, lambda place: None),
    ]
    for name, kind, clone, copy in (
        ("Qwen2.5-Math", "qwen", options.qwen, sources.qwen),
        ("verl math_reward", "verl-math", options.verl, sources.verl),
        ("verl prime_math", "verl-prime", options.verl, sources.verl),
        ("open-instruct", "open-instruct", options.open_instruct, sources.open_instruct),
    ):
        if clone is None:
            print(f"absent: {name} (no clone given)")
        else:
            title = f"{name} {sources.revision(clone)}"
            wanted.append((title, kind, other, lambda place, clone=clone, copy=copy: copy(clone, place)))
    found = {}
    for number, (title, kind, python, fill) in enumerate(wanted):
        if options.graders and kind not in options.graders:
            continue
        place = folder / str(number)
        try:
            if kind != "lens" or OLD_COMMIT in title:
                place.mkdir()
            fill(place)
            found[title] = Grader(kind, place, python, options.timeout)
        except (sources.Absent, OSError) as error:
            print(f"absent: {title} ({error})")
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qwen", type=Path, help="clone of QwenLM/Qwen2.5-Math: public labels, and its grader")
    parser.add_argument("--verl", type=Path, help="clone of volcengine/verl")
    parser.add_argument("--open-instruct", type=Path, help="clone of allenai/open-instruct")
    parser.add_argument("--python", help="interpreter with what the cloned graders import")
    parser.add_argument("--graders", nargs="*", default=[], help="only these kinds: lens math-verify qwen …")
    parser.add_argument("--sets", nargs="*", default=list(sources.PUBLIC_SETS), help="public sets (default: all)")
    parser.add_argument("--labels", type=int, default=0, help="at most so many labels of a public set (0: all)")
    parser.add_argument("--answers", type=int, default=8, help="right answers made for a label, and as many wrong ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for a call")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_grading.jsonl"))
    return parser.parse_args()


def main() -> None:
    options = parse()
    # One worker is enough, as one call is made at a time.
    os.environ["LENS_VERIFIER_WORKERS"] = "1"
    undecided: Counter = Counter()
    groups = [own_group(options.answers, options.seed)]
    for name in options.sets if options.qwen else ():
        try:
            groups.append(public_group(options.qwen, name, options.labels, options.answers, options.seed, undecided))
        except sources.Absent as error:
            print(f"absent: {name} ({error})")
    print(
        f"left out, as they could not be checked: {undecided.total()} answers, by rule {dict(undecided.most_common(5))}"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Marks]] = {}
    with tempfile.TemporaryDirectory() as folder, options.out.open("w") as out:
        for title, grader in graders(options, Path(folder)).items():
            with grader:
                if grader.why_not:
                    print(f"absent: {title} ({grader.why_not})")
                    continue
                print(f"{title} …", file=sys.stderr, flush=True)
                found[title] = {group.name: mark(grader, group) for group in groups}
            for group in groups:
                marks = found[title][group.name]
                for label, reason in marks.refused.items():
                    line = {"grader": title, "set": group.name, "kind": "refused", "label": label, "why": reason}
                    print(json.dumps(line, ensure_ascii=False), file=out)
                for case, error in marks.wrong:
                    line = {"grader": title, "set": group.name, "kind": "false wrong" if case.right else "false right"}
                    line |= {"label": case.label, "response": case.response, "rule": case.rule, "error": error}
                    print(json.dumps(line, ensure_ascii=False), file=out)
    for title, part in (("Own labels", groups[:1]), ("Public labels", groups[1:])):
        everything = {group.name: set(group.cases) for group in part}
        if not part:
            continue
        table(title, part, found, everything)
        if OURS in found:
            good = {name: labels - found[OURS][name].refused.keys() for name, labels in everything.items()}
            table(f"{title} that this project's check passes", part, found, good)
    if OURS in found and len(groups) > 1:
        print("\nThis project by set: labels, refused, labels with a false wrong, with a false right")
        for group in groups:
            marks = found[OURS][group.name]
            spoilt = [len({case.label for case, _ in marks.wrong if case.right == side}) for side in (True, False)]
            print(f"  {group.name:18} {len(group.cases):5} {len(marks.refused):5} {spoilt[0]:5} {spoilt[1]:5}")
    print(f"\nevery disagreement: {options.out}")


if __name__ == "__main__":
    main()
