"""The rows, the table of choices, and recipe and row put together."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polopt.algorithms import ROWS, row
from polopt.assembly.chosen import chosen
from polopt.choices import COLUMNS, Choice
from polopt.choices.section import Idle, Needs
from polopt.errors import RecipeError
from polopt.recipe import Recipe, StageRecipe, catalogue, dump, load
from polopt.recipe.fields import fact, facts, flat, members, row_decides, section_types
from polopt.resolution import derived, describe, describe_row, resolve, table
from polopt.resolution import settings as settings_of

ROOT = Path(__file__).parents[2]
GRPO: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:chain_sum"},
}
SFT = {**GRPO, "algorithm": "sft"}
ENTRIES = [
    pytest.param(choice, id=f"{column}-{name}")
    for column in (one.name for one in COLUMNS.values())
    for name, one in COLUMNS[column].choices.items()
    for choice in (one, *one.replaces.values(), *map(one.on, one.elsewhere))
]
FIELDS = {name: column.field for name, column in COLUMNS.items() if column.field is not None}


def stage(base: dict[str, Any] = GRPO, **flags: Any) -> StageRecipe:
    """The one stage of a resolved recipe; flags with __ for the dot."""
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return resolve(load(base, dotted)).stages[0]


# The table of choices


@pytest.mark.parametrize(("column", "field"), FIELDS.items())
def test_a_column_has_a_choice_for_every_string_of_the_recipe(column: str, field: str) -> None:
    section, key = field.split(".")
    annotation = type(getattr(StageRecipe.model_construct(), section)).model_fields[key].annotation
    strings = {s for part in (annotation, *get_args(annotation)) for s in get_args(part)}
    assert {s for s in strings if isinstance(s, str)} == set(COLUMNS[column].choices)


@pytest.mark.parametrize("choice", ENTRIES)
def test_every_choice_leads_to_code_and_names_its_file(choice: Choice) -> None:
    for target in {choice.function, choice.formula or choice.function}:
        module, name = target.split(":")
        assert hasattr(import_module(module), name), target
    assert (ROOT / choice.file).is_file()
    assert choice.equation


@pytest.mark.parametrize("choice", ENTRIES)
def test_arguments_of_a_choice_are_fields_of_the_recipe(choice: Choice) -> None:
    assert {*choice.fields, *(one.field for one in choice.takes)} <= set(catalogue())


def test_a_group_normaliser_gets_its_numbers() -> None:
    torch = pytest.importorskip("torch")
    from polopt.types import Experience

    one = stage(credit__ddof=0, credit__epsilon=0.0)
    normalise = chosen("normalisation", one)
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
    mask = torch.ones(4, 1, dtype=torch.bool)
    experience = Experience(mask=mask, group=torch.zeros(4, dtype=torch.int64), rewards=rewards)
    centred = rewards[:, None] - 0.5
    advantages, keep = normalise(centred, rewards, experience, mask, mask[:, 0])
    assert advantages[:, 0].tolist() == [1.0, -1.0, -1.0, 1.0]  # mean 1/2, population std 1/2
    assert keep.all()


def test_a_bound_gets_its_range() -> None:
    torch = pytest.importorskip("torch")
    one = stage(objective__clip_low=0.5, objective__clip_high=1.0)
    ratio = torch.tensor([[3.0, 0.25]]).log()
    advantages, mask = torch.tensor([[1.0, -1.0]]), torch.ones(1, 2, dtype=torch.bool)
    loss, _ = chosen("bound", one)(ratio, ratio, advantages, mask)
    assert loss.tolist() == [[-2.0, 0.5]]  # 3 is cut to 1 + 1.0, 0.25 to 1 - 0.5


def test_without_a_ratio_the_surrogate_is_the_score_function() -> None:
    from polopt.math.surrogates import score_function

    one = stage(objective__ratio="none")
    assert one.objective.bound is None
    assert chosen("bound", one) is score_function


# The rows


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_consistent(name: str) -> None:
    one = row(name)
    assert one.name == name
    assert (ROOT / one.file).is_file()
    sections = {field.partition(".")[0] for field in one.uses}
    assert sections <= {*section_types(), "rewards"}
    assert one.idle | one.of_critic <= set(catalogue())
    assert one.update in COLUMNS["update"].choices
    for domain, place in one.places.items():
        defaults = one.defaults(domain)
        assert defaults["run.steps"]
        for field in {*one.values, *place.values}:
            assert one.has(field), field
            assert field in defaults
        for column in ("rollout", "coordination"):
            assert getattr(place, column) in COLUMNS[column].choices
        module, function = place.stage.split(":")
        assert hasattr(import_module(module), function)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_decides_whatever_it_uses(name: str) -> None:
    """What it leaves open has an effect only beside something else that a recipe states."""
    one = row(name)
    for domain in one.domains:
        open_fields = {f for f in row_decides() if one.has(f)} - one.defaults(domain).keys()
        for field in open_fields:
            readers = [n for column in COLUMNS.values() for n in column.readers(field)]
            assert readers or fact(field, Needs) or fact(field, Idle), field


def test_every_field_of_a_choice_says_where_it_has_an_effect() -> None:
    assert {
        field for column in COLUMNS.values() for n in column.choices.values() for field in n.fields
    } <= set(facts())


def test_grpo_is_equation_3_of_its_paper() -> None:
    entries = {entry["column"]: entry for entry in describe_row("grpo")}
    choices = {column: entry["choice"] for column, entry in entries.items()}
    assert choices["returns"] == "outcome"
    assert (choices["baseline"], choices["normalisation"]) == ("group_mean", "group_std")
    assert (choices["ratio"], choices["bound"]) == ("token", "clip")
    assert choices["kl"] == "k3 in loss"
    assert choices["aggregation"] == "seq_mean_token_mean"
    assert entries["kl"]["settings"] == {"kl.coefficient": 0.04}
    assert entries["bound"]["settings"] == {"objective.clip_low": 0.2, "objective.clip_high": 0.2}
    assert entries["baseline"]["file"] == "src/polopt/math/baselines.py"


def test_the_table_has_the_columns_of_the_design() -> None:
    columns = (
        "name rollout returns baseline normalisation ratio bound kl aggregation update roles "
        "extra_losses coordination file"
    )
    for one in table():
        assert set(columns.split()) <= one.keys()
    assert [one["name"] for one in table()] == list(ROWS)


def test_an_unknown_row_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean grpo"):
        row("GRPO2")


# Recipe and row


def test_the_row_fills_what_the_recipe_leaves_open() -> None:
    one = stage()
    assert one.rollout.group_size == 8
    assert one.credit.baseline == "group_mean"
    assert one.kl.coefficient == 0.04
    assert one.run.steps == 100
    assert one.run.checkpoint_every == 10
    assert one.rewards[0].verifier == "task"  # the task brings it
    assert stage(rollout__group_size=4).rollout.group_size == 4


def test_what_has_no_effect_stays_undecided() -> None:
    one = stage(kl__coefficient=0.0)
    assert (one.kl.estimator, one.kl.placement) == (None, None)
    assert stage(objective__bound="none").objective.clip_low is None
    assert stage(SFT).credit.baseline is None
    assert "kl.estimator" not in settings_of(one)


def test_a_reward_of_python_needs_none_in_the_recipe() -> None:
    recipe = load({**GRPO, "data": {"source": "prompts.jsonl"}})
    assert resolve(recipe, own_reward=True).stages[0].rewards == ()
    with pytest.raises(RecipeError, match=r"^reward: missing"):
        resolve(recipe)


def test_shared_fields_reach_the_stages_that_use_them() -> None:
    staged = {
        "model": GRPO["model"],
        "data": GRPO["data"],
        "rollout": {"group_size": 4, "temperature": 0.7},
        "evaluation": {"every": 30},
        "update": {"batch_size": 16},
        "stage": {"sft": {"algorithm": "sft", "run": {"steps": 20}}, "rl": {"algorithm": "grpo"}},
    }
    sft, rl = resolve(load(staged, ["--credit.epsilon", "0.5"])).stages
    assert (sft.rollout.temperature, rl.rollout.temperature) == (0.7, 0.7)
    assert (sft.update.batch_size, rl.update.batch_size) == (16, None)
    assert (sft.evaluation.every, rl.evaluation.every) == (30, 30)
    assert "rollout.group_size" not in settings_of(sft)
    assert (sft.credit.epsilon, rl.credit.epsilon) == (None, 0.5)
    assert (sft.start, rl.start) == (None, "sft")


def test_a_stage_starts_from_the_one_before_it() -> None:
    own = {name: {"algorithm": "grpo"} for name in ("one", "two", "three")}
    found = resolve(load({"model": GRPO["model"], "data": GRPO["data"], "stage": own})).stages
    assert [stage.start for stage in found] == [None, "one", "two"]


def test_an_unchecked_recipe_is_checked() -> None:
    """Somebody may build the dataclasses without ``load``."""
    recipe = load(GRPO)
    longer = recipe.stages[0].rollout.model_copy(update={"min_new_tokens": 99})
    broken = Recipe(stages=(recipe.stages[0].model_copy(update={"rollout": longer}),))
    with pytest.raises(RecipeError, match=r"^rollout.min_new_tokens: 99 is not allowed"):
        resolve(broken)


_PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "algorithm": st.sampled_from(list(ROWS)),
    "data.source": st.sampled_from(["task:x", "hub:a/b", "a.jsonl", "reasoning-gym:y"]),
    "data.on_bad_row": st.sampled_from(["skip", "error"]),
    "objective.ratio": st.sampled_from(["none", "token", "sequence_mean"]),
    "objective.bound": st.sampled_from(["none", "clip"]),
    "objective.aggregation": st.sampled_from(list(COLUMNS["aggregation"].choices)),
    "credit.returns": st.sampled_from(list(COLUMNS["returns"].choices)),
    "credit.baseline": st.sampled_from(list(COLUMNS["baseline"].choices)),
    "credit.normalisation": st.sampled_from(list(COLUMNS["normalisation"].choices)),
    "kl.coefficient": st.sampled_from([0.0, 0.1]),
    "kl.estimator": st.sampled_from(["k1", "k3"]),
    "reward.verifier": st.just("task"),
    "update.minibatches": st.sampled_from([1, 2, 4]),
}
_NUMBERS = st.sampled_from([0, 1, 2, 8, 0.5, 1.0, 0.0])
_EDITS = st.lists(
    st.sampled_from(sorted({*_PLAUSIBLE, *catalogue()})).flatmap(
        lambda field: st.tuples(st.just(field), _PLAUSIBLE.get(field, _NUMBERS))
    ),
    max_size=5,
).map(dict)


@settings(max_examples=400, deadline=None)
@given(edits=_EDITS)
def test_resolving_is_complete_and_reads_back(edits: dict[str, Any]) -> None:
    try:
        recipe = resolve(load(GRPO, edits))
    except RecipeError:
        return
    one = recipe.stages[0]
    used = settings_of(one)
    for field, value in flat(one).items():
        undecided = catalogue()[field].default == "the row decides" if field in catalogue() else 0
        if undecided and field in used:
            assert value is not None
    assert resolve(recipe) == recipe
    again = resolve(load(dump(recipe)))
    assert again == recipe
    assert dump(again) == dump(recipe)
    assert {entry["column"] for entry in describe(one)} >= {"rollout", "bound", "kl", "update"}
    assert derived(one)["optimiser_steps"] >= 1


# What follows


def test_arithmetic_of_samples_by_hand() -> None:
    one = stage(
        rollout__prompts_per_step=6,
        rollout__group_size=4,
        rollout__max_new_tokens=10,
        update__epochs=3,
        update__minibatches=2,
        run__steps=50,
        evaluation__every=20,
        evaluation__prompts=100,
    )
    assert derived(one) == {
        "responses_per_step": 24,
        "generated_tokens_per_step_at_most": 240,
        "minibatch_size": 12,
        "optimiser_steps_per_batch": 6,
        "optimiser_steps": 300,
        "responses": 1200,
        "evaluations_during_training": 2,
        "generated_tokens_per_evaluation_at_most": 1000,
    }


def test_arithmetic_of_demonstrations_by_hand() -> None:
    one = stage(SFT, update__batch_size=10, run__steps=7)
    assert derived(one) == {
        "demonstrations_per_step": 10,
        "optimiser_steps": 7,
        "demonstrations": 70,
        "evaluations_during_training": 0,
        "generated_tokens_per_evaluation_at_most": 512 * 48,
    }


def test_every_section_is_known_to_the_rows() -> None:
    alone = {"algorithm", "from", "until", "reward", "rewards"}
    assert set(members(())) - alone == set(section_types())


def test_rows_and_recipes_never_import_torch() -> None:
    program = (
        "import sys; from polopt.resolution import *; from polopt.recipe import load; "
        "recipe = resolve(load({'algorithm': 'grpo', 'model': {'path': 'builtin:tiny'}, "
        "'data': {'source': 'task:chain_sum'}})); describe(recipe.stages[0]); table(); "
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
