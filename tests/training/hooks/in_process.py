"""OpenRLHF's trainers in this process: its own code around ours, and stand-ins for Ray, the engines and the actors."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from types import SimpleNamespace

import openrlhf.trainer.ppo_trainer as sync_module
import openrlhf.trainer.ppo_trainer_async as async_module
import openrlhf.trainer.ppo_utils.experience_maker as experience_maker
import openrlhf.trainer.ppo_utils.samples_generator as samples_generator
import pyarrow.parquet as pq
import torch
from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy

from lens_openrlhf.run_folder.log import EVALUATIONS, EVENTS, METRICS, read
from lens_openrlhf.training.hooks import trainer as trainer_module
from lens_openrlhf.training.hooks.experience import WithStatistics

NOTHING_YET = {"episode": 0, "global_step": 0, "total_consumed_prompts": 0, "data_loader_state_dict": {}}


class Ref:
    """What a remote call gives back."""

    def __init__(self, call):
        self.value, self.error = None, None

        def run():
            try:
                self.value = call()
                if asyncio.iscoroutine(self.value):
                    self.value = asyncio.run(self.value)
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def get(self):
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error
        return self.value


class Handle:
    """An actor's handle. Calls of one actor wait for each other, but those of `beside`."""

    def __init__(self, actor, beside=()):
        self._actor, self._beside, self._lock = actor, beside, threading.Lock()

    def __getattr__(self, name):
        method = getattr(self._actor, name)

        def call(args, kwargs):
            if name in self._beside:
                return method(*args, **kwargs)
            with self._lock:
                return method(*args, **kwargs)

        return SimpleNamespace(remote=lambda *args, **kwargs: Ref(lambda: call(args, kwargs)))


class Ray:
    """`ray` as the modules call it."""

    def __init__(self):
        self.actors = []

    def get(self, refs):
        return [ref.get() for ref in refs] if isinstance(refs, list) else refs.get()

    def put(self, value):
        return [Ref(lambda part=part: part) for part in value]

    def wait(self, refs, num_returns, timeout):
        return refs[:1], refs[1:]

    def remote(self, kind):
        def make(*args, **kwargs):
            self.actors.append(kind(*args, **kwargs))
            return Handle(self.actors[-1])

        return SimpleNamespace(remote=make)


class Lock:
    def __init__(self):
        self._lock = threading.Lock()

    def acquire(self):
        self._lock.acquire()

    def release(self):
        self._lock.release()


class Actor:
    """A rank of the policy: what it is asked for is in `calls`; an answer's rollout index is its advantage."""

    def __init__(self, calls, states=None):
        self.calls, self.states = calls, states or NOTHING_YET
        self.buffer, self.columns, self.steps, self.ours, self.seen = [], None, 0, True, []
        self.statistics = False

    def forward(self, sequences, action_mask, attention_mask, mm_train_inputs_list=None):
        logprobs = -torch.ones_like(action_mask, dtype=torch.float32)
        return WithStatistics(logprobs, {"entropies": 0.5 * sequences[:, 1:]}) if self.statistics else logprobs

    def append(self, experience):
        self.buffer.append(experience)
        self.seen.append(experience)

    def fit(self, kl_ctl):
        self.steps += 1
        self.calls.append("fit")
        index = [i for experience in self.buffer for i in experience.index]
        self.columns = {
            "index": index,
            "reward": [float(r) for experience in self.buffer for r in experience.rewards],
            "confidence": [0.5] * len(index),
            "advantage": [float(i) for i in index],
            "kind": ["mixed"] * len(index),
        }
        self.buffer = []
        return {"policy_loss": 0.25 * self.steps, "lens/dropped_samples": 0.0}

    def take_columns(self):
        self.calls.append("take_columns")
        return self.columns if self.ours else None

    def prompt_weights(self, prompts):
        self.calls.append(("prompt_weights", prompts.tolist()))
        return torch.arange(1.0, len(prompts) + 1) + self.steps

    def broadcast_to_vllm(self):
        self.calls.append("broadcast")

    def save_checkpoint(self, tag, client_states=None, metric_value=None, metric_key=None):
        kept = ("episode", "global_step", "total_consumed_prompts")
        self.calls.append((tag, [(client_states or {}).get(name) for name in kept], metric_key, metric_value))

    def get_checkpoint_states(self):
        return self.states


class Group:
    """OpenRLHF's group of actors; only the first is asked for what all would say."""

    def __init__(self, *actors):
        self._actor_handlers = [Handle(actor) for actor in actors]

    def async_run_method(self, method_name, *args, **kwargs):
        return [getattr(handle, method_name).remote(*args, **kwargs) for handle in self._actor_handlers]

    def async_run_method_batch(self, method_name, **kwargs):
        actor = self._actor_handlers[0]._actor
        calls = [dict(zip(kwargs, values, strict=True)) for values in zip(*kwargs.values(), strict=True)]
        return [Ref(lambda: [getattr(actor, method_name)(**call) for call in calls])]


class Engine:
    """A vLLM actor: answer i to a prompt has the score that character i of the label names, and i + 1 tokens."""

    def __init__(self):
        self.calls = []

    def get_num_unfinished_requests(self):
        return 0

    def generate_responses(self, prompt, label, sampling_params, max_length, hf_tokenizer, num_samples, images):
        self.calls.append((prompt, num_samples, sampling_params.temperature))
        return [answer(prompt, label, i) for i in range(num_samples)]

    def generate_in_rounds(self, rounds, **call):
        self.calls.append(rounds)
        return self.generate_responses(**call)


def answer(prompt, label, i):
    score = None if label[i % len(label)] == "?" else float(label[i % len(label)])
    return {
        "prompt": prompt,
        "label": label,
        "observation_tokens": [5, 6, 7, *range(8, 9 + i)],
        "action_ranges": [(3, 4 + i)],
        "rollout_log_probs": None,
        "truncated": i % 2 == 1,
        "reward": score,
        "scores": score,
        "extra_logs": {},
    }


class Tracker:
    """OpenRLHF's TensorboardLogger or WandbLogger: what it was given until it was closed."""

    made: list[Tracker] = []

    def __init__(self, args):
        self.lines = []
        self.made.append(self)

    def log_train(self, step, logs):
        self.lines.append(("train", step, logs["policy_loss"]))

    def log_eval(self, step, logs):
        self.lines.append(("eval", step, sorted(logs)))

    def close(self):
        self.lines.append("closed")


class Text:
    """A tokenizer whose token 8 is i, 9 is j and so on."""

    pad_token_id = 0

    def decode(self, tokens, skip_special_tokens=False):
        tokens = tokens.tolist() if isinstance(tokens, torch.Tensor) else tokens
        return "".join(chr(97 + token) for token in (tokens[0] if isinstance(tokens[0], list) else tokens))


class Run:
    """One run: `start` makes OpenRLHF's trainer of our class, `fit` runs it; then what is in the folder, and who was
    asked for what."""

    def __init__(self, monkeypatch, args, states=None):
        self.args, self.ray, self.calls, self.engine = args, Ray(), [], Engine()
        self.actor = Actor(self.calls, states)
        self.others = Actor([], states)
        Tracker.made = self.trackers = []
        for module in (sync_module, async_module, trainer_module, samples_generator, experience_maker):
            monkeypatch.setattr(module, "ray", self.ray)
        for module in (sync_module, async_module):
            monkeypatch.setattr(module, "get_tokenizer", lambda *_, **__: Text())
        monkeypatch.setattr(sync_module, "TensorboardLogger", Tracker)
        monkeypatch.setattr(sync_module, "WandbLogger", Tracker)
        monkeypatch.setattr(async_module, "Queue", queue.Queue)
        monkeypatch.setattr(async_module, "VLLMLock", SimpleNamespace(remote=lambda: Handle(Lock(), ("acquire",))))
        for name in ("GenerateSamplesActor", "TrainingActor"):  # exchanged by the asynchronous trainer
            monkeypatch.setattr(async_module, name, getattr(async_module, name))

    def start(self, kind, groups=None, **generate_kwargs):
        strategy = SimpleNamespace(args=self.args, print=lambda *_: None, is_rank_0=lambda: False, seed=1)
        strategy.setup_dataloader = lambda *a, **kw: DeepspeedStrategy.setup_dataloader(strategy, *a, **kw)
        groups = groups or (Group(self.actor, self.others), None, None, None)
        return kind("model", strategy, *groups, [Handle(self.engine)], max_len=64, temperature=0.5, **generate_kwargs)

    @property
    def folder(self):
        return self.args.logger.run_dir

    def _records(self, name, left_out):
        return [{k: v for k, v in line.items() if k not in left_out} for line in read(f"{self.folder}/{name}")]

    @property
    def events(self):
        return self._records(EVENTS, {"time", "pid"})

    @property
    def steps(self):
        return self._records(METRICS, {"time"})

    @property
    def evaluations(self):
        return self._records(EVALUATIONS, {"time", "seconds"})

    def samples(self, step):
        return pq.read_table(f"{self.folder}/samples/step-{step:06}.parquet").to_pydict()


def write_prompts(path, labels, **columns):
    """Prompts "p0", "p1" … with these labels."""
    rows = [{"input": f"p{i}", "label": label} for i, label in enumerate(labels)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
