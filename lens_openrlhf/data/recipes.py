"""Which problems a set takes from each source, and what became of every row."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ..inputs import OptionError
from . import labels
from .problems import Problem, key
from .sources import Source

# The paper's, appendix D.1.
DAPO_PROBLEMS = 17_500
MATH_ROWS = {"MATH train": 7_500, "MATH test": 5_000}
# The tests first, as their problems are taken out of what follows; MATH before what may repeat it.
READ = (("math", "test"), ("math500", "test"), ("math", "train"), ("dapo", "train"), ("numina", "train"))
EXAMPLES = 3  # of bad labels, by reason


@dataclass
class Counts:
    """What became of a source's rows: `dropped` by reason, `left` that could be used, `used` that are."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    left: int = 0
    used: int = 0


@dataclass
class Sets:
    """What a recipe makes.

    files: problems in their order, by the file's name without suffix.
    counts: by source and split. bad_labels: a few, by reason. notes: what is not as in the paper.
    """

    files: dict[str, list[Problem]]
    counts: dict[str, Counts]
    bad_labels: dict[str, list[str]]
    notes: list[str]


def _problems(source: Source, split: str, name: str, counts: Counts) -> Iterator[Problem]:
    """The rows that are problems with an answer."""
    print(f"reading {name} …", flush=True)
    for row in tqdm(source.rows(split), name, unit="row", unit_scale=True, leave=False, disable=None):
        counts.rows += 1
        problem = source.kind.read(row)
        if isinstance(problem, str):
            counts.dropped[problem] += 1
        else:
            yield problem


def _new(problems: Iterator[Problem], taken: dict[bytes, str], name: str, counts: Counts) -> Iterator[Problem]:
    """Those that are not taken yet, each once; `taken` is {key of a problem: where it is}."""
    met = set()
    for problem in problems:
        this = key(problem.text)
        if this in met:
            counts.dropped["a duplicate"] += 1
        elif this in taken:
            counts.dropped[f"also in {taken[this]}"] += 1
        else:
            taken[this] = name
            yield problem
        met.add(this)


def _too_few(left: int, wanted: int) -> OptionError:
    return OptionError(
        f"--dapo_problems {wanted}: only {left:,} are left that are distinct, in no test set and not in MATH train; "
        "ask for fewer, or leave the option out for as many as there are"
    )


def build(sources: Mapping[str, Source], seed: int, dapo_problems: int | None, cache: Path) -> Sets:
    """The problems of a recipe.

    Args:
        sources: by option; "math", "math500" if it is wanted, and "dapo" or "numina".
        dapo_problems: so many, or an error; None for the paper's number, or all where there are fewer.
        cache: folder of the labels' verdicts.
    Raises:
        OptionError: data that cannot be read, nothing left, or fewer DAPO problems than asked for.
        OSError: a cache that cannot be written.
    """
    counts: dict[str, Counts] = defaultdict(Counts)
    parts: dict[str, list[Problem]] = {}
    taken: dict[bytes, str] = {}
    for option, split in READ:
        if option not in sources:
            continue
        kind = sources[option].kind
        name = f"{kind.name} {split}" if option == "math" else kind.name
        found = _problems(sources[option], split, name, counts[name])
        if split == "test":  # as it is, so that results compare with others'
            parts[name] = list(found)
            for problem in parts[name]:
                taken.setdefault(key(problem.text), name)
        else:
            parts[name] = list(_new(found, taken, name, counts[name]))
    if dapo_problems and len(parts["DAPO"]) < dapo_problems:
        raise _too_few(len(parts["DAPO"]), dapo_problems)

    bad = _drop_bad_labels(parts, counts, cache)
    for name, problems in parts.items():
        counts[name].left = len(problems)
        if not problems:
            raise OptionError(f"{name}: nothing is left of {counts[name].rows:,} rows: {described(counts[name])}")
    wanted = dapo_problems or DAPO_PROBLEMS
    if "dapo" in sources:
        left = len(parts["DAPO"])
        if dapo_problems and left < dapo_problems:
            raise _too_few(left, dapo_problems)
        parts["DAPO"] = random.Random(seed).sample(parts["DAPO"], min(wanted, left))
    for name, problems in parts.items():
        counts[name].used = len(problems)

    files = {"train": [], "test": parts.pop("MATH test")}
    if "MATH-500" in parts:
        files["math500"] = parts.pop("MATH-500")
    # The first rows of a file are a fair sample, for --data.max_samples and --eval.max_samples.
    files["train"] = [problem for problems in parts.values() for problem in problems]
    random.Random(seed).shuffle(files["train"])
    for name in files:
        if name != "train":  # the same for every seed and every copy of MATH
            files[name].sort(key=lambda problem: (key(problem.text), problem.label))
    return Sets(files, dict(counts), bad, _notes(counts, wanted))


def _drop_bad_labels(
    parts: dict[str, list[Problem]], counts: Mapping[str, Counts], cache: Path
) -> dict[str, list[str]]:
    """Leave in `parts` the problems that can be graded; returns a few labels of the others by reason."""
    distinct = dict.fromkeys(problem.label for problems in parts.values() for problem in problems)
    print(f"checking {len(distinct):,} labels …", flush=True)
    verdicts = labels.check(distinct, cache)
    bad: dict[str, list[str]] = defaultdict(list)
    for label, reason in verdicts.items():
        if reason and len(bad[reason]) < EXAMPLES:
            bad[reason].append(label)
    for name, problems in parts.items():
        counts[name].dropped.update(filter(None, (verdicts[problem.label] for problem in problems)))
        parts[name] = [problem for problem in problems if verdicts[problem.label] is None]
    return dict(bad)


def described(counts: Counts) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in counts.dropped.most_common()) or "none dropped"


def _notes(counts: Mapping[str, Counts], wanted: int) -> list[str]:
    notes = []
    for name, rows in MATH_ROWS.items():
        if counts[name].rows != rows:
            notes.append(f"{name} has {counts[name].rows:,} rows here; the paper's has {rows:,}")
    for name in ("MATH test", "MATH-500"):
        if name in counts and counts[name].left < counts[name].rows:
            notes.append(
                f"{name}: {counts[name].rows - counts[name].left:,} of {counts[name].rows:,} problems are left out, as "
                "Math-Verify cannot grade their answers"
            )
    if "DAPO" in counts and counts["DAPO"].left < wanted:
        notes.append(
            f"DAPO: the paper takes {wanted:,} problems, but only {counts['DAPO'].left:,} are left; all are used"
        )
    return notes
