"""Scripts and make's recipes: which commands they run, in which order, with which words and variables, and how they
end. The commands are stand-ins that write down how they were called; the scripts are real."""

from __future__ import annotations

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
TOOLS = (
    *(
        "awk",
        "bash",
        "cat",
        "chmod",
        "cp",
        "dirname",
        "env",
        "find",
        "grep",
        "head",
        "ls",
        "mkdir",
        "mktemp",
        "mv",
        "rm",
    ),
    *("sed", "seq", "sh", "sort", "tail", "tar", "test", "touch", "tr"),
)
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
        for tool in TOOLS:
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
        )

    def run(self, *words: object, folder: Path | None = None, **variables: str) -> tuple[int, str, str]:
        """Exit status, what was said, and what was complained."""
        process = self.start(*words, folder=folder, **variables)
        out, err = process.communicate(timeout=60)
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
    assert (status, complaint) == (0, "")
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
def test_a_job_told_to_stop_tells_the_run_and_waits_for_its_end(slurm, number):
    running, ended = slurm.folder / "running", slurm.folder / "ended"
    # It takes a while to end, and the signal comes again meanwhile.
    told = f"trap '' TERM; touch {running}.told; while ! test -e {slurm.folder}/go; do :; done; touch {ended}; exit 5"
    does = f'trap "{told}" TERM; touch {running}; while :; do :; done'
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
        process.kill()
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
