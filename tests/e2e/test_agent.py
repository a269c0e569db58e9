"""A multi-turn agent whose tool speaks in the middle of the answer, trained for real, in the asynchronous mode too."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .conftest import command_line, explained, finish
from .test_modes import check_lens_metrics

TOOL = " 12+34="  # tokenized letter by letter, as all of the tiny model's text
AGENT = f"""
import torch
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor


class Agent(AgentInstanceBase):
    def __init__(self, *args, **kwargs):
        self.turn = 0

    async def step(self, states, **kwargs):
        self.turn += 1
        right = self.turn == 2 and int(states["label"]) % 2 and "3" in states["action_text"]
        score = float(bool(right))
        return {{
            "rewards": torch.tensor(score),
            "scores": torch.tensor(score),
            "environment_feedback": {TOOL!r} if self.turn == 1 else "",
            "done": self.turn == 2,
            "extra_logs": {{"answer_chars": float(len(states["action_text"]))}},
        }}


class AgentExecutor(MultiTurnAgentExecutor):
    def __init__(self):
        super().__init__(Agent)

    async def execute(self, prompt, label, sampling_params, *rest, **more):
        sampling_params.stop, sampling_params.ignore_eos = ["="], True  # the tool answers in the middle of a sum
        return await super().execute(prompt, label, sampling_params, *rest, **more)
"""


def confidence_without_the_tool(model, tokenizer, prompt: str, response: str, tokens: int) -> float | None:
    """exp of the mean log-probability of the answer's own tokens, from a forward pass of our own.

    None where the tool's words cannot be told from the answer's.
    """
    before, tool, after = response.partition(TOOL)
    prompt_ids, ids = tokenizer(prompt).input_ids, tokenizer(prompt + response).input_ids
    own = torch.zeros(len(ids), dtype=torch.bool)
    own[len(prompt_ids) :] = True
    start = len(prompt_ids) + len(tokenizer(before).input_ids)
    own[start : start + len(tokenizer(TOOL).input_ids)] = False
    if not tool or TOOL in after or int(own.sum()) != tokens:
        return None
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return float(chosen[own[1:]].mean().exp())


@pytest.mark.parametrize(
    ("source", "steps", "mode"),
    [
        pytest.param("rollout", 3, ["--train.async_enable"], id="asynchronous, from the rollout"),
        pytest.param("actor", 2, [], id="from the actor", marks=pytest.mark.long),
    ],
)
def test_what_a_tool_says_does_not_count_in_the_confidence(tiny, tmp_path, source, steps, mode):
    agent = tmp_path / "agent.py"
    agent.write_text(AGENT)
    command = command_line(tmp_path / "run", tiny, "", "--algo.advantage.estimator", "lens")
    command += ["--algo.lens.confidence_from", source, *mode]
    command += ["--eval.dataset", str(tiny.heldout), "--eval.at_start", "--eval.at_end"]
    position = command.index("--reward.remote_url")
    command[position : position + 2] = ["--train.agent_func_path", str(agent)]
    run = finish([*command, "--data.max_samples", str(8 * steps)], tmp_path / "run")
    assert run.status == 0, explained(run)
    check_lens_metrics(run, steps)
    ready = {event["where"] for event in run.records("events") if event["event"] == "ready"}
    if mode:
        assert ready == {
            "LensPPOAsync",
            "LensGenerateSamples",
            "LensTraining",
            "LensPolicyModel 0",
            "LensRolloutWithLogprobs",
        }
    assert [record["step"] for record in run.records("eval")] == [0, steps]
    for record in run.records("eval"):
        assert len(record["scores"]) == len(record["splits"]["level"]) == 16
        assert list(record["pass_at_k"]["all"]) == ["1", "2", "4"]

    model = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    first = pd.read_parquet(run.folder / "samples" / "step-000001.parquet").dropna(subset="response")
    compared = 0
    for row in first.itertuples():
        expected = confidence_without_the_tool(model, tokenizer, row.prompt, row.response, row.tokens)
        if expected is not None:
            compared += 1
            assert row.confidence == pytest.approx(expected, rel=0.02)  # the run computes in bfloat16
    assert compared >= 4, first["response"].tolist()
