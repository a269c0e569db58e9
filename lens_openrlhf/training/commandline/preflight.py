"""Checks of the surroundings before anything expensive starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from ... import cpu_runtime
from ...advantages.estimators import EstimatorError
from ...advantages.lazily import torch
from ...inputs import (
    MATH_VERIFY,
    READABLE,
    OptionError,
    check_model,
    data_file,
    data_names,
    load_tokenizer,
    place_and_split,
    rows_of_file,
)
from ...prompts import Labels, Names, Prompting, Row, check_chat_template, with_keys
from ...run_folder.log import METRICS
from ..checkpoints.checkpoints import check_state
from . import model_shape
from .model_shape import ModelShape
from .options import MATH_VERIFY_FILE, make_estimator, step_scorer
from .plan import GIB, Memory, actor_gpus, memory
from .profiles import cache_folder

MIN_FREE_BYTES = 1 << 30
SERVER_SECONDS = 5
PROMPTS = "--data.prompt_dataset"
NAMES = Names(chat="--data.apply_chat_template", template="--data.input_template", reward="--reward.remote_url FILE.py")
# Of the labels: with more that cannot be graded by, a run is refused. As many seconds are spent on finding them; what
# was found is kept, so that most data sets are known after a few starts.
MOST_BAD_LABELS = 0.01
LABEL_SECONDS = 20.0
# Folders of the prompt sets that `lens-openrlhf data` makes.
PROMPT_SETS = ("math+dapo", "math+numina")


def not_here(option: str, name: str) -> str:
    """That a model or file is not on this machine, and what brings it."""
    path = Path(name)
    if cache_folder() in path.parents:
        return f"{option} {name}: the profile makes it when the run starts"
    if path.parent.name in PROMPT_SETS:
        return f"{option} {name}: no such file; make it with `lens-openrlhf data {path.parent.name}`, or name another"
    if option == "--actor.model_name_or_path" and not path.is_absolute():
        return f"{option} {name}: is fetched from the hub when the run starts, or name the folder of a downloaded model"
    return f"{option} {name}: no such {'file' if path.suffix else 'folder'}"


def count_rows(path: Path) -> int | None:
    """Rows of a local file of prompts, without reading more than is needed; None for a file that cannot be read, or
    none at all."""
    stat = path.stat()
    return _count_rows(path, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)  # a plan asks for them thrice
def _count_rows(path: Path, stamp: tuple[int, int]) -> int | None:
    if path.suffix == ".jsonl":
        with open(path, "rb") as file:
            return sum(1 for line in file if line.strip())
    if path.suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        with contextlib.suppress(ValueError), ParquetFile(path) as file:  # ArrowInvalid: no parquet
            return file.metadata.num_rows
    elif path.suffix in READABLE:
        with contextlib.suppress(OptionError):
            return sum(1 for _ in rows_of_file(PROMPTS, path))
    return None


class Data(NamedTuple):
    """A data set of the options, and how its rows become prompts: what a check of them depends on.

    stamp: of a file, so that it is read again after a change.
    """

    option: str
    name: str
    stamp: tuple[int, int] | None
    keys: tuple[tuple[str, str], ...]  # of what every row must have, and the options that name them
    input_key: str
    label_key: str | None  # of labels that Math-Verify compares with
    limit: int | None  # rows that are used
    template: str | None
    chat: bool
    model: str | None  # whose chat template the prompts go through; None where it is not here
    allow_code: bool


@lru_cache(maxsize=64)  # a comparison asks for the data of every run
def _check_file(data: Data) -> str:
    """Everything about a file of prompts, row by row; returns a warning, or nothing.

    Raises:
        OptionError
    """
    shown, path = f"{data.option} {data.name}", Path(data.name)
    tokenizer = None
    if data.model:
        tokenizer = load_tokenizer("--actor.model_name_or_path", data.model, data.allow_code)
        check_chat_template(NAMES.chat, tokenizer)
    fill = data.template.format if data.template and not data.chat else None
    prompting = Prompting(shown=shown, key=data.input_key, names=NAMES, fill=fill, chat=data.chat, tokenizer=tokenizer)
    rows = (Row(place, row) for place, row in rows_of_file(data.option, path, dict(data.keys)))
    rows = with_keys(shown, islice(rows, data.limit), dict(data.keys))
    labels = Labels()
    bar = tqdm(rows, f"reading {path.name}", unit="row", unit_scale=True, leave=False, disable=None)
    for row in bar:
        prompting.text(row)
        if data.label_key:
            labels.add(row, data.label_key)
    if not data.label_key:
        return ""
    try:
        share, problem = labels.problem(shown, data.label_key, NAMES, path, LABEL_SECONDS)
    finally:
        from ... import rewards

        rewards.shutdown()
    if share > MOST_BAD_LABELS:
        raise OptionError(problem)
    return problem


def _check_template(template: str | None) -> None:
    """OpenRLHF puts a prompt into its template with str.format."""
    if not template:
        return
    prompt = "[prompt]"
    try:
        times = template.format(prompt).count(prompt) - template.count(prompt)
        problem = "" if times == 1 else f"holds the prompt {times} times"
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        problem = f"is no template ({type(error).__name__}: {error})"
    if problem:
        raise OptionError(
            f"{NAMES.template} {template!r}: {problem}; write {{}} once, where the prompt goes, and every other brace "
            "twice, as in \\boxed{{}}"
        )


def _no_label_key(name: str, file: Path | None) -> OptionError:
    """OpenRLHF takes no key for empty labels, by which no answer can be graded."""
    _, row = next(rows_of_file(PROMPTS, file), ("", {})) if file else ("", {})
    return OptionError(
        f"--data.label_key is missing: Math-Verify compares answers with labels; name their column in {PROMPTS} {name}"
        + (f" (there are: {', '.join(map(str, row))})" if row else "")
    )


def _check_dataset(option: str, names: str, args: SimpleNamespace, columns: Sequence[str] = ()) -> list[str]:
    """Raises OptionError for data that cannot be trained on; returns warnings."""
    keys = {args.data.input_key: "--data.input_key"} | {column: "--eval.split_by" for column in columns}
    if args.data.label_key:
        keys[args.data.label_key] = "--data.label_key"
    graded = str(MATH_VERIFY_FILE) in (args.reward.remote_url or []) and not args.train.agent_func_path
    model = args.actor.model_name_or_path
    # Prompts with images go through the model's processor instead.
    renders = args.data.apply_chat_template and not args.data.max_images_per_prompt and model_shape.find(model)[1]
    if not args.data.apply_chat_template:
        _check_template(args.data.input_template)
    warnings = []
    for name in data_names(names):
        name, _ = place_and_split(name)
        path = Path(name)
        for script in (path, path / f"{path.name}.py"):  # what OpenRLHF would load as a script
            if script.suffix == ".py" and os.path.isfile(script):
                raise OptionError(
                    f"{option} {path}: {script} is Python code, and data is not run; save it as .jsonl or .parquet"
                )
        if not os.path.exists(path) and (
            path.suffix in READABLE or path.is_absolute() or name.startswith(".") or name.count("/") > 1
        ):
            raise OptionError(not_here(option, name))
        file = data_file(option, name)
        if graded and not args.data.label_key and option == PROMPTS:
            raise _no_label_key(name, file)
        if file is None:
            continue
        stat = path.stat()
        data = Data(
            option=option,
            name=name,
            stamp=(stat.st_mtime_ns, stat.st_size),
            keys=tuple(keys.items()),
            input_key=args.data.input_key,
            label_key=args.data.label_key if graded else None,
            limit=args.data.max_samples if option == PROMPTS else None,
            template=args.data.input_template,
            chat=args.data.apply_chat_template,
            model=model if renders else None,
            allow_code=args.model.allow_remote_code,
        )
        if warning := _check_file(data):
            warnings.append(warning)
    return warnings


def _check_server(url: str) -> None:
    """A reward server that is down would be found out by the first answers, after minutes of starting up."""
    parts, port = urlsplit(url), None
    with contextlib.suppress(ValueError):
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if not parts.hostname or not port:
        raise OptionError(
            f"--reward.remote_url {url}: expected {MATH_VERIFY}, a .py file with a reward_func, or an address such as "
            "http://host:port/path"
        )
    try:
        socket.create_connection((parts.hostname, port), SERVER_SECONDS).close()
    except OSError as error:
        raise OptionError(
            f"--reward.remote_url {url}: the reward server cannot be reached ({error}); start it, or mend the address"
        ) from None


def gpus_needed(args: SimpleNamespace) -> int:
    """GPUs that OpenRLHF's `train` asks Ray for; without CUDA these are logical."""

    def size(entity: SimpleNamespace) -> int:
        return entity.num_nodes * entity.num_gpus_per_node

    actor = actor_gpus(args)
    engines = args.vllm.num_engines * args.vllm.tensor_parallel_size
    if args.train.colocate_all:
        return actor + (engines if args.train.async_enable else 0)
    ref = size(args.ref) if args.algo.kl.init_coef > 0 and not args.train.colocate_actor_ref else 0
    reward = 0 if args.reward.remote_url else size(args.reward)
    critic = size(args.critic) if args.critic.model_name_or_path else 0
    if critic and args.train.colocate_critic_reward:
        reward = 0
    return actor + ref + critic + reward + engines


def ray_cluster() -> str | None:
    """Address of the Ray cluster to join, or None where the run starts a Ray of its own.

    Only RAY_ADDRESS says so (`ray job submit` sets it): a Ray that happens to run on the machine is left alone.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def _check_gpus(args: SimpleNamespace) -> None:
    """A local Ray would wait for ever for GPUs that are not there."""
    if cpu_runtime.required() or ray_cluster():
        return
    needed, there = gpus_needed(args), torch.cuda.device_count()
    if needed > there:
        share = "leave out --train.async_enable" if args.train.async_enable else "share them (--train.colocate_all)"
        raise OptionError(
            f"the options ask for {needed} GPUs and {there} are visible: use fewer (--gpus with a profile, else "
            f"--actor.num_gpus_per_node, --vllm.num_engines), {share}, or join a cluster with RAY_ADDRESS"
        )


def _models(args: SimpleNamespace) -> Iterator[tuple[str, str]]:
    """Options that name the models that OpenRLHF's `train` loads; the reference model is the actor's."""
    yield "--actor.model_name_or_path", args.actor.model_name_or_path
    if args.critic.model_name_or_path:
        yield "--critic.model_name_or_path", args.critic.model_name_or_path
    if args.reward.model_name_or_path and not args.reward.remote_url:
        yield "--reward.model_name_or_path", args.reward.model_name_or_path


def check_shape(args: SimpleNamespace, shape: ModelShape) -> None:
    """The context and the heads of the model suit the options; vLLM would say so only when it loads.

    Raises:
        OptionError
    """
    model = args.actor.model_name_or_path
    if args.data.max_len > shape.context:
        raise OptionError(
            f"--data.max_len {args.data.max_len}: {model} takes {shape.context} tokens, prompt and answer together; "
            "use at most that"
        )
    for option, parts in (
        ("--vllm.tensor_parallel_size", args.vllm.tensor_parallel_size),
        ("--ds.tensor_parallel_size", args.ds.tensor_parallel_size),
    ):
        if shape.heads % parts:
            raise OptionError(
                f"{option} {parts}: does not divide the {shape.heads} attention heads of {model}; use a divisor of that"
            )


def check_memory(args: SimpleNamespace, found: Memory, gpu: int) -> None:
    """What is certain not to fit a GPU of `gpu` bytes.

    Raises:
        OptionError
    """
    state = sum(found.state.values())
    if state > gpu:
        raise OptionError(
            f"weights, gradients and Adam's state take {state / GIB:.0f} GiB on each GPU, which has {gpu / GIB:.0f}: "
            "use more GPUs, --ds.zero_stage 3, or --ds.adam_offload, which keeps Adam's state in the machine's memory"
        )
    if found.cache <= 0:
        raise OptionError(
            f"--vllm.gpu_memory_utilization {args.vllm.gpu_memory_utilization:g}: of {gpu / GIB:.0f} GiB this leaves "
            "vLLM no room for keys and values beside the weights; use more, or split the model over GPUs "
            "(--vllm.tensor_parallel_size)"
        )


def _check_models(args: SimpleNamespace) -> None:
    """Quickly, where all that a plan needs stands in config.json."""
    for option, name in _models(args):
        quick = os.path.isdir(name) and model_shape.as_written(name) is not None
        check_model(option, name, args.model.allow_remote_code, quick=quick)


def _load_configs(args: SimpleNamespace) -> None:
    for option, name in _models(args):
        check_model(option, name, args.model.allow_remote_code)


def _check_model(args: SimpleNamespace) -> None:
    _check_models(args)
    shape, _ = model_shape.find(args.actor.model_name_or_path)
    if shape is None:
        return
    check_shape(args, shape)
    if not cpu_runtime.required() and torch.cuda.is_available() and not ray_cluster():
        gpu = torch.cuda.get_device_properties(0).total_memory
        if found := memory(args, shape, gpu):
            check_memory(args, found, gpu)


def _check_prompts(args: SimpleNamespace) -> list[str]:
    return _check_dataset(PROMPTS, args.data.prompt_dataset, args)


def _check_evaluation(args: SimpleNamespace) -> list[str]:
    if not args.eval.dataset:
        return []
    return _check_dataset("--eval.dataset", args.eval.dataset, args, args.eval.split_by or ())


def _check_functions(args: SimpleNamespace) -> None:
    for url in args.reward.remote_url if args.reward.remote_url and not args.train.agent_func_path else []:
        if url.endswith(".py"):
            if not Path(url).is_file():
                raise OptionError(f"--reward.remote_url {url}: no such file")
        else:
            _check_server(url)
    if args.train.agent_func_path and not Path(args.train.agent_func_path).is_file():
        raise OptionError(f"--train.agent_func_path {args.train.agent_func_path}: no such file")
    estimator = make_estimator(args)
    if estimator:
        try:
            check_state(estimator)
        except EstimatorError as error:
            raise OptionError(str(error)) from None
        step_scorer(args, estimator)


def _check_run_folder(args: SimpleNamespace) -> None:
    folder = Path(args.logger.run_dir)
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    if (folder / METRICS).exists() and not args.ckpt.load_enable:
        raise OptionError(
            f"--logger.run_dir {folder}: holds a run already, and two would be mixed; name another folder, or continue "
            "that run with --ckpt.load_enable"
        )
    if not os.access(parent, os.W_OK):
        raise OptionError(f"--logger.run_dir {folder}: {parent} is not writable")
    for place, option in ((parent, "--logger.run_dir"), (Path("/tmp"), "Ray's temporary folder")):
        free = shutil.disk_usage(place).free
        if free < MIN_FREE_BYTES:
            raise OptionError(
                f"{option} {place}: only {free / 2**20:.0f} MiB are free on its disk, and a run needs at least "
                f"{MIN_FREE_BYTES / 2**20:.0f} MiB; free some or choose another disk"
            )


def _check_port(args: SimpleNamespace) -> None:
    try:
        with socket.socket() as probe:
            probe.bind(("", 0))
    except OSError as error:
        raise OptionError(f"no network port is free on this machine ({error}); Ray and vLLM need some") from None


def _check_sampler(args: SimpleNamespace) -> None:
    problem = None if ray_cluster() else cpu_runtime.without_sampler()
    if problem:
        raise OptionError(problem)


# What needs neither a network nor the model.
_CHECKS = (
    _check_gpus,
    _check_prompts,
    _check_evaluation,
    _check_functions,
    _check_run_folder,
    _check_port,
    _check_sampler,
)


def check_surroundings(args: SimpleNamespace) -> list[str]:
    """Raise OptionError, naming the option and the remedy, for a model, dataset, reward file, disk or network that
    cannot work. Returns warnings of what can, but perhaps should not."""
    _check_gpus(args)
    _check_model(args)
    warnings = [warning for check in _CHECKS[1:] for warning in check(args) or ()]
    _load_configs(args)
    return warnings


def problems(args: SimpleNamespace, with_models: bool) -> tuple[list[str], list[str]]:
    """What check_surroundings would say of this machine, and all of it; of models only whether they can be taken. And
    its warnings."""
    found, warnings = [], []
    for check in (*_CHECKS, *([_check_models] if with_models else [])):
        try:
            warnings += check(args) or ()
        except OptionError as error:
            found.append(str(error))
    return found, warnings
