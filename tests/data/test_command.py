"""The command: what the sets hold, that they are the same every time, and what it refuses before any work."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet as pq
import pytest

from lens_openrlhf import process
from lens_openrlhf.data import command, labels
from lens_openrlhf.data.problems import KINDS, Problem
from lens_openrlhf.data.sources import open_source
from lens_openrlhf.evaluation import prompts
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.rewards import label_check, verify_answer

pytestmark = pytest.mark.usefixtures("small_pool", "own_signals")
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def run(capsys, *words) -> str:
    assert command.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def refused(capsys, words, *expected: str, status: int = 2) -> None:
    assert command.main([str(word) for word in words]) == status
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    for text in expected:
        assert text in message


def with_dapo(sources, out, *more) -> list:
    return ["math+dapo", "--math", sources.math, "--dapo", sources.dapo, "--out", out, *more]


def with_numina(sources, out, *more) -> list:
    return ["math+numina", "--math", sources.math, "--numina", sources.numina, "--out", out, *more]


def read(path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def test_math_and_dapo(capsys, tmp_path, sources):
    out = tmp_path / "new/folder/set"
    said = run(capsys, *with_dapo(sources, out, "--math500", sources.math500))
    train, test, math500 = (read(out / f"{name}.parquet") for name in ("train", "test", "math500"))

    expected = {f"Train: what is ${n} + {n}$?": str(2 * n) for n in range(9)}
    expected |= {f"Let $d = {n}$. Find $2d$.": str(2 * n) for n in range(8)}
    assert {row["prompt"].removesuffix(INSTRUCTION): row["label"] for row in train} == expected
    assert all(row["prompt"].endswith(INSTRUCTION) for row in [*train, *test, *math500])
    assert list(train[0]) == ["prompt", "label", "source", "level"]
    assert sorted({(row["source"], row["level"]) for row in train if row["source"] == "DAPO"}) == [("DAPO", None)]
    assert {row["level"] for row in train if row["source"] == "MATH"} == {1, 2, 3, 4, 5}
    assert [row["source"] for row in train] != sorted(row["source"] for row in train)

    assert {(row["label"], row["level"], row["type"]) for row in test} == {
        *((str(n * n), 1 + n % 5, "Number Theory") for n in range(6)),
        (r"\frac{1}{2}", None, "Algebra"),
    }
    assert {row["label"] for row in math500} == {"0", "1", "4"}

    manifest = json.loads((out / "manifest.json").read_text())
    counts = manifest["counts"]
    assert counts["MATH train"] == {
        "rows": 12,
        "dropped": {"a duplicate": 1, "also in MATH test": 1, label_check.UNREADABLE: 1},
        "left": 9,
        "used": 9,
    }
    assert counts["DAPO"] == {
        "rows": 30,
        "dropped": {"a duplicate": 20, "also in MATH test": 1, "also in MATH train": 1},
        "left": 8,
        "used": 8,
    }
    assert counts["MATH test"] == {"rows": 8, "dropped": {label_check.UNREADABLE: 1}, "left": 7, "used": 7}
    assert counts["MATH-500"]["used"] == 3
    for one in counts.values():
        assert one["rows"] == sum(one["dropped"].values()) + one["left"]
    assert manifest["bad_labels"] == {label_check.UNREADABLE: ["%", "???"]}
    assert manifest["files"] == {
        f"{name}.parquet": {
            "rows": len(found),
            "sha256": hashlib.sha256((out / f"{name}.parquet").read_bytes()).hexdigest(),
        }
        for name, found in (("train", train), ("test", test), ("math500", math500))
    }
    assert manifest["sources"]["dapo"]["origin"] == str(sources.dapo)

    assert "note: DAPO: the paper takes 17,500 problems, but only 8 are left; all are used" in said
    assert "note: MATH train has 12 rows here; the paper's has 7,500" in said
    assert "note: MATH test: 1 of 8 problems are left out, as Math-Verify cannot grade their answers" in said
    (line,) = [line for line in said.splitlines() if line.startswith("- also in MATH test")]
    assert line.split()[-2:] == ["1", "1"]


def test_math_and_numina(capsys, tmp_path, sources):
    out = tmp_path / "set"
    run(capsys, *with_numina(sources, out, "--template", "Q: {problem} A:"))
    rows = [row for row in read(out / "train.parquet") if row["source"] == "NuminaMath-1.5"]
    assert {row["prompt"]: row["label"] for row in rows} == {
        f"Q: Numina: simplify $\\frac{{{2 * n}}}{{4}}$. A:": f"\\frac{{{n}}}{{2}}" for n in range(1, 6)
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"]["NuminaMath-1.5"] == {
        "rows": 13,
        "dropped": {
            "a proof": 1,
            "no answer": 2,
            "problem not marked valid": 1,
            "solution not marked valid": 1,
            "also in MATH train": 1,
            "also in MATH test": 1,
            label_check.SLOW: 1,
        },
        "left": 5,
        "used": 5,
    }
    assert manifest["bad_labels"][label_check.SLOW] == ["9^{9^{9^9}}"]


def test_every_label_is_right_as_its_own_answer_and_evaluate_takes_the_file(capsys, tmp_path, sources):
    run(capsys, *with_numina(sources, tmp_path / "set"))
    for name in ("train", "test"):
        data = str(tmp_path / "set" / f"{name}.parquet")
        rows, _ = prompts.load(data, None, {"prompt": "--input_key", "label": "--label_key"})
        prompts.check_labels(data, rows, "label")
        for row in rows:
            assert verify_answer(rf"\boxed{{{row.values['label']}}}", row.values["label"]).correct
    assert prompts.split_columns(rows, None, ()) == ["level", "source", "type"]


def test_same_inputs_give_the_same_bytes_and_seeds_differ_in_the_training_set_alone(capsys, tmp_path, sources):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(capsys, *with_dapo(sources, tmp_path / name, "--seed", seed, "--dapo_problems", 4))
    a, b, c = ({f.name: f.read_bytes() for f in (tmp_path / name).glob("*.parquet")} for name in "abc")
    assert a == b and a["test.parquet"] == c["test.parquet"]
    taken = [
        {row["prompt"] for row in read(tmp_path / name / "train.parquet") if row["source"] == "DAPO"} for name in "ac"
    ]
    assert len(taken[0]) == len(taken[1]) == 4 and taken[0] != taken[1]


def test_a_set_that_is_there_is_kept_and_another_one_replaces_it_only_if_told(capsys, tmp_path, sources):
    out = tmp_path / "set"
    made = run(capsys, *with_dapo(sources, out))
    before = os.stat(out / "train.parquet").st_mtime_ns
    again = run(capsys, *with_dapo(sources, out))
    assert "nothing to do" in again and again.splitlines()[0] in made
    assert os.stat(out / "train.parquet").st_mtime_ns == before

    refused(capsys, with_dapo(sources, out, "--seed", 1), "made with seed 0 and now it is 1", "--overwrite")
    other = with_dapo(sources, out)
    other[other.index(sources.dapo)] = tmp_path / "d.jsonl"
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": "p", "reward_model": {"ground_truth": "1"}}) + "\n")
    refused(capsys, other, "made with dapo other data than now", "--overwrite")
    assert os.stat(out / "train.parquet").st_mtime_ns == before

    with open(out / "test.parquet", "ab") as file:
        file.write(b"more")
    refused(capsys, with_dapo(sources, out), "test.parquet is not what manifest.json says", "--overwrite")
    run(capsys, *with_dapo(sources, out, "--overwrite", "--seed", 1))
    assert json.loads((out / "manifest.json").read_text())["inputs"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    (out / "notes.txt").write_text("mine")
    refused(capsys, with_dapo(sources, out, "--overwrite"), "notes.txt")
    assert (out / "notes.txt").exists()


def test_an_interrupted_build_leaves_no_set_and_goes_on(capsys, tmp_path, sources, monkeypatch):
    checked = []
    real = labels.as_found

    def interrupted(find, todo):
        for number, verdict in enumerate(real(find, todo)):
            if number == 4:
                raise KeyboardInterrupt
            checked.append(verdict[0])
            yield verdict

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(labels, "as_found", interrupted)
        assert command.main([str(word) for word in with_dapo(sources, tmp_path / "set")]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]

    def rest(find, todo):
        todo = list(todo)
        assert len(checked) == 4 and not set(todo) & set(checked)
        return real(find, todo)

    monkeypatch.setattr(labels, "as_found", rest)
    run(capsys, *with_dapo(sources, tmp_path / "set"))


def test_what_cannot_work_is_refused_before_any_label_is_checked(capsys, tmp_path, sources, monkeypatch):
    monkeypatch.setattr(labels, "check", lambda *_: pytest.fail("too late"))
    out = tmp_path / "set"
    refused(capsys, ["math+aime"], "math+aime", "math+dapo", "math+numina")
    refused(capsys, [], "RECIPE")
    refused(capsys, with_dapo(sources, out, "--seed", -1), "--seed -1")
    refused(capsys, with_dapo(sources, out, "--seed", "x"), "--seed", "x")
    refused(capsys, with_dapo(sources, out, "--template", "no place"), "--template", "{problem}", "once")
    refused(capsys, with_dapo(sources, out, "--dapo_problems", 0), "--dapo_problems 0")
    refused(capsys, with_dapo(sources, out, "--dapo_problems", 9), "--dapo_problems 9: only 8 are left")
    refused(capsys, with_numina(sources, out, "--dapo_problems", 9), "--dapo_problems 9", "math+numina")
    refused(capsys, with_numina(sources, out, "--dapo", sources.dapo), "--dapo", "math+numina")
    refused(capsys, with_dapo(sources, out, "--revision", "main"), "--revision main", "dapo=REVISION")
    refused(capsys, with_dapo(sources, out, "--revision", "numina=main"), "--revision numina=main", "math=REVISION")
    refused(capsys, [*with_dapo(sources, out)[:-1], sources.dapo], "--out", "is no folder")
    refused(capsys, [*with_dapo(sources, out)[:-1], sources.dapo / "set"], "--out", "cannot be written")
    refused(capsys, [*with_dapo(sources, out)[:-1], sources.math], "--out", "holds no set")
    monkeypatch.setenv("LENS_VERIFIER_TIMEOUT", "soon")
    refused(capsys, with_dapo(sources, out), "LENS_VERIFIER_TIMEOUT='soon'")
    assert not out.exists()


def parsed(*words: str) -> dict:
    return vars(command.parse(words))


def test_options_that_nobody_gave():
    assert parsed("math+dapo") == {
        "recipe": "math+dapo",
        "out": Path("data/math+dapo"),
        "overwrite": False,
        "seed": 0,
        "dapo_problems": None,
        "template": "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}.",
        **dict.fromkeys(("math", "dapo", "numina", "math500")),
        "revision": [],
        "command": ["math+dapo"],
        "sources": {"math": None, "dapo": None},
        "revisions": {},
    }
    numina = parsed("math+numina", "--math500", "-o", "x", "--overwrite")
    assert numina["sources"] == {"math": None, "numina": None, "math500": None}
    assert (numina["out"], numina["overwrite"]) == (Path("x"), True)


def test_options_that_were_given():
    words = "math+dapo --math m --dapo d.parquet --math500 a/b --seed 7 --dapo_problems 1 --template x{problem}y"
    found = parsed(*words.split(), "--revision", "math=main", "dapo=a=b")
    assert found["sources"] == {"math": "m", "dapo": "d.parquet", "math500": "a/b"}
    assert list(found["sources"]) == ["math", "dapo", "math500"]
    assert found["revisions"] == {"math": "main", "dapo": "a=b"}
    assert (found["seed"], found["dapo_problems"], found["template"]) == (7, 1, "x{problem}y")
    assert found["command"] == [*words.split(), "--revision", "math=main", "dapo=a=b"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("math+dapo --seed -1", "--seed -1: a seed is 0 or more"),
        ("math+dapo --dapo_problems 0", "--dapo_problems 0: at least 1 is needed"),
        ("math+numina --dapo_problems 5", "--dapo_problems 5: the recipe math+numina takes none"),
        ("math+numina --dapo d", "--dapo d: the recipe math+numina takes nothing of it"),
        ("math+dapo --numina n", "--numina n: the recipe math+dapo takes nothing of it"),
        ("math+dapo --revision math", "--revision math: expected one of math=REVISION, dapo=REVISION"),
        ("math+dapo --revision math=", "--revision math=: expected one of math=REVISION, dapo=REVISION"),
        (
            "math+numina --math500 --revision dapo=x",
            "--revision dapo=x: expected one of math=REVISION, numina=REVISION, math500=REVISION",
        ),
        (
            "math+dapo --template {problem}{problem}",
            "--template '{problem}{problem}': must hold {problem}, the place of the problem, exactly once",
        ),
        ("math+dapo --template x", "--template 'x': must hold {problem}, the place of the problem, exactly once"),
    ],
)
def test_options_that_cannot_work(words, told):
    with pytest.raises(OptionError) as refusal:
        parsed(*words.split())
    assert str(refusal.value) == told


def counts(rows: int, left: int, used: int, **dropped: int) -> dict:
    dropped = {name.replace("_", " "): number for name, number in dropped.items()}
    return {"rows": rows, "dropped": dropped, "left": left, "used": used}


def test_the_summary(tmp_path):
    """Reasons in their order: of the row, then of other sets, then of labels; no zeros; numbers under one another."""
    manifest = {
        "counts": {
            "MATH test": counts(8, 7, 7, a_label_that_is_odd=1),
            "A": counts(
                12_000, 1_000, 999, also_in_MATH_test=1_234, no_answer=5, a_label_that_is_odd=0, a_duplicate=20
            ),
        },
        "notes": ["one", "two"],
        "files": {"train.parquet": {"rows": 1_006, "sha256": "0123456789abcdef0123"}},
    }
    assert command.summary(tmp_path, manifest).splitlines() == [
        "                       MATH test       A",
        "rows                           8  12,000",
        "- no answer                            5",
        "- also in MATH test                1,234",
        "- a duplicate                         20",
        "- a label that is odd          1",
        "left                           7   1,000",
        "used                           7     999",
        "",
        "note: one",
        "note: two",
        f"{tmp_path}/train.parquet: 1,006 rows, sha256 0123456789abcdef…",
        f"{tmp_path}/manifest.json: how they were made",
    ]


@pytest.mark.parametrize("is_test", [False, True])
def test_a_file(is_test, tmp_path):
    problems = [Problem(f"p {n}", str(n), "S", n % 3 or None, "T" if n else "") for n in range(10_001)]
    path = tmp_path / "x.parquet"
    told = command.write(path, problems, "a {problem} b", is_test)
    assert told == {"rows": 10_001, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    found = pq.ParquetFile(path)
    names = {"prompt": "string", "label": "string", "source": "string", "level": "int32", "type": "string"}
    if not is_test:
        del names["type"]
    assert {field.name: str(field.type) for field in found.schema_arrow} == names
    groups = [found.metadata.row_group(number) for number in range(found.num_row_groups)]
    assert [group.num_rows for group in groups] == [10_000, 1] and groups[0].column(0).compression == "ZSTD"
    expected = [
        {"prompt": f"a p {n} b", "label": str(n), "source": "S", "level": n % 3 or None, "type": "T" if n else None}
        for n in range(10_001)
    ]
    assert read(path) == [{name: row[name] for name in names} for row in expected]


def test_the_manifest(capsys, tmp_path, sources, monkeypatch):
    monkeypatch.setattr(process, "git_commit", lambda: "a" * 40)
    monkeypatch.setattr(process, "versions", lambda: {"python": "3"})
    words = [str(word) for word in with_dapo(sources, tmp_path / "set", "--seed", 5, "--dapo_problems", 2)]
    run(capsys, *words)
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    opened = {
        name: open_source(name, str(getattr(sources, name)), None, command.SPLITS[name]) for name in ("math", "dapo")
    }
    assert list(manifest) == [
        *("command", "inputs", "sources", "counts", "bad_labels", "notes", "files", "versions", "git_commit"),
    ]
    assert manifest["command"] == words
    assert manifest["inputs"] == {
        "recipe": "math+dapo",
        "seed": 5,
        "dapo_problems": 2,
        "template": command.TEMPLATE,
        **{name: source.fingerprint() for name, source in opened.items()},
        **labels.versions(),
        "pyarrow": pyarrow.__version__,
    }
    assert manifest["sources"] == {name: source.record() for name, source in opened.items()}
    assert (manifest["versions"], manifest["git_commit"]) == ({"python": "3"}, "a" * 40)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        *("manifest.json", "test.parquet", "train.parquet"),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is not empty and holds no set of this command; name another folder"),
        ("{", "manifest.json is not the manifest of a set (JSONDecodeError("),
        ("{}", "manifest.json is not the manifest of a set (KeyError('files'))"),
        ("5", "manifest.json is not the manifest of a set (TypeError("),
        ('{"files": {}}', "manifest.json is not the manifest of a set (KeyError('inputs'))"),
        ('{"files": {}, "inputs": {}}', "manifest.json is not the manifest of a set (KeyError('counts'))"),
        ('{"files": {}, "inputs": {}, "counts": {}}', "manifest.json is not the manifest of a set (KeyError('notes'))"),
        (
            '{"files": {}, "inputs": {}, "counts": {}, "notes": []}',
            "holds a.parquet, which is not of this command; move it, or name another folder",
        ),
    ],
)
def test_folders_that_hold_no_set(content, told, tmp_path):
    (tmp_path / "b.parquet").touch()
    (tmp_path / "a.parquet").touch()
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(OptionError) as refusal:
        command.read_manifest(tmp_path)
    assert str(refusal.value).startswith(f"--out {tmp_path}: {told}")


def test_folders_that_hold_nothing_or_a_set(tmp_path):
    assert command.read_manifest(tmp_path / "absent") is None and command.read_manifest(tmp_path) is None
    manifest = {"files": {"a.parquet": {}}, "inputs": {}, "counts": {}, "notes": []}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "a.parquet").touch()
    assert command.read_manifest(tmp_path) == manifest
    with pytest.raises(OptionError) as refusal:
        command.read_manifest(tmp_path / "a.parquet")
    assert str(refusal.value) == f"--out {tmp_path}/a.parquet: is no folder; name another one"


REMEDY = "name another folder with --out, or replace it with --overwrite"


@pytest.mark.parametrize(
    ("there", "now", "told"),
    [
        ({"seed": 1, "x": "a"}, {"seed": 1, "x": "b"}, "made with x 'a' and now it is 'b'"),
        ({"n": None}, {"n": 3}, "made with n None and now it is 3"),
        ({"n": 3}, {"n": None}, "made with n 3 and now it is None"),
        ({"math": {"train": ["a"]}}, {"math": {"train": ["b"]}}, "made with math other data than now"),
        ({"gone": "a"}, {}, "made with gone 'a' and now it is None"),
        ({}, {"new": "a"}, "made with new None and now it is 'a'"),
    ],
)
def test_a_set_that_was_made_otherwise(there, now, told, tmp_path):
    with pytest.raises(OptionError) as refusal:
        command._check_same(tmp_path, {"inputs": there, "files": {}}, now)
    assert str(refusal.value) == f"--out {tmp_path}: holds a set that was {told}; {REMEDY}"


def test_a_set_whose_files_are_not_what_they_were(tmp_path):
    (tmp_path / "a").write_text("a")
    digest = hashlib.sha256(b"a").hexdigest()
    command._check_same(tmp_path, {"inputs": {"x": 1}, "files": {"a": {"sha256": digest}}}, {"x": 1})
    for files in ({"a": {"sha256": "0"}}, {"a": {"sha256": digest}, "absent": {"sha256": digest}}):
        with pytest.raises(OptionError) as refusal:
            command._check_same(tmp_path, {"inputs": {}, "files": files}, {})
        assert (
            str(refusal.value) == f"--out {tmp_path}: {[*files][-1]} is not what manifest.json says (sha256); {REMEDY}"
        )


@pytest.mark.parametrize(("cpus", "given", "workers"), [(3, None, "3"), (40, None, "8"), (3, "2", "2")])
def test_all_cores_check_labels(cpus, given, workers, monkeypatch, capsys):
    monkeypatch.setenv("LENS_VERIFIER_WORKERS", given or "")
    if given is None:
        monkeypatch.delenv("LENS_VERIFIER_WORKERS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cpus) if process == 0 else None)
    monkeypatch.setattr(command, "make", lambda arguments: f"made {arguments.seed} \udcff")
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))
        assert command.main(["math+dapo", "--seed", "3"]) == 0
        assert os.environ["LENS_VERIFIER_WORKERS"] == workers
    assert capsys.readouterr().out.startswith("made 3 ")


def test_nothing_left_says_why(capsys, tmp_path, sources):
    bad = tmp_path / "dapo.jsonl"
    bad.write_text(json.dumps({"prompt": "Train: what is 1+1?", "reward_model": {"ground_truth": "2"}}) + "\n")
    words = ["math+dapo", "--math", sources.math, "--dapo", bad, "--out", tmp_path / "set"]
    refused(capsys, words, "DAPO: nothing is left of 1 rows: 1 also in MATH train")


def test_help_names_the_recipes_and_where_the_sources_are(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    shown = capsys.readouterr().out
    for text in (*command.RECIPES, *(kind.hub for kind in KINDS.values())):
        assert text in shown
