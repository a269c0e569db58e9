"""A comparison's folder: who may write it, which runs are finished, and what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..inputs import place_and_split
from ..process import LOCK, Held, holding, write_atomically
from ..run_folder.log import EVALUATIONS, METRICS, read
from .checks import meaning
from .runs import Options, Run, run_of
from .spec import Spec, SpecError

STATE, SPEC, RESULTS, RUNS = "compare.json", "spec.yaml", "results.json", "runs"
FINISHED = "finished"
LARGE = ("model", "checkpoints")  # of a run: not needed for any table or figure
INPUTS = ("actor.model_name_or_path", "data.prompt_dataset", "eval.dataset")
EDGE_BYTES = 1 << 20


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the comparison's folder; made where it does not exist.

    Raises:
        SpecError: another process compares in it, or the folder holds something else.
    """
    others = [path.name for path in folder.iterdir() if path.name != LOCK] if folder.exists() else []
    if others and not (folder / STATE).is_file():
        raise SpecError(f"{folder}: holds {others[0]} and no comparison; name another folder with -o")
    try:
        with holding(folder):
            yield
    except Held as held:
        raise SpecError(f"{folder}: {held} compares in it; wait for it, or name another folder with -o") from None


def load(folder: Path) -> dict:
    """compare.json, or the state of a comparison that has not begun."""
    path = folder / STATE
    if not path.exists():
        return {"arms": {}, "inputs": {}, "runs": {}}
    try:
        state = json.loads(path.read_text())
        record = {"name": state["name"], **{key: state[key] for key in ("arms", "inputs", "runs")}}
        for key in ("arms", "inputs", "runs"):
            if not isinstance(record[key], dict):
                raise TypeError(f"{key} is no object")
        for run in record["runs"].values():
            run["state"]
        return record
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SpecError(f"{path}: is no record of a comparison ({error!r})") from None


class State:
    """What compare.json says, kept up to date on disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.record = load(folder)

    def save(self) -> None:
        write_atomically(self.folder / STATE, json.dumps(self.record, indent=2) + "\n")

    def of(self, run: Run) -> dict:
        """What is recorded of a run: `state`, `seconds`, `exit`, `pid`; empty before its first start."""
        return self.record["runs"].get(run.key, {})

    def set(self, run: Run, **facts: object) -> None:
        self.record["runs"][run.key] = facts
        self.save()

    def is_finished(self, run: Run) -> bool:
        return self.of(run).get("state") == FINISHED

    def run_folder(self, run: Run) -> Path:
        return self.folder / RUNS / run.key

    def adopt(self, spec: Spec, arms: Mapping[str, Options], runs: Sequence[Run]) -> None:
        """Take up a spec, new or grown; nothing is written yet.

        Raises:
            SpecError: another comparison's folder, or other options for an arm with finished runs.
        """
        name = self.record.setdefault("name", spec.name)
        if name != spec.name:
            raise SpecError(f"{self.folder}: holds the comparison {name!r}, not {spec.name!r}; name another with -o")
        for label in {run.arm: None for run in runs if self.is_finished(run)}:
            before, now = self.record["arms"][label], arms[label]
            for option in sorted(before.keys() | now.keys()):
                if before.get(option) != now.get(option):
                    raise SpecError(
                        f"arm {label!r}: {option} is {_shown(now.get(option))}, but the runs that are finished had "
                        f"{_shown(before.get(option))}; change it back, give the arm another label, or start anew in "
                        "another folder with -o"
                    )
        for run in runs:
            if self.record["arms"].get(run.arm, arms[run.arm]) != arms[run.arm]:
                self.record["runs"].pop(run.key, None)  # nothing to go on from: its options were others
        self.record["arms"] |= arms

    def take_over(self, other: State, runs: Sequence[Run]) -> list[tuple[Run, str]]:
        """Copy the finished runs of another comparison that compute what runs that have not begun here would.

        Returns them with the arm that they were there.

        Raises:
            SpecError: the other comparison had another model or file at the same place.
        """
        for name, digest in other.record["inputs"].items():
            if self.record["inputs"].get(name, digest) != digest:
                raise SpecError(
                    f"--reuse {other.folder}: {name} has changed since its runs were trained, so that they are not "
                    "comparable; restore it, or leave --reuse out"
                )
        finished: dict[int, list[tuple[Run, Options]]] = {}
        for label, options in other.record["arms"].items():
            for seed in {run.seed for run in runs}:
                theirs = run_of(label, seed, options)
                if other.is_finished(theirs):
                    finished.setdefault(seed, []).append((theirs, meaning(theirs)))
        taken = []
        for run in runs:
            if self.of(run) or run.seed not in finished:
                continue
            for theirs, options in finished[run.seed]:
                if options == meaning(run):
                    shutil.copytree(other.run_folder(theirs), self.run_folder(run), dirs_exist_ok=True)
                    self.record["inputs"] = other.record["inputs"] | self.record["inputs"]
                    self.set(run, **other.of(theirs))
                    taken.append((run, theirs.arm))
                    break
        return taken

    def check_inputs(self, portable: Sequence[Run], actual: Sequence[Run]) -> None:
        """Models and data of all runs must be those of the finished runs, also of those that the spec leaves out now.

        `portable` and `actual` are the same runs; the first name places as the spec does.

        Raises:
            SpecError: a model or file that has changed since.
        """
        trained = self._trained_from()
        seen: dict[str, str] = {}
        for named, run in zip(portable, actual, strict=True):
            for option in INPUTS:
                for name, place in zip(*(r.options.get(option, [""])[0].split(",") for r in (named, run)), strict=True):
                    path = Path(os.path.expanduser(place_and_split(place.strip())[0]))
                    if not place or not os.path.exists(path):
                        continue  # a hub's name
                    if name not in seen:
                        seen[name] = fingerprint(path)
                    if name in trained and self.record["inputs"].get(name, seen[name]) != seen[name]:
                        raise SpecError(
                            f"{option} {place}: has changed since {trained[name]} was trained, so that further runs "
                            "would not be comparable; restore it, or start anew in another folder with -o"
                        )
        self.record["inputs"] |= seen

    def _trained_from(self) -> dict[str, str]:
        """{model or file, as the spec has it: the first run that was finished with it}."""
        found: dict[str, str] = {}
        for key, record in self.record["runs"].items():
            label, _, seed = key.rpartition("/seed-")
            if record["state"] == FINISHED:
                for words in map(self.record["arms"].get(label, {}).get, INPUTS):
                    for name in words[0].replace("{seed}", seed).split(",") if words else ():
                        found.setdefault(name, key)
        return found


def _shown(words: list[str] | None) -> str:
    return "left out" if words is None else "set" if not words else " ".join(words)


def fingerprint(path: Path) -> str:
    """Digest of a file, or of a folder's model and data files: names, sizes, and first and last MiB of each."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.suffix != ".txt")
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}\0{size}\0".encode())
        with open(file, "rb") as content:
            digest.update(content.read(EDGE_BYTES))
            content.seek(max(0, size - EDGE_BYTES))
            digest.update(content.read())
    return digest.hexdigest()


def has_final_evaluation(folder: Path) -> bool:
    """Whether a run's last evaluation was made after its last step."""
    metrics, evaluations = read(folder / METRICS), read(folder / EVALUATIONS)
    return bool(metrics and evaluations) and evaluations[-1]["step"] == metrics[-1]["step"]


def move_aside(folder: Path) -> Path | None:
    """Give a run's place free: what an unfinished run left gets the suffix .unfinished-N, without what is large."""
    if not folder.exists():
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.unfinished-{number}")).exists():
        number += 1
    folder.rename(aside)
    delete_large(aside)
    return aside


def delete_large(folder: Path) -> None:
    for name in LARGE:
        shutil.rmtree(folder / name, ignore_errors=True)
