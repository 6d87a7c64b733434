"""Where tasks, rewards and the tokeniser meet."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polopt.errors import DataError, RecipeError, RewardError
from polopt.models import load, reader_of
from polopt.recipe import load as load_recipe
from polopt.resolution import resolve
from polopt.rewards import RewardSpec
from polopt.rollout.rewarding import judge, specs, text_of
from polopt.rollout.text import TextSource, text_source
from polopt.types import Group, Outcome, Sample

LANGUAGE_MODEL = load("builtin:tiny")
TABLES = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:chain_sum", "parameters": {"terms": 3, "modulus": 5}},
    "rollout": {"max_new_tokens": 12},
    "evaluation": {"prompts": 20},
    "stage": {"warm": {"algorithm": "sft"}, "rl": {"algorithm": "grpo"}},
}


def source(stage: int = 1, seed: int = 1, demonstrations: bool = False) -> TextSource:
    recipe = resolve(load_recipe(TABLES | {"run": {"seed": seed}}))
    wanted = "demonstrations" if demonstrations else "prompts"
    return text_source(recipe.stages[stage], reader_of(LANGUAGE_MODEL), wanted=wanted)


def test_a_place_has_one_prompt_whoever_asks_when() -> None:
    one, other = source(), source()
    assert [one.prompt(i) for i in (5, 0, 5)] == [other.prompt(i) for i in (5, 0, 5)]
    assert one.prompt(5).id == 5
    assert len({one.prompt(i).text for i in range(30)}) > 20


def test_the_seed_and_the_stage_choose_the_prompts() -> None:
    texts = [source().prompt(i).text for i in range(10)]
    assert [source(seed=2).prompt(i).text for i in range(10)] != texts
    assert [source(stage=0).prompt(i).text for i in range(10)] != texts


def test_every_stage_is_evaluated_on_the_same_prompts_that_training_never_sees() -> None:
    warm, rl = source(0, demonstrations=True), source(1)
    assert [p.text for p in warm.evaluation] == [p.text for p in rl.evaluation]
    held_out = {prompt.text for prompt in rl.evaluation}
    assert len(rl.evaluation) == 20
    assert not held_out & {rl.prompt(i).text for i in range(200)}
    assert not held_out & {warm.demonstration(i).prompt.text for i in range(200)}


def group(text: TextSource, place: int, answer: str) -> Group:
    prompt = text.prompt(place)
    tokenizer = text.tokeniser.tokenizer
    response = [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
    tokens = np.array([*prompt.tokens, *response])
    mask = np.arange(len(tokens)) >= len(prompt.tokens)
    logp = np.zeros(len(tokens), dtype=np.float32)
    return Group(place, prompt, (Sample(tokens, mask, logp, len(prompt.tokens)),))


def stage_with(**tables):
    return resolve(load_recipe({**TABLES, **tables}), own_reward=True).stages[1]


def test_the_verifier_of_the_task_judges_by_default() -> None:
    text = source()
    right = text.prompt(0).columns["answer"]
    judged = judge(text, specs(stage_with(), text.task), seed=1)(
        [group(text, 0, f">{right}"), group(text, 1, ">nothing")]
    )
    assert [g.samples[0].outcome for g in judged] == [Outcome.OK, Outcome.WRONG]
    assert [g.samples[0].reward for g in judged] == [1.0, 0.0]
    assert text_of(text)(judged[0].samples[0]) == f">{right}"  # no special token


def test_a_function_from_python_takes_the_place_of_the_recipe() -> None:
    seen = {}

    def own(prompts, completions, completion_ids, answer):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids, answer=answer)
        return [0.25]

    text = source()
    judged = judge(text, specs(stage_with(), text.task, own), seed=1)([group(text, 3, "ab")])
    assert judged[0].samples[0].reward == 0.25
    assert judged[0].samples[0].parts == {"own": 0.25}
    assert seen["prompts"] == [text.prompt(3).text]
    assert seen["completions"] == ["ab"]
    assert seen["ids"] == [text.tokeniser.tokenizer("ab")["input_ids"] + [2]]
    assert seen["answer"] == [text.prompt(3).columns["answer"]]


def test_rewards_of_files_are_named_and_weighted(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def length(completions):\n    return [float(len(c)) for c in completions]\n")
    rewards = [
        {"verifier": "task", "weight": 2.0},
        {"file": str(file), "function": "length", "weight": 0.5, "name": "short"},
    ]
    text = source()
    right = text.prompt(0).columns["answer"]
    found = specs(stage_with(rewards=rewards), text.task)
    assert [(spec.name, spec.weight) for spec in found] == [("chain_sum", 2.0), ("short", 0.5)]
    (one,) = judge(text, found, seed=1)([group(text, 0, f">{right}")])
    assert one.samples[0].reward == 2.0 * 1.0 + 0.5 * 2
    assert one.samples[0].outcome is Outcome.OK


def test_a_verifier_that_the_data_do_not_bring() -> None:
    with pytest.raises(RecipeError, match="brings no verifier; math, or a file and a function"):
        specs(stage_with(rewards=[{"verifier": "task"}]), None)


def test_a_reward_that_breaks_its_contract_names_itself() -> None:
    def own(completions):
        return [1.0, 2.0]

    text = source()
    with pytest.raises(RewardError, match="own"):
        judge(text, specs(stage_with(), text.task, own), seed=1)([group(text, 3, "ab")])


def test_nothing_to_judge_or_nobody_to_judge_it() -> None:
    text = source()
    assert judge(text, specs(stage_with(), text.task), seed=1)([]) == []
    groups = [group(text, 0, ">1")]
    assert judge(text, [], seed=1)(groups) == groups


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused() -> None:
    long = replace(source().tokeniser, max_prompt_tokens=2)
    with pytest.raises(Exception, match="at most 2"):
        long.prompt(source().rows.train[0], 0)


def test_a_reward_that_draws_draws_anew_in_every_batch() -> None:
    """And the same in the same batch, so that a run resumes."""

    def noise(completions):
        return [random.random() for _ in completions]

    text = source()
    judged = judge(text, [RewardSpec("noise", noise)], seed=1)
    drawn = [judged([group(text, place, "a")])[0].samples[0].reward for place in (0, 1, 2, 1)]
    assert len(set(drawn)) == 3 and drawn[3] == drawn[1]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"solution": "7"}, "is missing; columns: prompt, solution"),
        ({"answer": None}, "is null; text or a number"),
        ({"answer": [7]}, "is [7]; text or a number"),
        ({"answer": True}, "is true; text or a number"),
        ({"answer": " "}, "is empty; at least one character"),
    ],
)
def test_a_row_without_the_right_answer_is_told_before_training(tmp_path, row, line) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{i}?", "answer": i} for i in range(30)]
    rows[4] = {"prompt": "4?", **row}
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    tables = {
        "algorithm": "grpo",
        "model": {"path": "builtin:tiny"},
        "data": {"source": str(file)},
        "rollout": {"max_new_tokens": 12},
        "reward": {"verifier": "math"},
    }
    stage = resolve(load_recipe(tables)).stages[0]
    with pytest.raises(DataError) as error:
        text_source(stage, reader_of(LANGUAGE_MODEL))
    assert str(error.value) == f"{file}:5: field 'answer': {line}"


def test_a_verifier_of_mathematics_needs_no_task() -> None:
    rewards = [{"verifier": "task"}, {"verifier": "math", "weight": 0.0, "answer_field": "gold"}]
    text = source()
    found = specs(stage_with(rewards=rewards), text.task)
    assert [(spec.name, spec.weight, spec.is_accuracy) for spec in found] == [
        ("chain_sum", 1.0, True),
        ("math", 0.0, True),
    ]
