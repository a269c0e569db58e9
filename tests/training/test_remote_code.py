"""Code that a model brings along does not run, and a model that brings some is refused before anything is loaded."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lens_openrlhf.inputs import MATH_VERIFY_FILE, OptionError, check_model
from lens_openrlhf.rewards import shutdown
from lens_openrlhf.run_folder.log import EVENTS, read
from lens_openrlhf.training.commandline import options, preflight
from lens_openrlhf.training.hooks import remote_code

from .conftest import MINIMAL

ENTRY = {"auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}}
TOKENIZER_ENTRY = {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}
PROCESSOR_ENTRY = {"auto_map": {"AutoProcessor": "evil.EvilProcessor"}}


def add(file: Path, entry: dict) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | entry))


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A tiny model with a tokenizer, and no code."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from lens_openrlhf.demo.tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("model") / "sound"
    tokenizer = build_tokenizer(32)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        intermediate_size=8, max_position_embeddings=32,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def model(sound, tmp_path) -> Path:
    """A copy of the sound model."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in sound.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("file", "entry", "named"),
    [
        ("config.json", ENTRY, "config.json: auto_map"),
        ("config.json", {"text_config": [{"deep": ENTRY}]}, "config.json: auto_map"),
        ("config.json", {"custom_pipelines": {"x": {"impl": "evil.Pipeline"}}}, "config.json: custom_pipelines"),
        ("config.4.0.0.json", ENTRY, "config.4.0.0.json: auto_map"),
        ("tokenizer_config.json", TOKENIZER_ENTRY, "tokenizer_config.json: auto_map"),
        ("processor_config.json", PROCESSOR_ENTRY, "processor_config.json: auto_map"),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "a--b.C"}}, "a--b.C"),
        ("generation_config.json", ENTRY, "generation_config.json: auto_map"),
    ],
)
def test_a_model_that_names_code_is_refused(model, file, entry, named):
    add(model / file, entry)
    with pytest.raises(OptionError) as caught:
        check_model("--actor.model_name_or_path", str(model))
    for part in (f"--actor.model_name_or_path {model}", named, "--model.allow_remote_code"):
        assert part in str(caught.value)
    check_model("--actor.model_name_or_path", str(model), allow_code=True)


def test_a_model_without_code_is_taken(model):
    add(model / "config.json", {"auto_map": {}})
    check_model("MODEL", str(model))


def test_a_generate_function_of_the_models_own_is_refused(model):
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").touch()
    with pytest.raises(OptionError, match="custom_generate/generate.py"):
        check_model("MODEL", str(model))


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "\udcff"])
def test_settings_that_cannot_be_read_are_refused(model, content):
    (model / "tokenizer_config.json").write_text(content, errors="surrogateescape")
    with pytest.raises(OptionError, match="tokenizer_config.json cannot be read"):
        check_model("MODEL", str(model))


def cached(hub: Path, name: str, files: dict[str, dict]) -> None:
    """A repository as the hub's cache holds it."""
    repository = hub / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file, content in files.items():
        (snapshot / file).write_text(json.dumps(content))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, and no network."""
    import huggingface_hub.constants as constants
    import transformers.utils.hub as transformers_hub

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(transformers_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_models_of_the_hub(hub):
    plain = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    cached(hub, "some/plain", {"config.json": plain})
    cached(hub, "some/code", {"config.json": plain, "tokenizer_config.json": TOKENIZER_ENTRY})
    cached(hub, "some/adapter", {"config.json": plain, "adapter_config.json": {"base_model_name_or_path": "some/code"}})
    verifier = {"speculators_config": {"verifier": {"name_or_path": "some/adapter"}}}
    cached(hub, "some/speculator", {"config.json": plain | verifier})
    cached(
        hub, "some/circle", {"config.json": plain, "adapter_config.json": {"base_model_name_or_path": "some/circle"}}
    )
    check_model("MODEL", "some/plain")
    check_model("MODEL", "some/circle")
    for name, told in {
        "some/code": "some/code: brings code",
        "some/adapter": "some/adapter: adapter_config.json names the model some/code: brings code",
        "some/speculator": "config.json names the model some/adapter: adapter_config.json names the model some/code",
        "some/absent": "neither a folder here nor a model that could be loaded",
    }.items():
        with pytest.raises(OptionError) as caught:
            check_model("MODEL", name)
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("option", "more"),
    [
        ("--actor.model_name_or_path", []),
        ("--critic.model_name_or_path", []),
        ("--reward.model_name_or_path", ["--reward.remote_url", ""]),
    ],
)
def test_preflight_refuses_it_wherever_a_run_would_load_it(sound, model, tmp_path, monkeypatch, option, more):
    monkeypatch.setattr(preflight.cpu_runtime, "without_sampler", lambda: None)  # of the machine, not of models
    add(model / "config.json", ENTRY)
    data = tmp_path / "prompts.jsonl"
    data.write_text('{"input": "1 + 1 ="}\n')
    words = [*MINIMAL, "--actor.model_name_or_path", str(sound), "--data.prompt_dataset", str(data)]
    words += ["--critic.model_name_or_path", str(sound), "--algo.advantage.estimator", "gae", "--data.max_len", "32"]
    words += ["--logger.run_dir", str(tmp_path / "run"), *more, option, str(model)]
    with pytest.raises(OptionError, match=f"{option} .*brings code"):
        preflight.check_surroundings(options.parse(words))
    reward = tmp_path / "reward.py"
    reward.touch()
    if not more:
        words += ["--reward.remote_url", str(reward)]
    preflight.check_surroundings(options.parse([*words, "--model.allow_remote_code"]))


def test_data_that_is_code_is_refused(sound, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.py").touch()
    for data in (tmp_path / "rows" / "rows.py", tmp_path / "rows"):
        words = [*MINIMAL, "--actor.model_name_or_path", str(sound), "--data.prompt_dataset", str(data)]
        words += ["--data.max_len", "32"]
        with pytest.raises(OptionError, match="rows.py is Python code"):
            preflight.check_surroundings(options.parse([*words, "--algo.advantage.estimator", "lens"]))


LOADERS = {
    "AutoConfig": ("config.json", ENTRY),
    "AutoModelForCausalLM": ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.EvilModel"}}),
    "AutoTokenizer": ("tokenizer_config.json", TOKENIZER_ENTRY),
    "AutoProcessor": ("processor_config.json", PROCESSOR_ENTRY),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_what_appears_after_the_check_does_not_run(model, tmp_path, monkeypatch, loader):
    import transformers
    import transformers.dynamic_module_utils as modules

    ran = tmp_path / "ran"
    (model / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise ImportError('ran')\n")
    add(model / LOADERS[loader][0], LOADERS[loader][1])

    def load():
        with pytest.raises(Exception) as caught:
            getattr(transformers, loader).from_pretrained(model, trust_remote_code=True)
        return str(caught.value)

    monkeypatch.setattr(modules, "HF_MODULES_CACHE", modules.HF_MODULES_CACHE)  # restored afterwards
    monkeypatch.setattr("sys.path", list(os.sys.path))
    for _ in range(2):
        assert remote_code.forbid() == {"HF_MODULES_CACHE": remote_code.NOWHERE}
        assert "--model.allow_remote_code" in load()
        assert not ran.exists()
    modules.HF_MODULES_CACHE = str(tmp_path / "modules")
    load()
    assert ran.exists()  # so that what is tested above is what would have run


@pytest.mark.parametrize(("folder", "trusted"), [(remote_code.NOWHERE, False), ("/tmp/modules", True)])
def test_vllm_is_told_whether_a_models_code_may_run(tmp_path, monkeypatch, folder, trusted):
    from lens_openrlhf.training.hooks import rollout

    given = {}

    async def start(self, **arguments):
        given.update(arguments)
        self.executor = SimpleNamespace(execute=None)

    monkeypatch.setattr(rollout.LensRollout.__mro__[1], "__init__", start)
    monkeypatch.setenv(rollout.RUN_DIR_VARIABLE, str(tmp_path))
    monkeypatch.setenv(remote_code.VARIABLE, folder)
    engine = object.__new__(rollout.LensRollout)
    asyncio.run(engine.__init__(trust_remote_code=True, remote_rm_url=[str(MATH_VERIFY_FILE)]))
    assert given["trust_remote_code"] is trusted
    (event,) = read(tmp_path / EVENTS)
    assert event["event"] == "ready" and event["reward_workers_isolated_by"] == "kernel"
    shutdown()


def test_a_generate_function_that_appears_after_the_check_does_not_run(model, tmp_path, monkeypatch):
    import transformers.dynamic_module_utils as modules
    from transformers import AutoModelForCausalLM

    ran = tmp_path / "ran"
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(
        f"open({str(ran)!r}, 'w').close()\ndef generate(model, **kwargs): return None\n"
    )
    monkeypatch.setattr(modules, "HF_MODULES_CACHE", modules.HF_MODULES_CACHE)
    monkeypatch.setattr("sys.path", list(os.sys.path))
    remote_code.forbid()
    AutoModelForCausalLM.from_pretrained(model, trust_remote_code=True)
    assert not ran.exists()
    modules.HF_MODULES_CACHE = str(tmp_path / "modules")
    AutoModelForCausalLM.from_pretrained(model, trust_remote_code=True)
    assert ran.exists()


class Payload:
    def __init__(self, ran: Path):
        self.ran = ran

    def __reduce__(self):
        return open, (str(self.ran), "w")


def test_pickled_weights_are_read_as_tensors_alone(model, tmp_path):
    """By transformers and by vLLM; DeepSpeed's checkpoints are another matter (docs/security.md)."""
    from transformers import AutoModelForCausalLM
    from vllm.model_executor.model_loader.weight_utils import pt_weights_iterator

    ran = tmp_path / "ran"
    (model / "model.safetensors").unlink()
    weights = model / "pytorch_model.bin"
    torch.save({"model.embed_tokens.weight": Payload(ran)}, weights)
    with pytest.raises(Exception, match="[Ww]eights.only"):
        AutoModelForCausalLM.from_pretrained(model, trust_remote_code=True)
    with pytest.raises(Exception, match="[Ww]eights.only"):
        list(pt_weights_iterator([str(weights)], use_tqdm_on_load=False))
    assert not ran.exists()
    torch.load(weights, weights_only=False)
    assert ran.exists()
