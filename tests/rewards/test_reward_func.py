"""The reward function as OpenRLHF loads and calls it."""

import asyncio
import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lens_openrlhf.rewards
from lens_openrlhf.rewards import Verdict, math_verify_reward, reward_func
from lens_openrlhf.rewards.math_verify_reward import extract_response

PATH = Path(math_verify_reward.__file__)
KEYS = {"verifier/timeout", "verifier/error", "verifier/no_answer", "verifier/prompt_not_found"}
PROMPT = "<|im_start|>user\nWhat is 6 times 7? Put it into \\boxed{}.<|im_end|>\n<|im_start|>assistant\n"


pytestmark = pytest.mark.usefixtures("small_pool")


def load_by_path():
    spec = importlib.util.spec_from_file_location("reward_func", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reward_func


def raised(reward: dict) -> set[str]:
    assert reward["extra_logs"].keys() == KEYS
    assert set(reward["extra_logs"].values()) <= {0.0, 1.0}
    return {key.removeprefix("verifier/") for key, value in reward["extra_logs"].items() if value}


@pytest.mark.parametrize(
    ("response", "label", "score", "logs"),
    [
        (r"It is \boxed{42}.<|im_end|>", "42", 1.0, set()),
        (r"It is \boxed{41}.<|im_end|>", "42", 0.0, set()),
        (r"I do not know.<|im_end|>", "42", 0.0, {"no_answer"}),
        (r"It is \boxed{9^{9^{9^9}}}.<|im_end|>", "42", 0.0, {"timeout"}),
        (r"It is \boxed{42}.<|im_end|>", "", 0.0, {"error"}),
        (r"It is \boxed{42}.<|im_end|>", None, 0.0, {"error"}),
    ],
)
def test_one_response(response, label, score, logs):
    reward = load_by_path()([PROMPT + response], [PROMPT], [label])
    assert type(reward["rewards"]) is type(reward["scores"]) is float
    assert reward["rewards"] == reward["scores"] == score
    assert raised(reward) == logs


@pytest.mark.parametrize(
    ("query", "response"),
    [
        (PROMPT + "a", "a"),
        ("<s> " + PROMPT + "a", "a"),
        (PROMPT[20:] + "a", "a"),
        (PROMPT.replace("What is", "What  is") + "a", "a"),
        (" " + PROMPT + "a" + PROMPT + "b", "a" + PROMPT + "b"),
        (PROMPT, ""),
    ],
)
def test_prompt_is_cut_off(query, response):
    assert extract_response(query, PROMPT) == (response, True)


def test_earlier_turns_are_part_of_the_prompt():
    prompt = PROMPT + PROMPT
    assert extract_response("<s>" + prompt + "a", prompt) == ("a", True)


def test_prompt_not_found():
    reward = reward_func([r"something else \boxed{42}"], [PROMPT], ["42"])
    assert reward["rewards"] == 1.0 and raised(reward) == {"prompt_not_found"}


@pytest.fixture
def graded(monkeypatch):
    """Responses are what they come to; `asked` has what was graded."""
    asked = []

    def verify(response, label):
        asked.append((response, label))
        return Verdict(response == "correct", response, "")

    monkeypatch.setattr(math_verify_reward, "verify_answer", verify)
    return asked


OUTCOMES = ("correct", "wrong", "no_answer", "timeout", "error")


def logs(timeout, error, no_answer, prompt_not_found) -> dict:
    return {
        "verifier/timeout": timeout,
        "verifier/error": error,
        "verifier/no_answer": no_answer,
        "verifier/prompt_not_found": prompt_not_found,
    }


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_all_that_is_said_of_one_response(outcome, graded):
    score = float(outcome == "correct")
    flags = logs(*(float(outcome == name) for name in ("timeout", "error", "no_answer")), 0.0)
    assert reward_func(["p" + outcome], ["p"], ["l"]) == {"rewards": score, "scores": score, "extra_logs": flags}
    assert graded == [(outcome, "l")]


def test_all_that_is_said_of_several_responses(graded):
    queries = [*OUTCOMES, "correct"]
    prompts = ["", "", "", "", "", "absent"]
    assert reward_func(queries, prompts, list("abcdef")) == {
        "rewards": [1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        "scores": [1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        "extra_logs": logs(
            [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        ),
    }
    assert sorted(graded, key=lambda one: one[1]) == list(zip(queries, "abcdef", strict=True))
    assert reward_func([], [], []) == {"rewards": [], "scores": [], "extra_logs": logs([], [], [], [])}


@pytest.mark.parametrize(("query", "prompt"), [(5, "p"), ("correct", None), (None, None)])
def test_what_is_no_text_is_handed_over_as_it_is(query, prompt, graded):
    assert reward_func([query], [prompt], ["l"])["extra_logs"]["verifier/prompt_not_found"] == 1.0
    assert graded == [(query, "l")]


LONG = "".join(chr(ord("A") + number % 26) + str(number) for number in range(40))


@pytest.mark.parametrize(
    ("query", "prompt", "found"),
    [
        (LONG[-64:] + "a", LONG, ("a", True)),
        (LONG[-63:] + "a", LONG, (LONG[-63:] + "a", False)),
        ("x" + LONG + "a", LONG, ("a", True)),
        ("x.p*" + "a", "y.p*", ("x.p*a", False)),
        ("<s>.p*" + "a", ".p*", ("a", True)),
        ("ab", "", ("ab", True)),
    ],
)
def test_where_a_response_begins(query, prompt, found):
    assert extract_response(query, prompt) == found


@pytest.mark.parametrize(
    ("length", "response"),
    [(65, "aENDbENDc"), (96, "aENDbENDc"), (97, "bENDc"), (129, "bENDc"), (161, "bENDc"), (162, "c"), (500, "c")],
)
def test_of_several_ends_of_the_prompt_the_nearest_to_its_place_counts(length, response):
    """They end at 64, 129 and 194; the response repeats them, or the prompt's beginning was cut off."""
    end = "x" * 61 + "END"
    query = f"{end}a{end}b{end}c"
    found, is_found = extract_response(query, "y" * (length - 64) + end)
    assert is_found and found.replace(end, "END") == response


def test_answer_in_the_prompt_does_not_count():
    prompt = r"Is it \boxed{42}?"
    assert reward_func([prompt + " I do not know."], [prompt], ["42"])["rewards"] == 0.0


def test_several_responses():
    queries = [PROMPT + rf"\boxed{{{i}}}" for i in range(41, 45)] + ["none"]
    reward = reward_func(queries, [PROMPT] * 5, ["42"] * 5)
    assert reward["rewards"] == reward["scores"] == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert reward["extra_logs"]["verifier/no_answer"] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert reward["extra_logs"]["verifier/prompt_not_found"] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert reward["extra_logs"].keys() == KEYS
    assert reward_func([], [], [])["rewards"] == []


@pytest.mark.parametrize("arguments", [(["q"], [], []), ([None], [None], [None]), ([3], ["p"], [object()])])
def test_wrong_arguments_are_errors(arguments):
    reward = reward_func(*arguments)
    assert reward["rewards"] == 0.0 and "error" in raised(reward)


def test_wrong_setting_stops_the_load(monkeypatch):
    monkeypatch.setenv("LENS_VERIFIER_TIMEOUT", "ten")
    with pytest.raises(ValueError, match="LENS_VERIFIER_TIMEOUT"):
        load_by_path()


COMMANDS = r"\frac{ \sqrt{ \boxed{ \left( \right) \\ \text{ \begin{matrix} \end{matrix} \infty \le \pm".split()
SIGNS = "{}()[]$^_&=<>+-*/.,;:%!|0123456789xyei \n"
latex_pieces = st.lists(st.sampled_from([*COMMANDS, *SIGNS])).map("".join)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    response=st.one_of(st.text(), latex_pieces, latex_pieces.map(lambda text: rf"\boxed{{{text}}}")),
    prompt=st.text(max_size=80),
    label=st.one_of(st.sampled_from(["42", r"\frac{1}{2}", "(1,2)", "x=3", "x<1"]), latex_pieces),
    whole=st.booleans(),
)
def test_any_text_gives_a_reward(response, prompt, label, whole):
    reward = reward_func([prompt + response if whole else response], [prompt], [label])
    assert reward["rewards"] in (0.0, 1.0)
    raised(reward)


def test_through_openrlhf():
    """OpenRLHF's own executor: load by path, thread offload, tensors of the logs."""
    import openrlhf.utils.agent as agent
    import torch

    executor = agent.SingleTurnAgentExecutor(str(PATH))

    async def rollouts():
        return await asyncio.gather(
            *(
                executor._fetch_rewards_via_func([PROMPT + rf"\boxed{{{i}}}<|im_end|>"], [PROMPT], ["42"])
                for i in range(40, 45)
            )
        )

    rewards = [reward for (reward,) in asyncio.run(rollouts())]
    assert torch.tensor([reward.get("rewards") for reward in rewards]).tolist() == [0, 0, 1, 0, 0]
    for reward in rewards:
        for value in reward["extra_logs"].values():
            assert torch.tensor([value]).tolist() == [0.0]


def test_public_names():
    assert set(lens_openrlhf.rewards.__all__) == {
        "Verdict",
        "check_labels",
        "label_text",
        "reward_func",
        "shutdown",
        "validate_label",
        "verify_answer",
    }
