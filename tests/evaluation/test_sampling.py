"""What vLLM is asked for, and what is kept of its answers; with a vLLM that says what it was asked."""

from __future__ import annotations

import io
import json
import os
import sys
from types import ModuleType, SimpleNamespace

import pyarrow.parquet as pq
import pytest

from lens_openrlhf import cpu_runtime
from lens_openrlhf.evaluation import command, folder, options
from lens_openrlhf.evaluation.job import Job
from lens_openrlhf.evaluation.prompts import Prompt
from lens_openrlhf.evaluation.sampling import Completion, Sampler, prompt_seed
from lens_openrlhf.inputs import OptionError


class Engine:
    """Stands for vLLM's LLM: keeps what it was given; an answer says its prompt's tokens and its number."""

    last: Engine

    def __init__(self, **settings):
        Engine.last, self.settings, self.asked, self.calls = self, settings, [], []
        core = SimpleNamespace(shutdown=lambda: self.calls.append("shutdown"))
        self.llm_engine = SimpleNamespace(engine_core=core)

    def reset_prefix_cache(self):
        self.calls.append("reset")

    def generate(self, prompts, sampling, use_tqdm):
        self.calls.append("generate")
        self.asked.append((prompts, sampling))
        self.bar = use_tqdm
        if callable(use_tqdm):
            assert list(use_tqdm([1, 2])) == [1, 2]
            use_tqdm(total=len(prompts), desc="theirs", leave=True).close()
        return [
            SimpleNamespace(
                outputs=[
                    SimpleNamespace(
                        text=rf"\boxed{{{prompt['prompt_token_ids'][0] + number}}}",
                        token_ids=[1] * (number + 3),
                        finish_reason=("length", "stop")[number % 2],
                    )
                    for number in range(one["n"])
                ]
            )
            for prompt, one in zip(prompts, sampling, strict=True)
        ]


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = Engine, dict
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: None)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", *cpu_runtime.VLLM_VARIABLES):
        monkeypatch.setenv(name, "1")
        monkeypatch.delenv(name)
    return Engine


def prompt(number: int, *tokens: int, **splits: str | None) -> Prompt:
    return Prompt(number, f"prompt {number}", tokens, str(tokens[0]), splits)


@pytest.mark.parametrize(
    ("on_cpu", "max_length", "batch"), [(True, 100, 4096), (True, 4096, 4096), (True, 5000, 5000), (False, 100, None)]
)
def test_the_engine_is_set_up_for_answers_that_can_be_repeated(monkeypatch, on_cpu, max_length, batch):
    """In this process; on a CPU with whole prompts, which the batch has room for."""
    monkeypatch.setattr(cpu_runtime, "required", lambda: on_cpu)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with Sampler("a model", max_length, 2, 0.7, 5, True, temperature=0.5):
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "40", "what the user says stays"
        assert os.environ.get("VLLM_CPU_OMP_THREADS_BIND") == ("nobind" if on_cpu else None)
        whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": batch} if on_cpu else {}
        assert Engine.last.settings == {
            **{"model": "a model", "max_model_len": max_length, "tensor_parallel_size": 2},
            **{"gpu_memory_utilization": 0.7, "enforce_eager": on_cpu, "seed": 5, "trust_remote_code": True},
            **whole,
        }
        assert Engine.last.calls == []
    assert Engine.last.calls == ["shutdown"]
    Sampler("a model", max_length, 2, 0.7, 5)
    assert Engine.last.settings["trust_remote_code"] is False


def test_an_engine_without_a_device_is_refused(monkeypatch):
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: "no GPU is visible")
    with pytest.raises(OptionError, match="no GPU is visible"):
        Sampler("a model", 10, 1, 0.5, 0)


def test_what_is_asked_for_a_prompt_does_not_depend_on_those_beside_it():
    sampler = Sampler("a model", 10, 1, 0.5, 9, temperature=0.5, top_p=0.8, max_tokens=7)
    found = sampler.sample([prompt(4, 1, 2), prompt(6, 5)], 3)
    ((prompts, sampling),) = Engine.last.asked
    assert prompts == [{"prompt_token_ids": [1, 2]}, {"prompt_token_ids": [5]}] and Engine.last.bar is False
    common = {"n": 3, "min_tokens": 1, "skip_special_tokens": False, "include_stop_str_in_output": True}
    common |= {"temperature": 0.5, "top_p": 0.8, "max_tokens": 7}
    assert sampling == [common | {"seed": prompt_seed(9, 4)}, common | {"seed": prompt_seed(9, 6)}]
    assert found == [
        [Completion(rf"\boxed{{{first + i}}}", i + 3, truncated) for i, truncated in enumerate((True, False, True))]
        for first in (1, 5)
    ]
    sampler.sample([prompt(4, 1, 2)], 1, progress=True)
    assert Engine.last.calls == ["reset", "generate"] * 2 and Engine.last.bar is True


def test_seeds_are_those_that_kept_answers_were_sampled_with():
    """An evaluation that was interrupted goes on with them."""
    expected = {(0, 0): 3948308845846928943, (0, 1): 1459132311362927889, (7, 3): 1265390889181019415}
    assert {pair: prompt_seed(*pair) for pair in expected} == expected


class Terminal(io.StringIO):
    def __init__(self, tty: bool):
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


SETTINGS = options.DEFAULTS | {
    **{"model": "a model", "data": "d.jsonl", "samples": 2, "prompts_per_part": 2, "split_by": ["level"], "seed": 3},
    **{"temperature": 0.5, "top_p": 0.8, "max_new_tokens": 7, "gpu_memory_utilization": 0.4},
    **{"tensor_parallel_size": 2, "allow_remote_code": True},
}


def reward(queries, prompts, labels) -> dict:
    """Right is the first answer to a prompt."""
    (query,), (text,), (label,) = queries, prompts, labels
    return {"scores": [1.0 if query == rf"{text}\boxed{{{label}}}" else 0.25]}


@pytest.fixture
def job(tmp_path, small_pool):
    prompts = [prompt(number, 10 * number, 1, level=level) for number, level in enumerate(("1", None, "2", "1", "2"))]
    return Job(SETTINGS, tmp_path / "out", prompts, reward, max_length=50)


def test_prompts_are_sampled_in_parts(job):
    assert [(part, [one.id for one in prompts]) for part, prompts in job.parts] == [(0, [0, 1]), (1, [2, 3]), (2, [4])]


@pytest.mark.parametrize("tty", [False, True])
def test_missing_parts_are_sampled_graded_and_kept(job, tty):
    terminal = Terminal(tty)
    command.run(job, terminal)
    assert Engine.last.settings == {
        **{"model": "a model", "max_model_len": 50, "tensor_parallel_size": 2, "gpu_memory_utilization": 0.4},
        **{"enforce_eager": cpu_runtime.required(), "seed": 3, "trust_remote_code": True},
        **({"enable_chunked_prefill": False, "max_num_batched_tokens": 4096} if cpu_runtime.required() else {}),
    }
    assert [[one["prompt_token_ids"][0] for one in prompts] for prompts, _ in Engine.last.asked] == [
        *([0, 10], [20, 30], [40]),
    ]
    (first, *_), *_ = (sampling for _, sampling in Engine.last.asked)
    assert (first["n"], first["temperature"], first["top_p"], first["max_tokens"]) == (2, 0.5, 0.8, 7)
    assert Engine.last.calls == ["reset", "generate"] * 3 + ["shutdown"]
    assert [path.name for path in sorted((job.out / "samples").iterdir())] == [
        f"part-0000{i}.parquet" for i in range(3)
    ]
    rows = [row for part in range(3) for row in pq.read_table(folder.part_path(job.out, part)).to_pylist()]
    assert rows[:3] == [
        {
            **{"prompt_id": number, "sample": sample, "prompt": f"prompt {number}", "label": str(10 * number)},
            **{"response": rf"\boxed{{{10 * number + sample}}}", "tokens": sample + 3, "truncated": sample == 0},
            **{"correctness": (1.0, 0.25)[sample], "outcome": None, "answer": str(10 * number + sample)},
            **{"same_as": sample, "level": ("1", None)[number]},
        }
        for number, sample in ((0, 0), (0, 1), (1, 0))
    ]
    assert [(row["prompt_id"], row["sample"], row["level"]) for row in rows] == [
        *((0, 0, "1"), (0, 1, "1"), (1, 0, None), (1, 1, None), (2, 0, "2"), (2, 1, "2")),
        *((3, 0, "1"), (3, 1, "1"), (4, 0, "2"), (4, 1, "2")),
    ]
    said = terminal.getvalue()
    assert said.startswith("starting vLLM …\n") and ("sampling" in said) == tty
    if tty:
        bars = [bar for bar in said.split("\r") if "/10" in bar]
        assert [next(f"{done}/10" for done in (0, 4, 8) if f"{done}/10" in bar) for bar in bars] == [
            "0/10",
            "4/10",
            "8/10",
        ]
    else:
        assert said == "starting vLLM …\n" and Engine.last.bar is False

    Engine.last = None
    command.run(job, terminal := Terminal(tty))
    assert Engine.last is None and terminal.getvalue() == "", "nothing is missing"


def test_only_what_is_missing_is_sampled(job):
    command.run(job, Terminal(False))
    kept = folder.part_path(job.out, 2).read_bytes()
    folder.part_path(job.out, 1).unlink()
    command.run(job, terminal := Terminal(False))
    ((prompts, _),) = Engine.last.asked
    assert [one["prompt_token_ids"][0] for one in prompts] == [20, 30]
    assert terminal.getvalue() == "3 of 5 prompts are there already\nstarting vLLM …\n"
    assert folder.part_path(job.out, 2).read_bytes() == kept and folder.part_path(job.out, 1).exists()


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (None, 0, ""),
        (KeyboardInterrupt(), 130, "interrupted; "),
        (RuntimeError("out of luck"), 1, "error: out of luck; the log is {out}/evaluate.log; "),
    ],
)
def test_how_the_command_ends(job, monkeypatch, capfd, error, status, told):
    """With its figures, or with how far it has come and how to go on."""
    registered = []
    monkeypatch.setattr(command.atexit, "register", lambda *call: registered.append(call))
    prepared = []
    monkeypatch.setattr("lens_openrlhf.evaluation.job.prepare", lambda *given: prepared.append(given) or job)
    monkeypatch.setattr("lens_openrlhf.process.interrupt_once", lambda: registered.append("signals"))
    generate = Engine.generate

    def ending(self, prompts, *more, **named):
        if error and len(prompts) == 1:
            raise error
        return generate(self, prompts, *more, **named)

    monkeypatch.setattr(Engine, "generate", ending)
    job.out.mkdir()
    folder.write_json(job.out / "config.json", {"settings": SETTINGS | {"k": [2]}, "matched": {}, "prompts": 5})
    words = ["a model", "--data", "d.jsonl", "--k", "1", "--split_by"]
    assert command.main(words) == status
    assert prepared == [(options.parse(words), words)]
    assert registered[0] == "signals" and registered[1][0] is os.dup2 and registered[1][2] == 2
    assert os.path.samestat(os.fstat(registered[1][1]), os.stat(job.out / "evaluate.log"))
    said, complained = capfd.readouterr()
    assert said.startswith("starting vLLM …\n")
    if error is None:
        assert complained == ""
        assert said.endswith(f"\nfigures, answers and log: {job.out}\n") and "Pass@1" in said and "level" not in said
        assert (job.out / "summary.json").exists()
    else:
        *traceback, line = complained.splitlines()
        assert line == (
            f"{told.format(out=job.out)}4 of 5 prompts are finished, the same command with --out {job.out} goes on"
        )
        assert (traceback[-1:] == ["RuntimeError: out of luck"]) == (status == 1), "which the log has in a process"
        assert said == "starting vLLM …\n" and not (job.out / "summary.json").exists()


def test_the_summary_in_words_and_on_disk(job):
    """As it was asked for at first, or as it is now; unfinished prompts are told."""
    command.run(job, Terminal(False))
    folder.part_path(job.out, 1).unlink()
    folder.write_json(job.out / "config.json", {"settings": SETTINGS | {"k": [2]}, "matched": {}, "prompts": 5})
    lines = command.summarise(job.out, None, None).splitlines()
    assert lines[:3] == [
        "a model on d.jsonl",
        "unfinished: 2 of 5 prompts are missing",
        "3 prompts, 2 answers each; below each figure its 95% interval",
    ]
    assert lines[-1] == f"figures, answers and log: {job.out}" and "Pass@2" in lines[4] and "Pass@1" not in lines[4]
    summary = json.loads((job.out / "summary.json").read_text())
    assert list(summary) == ["model", "data", "prompts", "samples", "interval", "splits", "unfinished_prompts"]
    assert (summary["model"], summary["data"]) == ("a model", "d.jsonl")
    assert (summary["prompts"], summary["unfinished_prompts"]) == (3, 2)
    assert list(summary["splits"]) == ["all", "level=1", "level=2", "level=none"]
    assert summary["splits"]["all"]["pass_at_k"].keys() == {"2"}

    lines = command.summarise(job.out, [1], ["level"]).splitlines()
    assert "Pass@1" in lines[4] and "Pass@2" not in lines[4]
