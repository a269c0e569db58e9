"""benchmarks/gpu_check.py rehearsed on the CPU: where a bare GPU machine's packages are and nothing else, and here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_stages import ROOT, STAGES, bandwidth, build, counters, launch, sanitizer
from benchmarks.gpu_stages.device import Cuda
from benchmarks.gpu_stages.rows import FAILED, MISSING, PASSED, STAGE, Missing, Rows, read, table

# What such a machine has of Python, beside triton and cupy, which are no use without a GPU.
BARE = ("torch", "ninja", "pybind11", "pytest", "hypothesis", "numpy", "transformers", "setuptools")
# What the check may need of the repository.
TREE = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "csrc", "lens_openrlhf", "benchmarks", "tests")
ALONE = {"trl_trainer": "not installed: trl, datasets", "ppo_actor": "not installed: openrlhf, deepspeed, ray"}
TOOLS = {"counters": "no GPU to count on", "sanitizer": "no GPU to watch"}


def closure(names) -> set[str]:
    """The distributions and what they need, as far as it is installed."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            assert name not in BARE, f"{name} is not installed"
            continue
        found.add(name)
        for requirement in map(Requirement, needed):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def bare_python(folder: Path) -> Path:
    """An environment of links to those packages."""
    venv.create(folder, symlinks=True, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in closure(BARE):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    return folder / "bin" / "python"


def copied_tree(folder: Path) -> Path:
    """The repository's files that are needed, with the extension as it was built, also where setuptools looks for what
    is up to date."""
    folder.mkdir()
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_C_cuda*"))
        else:
            shutil.copy2(source, folder / name)
    built = folder / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "lens_openrlhf"
    built.mkdir(parents=True)
    for library in (folder / "lens_openrlhf").glob("_C.*"):
        shutil.copy2(library, built)
        os.utime(built / library.name)
    return folder


def start(python: str | Path, root: Path, *arguments: str) -> subprocess.Popen:
    """The check, with none of this process's Python settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment["OMP_NUM_THREADS"] = "1"  # two runs side by side would wait for each other's threads
    return subprocess.Popen(
        [str(python), "benchmarks/gpu_check.py", *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Run:
    """A run that has ended: its exit status, output, rows, and how each stage ended."""

    def __init__(self, process: subprocess.Popen, out: Path):
        self.text, self.out = process.communicate()[0], out
        self.status, self.rows = process.returncode, read(out / "results.jsonl")
        self.ended = {row["stage"]: row for row in self.rows if row["what"] == STAGE}

    def of(self, stage: str) -> list[dict]:
        return [row for row in self.rows if row["stage"] == stage and row["what"] != STAGE]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(in the bare environment, here with the frameworks), side by side."""
    folder = tmp_path_factory.mktemp("gpu_check")
    tree, python = copied_tree(folder / "tree"), bare_python(folder / "bare")
    bare = start(python, tree, "--device", "cpu", "--seconds", "1500", "--out", str(folder / "out"))
    frameworks = ("--device", "cpu", "--seconds", "1500", "--stages", ",".join(ALONE), "--out", str(folder / "here"))
    here = start(sys.executable, ROOT, *frameworks)
    yield Run(bare, folder / "out"), Run(here, folder / "here")


@pytest.fixture(scope="module")
def bare(runs):
    return runs[0]


def test_a_bare_environment_has_nothing_else(tmp_path):
    python = bare_python(tmp_path)
    wanted = ["openrlhf", "ray", "deepspeed", "vllm", "trl", "datasets", "pyarrow", "psutil", "triton", "lens_openrlhf"]
    code = f"import importlib.util as u; print([n for n in {wanted + ['torch', 'hypothesis']} if u.find_spec(n)])"
    # -E: whatever PYTHONPATH brings along.
    found = subprocess.run([python, "-E", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['torch', 'hypothesis']"


@pytest.mark.slow
def test_every_stage_passes_there_or_says_what_it_lacks(bare):
    assert bare.status == 0, bare.text
    assert list(bare.ended) == ["machine", *(stage.name for stage in STAGES)]
    for name, row in bare.ended.items():
        lacks = (ALONE | TOOLS).get(name)
        assert (row["result"], row.get("reason")) == ((MISSING, lacks) if lacks else (PASSED, None)), bare.text


@pytest.mark.slow
def test_the_report_begins_with_the_machine_and_ends_with_all_stages(bare):
    assert (bare.out / "report.txt").read_text() == bare.text
    facts = [row["what"] for row in bare.rows[:7]]
    assert facts == ["card", "torch", "nvcc", "python", "packages", "date", "commit"]
    table_of_all = bare.text.split("all stages, in ")[1].splitlines()[2:]
    assert [line.split()[:2] for line in table_of_all] == [
        [stage.name, bare.ended[stage.name]["result"]] for stage in STAGES
    ]


@pytest.mark.slow
def test_the_comparisons_were_made(bare):
    assert all(row["batches"] >= 3 and row["different"] == "none" for row in bare.of("bits"))
    assert {row["what"] for row in bare.of("bits")} == {
        "segment_mean",
        "segment_mean, padded slices",
        "group_advantages",
        "lens_advantages",
    }
    assert sum(row.get("cases", 0) for row in bare.of("faults")) > 60
    suite = bare.of("suite")[-1]
    assert suite["passed"] > 70
    assert {row["why"] for row in bare.of("suite")[:-1]} == {
        "needs a GPU",
        "needs two GPUs",
        "the benchmark needs psutil, which is not installed",
    }
    assert len(bare.of("estimators")) == 16 and len(bare.of("hook")) == 4
    assert [row["what"] for row in bare.of("compiled")][-3:] == [
        "torch.compile, mode default",
        "torch.compile, mode reduce-overhead",
        "autocast",
    ]


@pytest.mark.slow
def test_every_method_has_a_row_and_a_missing_or_wrong_one_says_so(bare):
    rows = bare.of("bandwidth")[2:]
    shapes = {row["shape"] for row in rows}
    assert shapes == {f"{a}x{b}" for a, b in bandwidth.IN_REHEARSAL}
    for shape in shapes:
        for dtype in ("float32", "bfloat16"):
            for mask in (False, True):
                here = {
                    row["what"]: row
                    for row in rows
                    if (row["shape"], row["dtype"], row["mask"]) == (shape, dtype, mask)
                }
                without_masks = {"torch segment_reduce", "cupy add.reduceat"} if mask else set()
                assert here.keys() == bandwidth.METHODS.keys() - without_masks | {"torch.sum of the same bytes"}
                assert here["triton"]["note"] == "ModuleNotFoundError: No module named 'triton'"
                for name in ("lens_openrlhf", "lens_openrlhf, padded", "lens_openrlhf, to advantages"):
                    assert here[name]["us"] > 0 and here[name]["replay_us"] > 0 and here[name]["note"] == ""
                if not mask:
                    assert here["cupy add.reduceat"]["note"] == "ModuleNotFoundError: No module named 'cupy'"
                    wrong = here["torch segment_reduce"]["note"].startswith("wrong by")
                    assert wrong == (dtype == "bfloat16")


@pytest.mark.slow
def test_latency_has_a_call_and_its_parts(bare):
    rows = bare.of("latency")
    parts = {row["what"]: row["us_to_result"] for row in rows if "us_to_result" in row}
    assert parts["lens_advantages"] > parts["raw segment_mean"] > parts["nothing"] > 0
    assert any(row.get("of", "").startswith("lens_openrlhf::") for row in rows)


@pytest.mark.slow
def test_the_frameworks_train_where_they_are(runs):
    here = runs[1]
    assert here.status == 0 and [here.ended[name]["result"] for name in ALONE] == [PASSED, PASSED], here.text
    for name in ALONE:
        rows = {row["what"]: row for row in here.of(name)}
        assert rows["advantages are the reference's"]["result"] == PASSED
        assert rows["on the device"]["found"] == "cpu"


BAD_STAGES = {
    "fails": "def run(device, rows):\n    rows.add('before', n=1)\n    raise ValueError('no luck')\n",
    "wrong": "def run(device, rows):\n    rows.check('a sum', 1 + 1 == 3)\n    rows.check('another', True)\n",
    "dies": "import os, signal\n\ndef run(device, rows):\n    os.kill(os.getpid(), signal.SIGSEGV)\n",
    "hangs": (
        "import subprocess, time\n\ndef run(device, rows):\n    child = subprocess.Popen(['sleep', '600'])\n"
        "    rows.add('child', pid=child.pid)\n    time.sleep(600)\n"
    ),
}


def test_stages_that_fail_die_or_hang_are_named_and_the_next_one_goes_on(tmp_path):
    tree = copied_tree(tmp_path / "tree")
    package = tree / "benchmarks" / "gpu_stages"
    for name, text in BAD_STAGES.items():
        (package / f"{name}.py").write_text(text)
    more = ", ".join(f"Stage({name!r}, 0.5, 'nothing')" for name in BAD_STAGES)
    with open(package / "__init__.py", "a") as file:
        file.write(f"STAGES = ({more}, *STAGES)\n")
    arguments = ("--device", "cpu", "--stages", ",".join([*BAD_STAGES, "faults"]), "--out", str(tmp_path / "out"))
    run = Run(start(sys.executable, tree, *arguments), tmp_path / "out")
    assert run.status == 1
    assert {name: (row["result"], row.get("reason")) for name, row in run.ended.items()} == {
        "machine": (PASSED, None),
        "fails": (FAILED, "ValueError: no luck"),
        "wrong": (FAILED, "a sum"),
        "dies": (FAILED, "its process died (-11)"),
        "hangs": (FAILED, "ended after 2 s, its time limit"),
        "faults": (PASSED, None),
    }
    assert run.of("fails") == [{"stage": "fails", "what": "before", "n": 1}]  # what it had is kept
    assert "no luck" in (tmp_path / "out" / "fails.log").read_text()
    child = Path("/proc") / str(run.of("hangs")[0]["pid"]) / "cmdline"
    deadline = time.monotonic() + 10
    while child.exists() and b"sleep" in child.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not (child.exists() and b"sleep" in child.read_bytes())


def test_no_stage_begins_once_the_time_is_over(tmp_path, capsys):
    check = gpu_check.Check("cpu", tmp_path, seconds=0)
    ended = check.run(STAGES[0])
    assert (ended["result"], ended["reason"]) == (FAILED, "no time was left for it")
    assert "FAILED: no time was left for it" in capsys.readouterr().out


def test_without_a_gpu_it_says_why_and_what_to_do(tmp_path):
    run = Run(start(sys.executable, ROOT, "--stages", "load", "--out", str(tmp_path)), tmp_path)
    assert run.status == 2 and list(run.ended) == ["machine"]
    why = "no GPU: (torch .* is a build for the CPU|nvidia-smi is not on PATH.*); --device cpu rehearses without a GPU"
    assert re.search(why, run.text)


def test_stages_are_listed_and_unknown_ones_refused(tmp_path):
    listed = start(sys.executable, ROOT, "--list").communicate()[0]
    assert [line.split()[0] for line in listed.splitlines()] == [stage.name for stage in STAGES]
    unknown = start(sys.executable, ROOT, "--stages", "bits,bots", "--out", str(tmp_path))
    assert "--stages bits,bots: expected some of build,load," in unknown.communicate()[0] and unknown.returncode == 1


def test_make_takes_the_machines_own_python_where_there_is_no_environment():
    # As typed at a prompt: a make that runs the tests would have this one print its folder.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }

    def command(*more: str) -> str:
        make = ["make", "-n", "gpu-check", "ARGS=--list", *more]
        return subprocess.run(make, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    assert command("VENV=/nowhere").strip() == "python3 benchmarks/gpu_check.py --list"
    assert command(f"VENV={sys.prefix}").strip().endswith("python benchmarks/gpu_check.py --list")


# As Nsight Compute writes it (`--csv --page raw`), with most columns left out.
PROFILE = """\
==PROF== Connected to process 4242 (/usr/bin/python3.12)
==PROF== Profiling "segment_mean_kernel" - 0: 0%....50%....100% - 13 passes
4 calls done
==PROF== Disconnected from process 4242
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed","gpu__time_duration.sum","launch__registers_per_thread",\
"sm__warps_active.avg.pct_of_peak_sustained_active","smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active\
.ratio","smsp__average_warps_issue_stalled_no_instruction_per_issue_active.ratio","smsp__issue_active.avg.per_cycle_active"
"","","","","","","","","","","","%","ns","register/thread","%","inst","inst","inst/cycle"
"0","4242","python3.12","127.0.0.1","void lens::segment_mean_kernel<float, true>(lens::Tokens<T1>, long)","1","7",\
"(256, 1, 1)","(396, 1, 1)","0","9.0","84.31","1,186,432","64","74.90","9.12","0.05","0.41"
"1","4242","python3.12","127.0.0.1","void lens::group_advantages_kernel<long>(lens::GroupInputs)","1","7",\
"(256, 1, 1)","(396, 1, 1)","0","9.0","11.02","20,128","56","37.5","2.50","6.25",""
"""


def test_the_profilers_figures_are_read():
    mean, group = counters.figures(PROFILE)
    assert mean == {
        "kernel": "void lens::segment_mean_kernel<float, true>(lens::Tokens<T1>",
        "us": 1186.432,
        "dram_%": 84.31,
        "occupancy_%": 74.9,
        "issue_active": 0.41,
        "stall_no_instruction": 0.05,
        "stall_long_scoreboard": 9.12,
        "registers": 64.0,
    }
    assert group["us"] == 20.128 and group["stall_no_instruction"] == 6.25 and group["issue_active"] == "not given"
    assert counters.figures("==ERROR== Failed to initialize the profiler: LibraryNotLoaded\n") == []


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}")
    (folder / name).chmod(0o755)


def test_the_profiler_is_called_and_its_figures_kept(tmp_path, monkeypatch):
    (tmp_path / "page").write_text(PROFILE)
    tool(tmp_path, "ncu", f'echo "$@" > {tmp_path}/called; cat {tmp_path}/page')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    rows = Rows(tmp_path / "rows", "counters")
    counters.run(Cuda(), rows)
    assert [row["us"] for row in read(rows.path)] == [1186.0, 20.13]
    called = (tmp_path / "called").read_text()
    assert "--clock-control none --csv --page raw" in called
    assert called.strip().endswith("-m benchmarks.gpu_stages.launch large")
    tool(tmp_path, "ncu", "echo '==ERROR== ERR_NVGPUCTRPERM'; exit 1")
    with pytest.raises(RuntimeError, match="ncu ended with 1 and no figures: .*ERR_NVGPUCTRPERM"):
        counters.run(Cuda(), rows)


def test_all_four_tools_are_called_and_a_finding_fails_the_stage(tmp_path, monkeypatch):
    script = 'echo "$2 $PYTORCH_NO_CUDA_MEMORY_CACHING"; echo "8 calls done"; [ $2 = racecheck ] && '
    script += '{ echo "========= RACECHECK SUMMARY: 1 hazard displayed (1 error)"; exit $4; }; '
    script += 'echo "========= ERROR SUMMARY: 0 errors"'
    tool(tmp_path, "compute-sanitizer", script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    rows = Rows(tmp_path / "rows", "sanitizer")
    sanitizer.run(Cuda(), rows)
    results = {row["what"]: row["result"] for row in read(rows.path)}
    assert results == {"memcheck": PASSED, "racecheck": FAILED, "initcheck": PASSED, "synccheck": PASSED}
    assert rows.failed == ["racecheck"]


@pytest.mark.parametrize("stage, name", [(counters, "ncu"), (sanitizer, "compute-sanitizer")])
def test_a_tool_that_is_not_there_is_named(stage, name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match=f"{name} not found on PATH"):
        stage.run(Cuda(), Rows(tmp_path / "rows", "tool"))


def test_what_the_tools_look_at_runs():
    assert launch.large("cpu") == 4 and launch.small("cpu") == 4 * (2 * 2 * 3 + 3)


@pytest.mark.parametrize(
    "status, output, good, says",
    [
        (0, "8 calls done\n========= ERROR SUMMARY: 0 errors\n", True, "0 errors"),
        (
            0,
            "8 calls done\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n",
            True,
            "0 hazards",
        ),
        (9, "8 calls done\n========= ERROR SUMMARY: 3 errors\n", False, "3 errors"),
        (9, "8 calls done\n========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n", False, "1 hazard"),
        (0, "8 calls done\n", False, "no summary"),
        (0, "Killed\n========= ERROR SUMMARY: 0 errors\n", False, "did not end well"),
        (255, "========= Device not supported\n========= ERROR SUMMARY: 0 errors\n", False, "did not end well"),
    ],
)
def test_a_sanitizers_verdict(status, output, good, says):
    found, text = sanitizer.verdict(status, output)
    assert found == good and says in text


def test_the_compilers_resource_report_is_read():
    report = """\
ptxas info    : Compiling entry function '_ZN4lens19segment_mean_kernelIfEEv' for 'sm_90'
ptxas info    : Function properties for _ZN4lens19segment_mean_kernelIfEEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 320 bytes smem
ptxas info    : Compiling entry function '_ZN4lens23group_advantages_kernelEv' for 'sm_90'
    16 bytes stack frame, 12 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 56 registers, used 1 barriers
"""
    assert build.resources(report) == [
        {"name": "_ZN4lens19segment_mean_kernelIfEEv", "registers": 64, "spilled_bytes": 0},
        {"name": "_ZN4lens23group_advantages_kernelEv", "registers": 56, "spilled_bytes": 12},
    ]


def test_rows_are_kept_one_by_one_and_a_cut_line_is_left_out(tmp_path):
    path = tmp_path / "results.jsonl"
    rows = Rows(path, "bits")
    rows.add("a", seconds=1.23456, ratio=float("inf"), nothing=None)
    rows.check("b", False)
    with open(path, "a") as file:
        file.write(json.dumps({"stage": "bits", "what": "c"})[:-5])
    assert rows.failed == ["b"]
    assert read(path) == [
        {"stage": "bits", "what": "a", "seconds": 1.235, "ratio": "inf"},
        {"stage": "bits", "what": "b", "result": FAILED},
    ]
    assert list(table(read(path))) == [
        "  what  seconds  ratio",
        "  a     1.235    inf",
        "  what  result",
        "  b     FAILED",
    ]


def test_gpu_tests_are_in_one_folder():
    """`-m gpu` collects no other (tests/conftest.py)."""
    others = [path for path in (ROOT / "tests").rglob("*.py") if "gpu" not in path.parts and path != Path(__file__)]
    assert len(others) > 50 and not [path for path in others if "mark.gpu" in path.read_text()]
