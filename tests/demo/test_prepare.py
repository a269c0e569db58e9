import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lens_openrlhf.demo import build, prepare, warm_start
from lens_openrlhf.demo.__main__ import main
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
