"""Which responses are shown, and what is said about those that are not."""

import pytest

from polopt.report.samples import (
    MAX_TURNS,
    common_system,
    compare,
    judged,
)


def row(kind: str, step: int, completion: str, reward: float | None = 1.0, **more: object):
    base = {"kind": kind, "step": step, "stage": "rl", "prompt": "1+1=", "ticket": 0}
    return {**base, "completion": completion, "reward": reward, **more}


def test_before_and_after_meet_at_their_prompt() -> None:
    (comparison,) = compare(
        [
            row("before", 0, "3", 0.0),
            row("before", 0, "x", 0.0, ticket=1, prompt="2+2="),
            row("before", 0, "2", 1.0),
            row("train", 1, "never here"),
            row("after", 9, "4", 1.0, ticket=1, prompt="2+2="),
            row("after", 9, "2", 1.0),
        ]
    )
    assert [pair.prompt.text.shown for pair in comparison.pairs] == ["1+1=", "2+2="]
    first, second = comparison.pairs
    assert [a.text.shown for a in first.before.answers] == ["3", "2"]
    assert [a.text.shown for a in first.after.answers] == ["2"]
    assert [a.text.shown for a in second.after.answers] == ["4"]
    assert first.before.mean_reward == 0.5
    assert (comparison.before, comparison.after) == (pytest.approx(1 / 3), 1.0)


def test_each_stage_that_records_before_is_a_comparison_of_its_own() -> None:
    stages = ["sft", "rl"]
    found = compare([row(k, 0, "x", stage=s) for s in stages for k in ("before", "after")])
    assert [c.stage for c in found] == stages
    # before one stage and after another belong together
    (whole,) = compare([row("before", 0, "a", stage="sft"), row("after", 9, "b", stage="rl")])
    assert whole.pairs[0].before.count == whole.pairs[0].after.count == 1


def test_before_without_after_is_shown() -> None:
    (comparison,) = compare([row("before", 0, "3")])
    assert comparison.after is None
    assert comparison.pairs[0].after.answers == []


def test_equal_responses_are_shown_once_with_their_number() -> None:
    (comparison,) = compare([row("before", 0, "3"), row("before", 0, "4"), row("before", 0, "3")])
    answers = comparison.pairs[0].before.answers
    assert [(a.text.shown, a.times) for a in answers] == [("3", 2), ("4", 1)]


@pytest.mark.parametrize(
    ("fields", "reward", "verdict", "marks"),
    [
        ({"reward": 1.0}, "1", "", ()),  # a reward alone says neither right nor wrong
        ({"reward": 1.0, "outcome": "scored"}, "1", "", ()),
        ({"reward": 2.5, "outcome": "wrong"}, "2.5", "wrong", ()),
        ({"reward": -0.5, "outcome": "ok"}, "-0.5", "right", ()),
        ({"reward": None, "outcome": "infra_error"}, "none", "", ("infra error",)),
        ({"reward": 1.0, "outcome": "timeout"}, "1", "", ("timeout",)),
        ({"reward": 1.0, "outcome": ["ok"]}, "1", "", ("['ok']",)),
        ({"reward": 0.0, "finish": "length"}, "0", "", ("cut at the length limit",)),
        ({"finish": "aborted"}, "1", "", ("aborted",)),
        ({"finish": "stop", "outcome": "ok"}, "1", "right", ()),
        ({"parts": {"task": 1.0}}, "1", "", ()),
        (
            {"parts": {"task": 1.0, "format": 0.25, "tone": None}},
            "1",
            "",
            ("task 1", "format 0.25", "tone none"),
        ),
    ],
)
def test_what_is_said_about_a_response(fields, reward, verdict, marks) -> None:
    (comparison,) = compare([row("before", 0, "x", **fields)])
    (answer,) = comparison.pairs[0].before.answers
    assert (answer.reward, answer.verdict, answer.marks) == (reward, verdict, marks)


def chat(*turns: tuple[str, str], **fields: object):
    messages = [{"role": role, "content": content} for role, content in turns]
    return row("before", 0, "x", messages=messages, prompt=f"<rendered {turns}>", **fields)


def turns_of(samples, system=None) -> list[list[tuple[str, str]]]:
    (comparison,) = compare(samples, system)
    prompts = [pair.prompt for pair in comparison.pairs]
    return [[(turn.role, turn.content.shown) for turn in prompt.turns] for prompt in prompts]


def test_a_conversation_is_shown_as_its_messages() -> None:
    assert turns_of([chat(("user", "1+1?")), row("before", 0, "y")]) == [[("user", "1+1?")], []]
    (comparison,) = compare([chat(*[("user", "a"), ("assistant", "b")] * MAX_TURNS)])
    prompt = comparison.pairs[0].prompt
    assert (len(prompt.turns), prompt.left_out) == (MAX_TURNS, MAX_TURNS)


def test_a_system_message_that_all_have_is_taken_out_of_the_prompts() -> None:
    rules = ("system", "Answer briefly.")
    samples = [chat(rules, ("user", "1+1?")), chat(rules, ("user", "2+2?")), row("before", 0, "y")]
    system = common_system(samples)
    assert system is not None and system.content.shown == "Answer briefly."
    assert turns_of(samples, system) == [[("user", "1+1?")], [("user", "2+2?")], []]
    others = (chat(("system", "Answer."), ("user", "3?")), chat(("user", "3?")))
    for other in others:
        assert common_system([*samples, other]) is None
        assert turns_of([*samples, other])[0][0] == rules
    assert common_system([row("before", 0, "y")]) is None


@pytest.mark.parametrize(
    "messages", ["text", 1, {}, [], ["text"], [{"role": "user"}], [{"role": 1, "content": "a"}]]
)
def test_what_are_no_messages_is_left_to_the_text(messages: object) -> None:
    (comparison,) = compare([row("before", 0, "x", messages=messages)])
    prompt = comparison.pairs[0].prompt
    assert prompt.turns == () and prompt.text.shown == "1+1="


def test_responses_are_judged_where_something_says_right_or_wrong() -> None:
    assert not judged([row("train", 1, "x", outcome=o) for o in ("scored", "error", ["ok"], None)])
    assert judged([row("train", 1, "x", outcome="wrong")])
