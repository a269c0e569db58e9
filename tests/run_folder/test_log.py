"""The records of a run folder, byte by byte."""

from __future__ import annotations

import json
import math
import os
import time

import pytest
import torch

from lens_openrlhf.run_folder import log as log_module
from lens_openrlhf.run_folder.log import EVALUATIONS, EVENTS, METRICS, Follower, RunLog, read


@pytest.fixture
def log(tmp_path, monkeypatch) -> RunLog:
    """Of a folder that is not there yet, at a quarter past nothing."""
    monkeypatch.setattr(time, "time", lambda: 900.5)
    return RunLog(str(tmp_path / "runs" / "a"))


def test_the_names_are_the_formats(log):
    assert (METRICS, EVALUATIONS, EVENTS) == ("metrics.jsonl", "eval.jsonl", "events.jsonl")
    names = ("REWARD_FAILED", "SAMPLING", "ANSWERS", "SAMPLED", "RUN_DIR_VARIABLE", "REWARD_TIMEOUT_VARIABLE")
    assert [getattr(log_module, name) for name in names] == [
        *("reward_failed", "sampling", "answers", "sampled", "LENS_RUN_DIR", "LENS_REWARD_TIMEOUT")
    ]


def test_every_kind_of_record_whole(log):
    log.step(3, {"loss": 0.5, "generated_samples": ["x"], "none": None})
    log.step(4, {"loss": 0.25, "step": 5})
    log.evaluation(4, {"scores": [[1.0]], "step_of": 4}, {"eval_pass1": 1.0, "scores_mean": 0.5})
    log.event("ready", where="actor 0", more=2)
    files = {path.name: path.read_text() for path in log.folder.iterdir()}
    assert files == {
        "metrics.jsonl": '{"step": 3, "time": 900.5, "loss": 0.5, "none": null}\n'
        '{"step": 5, "time": 900.5, "loss": 0.25}\n',
        "eval.jsonl": '{"step": 4, "time": 900.5, "scores": [[1.0]], "step_of": 4, "eval_pass1": 1.0, '
        '"scores_mean": 0.5}\n',
        "events.jsonl": '{"time": 900.5, "event": "ready", "where": "actor 0", "more": 2}\n',
    }
    assert [log.evaluated(step) for step in (3, 4, 5)] == [False, True, False]


def test_values_become_what_json_knows(log):
    log.step(
        1,
        {
            "tensor": torch.tensor(0.5),
            "whole": torch.tensor(7),
            "gone": torch.tensor(math.nan),
            "deep": {"a": [1, math.inf, {"b": (-math.inf, 2.5)}]},
            "yes": True,
            "text": "NaN",
        },
    )
    (record,) = read(log.folder / METRICS)
    assert record == {
        **{"step": 1, "time": 900.5, "tensor": 0.5, "whole": 7, "gone": None, "yes": True, "text": "NaN"},
        "deep": {"a": [1, None, {"b": [None, 2.5]}]},
    }
    assert type(record["whole"]) is int and record["yes"] is True


def test_an_event_makes_no_folder(log):
    """As on a node that does not see the run folder."""
    log.event("ready", where="there")
    assert not log.folder.exists() and log.evaluated(0) is False
    log.step(1, {})
    log.event("ready", where="here")
    assert [event["where"] for event in read(log.folder / EVENTS)] == ["here"]


def test_a_record_is_on_disk_before_the_next_thing_happens(log, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.pread(number, 1000, 0)))
    log.step(1, {"a": 1})
    log.step(2, {"a": 2})
    first = b'{"step": 1, "time": 900.5, "a": 1}\n'
    assert synced == [first, first + b'{"step": 2, "time": 900.5, "a": 2}\n']


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"LINE\n"),
        (b"{}\n", b"{}\nLINE\n"),
        (b'{"ste', b'{"ste\nLINE\n'),
        (b"{}\n{", b"{}\n{\nLINE\n"),
        (b"{", b"{\nLINE\n"),
    ],
)
def test_a_line_cut_off_is_ended_and_only_that(log, before, after):
    log.folder.mkdir(parents=True)
    (log.folder / METRICS).write_bytes(before)
    log.step(1, {})
    assert (log.folder / METRICS).read_bytes() == after.replace(b"LINE", b'{"step": 1, "time": 900.5}')


def test_what_is_no_record_is_left_out_wherever_it_stands(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read(path) == read(str(path)) == []
    deep = "[" * 100_000
    path.write_text(f'{{"a": 1}}\n{{"a": 2\n{deep}\n\n{{"a": 3}}\n{{"a": 4}}')
    assert read(path) == [{"a": 1}, {"a": 3}, {"a": 4}]


def test_a_follower_reads_only_what_is_new(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    follower = Follower(str(path))
    assert follower.new() == []
    path.write_bytes(b'{"a": 1}\n{"a"')
    assert follower.new() == [{"a": 1}]
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(line) or loads(line))
    late = Follower(path)
    with open(path, "ab") as file:
        file.write(b': 2}\n{"a": 3}\n{"a": 4}')
    assert follower.new() == late.new() == [{"a": 2}, {"a": 3}]
    assert parsed == [b'{"a": 2}', b'{"a": 3}'] * 2
