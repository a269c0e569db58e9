"""Answers from vLLM, the same ones whether or not the evaluation was interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import cpu_runtime
from ..inputs import OptionError
from .prompts import Prompt

TOKENS_PER_STEP = 4096  # of prompts, at least, that vLLM's CPU engine takes in at once


@dataclass(frozen=True)
class Completion:
    """One answer: its text with special tokens, as a reward sees it; tokens; whether it met the limit of new tokens."""

    text: str
    tokens: int
    truncated: bool


def prompt_seed(seed: int, prompt: int) -> int:
    """Seed of a prompt's first answer; vLLM adds the number of the answer for the others.

    Hashed, because with neighbouring seeds the answers of neighbouring prompts would share their random numbers.
    """
    # Two bits fewer than the word has: vLLM takes signed numbers, and adds to them.
    return int(np.random.SeedSequence([seed, prompt]).generate_state(1, np.uint64)[0] >> np.uint64(2))


class Sampler:
    """A vLLM engine in this process; a context manager.

    Args:
        max_length: tokens of prompt and answer together.
        allow_remote_code: whether code that the model brings along may run.

    Raises:
        OptionError: vLLM has no device here.
    """

    def __init__(
        self,
        model: str,
        max_length: int,
        tensor_parallel_size: int,
        gpu_memory_utilization: float,
        seed: int,
        allow_remote_code: bool = False,
        **sampling: Any,
    ):
        # With the engine in a process of its own, prompts would join the batch at moments that differ from run to run,
        # and with the batch the last bits of the logits.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if problem := cpu_runtime.without_sampler():
            raise OptionError(problem)
        if cpu_runtime.required():
            for name, value in cpu_runtime.VLLM_VARIABLES.items():
                os.environ.setdefault(name, value)
        from vllm import LLM

        # After a part of a prompt vLLM takes back a random number, which a CPU's generator cannot: prompts stay whole.
        whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_length, TOKENS_PER_STEP)}
        self._llm = LLM(
            model=model,
            max_model_len=max_length,
            tensor_parallel_size=tensor_parallel_size,
            gpu_memory_utilization=gpu_memory_utilization,
            enforce_eager=cpu_runtime.required(),
            seed=seed,
            trust_remote_code=allow_remote_code,
            **(whole if cpu_runtime.required() else {}),
        )
        self._seed, self._sampling = seed, sampling

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *exception: object) -> None:
        self._llm.llm_engine.engine_core.shutdown()

    def sample(
        self, prompts: Sequence[Prompt], samples: int, progress: Callable | bool = False
    ) -> list[list[Completion]]:
        """`samples` answers to each prompt; `progress` is vLLM's `use_tqdm`."""
        from vllm import SamplingParams

        # What earlier prompts left there would be reused, and computed in another batch it has other last bits.
        self._llm.reset_prefix_cache()
        results = self._llm.generate(
            [{"prompt_token_ids": list(prompt.tokens)} for prompt in prompts],
            [
                SamplingParams(
                    n=samples,
                    seed=prompt_seed(self._seed, prompt.id),
                    # As OpenRLHF samples in training: no answer is empty, special tokens are part of the text.
                    min_tokens=1,
                    skip_special_tokens=False,
                    include_stop_str_in_output=True,
                    **self._sampling,
                )
                for prompt in prompts
            ],
            use_tqdm=progress,
        )
        return [
            [Completion(o.text, len(o.token_ids), o.finish_reason == "length") for o in result.outputs]
            for result in results
        ]
