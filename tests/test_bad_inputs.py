"""No traceback for anything that a path, a file, a number or the environment holds: every command meets a list of such
things, and answers in one line or does its work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from lens_openrlhf import cli, cpu_runtime, doctor
from lens_openrlhf.demo.tokenizer import build_tokenizer
from lens_openrlhf.experiments import state
from lens_openrlhf.inputs import READABLE, OptionError, data_file, rows_of_file
from lens_openrlhf.training.commandline import checks, options
from lens_openrlhf.training.commandline.prompt_data import _check_dataset

from .e2e.conftest import small_disk
from .experiments.folders import write_comparison

ROW = {"prompt": "1 + 1 =", "label": "2"}
ROLLOUTS = [{"prompt_id": n // 2, "correctness": n % 2, "logprobs": [-0.1]} for n in range(4)]
NUMBERS = ("nan", "inf", "0", "-1", "-0.5", "1e400", "9" * 25, "x", "")
DEEP = b"[" * 100_000
# What a file can hold in place of what is expected.
CONTENTS = {
    "nothing": b"",
    "null": b"null",
    "list": b"[]",
    "object": b"{}",
    "number": b"1",
    "binary": bytes(range(128, 256)),
    "cut": b'{"prompt": "1 +',
    "deep": DEEP,
    "half a character": b'{"prompt": "\\ud83d", "label": "2", "prompt_id": "\\ud83d"}',
    "nan": b'{"prompt": NaN, "label": NaN, "prompt_id": NaN, "correctness": NaN, "logprobs": [NaN]}',
    "wrong types": b'{"name": 1, "options": {"logger.run_dir": 1, "eval.dataset": 5}, "settings": {"model": 1}, '
    b'"matched": 1, "prompts": "x", "runs": {"a": 1}, "arms": [], "inputs": 1, "step": "x", "scores": [[null]], '
    b'"files": 1, "counts": 1, "notes": 1, "splits": {"a": 1}, "event": "steps", "total": -1}',
}
# Names of what is not there, or is no file.
NAMES = ("absent", "absent.jsonl", "x" * 5_000, "a/" * 3_000, "/dev/null", "~nobody_at_all/x", "\udcff", "[", "a@b@c")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, own_signals):
    """A folder to stand in, with an empty cache and no hub."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """A model without weights, which nothing here gets as far as loading."""
    from transformers import AutoConfig

    folder = tmp_path_factory.mktemp("model")
    AutoConfig.for_model("qwen2", max_position_embeddings=64, num_attention_heads=2).save_pretrained(folder)
    build_tokenizer(64).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(capsys):
    """run(words) -> the exit status and what was said; anything raised is a traceback, and fails the test."""

    def run(*words: object) -> tuple[int, str]:
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as end:  # argparse's refusals
            status = end.code
        said = capsys.readouterr()
        assert status in (0, 1, 2) and "Traceback" not in said.out + said.err, said
        assert status == 0 or said.err.count("\n") == 1 or said.err.startswith("usage:") or said.out, said.err
        return status, said.err + said.out

    return run


def lines(path: str | Path, *rows: dict) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def training(model: str, data: object, *more: object) -> list[str]:
    words = ["--actor.model_name_or_path", model, "--data.prompt_dataset", data, "--data.input_key", "prompt"]
    words += ["--data.label_key", "label", "--reward.remote_url", "math-verify", "--data.max_len", 64]
    words += ["--algo.advantage.estimator", "lens", "--rollout.n_samples_per_prompt", 4, "--vllm.num_engines", 1]
    words += ["--actor.num_gpus_per_node", 1, "--logger.run_dir", "run", *more]
    return [str(word) for word in words]


def bad_files() -> list[Path]:
    """Files of every kind that is read, with every content, and what only looks like one."""
    found = []
    for ending in READABLE:
        for name, content in CONTENTS.items():
            found.append(Path(f"{name.replace(' ', '_')}{ending}"))
            found[-1].write_bytes(content)
    Path("folder.jsonl").mkdir()
    Path("loop.jsonl").symlink_to("loop.jsonl")
    Path("dangling.parquet").symlink_to("nowhere")
    os.mkfifo("pipe.csv")
    for name in ("a.jsonl.gz", "a.tsv", "no_ending"):
        Path(name).write_bytes(b"\x1f\x8b\x08")
        found.append(Path(name))
    return [*found, *map(Path, ("folder.jsonl", "loop.jsonl", "dangling.parquet", "pipe.csv"))]


# {command: words with a place for a path}, each of which expects something else there.
WALK = {
    "train": [
        ["--dry_run", "--profile", "{}"],
        ["--dry_run", "--profile", "{}.args"],
    ],
    "data": [
        ["math+dapo", "--math", "{}", "--dapo", "good.jsonl", "--out", "set"],
        ["math+dapo", "--math", "good.jsonl", "--dapo", "good.jsonl", "--out", "{}"],
    ],
    "evaluate": [
        ["{model}", "--data", "{}", "--out", "good.jsonl/out"],
        ["{}", "--data", "good.jsonl", "--out", "good.jsonl/out"],
        ["{model}", "--data", "good.jsonl", "--reward", "{}", "--out", "good.jsonl/out"],
        ["{model}", "--data", "absent.jsonl", "--out", "{}"],
        ["--from", "{}"],
    ],
    "grade": [["{}"], ["good.jsonl", "--answer_key", "prompt", "-o", "{}"]],
    "compare": [["{}", "--dry_run"], ["--table", "{}"], ["--archive", "{}", "a.tar.xz"], ["good.jsonl", "-o", "{}"]],
    "report": [["{}", "-o", "report.html"], ["known", "-o", "{}/report.html"]],
    "advantages": [["{}"], ["rollouts.jsonl", "-o", "{}"], ["rollouts.jsonl", "--estimator_path", "{}"]],
    "simulate": [["--questions", "2", "--steps", "2", "--seeds", "1", "-o", "{}/figure.html"]],
    "doctor": [["{}"]],
}


def test_every_command_is_walked():
    assert set(cli.COMMANDS) <= set(WALK)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_paths(command, run, model):
    lines("good.jsonl", ROW)
    lines("rollouts.jsonl", *ROLLOUTS)
    write_comparison(Path("known"), {"a": {1: {"scores": [[1.0, 0.0]]}}})
    # The contents of data go through the readers' own test, with fewer words around them.
    files = [path for path in bad_files() if path.name != "pipe.csv" or command not in ("compare", "simulate")]
    files = files if command in ("evaluate", "advantages") else [*files[:: len(READABLE)], *files[-7:]]
    for words in WALK[command]:
        for name in [*map(str, files), *NAMES]:
            status, said = run(command, *(word.format(name, model=model) for word in words))
            if command in ("data", "evaluate", "compare", "doctor"):
                assert status, (words, name)


def test_data_of_training(model, place):
    """The same files under the preflight's own function: parsing options again for each would take a minute."""
    lines("good.jsonl", ROW)
    args = options.parse(training(model, "good.jsonl"))
    assert _check_dataset("--data.prompt_dataset", str(place / "good.jsonl"), args) == []
    for path in bad_files():
        for name in (str(path), str(place / path)):
            with pytest.raises(OptionError) as refusal:
                _check_dataset("--data.prompt_dataset", name, args)
            message = str(refusal.value)
            assert message.startswith(f"--data.prompt_dataset {name}: ") and "\n" not in message


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--actor.model_name_or_path", "./absent"], ["--actor.model_name_or_path", "absent", "no such folder"]),
        (["--actor.model_name_or_path", "no-such-user/no-such-model"], ["no-such-user/no-such-model", "network"]),
        (["--data.prompt_dataset", "cut.jsonl"], ["line 2", "'label'", "--data.label_key"]),
        (["--data.prompt_dataset", "cut.parquet"], ["cut.parquet", "row 2", "'label'", "--data.label_key"]),
        (["--data.prompt_dataset", "labels.jsonl"], ["1 of 2 labels (line 2)", "two readings", "lens-openrlhf grade "]),
        (["--reward.remote_url", "http://localhost:9/x"], ["http://localhost:9/x", "server cannot be reached"]),
        (["--reward.remote_url", "http://localhost:99999999"], ["http://localhost:99999999", "http://host:port/path"]),
        (["--reward.remote_url", "math_verify"], ["--reward.remote_url math_verify", "expected math-verify"]),
        (["--logger.run_dir", "old"], ["--logger.run_dir", "holds a run already", "--ckpt.load_enable"]),
    ],
)
def test_what_training_needs(more, told, model, run):
    """Refused before anything starts, in a run as in a dry run."""
    lines("good.jsonl", ROW)
    lines("cut.jsonl", ROW, {"prompt": "1 + 1 ="})
    lines("labels.jsonl", ROW, {**ROW, "label": "2e-3"})
    lines("old/metrics.jsonl", {"step": 1})
    pandas.DataFrame([ROW, {**ROW, "label": None}]).to_parquet("cut.parquet")
    status, said = run("train", *training(model, "good.jsonl", *more))
    assert status == 2 and said.startswith("error: ")
    assert all(words in said for words in told), said
    assert not Path("run").exists() and not Path("old/config.json").exists()


def test_a_full_disk(model, run):
    lines("good.jsonl", ROW)
    with small_disk(Path("full"), "1m"):
        status, said = run("train", *training(model, "good.jsonl", "--logger.run_dir", "full/run"))
    assert status == 2 and "--logger.run_dir" in said and "MiB are free" in said


# In a network of its own, where the two ports that there are have been taken.
TAKE_ALL_PORTS = """
import socket, subprocess, sys
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("61000 61001")
held = []
try:
    while True:
        held.append(socket.socket())
        held[-1].bind(("", 0))
except OSError:
    sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


def test_no_free_port(model):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("a network name space of its own needs root")
    lines("good.jsonl", ROW)
    command = [sys.executable, "-m", "lens_openrlhf.cli", "train", *training(model, "good.jsonl")]
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", TAKE_ALL_PORTS, *command], capture_output=True, text=True
    )
    assert done.returncode == 2 and "no network port is free" in done.stderr, done.stderr


@pytest.mark.parametrize("option", ["--eval.dataset", "--reward.remote_url", "--train.agent_func_path"])
def test_paths_of_training(option, model, run):
    lines("good.jsonl", ROW)
    for name in ("", *NAMES[:4], "\udcff", "null.jsonl"):
        run("train", *training(model, "good.jsonl", option, name, "--dry_run"))


def test_models(model, run):
    """A model whose files hold anything."""
    lines("good.jsonl", ROW)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        for number, content in enumerate(CONTENTS.values()):
            folder = Path(f"{name}-{number}")
            folder.mkdir()
            for file in Path(model).iterdir():
                (folder / file.name).write_bytes(content if file.name == name else file.read_bytes())
            run("evaluate", folder, "--data", "good.jsonl", "--out", "good.jsonl/out")
            if name == "config.json" and number % 3 == 1:
                run("train", *training(str(folder), "good.jsonl", "--dry_run"))


@pytest.mark.parametrize(
    "name", ["compare.json", "spec.yaml", "runs/a/seed-1/config.json", "runs/a/seed-1/eval.jsonl", "manifest.json"]
)
def test_records(name, run):
    """Folders that a command made, of which one file holds anything."""
    for number, content in enumerate(CONTENTS.values()):
        folder = write_comparison(Path(f"known-{number}"), {"a": {1: {"scores": [[1.0, 0.0], [0.0, 0.0]]}}})
        (folder / name).write_bytes(content)
        run("compare", "--table", folder)
        run("compare", "--archive", folder, "a.tar.xz")
        run("report", folder, folder / "runs/a/seed-1", "-o", "report.html")
        run("evaluate", "--from", folder / "runs/a/seed-1")
        if name == "manifest.json":
            run("data", "math+dapo", "--math", folder, "--dapo", folder, "--out", folder)
        if name == "compare.json" and content:
            with pytest.raises(state.SpecError):
                state.load(folder)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("evaluate absent --data absent.jsonl", "samples temperature top_p max_new_tokens seed prompts_per_part k"),
        ("evaluate absent --data absent.jsonl", "tensor_parallel_size gpu_memory_utilization max_prompts"),
        ("data math+dapo --math absent.jsonl --dapo absent.jsonl", "seed dapo_problems"),
        ("report absent --watch", "port sample_steps"),
        ("compare absent.yaml", "gpus"),
        ("simulate --questions 2 --steps 2 --seeds 1", "questions answers samples steps lr right wrong seeds"),
        ("advantages rollouts.jsonl", "algo.lens.alpha algo.lens.gamma"),
        ("train --profile qwen2.5-3b --dry_run", "gpus"),
    ],
)
def test_numbers(words, names, run):
    lines("rollouts.jsonl", *ROLLOUTS)
    for name in names.split():
        for number in NUMBERS:
            run(*words.split(), f"--{name}", number)


def test_numbers_of_training(model):
    """What OpenRLHF would divide by, or find out about when everything has started."""
    lines("good.jsonl", ROW)
    for name in set(checks.COUNTS) - {"rollout.n_samples_per_prompt"}:  # of which lens needs 2
        with pytest.raises(OptionError, match=f"--{name} 0: use at least 1"):
            options.parse(training(model, "good.jsonl", "--eval.dataset", "good.jsonl", f"--{name}", 0))
    for name, value in (("actor.adam.lr", "nan"), ("algo.kl.init_coef", "nan"), ("data.max_samples", "9" * 25)):
        with pytest.raises(OptionError, match=f"--{name} {value}: is "):
            options.parse(training(model, "good.jsonl", f"--{name}", value))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("RANK", "x", "RANK='x': is no rank"),
        ("LOCAL_RANK", "", "LOCAL_RANK='': is no rank"),
        ("LENS_VERIFIER_TIMEOUT", "soon", "LENS_VERIFIER_TIMEOUT='soon' is not a positive float"),
        ("LENS_VERIFIER_ISOLATION", "some", "LENS_VERIFIER_ISOLATION='some' is none of"),
        ("HOME", "/nowhere/at/all", ""),
        ("XDG_CACHE_HOME", "/dev/null", ""),
        ("TMPDIR", "/nowhere", ""),
        ("RAY_ADDRESS", "x", ""),
        ("COLUMNS", "-3", ""),
    ],
)
def test_environment(name, value, told, model, run, monkeypatch):
    """Of a dry run and of an evaluation, which has more to do with caches."""
    lines("good.jsonl", ROW)
    lines("fractions.jsonl", {**ROW, "label": r"\frac{1}{7}"})
    monkeypatch.setenv(name, value)
    dry_run = run("train", *training(model, "fractions.jsonl", "--dry_run"))[1]
    assert told in " ".join(dry_run.split())
    if "VERIFIER" in name:
        assert told in run("evaluate", model, "--data", "good.jsonl", "--out", "good.jsonl/out")[1]


def test_a_home_that_is_not_there(run, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(Path("file").absolute()))
    Path("file").touch()  # nobody, root neither, can make a folder in it
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: None)
    assert (
        "cannot be made (Not a directory); name a folder for it in XDG_CACHE_HOME"
        in run("train", "--profile", "tiny")[1]
    )
    finding = doctor._disk()
    assert "there is no home folder" in finding.state and "set HOME" in finding.remedy


@pytest.mark.parametrize("half", [rb"\ud83d", rb"\uD83D", rb"\uDc00", rb"\\\udFFF", b"\xed\xa0\xbd"])
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_halves_of_characters_are_found_however_they_are_written(half, ending, place):
    data = place / f"rows.{ending}"
    data.write_bytes(b'{"prompt": "' + half + b'"}')
    with pytest.raises(OptionError, match=r"(line|row) 1 has \\ud[89a-f].., half of a character"):
        list(rows_of_file("--data", data))
    texts = ["\N{GRINNING FACE}", "\ud7ff", r"\ud83d as text", "é"]
    for as_ascii in (True, False):
        data.write_text(json.dumps({"prompt": texts}, ensure_ascii=as_ascii))
        assert [row for _, row in rows_of_file("--data", data)] == [{"prompt": texts}]


def test_of_parquet_the_wanted_columns_are_read(place):
    pandas.DataFrame([{**ROW, "solution": "long"}]).to_parquet("rows.parquet")
    for wanted, found in ((["prompt"], {"prompt"}), ([], {*ROW, "solution"}), (["prompt", "z"], {*ROW, "solution"})):
        ((place_of_row, row),) = rows_of_file("--data", Path("rows.parquet"), wanted)
        assert (place_of_row, set(row)) == ("row 1", found)


def test_half_of_a_character_is_named_by_line(place):
    data = lines("half.jsonl", ROW)
    data.write_text(data.read_text() + '\n{"prompt": "\\ud83d", "label": "2"}\n\n')
    with pytest.raises(OptionError, match=r"half.jsonl: line 3 has \\ud83d, half of a character"):
        list(rows_of_file("--data", data))


def test_blank_lines_and_strange_places_are_read(place):
    for folder in ("me@corp", "a [copy]", "x,y", "50% *?"):
        data = lines(Path(folder) / "rows.jsonl", ROW, ROW)
        data.write_text(data.read_text().replace("\n", "\n\n") + "  \n")
        assert [where for where, _ in rows_of_file("--data", data)] == ["line 1", "line 3"]
        frame = pandas.DataFrame([ROW, ROW])
        frame.to_parquet(data.with_suffix(".parquet"))
        frame.to_json(data.with_suffix(".json"), orient="records", lines=False)
        frame.to_csv(data.with_suffix(".csv"), index=False)
        for ending in (".parquet", ".json", ".csv"):
            (first, second) = rows_of_file("--data", data_file("--data", str(data.with_suffix(ending))))
            assert first[0] == "row 1" and str(second[1]["label"]) == "2"


def test_a_prompt_id_that_is_no_number_is_no_group(run):
    frame = pandas.DataFrame(ROLLOUTS).astype({"prompt_id": float})
    frame.loc[2, "prompt_id"] = float("nan")
    for name in ("rows.parquet", "rows.jsonl"):
        frame.to_parquet(name) if name.endswith("parquet") else frame.to_json(name, orient="records", lines=True)
        assert "row 3, column prompt_id: is empty or NaN" in run("advantages", name)[1]


def test_a_score_that_is_no_number_is_told(run):
    folder = write_comparison(Path("known"), {"a": {1: {"scores": [[1.0, float("nan")], [0.0, 0.0]]}}})
    wanted = "1 of 4 `scores` are no numbers (NaN or null), and would count as wrong"
    assert wanted in run("report", folder, "-o", "report.html")[1]
    assert "1 `scores` of the last evaluation are no numbers" in run("compare", "--table", folder)[1]
