"""The paper's figures, and how they lie beside measured ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lens_openrlhf import cpu_runtime
from lens_openrlhf.experiments import paper, spec, tables
from lens_openrlhf.experiments.compare import main
from lens_openrlhf.experiments.runs import arm_options
from lens_openrlhf.experiments.spec import SpecError

from ..e2e.conftest import ROOT
from .folders import write_comparison

TABLE = "table 1, Qwen-2.5-3B-Base"
RECIPES = sorted((ROOT / "examples" / "compare").glob("table?_*b.yaml"))


def test_the_figures_are_consistent_with_what_the_paper_says_of_them():
    """Pass@k grows with k, LENS beats GRPO everywhere, and tables 2 and 3 share Llama's runs."""
    for name in paper.names():
        arms = paper.pass_at_k(name)
        for row in arms.values():
            values = list(row.values())
            assert values == sorted(values) and all(0.5 < value < 0.9 for value in values)
        assert all(arms["LENS"][k] > arms["GRPO"][k] for k in arms["GRPO"])
    two, three = (paper.pass_at_k(f"table {n}, Llama-3.1-8B-Instruct") for n in (2, 3))
    assert two["GRPO"] == three["GRPO"] and two["LENS"] == three["LENS"]
    assert paper.pass_at_k(TABLE)["LENS"] == {"1": 0.6859, "2": 0.7479, "4": 0.7933, "8": 0.8262, "16": 0.8444}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_arms_are_the_papers(path):
    wanted = spec.read(path)
    assert set(wanted.arms) == set(paper.pass_at_k(wanted.paper))
    runs = "two runs" if len(wanted.seeds) == 2 else "one run"
    data = "math+numina" if "Numina" in paper.setting(wanted.paper) else "math+dapo"
    assert runs in paper.setting(wanted.paper)
    for options in arm_options(wanted).values():
        assert options["data.prompt_dataset"] == [f"data/{data}/train.parquet"]


def test_there_is_a_recipe_for_every_table():
    assert {spec.read(path).paper for path in RECIPES} == set(paper.names())


def test_measured_figures_lie_beside_the_papers(tmp_path):
    right = {"GRPO": 5, "LENS": 7}
    runs = {
        arm: {seed: {"scores": [[1.0, 0.0]] * right[arm] + [[0.0, 0.0]] * (8 - right[arm])} for seed in (1, 2)}
        for arm in right
    }
    folder = write_comparison(tmp_path / "comparison", runs, profile="qwen2.5-3b", paper=TABLE, k=[1, 2])
    shown = tables.show(tables.compute(folder)).splitlines()
    at = shown.index(f"the paper's {TABLE}: MATH + DAPO, mean of two runs (section 6)")
    rows = [line.split() for line in shown[at + 1 : at + 11]]
    assert rows[0] == ["Pass@1", "Pass@2"]
    assert rows[1] == ["GRPO"] and rows[2] == ["the", "paper", "0.671", "0.729"]
    assert rows[3] == ["here", "0.312", "±", "0.000", "0.625", "±", "0.000"]  # 5 of 8 prompts, each half the time
    assert rows[4] == ["LENS"] and rows[5] == ["the", "paper", "0.686", "0.748"]
    assert rows[7] == ["LENS", "less", "GRPO"] and rows[8] == ["the", "paper", "+0.015", "+0.019"]
    assert rows[9][:3] == ["here", "+0.125", "±"]
    assert max(map(len, shown)) <= tables.WIDTH


def test_arms_and_ks_that_the_paper_has_not_are_left_out_beside_it(tmp_path):
    """Here the first arm is not the paper's, and the paper's own baseline is no baseline: no differences are shown."""
    runs = {arm: {1: {"scores": [[1, 0, 0]]}} for arm in ("mine", "LENS", "GRPO")}
    folder = write_comparison(tmp_path / "comparison", runs, profile="qwen2.5-3b", paper=TABLE, k=[1, 2, 3])
    results = tables.compute(folder)
    theirs = {
        "GRPO": {"1": 0.6706, "2": 0.7286, "4": 0.7712, "8": 0.8083, "16": 0.8267},
        "LENS": {"1": 0.6859, "2": 0.7479, "4": 0.7933, "8": 0.8262, "16": 0.8444},
    }
    assert {arm: results["paper"]["pass_at_k"][arm] for arm in theirs} == theirs
    assert (results["paper"]["table"], results["paper"]["setting"]) == (TABLE, paper.setting(TABLE))
    shown = tables.show(results).splitlines()
    at = shown.index(f"the paper's {TABLE}: {paper.setting(TABLE)}")
    assert shown[at - 1 : at + 9] == [
        "",
        f"the paper's {TABLE}: MATH + DAPO, mean of two runs (section 6)",
        "                          Pass@1           Pass@2",
        "LENS",
        "  the paper                0.686            0.748",
        "  here                     0.333            0.667",
        "GRPO",
        "  the paper                0.671            0.729",
        "  here                     0.333            0.667",
        "",
    ]


def test_a_comparison_without_a_table_of_the_paper_has_none(tmp_path):
    folder = write_comparison(tmp_path / "comparison", {"GRPO": {1: {"scores": [[1.0, 0.0]]}}})
    assert "the paper" not in tables.show(tables.compute(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"paper": "table 9"}, ["paper is 'table 9'", "table 3, Qwen-2.5-3B-Base"]),
        ({"paper": TABLE, "arms": {"mine": {}}}, ["none of the arms", "GRPO, LENS"]),
        ({"gpus": 0}, ["gpus is 0", "at least 1"]),
        ({"gpus": 4}, ["gpus gives a profile its size", "actor.num_gpus_per_node"]),
        ({"gpus": 12, "profile": "qwen2.5-3b"}, ["--gpus 12", "multiple of 8"]),
        ({"gpus": 2, "profile": "tiny"}, ["the profile tiny has a fixed size"]),
    ],
)
def test_what_a_spec_cannot_ask_for(content, write, change, words):
    with pytest.raises(SpecError) as caught:
        arm_options(spec.read(write(content | change)))
    for word in words:
        assert word in str(caught.value)


def test_one_number_sizes_a_comparison():
    wanted = replace(spec.read(RECIPES[0]), gpus=4)
    assert {tuple(options["vllm.num_engines"]) for options in arm_options(wanted).values()} == {("4",)}


@pytest.mark.skipif(not cpu_runtime.required(), reason="this machine has CUDA")
def test_without_cuda_a_recipe_is_described_and_refused_in_time(tmp_path, capsys):
    """A dry run shows what would be run elsewhere; a real one ends before anything is made."""
    words = [str(ROOT / "examples" / "compare" / "table1_qwen2.5-3b.yaml"), "--gpus", "4", "-o", str(tmp_path / "out")]
    for more in ([], ["--dry_run"]):
        assert main([*words, *more]) == 2
        shown = capsys.readouterr()
        assert "arm 'GRPO', seed 1: --vllm.enable_sleep" in shown.err and "this machine has none" in shown.err
        assert ("--vllm.num_engines 4" in shown.out) == bool(more)
    assert "table1_qwen2.5-3b: 2 arms on 2 seeds, 4 runs" in shown.out
    assert not (tmp_path / "out").exists()
