"""Options of an evaluation: their defaults, what each sets, and the limits of their values."""

from __future__ import annotations

import pytest

from lens_openrlhf.evaluation.options import parse
from lens_openrlhf.inputs import OptionError

NEEDED = ["m", "--data", "d.jsonl"]
DEFAULTS = {
    **{"model": "m", "data": "d.jsonl", "input_key": "prompt", "label_key": "label", "apply_chat_template": False},
    **{"prompt_template": None, "split_by": None, "max_prompts": None, "samples": 16, "k": None, "temperature": 1.0},
    **{"top_p": 1.0, "max_new_tokens": 4096, "seed": 0, "reward": "math-verify", "prompts_per_part": 64},
    **{"allow_remote_code": False, "tensor_parallel_size": 1, "gpu_memory_utilization": None, "out": None},
}
GIVEN = {
    **{"input_key": "question", "label_key": "gold", "apply_chat_template": True, "prompt_template": "Q: {}"},
    **{"split_by": ["level", "topic"], "max_prompts": 3, "samples": 5, "k": [1, 5], "temperature": 0.25, "top_p": 0.5},
    **{"max_new_tokens": 7, "seed": 8, "reward": "r.py", "prompts_per_part": 9, "allow_remote_code": True},
    **{"tensor_parallel_size": 2, "gpu_memory_utilization": 0.75, "out": "folder"},
}


def words(name: str, value: object) -> list[str]:
    return [f"--{name}", *([] if value is True else map(str, value) if isinstance(value, list) else [str(value)])]


def test_what_is_not_given_is_the_default():
    assert parse(NEEDED) == DEFAULTS


def test_every_option_sets_its_own_setting():
    assert parse([*NEEDED, *(word for name, value in GIVEN.items() for word in words(name, value))]) == DEFAULTS | GIVEN
    assert DEFAULTS.keys() == GIVEN.keys() | {"model", "data"}
    for name, value in GIVEN.items():
        assert parse([*NEEDED, *words(name, value)]) == DEFAULTS | {name: value}
    assert parse([*NEEDED, "-o", "x"])["out"] == "x" and parse([*NEEDED, "--split_by"])["split_by"] == []


def test_figures_computed_anew_need_nothing_more():
    assert parse(["--from", "x"]) == {"recompute": "x", "k": None, "split_by": None}
    given = ["--from", "x", "--k", "2", "--split_by", "level"]
    assert parse(given) == {"recompute": "x", "k": [2], "split_by": ["level"]}
    for more, named in ((["--samples", "3"], "--samples"), (["m"], "MODEL"), (["-o", "y"], "--out")):
        with pytest.raises(OptionError, match=f"^--from x: takes no {named}; it computes from answers that are there"):
            parse([*more, "--from", "x"])


def test_model_and_data_are_needed():
    with pytest.raises(OptionError, match="^MODEL is missing; see lens-openrlhf evaluate --help"):
        parse(["--data", "d"])
    with pytest.raises(OptionError, match="^--data is missing"):
        parse(["m"])


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        *((name, "1", "0") for name in ("samples", "max_new_tokens", "prompts_per_part", "tensor_parallel_size")),
        *(("max_prompts", "1", "0"), ("seed", "0", "-1"), ("temperature", "0.001", "-0.001")),
        *(("temperature", "1e300", "inf"), ("top_p", "1", "1.001"), ("top_p", "0.001", "0")),
        *(("gpu_memory_utilization", "1", "1.001"), ("gpu_memory_utilization", "0.001", "0")),
        *(("prompt_template", "{}", "{} {}"), ("prompt_template", "{x} {} {{", "{x}"), ("k", "16", "17")),
    ],
)
def test_values_have_bounds(name, good, bad):
    parse([*NEEDED, f"--{name}={good}"])
    with pytest.raises(OptionError, match=f"^--{name} "):
        parse([*NEEDED, f"--{name}={bad}"])


def test_without_chance_one_answer_is_all_there_is():
    assert parse([*NEEDED, "--temperature", "0", "--samples", "1"])["temperature"] == 0
    with pytest.raises(OptionError, match="^--temperature 0: all answers to a prompt would be .*; add --samples 1$"):
        parse([*NEEDED, "--temperature", "0", "--samples", "2"])


def test_the_help_tells_the_defaults(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for shown in (
        *("answers to a prompt (default: 16)", "column of the right answers (default: label)"),
        *("of sampling; 0 takes the likeliest token (default: 1.0)", "are the same (default: 0)"),
        *("take the first prompts only --split_by", "into the tokenizer's chat template --max_prompts"),
    ):
        assert shown in told
