import itertools
import json
import random
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lens_openrlhf.demo import __main__ as demo_main
from lens_openrlhf.demo import build, prepare, warm_start
from lens_openrlhf.demo.__main__ import main
from lens_openrlhf.demo.tasks import Question, demonstrate, iter_questions, level, make_habits
from lens_openrlhf.demo.tokenizer import build_tokenizer
from lens_openrlhf.demo.warm_start import WarmStart

SHORT = WarmStart(hidden_size=64, layers=1, heads=2, key_value_heads=1, intermediate_size=64, steps=3)


def prepare_short(out, **changes):
    return prepare(out, **({"train_prompts": 20, "heldout_prompts": 10, "warm_start": SHORT} | changes))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_short(tmp_path_factory.mktemp("demo"))


def weights(paths):
    return AutoModelForCausalLM.from_pretrained(paths.model).state_dict()


def test_question_files_have_the_keys_that_openrlhf_reads(prepared):
    for path, count in ((prepared.train, 20), (prepared.heldout, 10)):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(rows) == count
        assert all(set(row) == {"prompt", "label", "datasource", "level"} for row in rows)
        assert all(row["label"] == str(int(row["label"])) and row["level"] in range(1, 6) for row in rows)


@pytest.mark.parametrize("heldout", [False, True])
def test_labels_agree_with_python_and_no_question_comes_twice(heldout):
    rows = build.make_rows(200, heldout=heldout, seed=3)
    assert [row["label"] for row in rows] == [str(eval(row["prompt"].removesuffix("="))) for row in rows]
    assert len({row["prompt"] for row in rows}) == 200


def test_levels_and_skills_come_in_equal_shares():
    rows = build.make_rows(40, heldout=False, seed=0)
    kinds = Counter((row["level"], row["datasource"]) for row in rows)
    assert len(kinds) == 10
    assert set(kinds.values()) == {4}


def test_train_and_heldout_operands_are_disjoint_even_across_seeds_and_skills():
    def operands(seed, heldout):
        rows = build.make_rows(300, heldout=heldout, seed=seed)
        return {frozenset(row["prompt"].split()[:3:2]) for row in rows}

    train = operands(0, False) | operands(1, False)
    assert train.isdisjoint(operands(0, True) | operands(1, True))


def test_rows_follow_the_seed():
    assert build.make_rows(20, heldout=False, seed=1) == build.make_rows(20, heldout=False, seed=1)
    assert build.make_rows(20, heldout=False, seed=1) != build.make_rows(20, heldout=False, seed=2)
    assert build.make_rows(20, heldout=False, seed=1) == build.make_rows(30, heldout=False, seed=1)[:20]


def test_saved_model_reloads_with_the_same_logits(tmp_path, monkeypatch):
    trained = []
    original = warm_start._fit

    def fit(model, *rest):
        original(model, *rest)
        trained.append(model)

    monkeypatch.setattr(warm_start, "_fit", fit)
    paths = prepare_short(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(paths.model)
    reloaded = AutoModelForCausalLM.from_pretrained(paths.model)
    tokens = tokenizer("147 + 238 =", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(reloaded(tokens).logits, trained[0](tokens).logits, rtol=0, atol=0)
    assert reloaded.generation_config.eos_token_id == tokenizer.eos_token_id
    assert reloaded.config.vocab_size == len(tokenizer)


def test_tokenizer_loaded_beside_the_model_is_the_one_trained_with(prepared):
    # AutoTokenizer picks the class by the model's type, so the model's config has to lie beside the tokenizer.
    tokenizer, reloaded = build_tokenizer(256), AutoTokenizer.from_pretrained(prepared.model)
    text = " 7+8=15 \\boxed{385}\n  two  spaces, it's 12345 = aB"
    assert reloaded.encode(text) == tokenizer.encode(text)
    assert len(reloaded.encode(text)) == len(text)
    assert reloaded.decode(reloaded.encode(text)) == text
    assert reloaded.get_vocab() == tokenizer.get_vocab()
    assert (reloaded.eos_token_id, reloaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_warm_start_is_decided_by_the_seed(prepared, tmp_path):
    again, other = prepare_short(tmp_path / "a"), prepare_short(tmp_path / "b", seed=1)
    torch.testing.assert_close(weights(again), weights(prepared), rtol=0, atol=0)
    assert any((a != b).any() for a, b in zip(weights(other).values(), weights(prepared).values(), strict=True))


def test_second_call_keeps_the_model_and_changed_settings_do_not(tmp_path, monkeypatch):
    calls = []
    original = build.train
    monkeypatch.setattr(build, "train", lambda *args, **kw: (calls.append(args), original(*args, **kw)))
    prepare_short(tmp_path)
    prepare_short(tmp_path, train_prompts=30)
    assert len(calls) == 1
    prepare_short(tmp_path, seed=1)
    assert len(calls) == 2
    # Of two that come at once, one trains.
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda _: prepare_short(tmp_path / "shared"), range(2))
    assert len(calls) == 3 and first == second and weights(first)


def test_interrupted_warm_start_leaves_no_model(tmp_path, monkeypatch):
    def interrupted(out, settings, *, seed):
        (out / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_short(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "heldout.jsonl", "train.jsonl"]
    assert prepare_short(tmp_path).model.is_dir()


def test_the_callers_random_state_and_threads_are_left_alone(tmp_path):
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    prepare_short(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["demo", "--out", str(tmp_path), "--train-prompts", "4"])
    monkeypatch.setattr(build, "WarmStart", lambda: SHORT)
    main()
    assert str(tmp_path / "heldout.jsonl") in capsys.readouterr().out
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 4


def test_the_model_of_the_profile():
    assert asdict(WarmStart()) == {
        **{"hidden_size": 256, "layers": 2, "heads": 4, "key_value_heads": 2, "intermediate_size": 768},
        **{"steps": 1500, "batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 50, "threads": 2},
    }
    tokenizer = build_tokenizer(warm_start.MAX_LENGTH)
    model = warm_start.build_model(WarmStart(), tokenizer)
    config = model.config
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (
        98,
        256,
        2,
        768,
    )
    assert (config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings) == (4, 2, 256)
    assert config.tie_word_embeddings and config.bos_token_id is None
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0)
    own = model.generation_config
    assert own.do_sample and (own.eos_token_id, own.pad_token_id) == (1, 0)
    assert 1.5e6 < model.num_parameters() < 1.7e6


def test_what_the_warm_start_learns_from():
    """Demonstrations of the training side, from the answer's first token to its end; nothing of prompts and padding."""
    tokenizer = build_tokenizer(256)
    batches = warm_start._batches(tokenizer, 8, seed=3)
    questions = iter_questions(heldout=False, seed=3)
    habits, rng = make_habits(3), random.Random("demonstrations-3")
    for _ in range(2):
        tokens, targets = next(batches)
        texts = []
        for row in range(8):
            question = next(questions)
            texts.append((question.prompt, demonstrate(question, habits, rng).text))
            prompt, answer = texts[-1]
            length = len(prompt) + len(answer)
            assert tokenizer.decode(tokens[row, :length]) == prompt + answer
            assert tokens[row, length:].tolist() == [1, *[0] * (tokens.shape[1] - length - 1)]
            learned = tokens[row, len(prompt) : length + 1].tolist()
            ignored = [-100] * len(prompt), [-100] * (tokens.shape[1] - length - 1)
            assert targets[row].tolist() == [*ignored[0], *learned, *ignored[1]]
        assert tokens.shape == targets.shape == (8, max(len(p) + len(a) for p, a in texts) + 1)


def test_how_the_warm_start_learns(monkeypatch):
    """Rates that rise and fall, gradients that are cut at 1, and a loss of the next token where there is one."""
    rates, norms, made = [], [], []
    settings = WarmStart(**asdict(SHORT) | {"steps": 8, "warmup_steps": 4, "learning_rate": 0.01})
    model = warm_start.build_model(settings, build_tokenizer(256))
    adam = torch.optim.AdamW

    class Watched(adam):
        def __init__(self, *args, **kwargs):
            made.append(kwargs)
            super().__init__(*args, **kwargs)

        def step(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: norms.append((len([*parameters]), norm))
    )
    seen = []
    known = warm_start.F.cross_entropy

    def cross_entropy(logits, targets, ignore_index):
        seen.append((logits.shape, targets.tolist(), ignore_index))
        return known(logits, targets, ignore_index=ignore_index)

    monkeypatch.setattr(warm_start.F, "cross_entropy", cross_entropy)
    tokens, targets = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[-100, 6, 7], [-100, 9, -100]])
    model.eval()
    warm_start._fit(model, itertools.repeat((tokens, targets)), settings)
    assert made == [{"lr": 0.01, "betas": (0.9, 0.98), "weight_decay": 0.01}]
    assert rates == pytest.approx(
        [0.01 * factor for factor in (1 / 4, 2 / 4, 3 / 4, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8)]
    )
    assert norms == [(len([*model.parameters()]), 1.0)] * 8
    assert seen == [(torch.Size([4, 98]), [6, 7, 9, -100], -100)] * 8
    assert not model.training


def test_a_model_is_made_anew_where_anything_behind_it_changes(tmp_path, monkeypatch):
    key = build.cache_key(SHORT, 0)
    assert key == build.cache_key(WarmStart(**asdict(SHORT)), 0) and len(key) == 64
    others = {build.cache_key(replace(SHORT, **{name: value + 1}), 0) for name, value in asdict(SHORT).items()}
    others.add(build.cache_key(SHORT, 1))
    folder = Path(build.__file__).parent
    for changed in ("tasks.py", "tokenizer.py", "warm_start.py"):
        copy = tmp_path / changed.removesuffix(".py")
        shutil.copytree(folder, copy)
        (copy / changed).write_text((copy / changed).read_text() + "#")
        monkeypatch.setattr(build, "__file__", str(copy / "build.py"))
        others.add(build.cache_key(SHORT, 0))
        (copy / changed).write_text((copy / changed).read_text().removesuffix("#"))
        (copy / "build.py").write_text("other")
        assert build.cache_key(SHORT, 0) == key
    assert key not in others and len(others) == len(asdict(SHORT)) + 4


def test_a_model_counts_as_there_with_its_key_alone(tmp_path):
    assert not build.is_cached(tmp_path, "key")
    (tmp_path / "warm_start_key.txt").write_text("key")
    assert build.is_cached(tmp_path, "key") and not build.is_cached(tmp_path, "other")


def test_rows_are_written_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    build.write_rows(path, [{"prompt": "1 + 1 =", "level": 1}, {"prompt": "é"}])
    assert path.read_text() == '{"prompt": "1 + 1 =", "level": 1}\n{"prompt": "\\u00e9"}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_rows_come_by_levels_and_skills_in_turn():
    rows = build.make_rows(25, heldout=True, seed=2)
    kinds = [(level, skill) for level in range(1, 6) for skill in ("addition", "subtraction")]
    assert [(row["level"], row["datasource"]) for row in rows] == [kinds[n % 10] for n in range(25)]
    habits = make_habits(2)
    for row in rows:
        first, sign, second, _ = row["prompt"].split()
        question = Question(int(first), int(second), {"+": "addition", "-": "subtraction"}[sign])
        assert question.heldout and (row["level"], row["label"]) == (level(question, habits), question.label)


def test_where_things_are_and_what_is_said(prepared, tmp_path, capsys):
    assert prepared == build.DemoPaths(
        *(prepared.model.parent / name for name in ("model", "train.jsonl", "heldout.jsonl"))
    )
    assert oct(prepared.model.stat().st_mode)[-3:] == "755"
    assert build.is_cached(prepared.model, build.cache_key(SHORT, 0))
    prepare_short(tmp_path)
    said = f"warm-starting a small model, 3 updates (once; it is kept in {tmp_path}) …\n"
    assert capsys.readouterr().out == said
    prepare_short(tmp_path, warm_start=replace(SHORT, steps=2), heldout_prompts=3)
    assert capsys.readouterr().out == said.replace("3 updates", "2 updates")
    assert build.is_cached(tmp_path / "model", build.cache_key(replace(SHORT, steps=2), 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "heldout.jsonl", "model", "train.jsonl"]
    heldout = [json.loads(line) for line in (tmp_path / "heldout.jsonl").read_text().splitlines()]
    assert heldout == build.make_rows(3, heldout=True, seed=0)
    train = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert train == build.make_rows(20, heldout=False, seed=0)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], {"seed": 0, "train_prompts": 2048, "heldout_prompts": 1024}),
        (
            ["--seed", "7", "--train-prompts", "5", "--heldout-prompts", "6"],
            {"seed": 7, "train_prompts": 5, "heldout_prompts": 6},
        ),
    ],
)
def test_words_of_the_command_line(tmp_path, monkeypatch, capsys, words, given):
    asked = []
    paths = build.DemoPaths(Path("m"), Path("t"), Path("h"))
    monkeypatch.setattr(demo_main, "prepare", lambda out, **more: asked.append((out, more)) or paths)
    monkeypatch.setattr("sys.argv", ["demo", "--out", str(tmp_path), *words])
    main()
    assert asked == [(tmp_path, given)]
    assert capsys.readouterr().out == "model   m\ntrain   t\nheldout h\n"
