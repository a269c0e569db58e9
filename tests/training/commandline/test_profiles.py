"""Profiles become words of a command line, and what they name is made when a run begins."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lens_openrlhf import cpu_runtime
from lens_openrlhf.training.commandline import profiles
from lens_openrlhf.training.commandline.profiles import ProfileError, expand

NOW = "20261128-120000"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder to stand in, at noon."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "strftime", lambda form: {"%Y%m%d-%H%M%S": NOW}[form])


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def test_words_and_their_order(tmp_path):
    write("mine.args", "# a comment\n--a 1 --b 'two words' # another\n\n  --c\n")
    run = ["--logger.run_dir", f"runs/{NOW}-mine"]
    words = ["--a", "1", "--b", "two words", "--c"]
    assert expand(["--profile", "mine.args"]) == [*words, *run]
    assert expand(["--x", "--profile", "mine.args", "--a", "2"]) == [*words, *run, "--x", "--a", "2"]
    assert expand(["--profile", "mine.args", "--logger.run_dir", "r"]) == [*words, "--logger.run_dir", "r"]
    assert expand(["--a", "1", "--logger.run_dir"]) == ["--a", "1", "--logger.run_dir"]
    (tmp_path / "folder").mkdir()
    write("folder/mine.args", "--profile mine.args --a 2")
    assert expand(["--profile", "folder/mine.args"])[:7] == [*words, "--a", "2"]
    given = ["--profile", "mine.args"]
    expand(given)
    assert given == ["--profile", "mine.args"]


def test_a_name_is_that_of_a_file_among_the_profiles(tmp_path, monkeypatch):
    assert profiles.find("tiny") == profiles.FOLDER / "tiny.args"
    assert Path(profiles.__file__).parents[3] / "examples" / "scripts" / "profiles" == profiles.FOLDER
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "folder.args").mkdir()
    for name in ("b", "a", "g", "e", "h"):
        write(f"profiles/{name}.args", "")
    write("profiles/c.txt", "")
    monkeypatch.setattr(profiles, "FOLDER", tmp_path / "profiles")
    for name in ("c", "c.txt", "a.args", "folder"):
        with pytest.raises(ProfileError) as caught:
            profiles.find(name)
        assert str(caught.value) == (
            f"--profile {name}: no such profile; there are: a, b, e, folder, g, h; or give the path of a .args file"
        )
    assert expand(["--profile", "a"]) == ["--logger.run_dir", f"runs/{NOW}-a"]


@pytest.mark.parametrize(
    ("gpus", "sizes"),
    [(None, "8 1 8"), ("1", "1 1 1"), ("7", "7 1 7"), ("8", "8 1 8"), ("16", "16 2 8"), ("24", "24 3 8")],
)
def test_sizes(gpus, sizes):
    write("mine.args", "${gpus} ${nodes} ${gpus_per_node}")
    assert expand(["--profile", "mine.args", *([] if gpus is None else ["--gpus", gpus])])[:3] == sizes.split()


@pytest.mark.parametrize("gpus", ["0", "9", "15", "17", "-8", "8.0", "²", "", "many"])
def test_sizes_that_are_no_machines(gpus):
    write("mine.args", "${gpus}")
    with pytest.raises(ProfileError, match=f"^--gpus {gpus}: expected 1 to 8, or a multiple of 8 for several machines"):
        expand(["--profile", "mine.args", "--gpus", gpus])


@pytest.mark.parametrize("variable", ["gpus", "nodes", "gpus_per_node"])
def test_a_size_is_for_profiles_that_have_one(variable):
    write("base.args", f"--a ${{{variable}}}")
    write("mine.args", "--profile base.args --b 1")
    assert expand(["--profile", "mine.args", "--gpus", "1"])[:2] == ["--a", "1"]
    write("base.args", f"--a ${variable} ${{package}}")
    remedy = "set --actor.num_gpus_per_node and --vllm.num_engines"
    with pytest.raises(ProfileError, match=f"^--gpus 1: the profile mine.args has a fixed size; {remedy}$"):
        expand(["--profile", "mine.args", "--gpus", "1"])
    with pytest.raises(ProfileError, match=f"^--gpus 1: gives a profile its size, and no profile is named; {remedy}$"):
        expand(["--gpus", "1"])


def test_places_of_this_machine_and_of_any(tmp_path):
    write("mine.args", "${package}/x ${demo}/y ${smollm2}/z $$")
    cache = tmp_path / "cache" / "lens_openrlhf"
    package = f"{profiles.PACKAGE}/x"
    assert expand(["--profile", "mine.args"])[:4] == [package, f"{cache}/demo/y", f"{cache}/smollm2/z", "$"]
    portable = expand(["--profile", "mine.args"], portable=True)
    assert portable[:4] == [package, "${demo}/y", "${smollm2}/z", "$"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("--a 'b", "No closing quotation"),
        ("--a ${nowhere}", "'nowhere'"),
        ("--a $", "Invalid placeholder in string: line 1, col 1"),
        ("--profile", None),
    ],
)
def test_a_profile_that_cannot_be_read_is_named(text, told):
    write("base.args", text)
    write("mine.args", "--profile base.args")
    with pytest.raises(ProfileError) as caught:
        expand(["--profile", "mine.args"])
    name = "mine.args" if text.startswith("--a $") else "base.args"
    cannot = f"--profile {name}: base.args: cannot be read ({told})"
    assert str(caught.value) == (cannot if told else "--profile: the name is missing")
    Path("base.args").write_bytes(b"\xff")
    with pytest.raises(ProfileError, match="^--profile base.args: base.args: cannot be read "):
        expand(["--profile", "base.args"])


@pytest.mark.parametrize("option", ["--profile", "--gpus"])
def test_an_option_without_its_value(option):
    with pytest.raises(
        ProfileError, match=f"^{option}: the {'name' if option == '--profile' else 'value'} is missing$"
    ):
        expand(["--a", option])


def test_profiles_that_name_each_other(tmp_path):
    write("a.args", "--profile b.args")
    write("b.args", "--profile c.args")
    write("c.args", "--profile b.args")
    with pytest.raises(ProfileError) as caught:
        expand(["--profile", "a.args"])
    assert str(caught.value) == ("--profile b.args: a.args names b.args names c.args names b.args, which has no end")


METHOD = "--algo.advantage.estimator"


def test_each_layer_is_weighed_against_the_method_that_is_chosen_last():
    """What was made for another method goes; what comes with the chosen one, or after it, stays."""
    write("base.args", f"{METHOD} lens --algo.lens.alpha 0.5 --actor.eps_clip_low_high 0.1 0.2 --train.seed 1")
    write("mine.args", f"--profile base.args\n{METHOD} ngrpo --actor.eps_clip=0.3 --train.seed 2")
    words = ["--profile", "mine.args", "--logger.run_dir", "r"]
    said: list[str] = []
    mine = [METHOD, "ngrpo", "--actor.eps_clip=0.3", "--train.seed", "2"]
    assert expand([*words, "--actor.eps_clip", "0.4"], say=said.append) == [
        *(METHOD, "lens", "--train.seed", "1", *mine, "--logger.run_dir", "r", "--actor.eps_clip", "0.4")
    ]
    assert said == ["with ngrpo the profile's --algo.lens.alpha 0.5 --actor.eps_clip_low_high 0.1 0.2 has no say"]
    said.clear()
    write("own.py", "def own(batch):\n    return batch.rewards\n")
    assert expand([*words, "--algo.lens.estimator_path", "own.py:own"], say=said.append)[:2] == [METHOD, "lens"]
    assert said == ["with own.py:own the profile's --algo.lens.alpha 0.5 has no say"]
    said.clear()
    lens = expand([*words, METHOD, "lens"], say=said.append)
    assert said == [] and lens[:4] == [METHOD, "lens", "--algo.lens.alpha", "0.5"] and mine[2] in lens


@pytest.fixture
def made(monkeypatch) -> list:
    """What is made, in place of the profiles' models."""
    found = []
    folders = {name: lambda folder, name=name: found.append((name, folder)) for name in profiles.FOLDERS}
    assert list(folders) == ["demo", "smollm2"]
    monkeypatch.setattr(profiles, "FOLDERS", folders)
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: None)
    return found


def test_what_the_words_name_is_made(tmp_path, made, monkeypatch):
    cache = tmp_path / "cache" / "lens_openrlhf"
    profiles.make(["--a", f"{cache}/other/x", f"{cache}/demo", "demo/x", f"{cache}/demo2/x"])
    assert made == []
    profiles.make(["--a", f"{cache}/demo/x/y", f"{cache}/demo/z"])
    assert made == [("demo", cache / "demo")]
    profiles.make([f"{cache}/smollm2/x", f"{cache}/demo/x"])
    assert made[1:] == [("demo", cache / "demo"), ("smollm2", cache / "smollm2")]
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: "nothing samples here")
    profiles.make(["--a"])
    with pytest.raises(ProfileError, match="^nothing samples here$"):
        profiles.make([f"{cache}/demo/x"])
    assert len(made) == 3


@pytest.mark.parametrize(("error", "told"), [(OSError(28, "No space left"), "No space left"), (OSError("odd"), "odd")])
def test_what_cannot_be_made(tmp_path, made, monkeypatch, error, told):
    def fail(folder):
        raise error

    monkeypatch.setitem(profiles.FOLDERS, "demo", fail)
    folder = tmp_path / "cache" / "lens_openrlhf" / "demo"
    with pytest.raises(ProfileError) as caught:
        profiles.make([f"{folder}/x"])
    assert str(caught.value) == (f"--profile: {folder} cannot be made ({told}); name a folder for it in XDG_CACHE_HOME")


def test_the_profiles_own_models(tmp_path, monkeypatch):
    """By the modules of that name, whose imports take seconds."""
    prepared = []
    demo = SimpleNamespace(prepare=lambda folder: prepared.append(("demo", folder)))
    smollm2 = SimpleNamespace(prepare=lambda folder: prepared.append(("smollm2", folder)), MissingPackage=LookupError)
    monkeypatch.setitem(sys.modules, "lens_openrlhf.demo", demo)
    monkeypatch.setitem(sys.modules, "lens_openrlhf.demo.smollm2", smollm2)
    for name, make in profiles.FOLDERS.items():
        make(tmp_path / name)
    assert prepared == [("demo", tmp_path / "demo"), ("smollm2", tmp_path / "smollm2")]

    def missing(folder):
        raise LookupError("give me a package")

    smollm2.prepare = missing
    with pytest.raises(ProfileError, match="^give me a package$"):
        profiles.FOLDERS["smollm2"](tmp_path)
