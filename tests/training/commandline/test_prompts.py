"""Prompts and labels of a training run, checked before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from lens_openrlhf.demo.tokenizer import build_tokenizer
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.rewards import pool
from lens_openrlhf.training import command
from lens_openrlhf.training.commandline import options, profiles
from lens_openrlhf.training.commandline.prompt_data import _check_file, check_prompts

ROW = {"prompt": "1 + 1 =", "label": "2"}
CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'x' %}{{ raise_exception('no x') }}{% endif %}{{ m.content }}{% endfor %}"
)

pytestmark = pytest.mark.usefixtures("small_pool", "own_signals")


@pytest.fixture
def model(tmp_path, monkeypatch):
    """model(template) -> a model without weights, in whose folder the test stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(template=None) -> str:
        AutoConfig.for_model("qwen2", max_position_embeddings=64, num_attention_heads=2).save_pretrained("model")
        tokenizer = build_tokenizer(64)
        tokenizer.chat_template = template
        tokenizer.save_pretrained("model")
        return "model"

    return make


def words(model: str, rows: list[dict], *more: str) -> list[str]:
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [
        "--actor.model_name_or_path",
        model,
        "--data.prompt_dataset",
        "prompts.jsonl",
        "--data.input_key",
        "prompt",
    ]
    given += ["--data.label_key", "label", "--reward.remote_url", "math-verify", "--data.max_len", "64"]
    given += ["--algo.advantage.estimator", "lens", "--rollout.n_samples_per_prompt", "4", "--vllm.num_engines", "1"]
    return [*given, "--actor.num_gpus_per_node", "1", "--logger.run_dir", "run", *more]


def checked(model: str, rows: list[dict], *more: str) -> list[str]:
    return check_prompts(options.parse(words(model, rows, *more)))


@pytest.mark.parametrize(
    ("template", "rows", "more", "told"),
    [
        (
            TEMPLATE,
            [ROW, {**ROW, "prompt": CHAT}],
            [],
            "the 'prompt' of line 2 is a list; it must be text, or a list of messages with --data.apply_chat_template",
        ),
        (
            None,
            [ROW],
            ["--data.apply_chat_template"],
            "--data.apply_chat_template: the tokenizer of .* has no chat templ",
        ),
        (
            TEMPLATE,
            [ROW, {**ROW, "prompt": [{"role": "x", "content": "c"}]}],
            ["--data.apply_chat_template"],
            "chat template of .* does not take the 'prompt' of line 2 .*no x",
        ),
        (
            None,
            [ROW],
            ["--data.input_template", "{} Answer in \\boxed{}."],
            "--data.input_template .*is no template .*every other brace twice",
        ),
        (
            None,
            [ROW],
            ["--data.input_template", "Answer in \\boxed{{}}."],
            r"--data.input_template 'Answer .*holds the prompt 0 times; write \{\} once, .* as in \\boxed\{\{\}\}$",
        ),
        (None, [ROW], ["--data.input_template", "{0} {0} {{}}"], "holds the prompt 2 times"),
        (None, [ROW], ["--data.input_template", "{:.3} {{}}"], "holds the prompt 0 times"),
        (None, [ROW], ["--data.label_key", ""], r"--data.label_key is missing: .*jsonl \(there are: prompt, label\)"),
        (None, [{**ROW, "prompt": 5}], [], "the 'prompt' of line 1 is a int"),
        (None, [ROW, {**ROW, "label": ["3"]}], [], "1 of 2 labels .line 2.; the first: the label .'3'. is not text"),
    ],
)
def test_what_a_run_would_stumble_over(model, template, rows, more, told):
    with pytest.raises(OptionError, match=told) as refusal:
        checked(model(template), rows, *more)
    assert "\n" not in str(refusal.value)


def test_both_ways_say_so_before_anything_starts(model, capsys):
    model = model()
    for more in ([], ["--dry_run"]):
        status = command.main(words(model, [{**ROW, "prompt": CHAT}], *more))
        said = capsys.readouterr()
        assert status == (0 if more else 2), said
        assert "the 'prompt' of line 1 is a list" in " ".join((said.err + said.out).split())
    assert not Path("run").exists()


def test_chats_and_templates_that_work(model):
    name = model(TEMPLATE)
    assert checked(name, [ROW, {**ROW, "prompt": CHAT}], "--data.apply_chat_template") == []
    assert checked(name, [ROW], "--data.input_template", "{} Answer in \\boxed{{}}.") == []
    # OpenRLHF leaves the template out where there is a chat template.
    assert checked(name, [{**ROW, "prompt": CHAT}], "--data.apply_chat_template", "--data.input_template", "{}{}") == []


def without_label_key(given: list[str]) -> list[str]:
    at = given.index("--data.label_key")
    return given[:at] + given[at + 2 :]


@pytest.mark.parametrize("data", ["prompts.jsonl", "somebody/prompts"])
def test_math_verify_needs_labels(model, data):
    """OpenRLHF's default is none, and every label empty."""
    given = without_label_key(words(model(), [ROW], "--data.prompt_dataset", data))
    with pytest.raises(OptionError, match="--data.label_key is missing: .* name their column in .*" + data):
        check_prompts(options.parse(given))
    for name in ("reward.py", "agent.py"):
        Path(name).touch()
    for other in (["--reward.remote_url", "reward.py"], ["--train.agent_func_path", "agent.py"]):
        assert check_prompts(options.parse([*given, *other])) == []


@pytest.mark.parametrize("profile", sorted(profiles.FOLDER.glob("*.args")), ids=lambda path: path.stem)
def test_profiles_name_their_labels(profile):
    words = profiles.expand(["--profile", str(profile)])
    assert words[words.index("--data.label_key") + 1] == "label"


def test_a_few_bad_labels_are_told_and_more_are_refused(model):
    name = model()
    good = [ROW] * 400
    (warning,) = checked(name, [*good, {**ROW, "label": "???"}])
    assert "Math-Verify cannot grade by 1 of 401 labels (line 401); the first: " in warning and "'???'" in warning
    shown = f"`lens-openrlhf grade {Path('prompts.jsonl').absolute()} --label_key label` shows them"
    assert shown in warning
    with pytest.raises(OptionError, match="by 7 of 407 labels .line 401, line 402, .*and 2 more") as refusal:
        checked(name, [*good, *[{**ROW, "label": "???"}] * 7])
    assert shown in str(refusal.value) and "--reward.remote_url FILE.py" in str(refusal.value)
    # The rows that are not used are not looked at.
    assert checked(name, [*good, {"prompt": "no label"}], "--data.max_samples", "400") == []
    assert checked(name, [*good, *[{**ROW, "label": "???"}] * 7], "--data.max_samples", "400") == []
    Path("reward.py").touch()
    assert checked(name, [{**ROW, "label": "???"}], "--reward.remote_url", "reward.py") == []


def test_verdicts_are_kept_for_the_next_start(model, monkeypatch):
    name, rows = model(), [ROW, {**ROW, "label": r"\frac{1}{2}"}]
    assert checked(name, rows) == []
    monkeypatch.setattr(pool, "run_in_worker", lambda *_: pytest.fail("checked again"))
    _check_file.cache_clear()
    assert checked(name, rows) == []


@pytest.mark.parametrize("label", ["0.5", "5.0", "1e-10", "-3"])
def test_numbers_of_a_csv_are_labels(model, label):
    name = model()
    Path("prompts.csv").write_text(f"prompt,label\n1 + 1 =,2\n1 - 4 =,{label}\n")
    args = options.parse(words(name, [ROW], "--data.prompt_dataset", "prompts.csv"))
    assert check_prompts(args) == []
    Path("prompts.csv").write_text("prompt,label\n1 + 1 =,2\n1 - 4 =,\n")
    with pytest.raises(OptionError, match="row 2 has no 'label'"):
        check_prompts(args)
