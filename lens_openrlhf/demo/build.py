"""Put the tiny profile on disk: the warm-started model, the training questions, the held-out questions."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import defaultdict, deque
from dataclasses import asdict, dataclass
from itertools import cycle, islice, product
from pathlib import Path

from ..process import holding
from .tasks import ADDITION, LEVEL_BOUNDS, SUBTRACTION, Question, iter_questions, level, make_habits
from .warm_start import WarmStart, train

KEY_FILE = "warm_start_key.txt"
WARM_START_SOURCES = ("tasks.py", "tokenizer.py", "warm_start.py")

TRAIN_PROMPTS, HELDOUT_PROMPTS = 2048, 1024


@dataclass(frozen=True)
class DemoPaths:
    """Where ``prepare`` put things: a Hugging Face model folder and two JSON-lines files."""

    model: Path
    train: Path
    heldout: Path


def prepare(
    out: Path,
    *,
    seed: int = 0,
    train_prompts: int = TRAIN_PROMPTS,
    heldout_prompts: int = HELDOUT_PROMPTS,
    warm_start: WarmStart | None = None,
) -> DemoPaths:
    """Write the tiny profile under ``out``; a model already there for the same settings is kept."""
    out = Path(out)
    settings = warm_start or WarmStart()
    paths = DemoPaths(out / "model", out / "train.jsonl", out / "heldout.jsonl")
    with holding(out, wait=True):  # of two runs that are started at once, one makes it
        write_rows(paths.train, make_rows(train_prompts, heldout=False, seed=seed))
        write_rows(paths.heldout, make_rows(heldout_prompts, heldout=True, seed=seed))
        key = cache_key(settings, seed)
        if not is_cached(paths.model, key):
            print(f"warm-starting a small model, {settings.steps} updates (once; it is kept in {out}) …", flush=True)
            _train_and_move(paths.model, settings, seed, key)
    return paths


def cache_key(settings: WarmStart, seed: int) -> str:
    """A digest of all that decides the warm start: its settings, the seed and the source behind it."""
    digest = hashlib.sha256(json.dumps([asdict(settings), seed]).encode())
    for name in WARM_START_SOURCES:
        digest.update(name.encode() + b"\0" + Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()


def is_cached(model: Path, key: str) -> bool:
    """Whether ``model`` holds the finished warm start with this key."""
    key_file = model / KEY_FILE
    return key_file.is_file() and key_file.read_text() == key


def _train_and_move(model: Path, settings: WarmStart, seed: int, key: str) -> None:
    """Train into a folder beside ``model`` and rename it, so that ``model`` is never half written."""
    beside = Path(tempfile.mkdtemp(prefix=".warm_start-", dir=model.parent))
    try:
        beside.chmod(0o755)
        train(beside, settings, seed=seed)
        (beside / KEY_FILE).write_text(key)
        if model.exists():
            shutil.rmtree(model)
        os.replace(beside, model)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def make_rows(count: int, *, heldout: bool, seed: int) -> list[dict]:
    """``count`` different questions under the keys that OpenRLHF's prompt dataset reads.

    The five levels (difficulty to the warm-started model) and the two skills come in equal shares. As the generator
    mixes them, the easiest level alone would be 40%, and soon too few groups of answers would be all wrong.
    """
    habits = make_habits(seed)
    questions = iter_questions(heldout=heldout, seed=seed)
    waiting: dict[tuple[int, str], deque[Question]] = defaultdict(deque)
    seen: set[Question] = set()

    def next_of(kind: tuple[int, str]) -> dict:
        while not waiting[kind]:
            question = next(questions)
            if question not in seen:
                seen.add(question)
                waiting[level(question, habits), question.skill].append(question)
        question = waiting[kind].popleft()
        return {"prompt": question.prompt, "label": question.label, "datasource": question.skill, "level": kind[0]}

    kinds = cycle(product(range(1, len(LEVEL_BOUNDS) + 2), (ADDITION, SUBTRACTION)))
    return [next_of(kind) for kind in islice(kinds, count)]


def write_rows(path: Path, rows: list[dict]) -> None:
    """One JSON object a line; the file is there whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(beside, path)
