"""Files, flags and stages become one recipe."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polopt.errors import RecipeError
from polopt.recipe import catalogue, dump, load, standalone

ONE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:chain_sum", "parameters": {"terms": 5, "modulus": 10}},
}
TWO: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:chain_sum"},
    "update": {"learning_rate": 1e-3, "beta1": 0.8},
    "run": {"seed": 7, "steps": 50},
    "stage": {
        "sft": {"algorithm": "sft", "run": {"steps": 20}},
        "rl": {"algorithm": "grpo", "from": "sft", "update": {"learning_rate": 1e-4}},
    },
}


def one(flags: Any = ()) -> Any:
    return load(ONE, flags).stages[0]


def test_a_file_and_a_mapping_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(
        'algorithm = "grpo"\r\n[model]\npath = "builtin:tiny"\n'
        '[data]\nsource = "task:chain_sum"\nparameters = { terms = 5, modulus = 10 }\n',
        encoding="utf-8-sig",  # as some editors save it
    )
    assert load(file) == load(str(file)) == load(ONE) == load(MappingProxyType(ONE))


def test_a_recipe_without_stages_is_one_stage_named_train() -> None:
    recipe = load(ONE)
    assert [stage.name for stage in recipe.stages] == ["train"]
    assert recipe.stages[0].data.parameters == {"terms": 5, "modulus": 10}


def test_what_stands_outside_is_shared_and_a_stage_wins() -> None:
    sft, rl = load(TWO).stages
    assert (sft.name, sft.algorithm, rl.name, rl.algorithm) == ("sft", "sft", "rl", "grpo")
    assert (sft.update.learning_rate, rl.update.learning_rate) == (1e-3, 1e-4)
    assert (sft.update.beta1, rl.update.beta1) == (0.8, 0.8)
    assert (sft.run.steps, rl.run.steps, sft.run.seed, rl.run.seed) == (20, 50, 7, 7)
    assert (sft.start, rl.start) == (None, "sft")
    assert "update.learning_rate" in sft.inherited
    assert "update.learning_rate" not in rl.inherited


def test_stages_run_in_the_order_of_the_file() -> None:
    names = ["zeta", "alpha", "mid"]
    table = {**TWO, "stage": {name: {"algorithm": "sft"} for name in names}}
    assert [stage.name for stage in load(table).stages] == names


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ([], (1e-3, 1e-4)),
        (["--update.learning_rate", "0.5"], (0.5, 0.5)),
        (["--rl.update.learning_rate=0.5"], (1e-3, 0.5)),
        (["--stage.rl.update.learning_rate=0.5"], (1e-3, 0.5)),
        (["--rl.update.learning_rate", "0.5", "--update.learning_rate", "0.25"], (0.25, 0.5)),
        (["--update.learning_rate", "0.25", "--rl.update.learning_rate", "0.5"], (0.25, 0.5)),
        (["--update.learning_rate", "0.1", "--update.learning_rate", "0.2"], (0.2, 0.2)),
        ({"update.learning_rate": 0.5}, (0.5, 0.5)),
        ({"rl.update.learning_rate": 0.5}, (1e-3, 0.5)),
    ],
)
def test_flags_win_over_the_file_and_one_stage_over_all(
    flags: Any, rates: tuple[float, float]
) -> None:
    sft, rl = load(TWO, flags).stages
    assert (sft.update.learning_rate, rl.update.learning_rate) == rates


def test_loading_leaves_the_mapping_alone() -> None:
    before = repr(TWO)
    load(TWO, ["--update.learning_rate", "1.0", "--data.parameters.terms", "3"])
    assert repr(TWO) == before


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--model.path=12", "12"),  # a text field is never parsed
        ("--model.path=a=b", "a=b"),
        ("--data.source=task:x", "task:x"),
        ("--run.directory=runs/1", "runs/1"),
    ],
)
def test_text_fields_take_the_words_as_they_are(flag: str, value: str) -> None:
    stage = load({**ONE, "data": {"source": "task:chain_sum"}}, [flag]).stages[0]
    assert value in (stage.model.path, stage.data.source, stage.run.directory)


def test_other_fields_take_toml_values() -> None:
    words = ["--update.epochs", "1_000", "--update.learning_rate", "5", "--run.track", "wandb"]
    words += ["--rollout.stop", '["a","b"]', "--data.parameters.terms=3"]
    words += ["--data.parameters.kind", "sum"]
    stage = one(words)
    assert stage.update.epochs == 1000
    assert stage.update.learning_rate == 5.0
    assert stage.rollout.stop == ("a", "b")
    assert stage.run.track == ("wandb",)
    assert stage.data.parameters == {"terms": 3, "modulus": 10, "kind": "sum"}


@pytest.mark.parametrize("text", [";", "[", "5", "a b", "true"])
def test_a_single_value_is_a_list_of_one(text: str) -> None:
    assert one([f"--rollout.stop={text}"]).rollout.stop == (text,)


@pytest.mark.parametrize("text", ["64", "[64]", "64,"])
def test_a_single_number_is_a_list_of_one(text: str) -> None:
    assert one([f"--network.hidden={text}"]).network.hidden == (64,)


@pytest.mark.parametrize("text", ["64,32", "64, 32", "[64, 32]"])
def test_numbers_with_commas_are_a_list(text: str) -> None:
    assert one(["--network.hidden", text]).network.hidden == (64, 32)


def test_rewards_short_and_long() -> None:
    short = load({**ONE, "reward": {"verifier": "task"}})
    long = load({**ONE, "rewards": [{"verifier": "task"}]})
    assert short == long
    assert load(TWO | {"reward": {"verifier": "task"}}) != load(TWO)
    assert load(ONE, ["--reward.verifier", "task"]) == short
    assert (
        load({**ONE, "reward": {"verifier": "task"}}, ["--reward.weight", "2"])
        .stages[0]
        .rewards[0]
        .weight
        == 2
    )


def test_a_stage_may_spell_its_reward_otherwise() -> None:
    own = [{"verifier": "task"}, {"file": "r.py", "function": "score"}]
    table = {**TWO, "reward": {"verifier": "task"}}
    table["stage"] = {**TWO["stage"], "rl": {"algorithm": "grpo", "rewards": own}}
    sft, rl = load(table).stages
    assert (len(sft.rewards), len(rl.rewards)) == (1, 2)


def test_a_flag_without_stage_reaches_the_stages_that_have_the_table() -> None:
    table = {**TWO, "stage": {**TWO["stage"]}}
    table["stage"]["sft"] = {
        **TWO["stage"]["sft"],
        "until": {"metric": "accuracy", "at_least": 0.9},
        "evaluation": {"every": 5},
    }
    sft, rl = load(table, ["--until.at_least", "0.5"]).stages
    assert sft.until is not None
    assert sft.until.at_least == 0.5
    assert rl.until is None


def test_dump_reads_back() -> None:
    for table in (ONE, TWO):
        recipe = load(table)
        assert dump(load(dump(recipe))) == dump(recipe)
        assert load(dump(recipe)) == recipe or len(recipe.stages) > 1  # what was shared is not


def test_a_stage_stands_alone() -> None:
    rl = load(TWO).stages[1]
    (alone,) = load(standalone(rl)).stages
    assert (alone.name, alone.start) == ("train", None)
    assert alone.update == rl.update
    assert alone.run == rl.run


def test_every_leaf_of_the_catalogue_can_be_read_and_explained() -> None:
    assert len(catalogue()) > 60
    for name, leaf in catalogue().items():
        assert leaf.name == name
        assert leaf.allowed
        assert leaf.description
    assert catalogue()["rollout.group_size"].default == "the row decides"
    assert catalogue()["update.beta1"].default == "0.9"
    assert catalogue()["credit.lambda"].allowed == "a number from 0 to 1"


# Anything at all, shaped a little like a recipe.
_keys = st.sampled_from([*catalogue(), "stage", "reward", "rewards", "name", "inherited", "x", ""])
_names = st.one_of(
    st.sampled_from(sorted({part for name in catalogue() for part in name.split(".")})),
    st.sampled_from(["stage", "reward", "rewards", "name", "inherited", "sft", "rl"]),
    st.text(max_size=8),
)
_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=10**400, max_value=10**401),
        st.floats(),
        st.text(max_size=20),
        st.binary(max_size=3),
        st.sampled_from(["grpo", "sft", "task:chain_sum", "builtin:tiny", "group_mean", "k1"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_names | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)
_tables = st.dictionaries(_names, _values, max_size=6)
_flags = st.lists(st.tuples(_keys | st.text(max_size=12), _values), max_size=4).map(dict)
_words = st.lists(st.one_of(_keys.map(lambda key: f"--{key}"), st.text(max_size=8)), max_size=6)


@settings(max_examples=400, deadline=None)
@given(table=_tables, below=st.booleans(), flags=st.one_of(_flags, _words))
def test_whatever_is_loaded_only_recipe_errors_come(
    table: dict[str, Any], below: bool, flags: Any
) -> None:
    from polopt.resolution import resolve

    try:
        resolve(load({**ONE, **table} if below else table, flags))
    except RecipeError as error:
        line = str(error)
        assert len(line.splitlines()) == 1
        assert line.isprintable()
        assert len(line) <= 300


def test_a_key_beyond_64_bits_is_an_unknown_field() -> None:
    with pytest.raises(RecipeError, match=r"^9223372036854775808: unknown field; a recipe has "):
        load({2**63: 0})
