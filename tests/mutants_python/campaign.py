"""Records which test runs what, draws mutants, and tries each."""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import tomllib

from .blocks import Blocks, Record
from .harness import Project, Tree, adopt, recording_files, warm
from .operators import Mutant, plant

FEWEST = 15  # mutants of a group in a full sample
STAGES = (3.0, 25.0, float("inf"))  # seconds that tests of one fork take together, the fastest first
RECORD_LIMIT = 900.0


class Failing(Exception):
    """Tests that fail without a mutant."""


@dataclass(frozen=True)
class Result:
    """What became of a mutant.

    Attributes:
        by: the test that failed, or what else was noticed; None: it survived.
        tests: how many were chosen.
    """

    file: str
    group: str
    function: str
    line: int
    kind: str
    was: str
    becomes: str
    by: str | None
    tests: int
    seconds: float

    def shown(self) -> str:
        head = f"{self.file}:{self.line}  {self.function or '(module)'}  [{self.kind}; {self.tests} tests run it]"
        lines = [f"    - {line}" for line in self.was.splitlines()] + [f"    + {x}" for x in self.becomes.splitlines()]
        return "\n".join([head, *lines])


class Campaign:
    """All that is known before mutants are tried.

    Args:
        project: what is mutated.
        folder: caches, copies and results.
        equivalent: a TOML file of changes that no test can notice, a reason each.
        workers: mutants that are tried at once.
        patience: seconds that tests get beside four times what they take.
    """

    def __init__(
        self, project: Project, folder: Path, equivalent: Path, workers: int = 2, say=print, patience: float = 30
    ):
        self.project, self.folder, self.workers = project, folder, workers
        self.say, self.patience = say, patience
        folder.mkdir(exist_ok=True)
        self.sources = project.sources()
        self.blocks = Blocks(self.sources)
        self.planted = [name for name in self.sources if project.group(name)]
        self.equivalent = tomllib.loads(equivalent.read_text()).get("equivalent", []) if equivalent.exists() else []
        self.control_path = folder / f"pass_alone-{_digest(self.sources, _tests(project))}.txt"
        self.tests: dict[int, set[str]] = collections.defaultdict(set)
        self.seconds: dict[str, float] = {}

    # mutants

    def mutants(self, only: str = "") -> list[Mutant]:
        return [mutant for name in self.planted if name.startswith(only) for mutant in self._of_file(name)]

    @functools.cache  # noqa: B019
    def _of_file(self, name: str) -> list[Mutant]:
        return list(plant(name, self.sources[name], self.blocks.trees[name]))

    def is_equivalent(self, mutant: Mutant) -> bool:
        entries = [e for e in self.equivalent if (e["file"], e["function"]) == (mutant.file, mutant.function)]
        return bool(entries) and mutant.change(self.sources[mutant.file]) in [(e["was"], e["becomes"]) for e in entries]

    def stale(self) -> list[dict]:
        """Entries of the list that are no mutant any longer."""
        files = {entry["file"] for entry in self.equivalent}
        known = set()
        for mutant in (m for file in files & set(self.planted) for m in self.mutants(file)):
            if any(e["function"] == mutant.function for e in self.equivalent):
                known.add((mutant.file, mutant.function, *mutant.change(self.sources[mutant.file])))
        return [e for e in self.equivalent if (e["file"], e["function"], e["was"], e["becomes"]) not in known]

    def sample(self, number: int, seed: int, only: str = "") -> list[Mutant]:
        """Spread over groups by size, over a group's files by size, and over kinds evenly."""
        draw = random.Random(seed)
        by_group: dict[str, dict[str, dict[str, list[Mutant]]]] = {}
        for mutant in self.mutants(only):
            files = by_group.setdefault(self.project.group(mutant.file), {})
            files.setdefault(mutant.file, {}).setdefault(mutant.kind, []).append(mutant)
        if not by_group:
            raise ValueError(f"--only {only}: no source that gets bugs begins so")
        lines = {name: self.sources[name].count("\n") for name in self.planted}
        size = {group: sum(lines[file] for file in files) for group, files in by_group.items()}
        least = min(FEWEST, number // len(by_group))
        rest = number - least * len(by_group)
        found = []
        for group, files in sorted(by_group.items()):
            wanted = least + round(rest * size[group] / sum(size.values()))
            taken: list[Mutant] = []
            while files and len(taken) < wanted:
                file = draw.choices(list(files), [lines[name] or 1 for name in files])[0]
                kind = draw.choice(sorted(files[file]))
                mutant = files[file][kind].pop(draw.randrange(len(files[file][kind])))
                if not files[file][kind]:
                    del files[file][kind]
                if not files[file]:
                    del files[file]
                if mutant.sound(self.sources[mutant.file]) and not self.is_equivalent(mutant):
                    taken.append(mutant)
            found += taken
        return found

    # tests

    def record(self) -> None:
        """Learn which tests run which block, from the cache where nothing that they run or load has changed.

        Raises:
            Failing: a test fails without a mutant.
        """
        folder = self.folder / "recorded"
        folder.mkdir(exist_ok=True)
        todo, known, kept = [], {}, set()
        for name in self.project.test_files():
            path = folder / f"{name.replace('/', '-')}.json"
            kept.add(path)
            content = json.loads(path.read_text()) if path.exists() else None
            if content and content["of"] == self._digests(content["of"]):
                known[name] = content
            else:
                todo.append((name, path))
        if todo:
            self.say(f"recording which of {len(known) + len(todo)} test files run what: {len(todo)} to do")
            failing = []
            for (name, path), (content, failed) in self._each(_Recording(self.blocks), todo):
                if failed:
                    failing += failed
                else:
                    content["of"] = self._digests({*content["of"], name})
                    path.write_text(json.dumps(content))
                    known[name] = content
                self.say(f"  {name}: {len(content['seconds'])} tests, {sum(content['seconds'].values()):.0f} s")
            if failing:
                raise Failing("\n".join(failing))
        for path in {*folder.glob("*.json")} - kept:
            path.unlink()
        for content in known.values():
            if content["unsteady"]:
                self.say(f"not used, as they fail at times: {', '.join(content['unsteady'])}")
            seconds = {t: took for t, took in content["seconds"].items() if t not in content["unsteady"]}
            self.seconds |= seconds
            for test in seconds:
                for block in self.blocks.numbers(content["blocks"][test]):
                    self.tests[block].add(test)
            for block in self.blocks.numbers(content["collection"]) if seconds else ():
                if not self.blocks.at_import[block]:
                    self.tests[block].add(min(seconds, key=seconds.get))

    def _digests(self, names: Iterable[str]) -> dict[str, str]:
        """Of sources and tests, by path; what is gone is left out."""
        paths = {name: self.project.root / name for name in sorted(names)}
        return {name: _digest(path.read_text()) for name, path in paths.items() if path.is_file()}

    def chosen(self, mutant: Mutant) -> list[str]:
        """The tests that run it, the fastest first. What runs at import is judged by those that read what it makes."""
        if mutant.names is None:
            blocks = {mutant.block}
        elif not (blocks := self.blocks.readers(set(mutant.names))):
            inside = {b for b in range(len(self.blocks)) if self.blocks.file[b] == mutant.file}
            blocks = {mutant.block} | {block for block in inside if not self.blocks.at_import[block]}
        found = set().union(*(self.tests[block] for block in blocks))
        return sorted(found, key=lambda test: (self.seconds[test], test))

    # trying

    def _each(self, work: Callable, tasks: Iterable) -> Iterator:
        """What comes of each task, in the order in which they end."""
        warm(self.project)
        context = multiprocessing.get_context("fork")
        slots = context.SimpleQueue()
        for slot in range(self.workers):
            slots.put(slot)
        with ProcessPoolExecutor(self.workers, context, _begin, (self.project, self.folder, slots)) as pool:
            waiting = [pool.submit(work, task) for task in tasks]
            try:
                for done in as_completed(waiting):
                    yield done.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def run(self, mutants: Sequence[Mutant]) -> Iterator[Result]:
        """Raises Failing if a test that seemed to notice one fails without it, too."""
        tasks = []
        for mutant in mutants:
            tests = self.chosen(mutant)
            source = self.sources[mutant.file]
            tasks.append((mutant, source, _stages(tests, self.seconds), sum(self.seconds[test] for test in tests)))
        tasks.sort(key=lambda task: -task[3])  # what may take long begins first
        trial = _Trial(self.control_path, self.patience)
        for mutant, by, tests, seconds, alone in self._each(trial, tasks):
            if alone:
                raise Failing(f"{alone} (after it seemed to notice {mutant.file}:{mutant.line})")
            group = self.project.group(mutant.file)
            was, becomes = mutant.change(self.sources[mutant.file])
            place = (mutant.file, group, mutant.function, mutant.line, mutant.kind)
            yield Result(*place, was, becomes, by, tests, round(seconds, 1))


def _tests(project: Project) -> dict[str, str]:
    """The tests and their helpers."""
    paths = {str(path.relative_to(project.root)): path for path in sorted((project.root / "tests").rglob("*.py"))}
    return {name: path.read_text() for name, path in paths.items() if not {*Path(name).parts} & {*project.left_out}}


def _digest(*texts: dict[str, str] | str) -> str:
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]


def _stages(tests: list[str], seconds: dict[str, float]) -> list[tuple[list[str], float]]:
    """Parts of the tests that share a fork, with what each takes: files in order of their time, to keep fixtures."""
    parts: list[list[str]] = [[] for _ in STAGES]
    stage, total = 0, 0.0
    for test in tests:
        while total + seconds[test] > STAGES[stage] and parts[stage]:
            stage, total = stage + 1, 0.0
        total += seconds[test]
        parts[stage].append(test)
    found = []
    for part in filter(None, parts):
        files: dict[str, float] = collections.Counter()
        for test in part:
            files[test.split("::")[0]] += seconds[test]
        ordered = sorted(part, key=lambda test: files[test.split("::")[0]])
        found.append((ordered, sum(files.values())))
    return found


# In the pool's processes.

_tree: Tree


def _begin(project: Project, folder: Path, slots) -> None:
    global _tree
    adopt()
    _tree = Tree(project, folder / f"tree-{slots.get()}")


class _Recording:
    def __init__(self, blocks: Blocks):
        self.blocks, self.files = blocks, recording_files(blocks)

    def __call__(self, task: tuple[str, Path]):
        name, _ = task
        record = Record(_tree.place.with_suffix(".hits"), len(self.blocks))
        with _tree.changed(self.files):
            outcome = _tree.run([name], RECORD_LIMIT, record, to_end=True)
        rows = record.read(len(outcome.durations) + 1)
        record.remove()
        # It may be for the record's sake, as some tests read the sources; and some fail at times.
        unsteady = _tree.run(outcome.failed, RECORD_LIMIT, to_end=True).failed if outcome.failed else []
        again = _tree.run(unsteady, RECORD_LIMIT, to_end=True) if unsteady else None
        failed = [f"{', '.join(again.failed)}\n{again.output}"] if again and again.failed else []
        within = [self.blocks.within(row) for row in rows]
        content = {
            "of": [*outcome.helpers, *{name for row in within for name in row}],
            "seconds": outcome.durations,
            "blocks": dict(zip(outcome.durations, within[1:], strict=True)),
            "collection": within[0],
            "unsteady": unsteady,
        }
        return task, (content, failed)


class _Trial:
    def __init__(self, control: Path, patience: float):
        self.control, self.patience = control, patience

    def __call__(self, task):
        mutant, source, stages, _ = task
        start, count = time.monotonic(), sum(len(tests) for tests, _ in stages)
        for number, (tests, expected) in enumerate(stages):
            with _tree.changed({mutant.file: mutant.apply(source)}):
                failed = _tree.run(tests, self.patience + 4 * expected).failed
                # Long tests may fail because they wait for something, and the machine is busy.
                if failed and number and "::" in failed[0]:
                    failed = _tree.run(failed[:1], 120).failed
            if failed:
                return mutant, failed[0], count, time.monotonic() - start, self._fails_alone(failed[0])
        return mutant, None, count, time.monotonic() - start, None

    def _fails_alone(self, test: str) -> str | None:
        """Whether a test fails without a mutant, each asked once."""
        if "::" not in test or " " in test.split("[")[0]:
            return None
        with contextlib.suppress(FileNotFoundError):
            if test in self.control.read_text().splitlines():
                return None
        outcome = _tree.run([test], 120)
        if outcome.failed:
            return f"{test}\n{outcome.output}"
        with open(self.control, "a") as file:
            file.write(test + "\n")
        return None


def table(results: Sequence[Result]) -> str:
    """Noticed and planted, by file, group and in all."""
    rows: dict[tuple[str, str], list[Result]] = collections.defaultdict(list)
    for result in results:
        for key in ((result.group, result.file), (result.group, ""), ("~", "")):
            rows[key].append(result)
    lines = []
    for (group, file), found in sorted(rows.items()):
        noticed = sum(result.by is not None for result in found)
        name = "all" if group == "~" else f"  {file}" if file else group
        lines.append(f"{name:<60} {noticed:4} of {len(found):4} {noticed / len(found):5.0%}")
    return "\n".join(lines)


def save(results: Sequence[Result], path: Path) -> None:
    path.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results))


def load(path: Path) -> list[Result]:
    return [Result(**json.loads(line)) for line in path.read_text().splitlines()]
