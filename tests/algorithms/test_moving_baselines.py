"""Baselines that remember earlier batches: golden numbers through the row, and the checkpoint."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from polopt.assembly.adaptive import adaptive_numbers
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.errors import RecipeError
from polopt.recipe import StageRecipe, load
from polopt.resolution import describe, resolve
from polopt.types import Advantages, Experience, TokenRows
from polopt.update import AdaptiveNumber

BASE = {"model": {"path": "builtin:tiny"}, "data": {"source": "task:reverse"}}
NAN = float("nan")


def no_policy(_: TokenRows) -> torch.Tensor:
    raise AssertionError("nobody asks it")


def stage(baseline: str, **flags: Any) -> StageRecipe:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    recipe = {**BASE, "algorithm": "reinforce", "credit": {"baseline": baseline}}
    return resolve(load(recipe, named)).stages[0]


def golden(name: str) -> dict[str, Any]:
    document = json.loads(
        (files("polopt.diagnose.conformance") / "golden.json").read_text(encoding="utf-8")
    )
    (case,) = (case for case in document["cases"] if case["name"] == f"baseline/{name}")
    return case


def batch(rewards: list[float], **fields: Any) -> Experience:
    return Experience(
        mask=torch.ones(len(rewards), 2, dtype=torch.bool),
        group=torch.arange(len(rewards)),
        rewards=torch.tensor(rewards, dtype=torch.float64),
        **fields,
    )


def train(
    one: StageRecipe, number: AdaptiveNumber, experience: Experience
) -> tuple[Advantages, dict]:
    """What a batch is credited with, and what the number makes of it."""
    advantages = assign(experience, credit_of(one, [number]))
    return advantages, number.update(experience, advantages, 0)


@pytest.mark.parametrize("baseline", ["ema", "running_mean"])
def test_golden_numbers(baseline: str) -> None:
    case = golden(baseline)
    one = stage(baseline)
    (number,) = adaptive_numbers(one, no_policy)
    for rewards, wanted, used in zip(
        case["inputs"]["batches"],
        case["expected"]["advantages"],
        case["expected"]["baseline_used"],
        strict=True,
    ):
        advantages, metrics = train(one, number, batch(rewards))
        assert advantages.advantages[:, 0].tolist() == pytest.approx(wanted, abs=1e-6)
        assert metrics == {"baseline/value": pytest.approx(used, abs=1e-6)}
    assert number.value == pytest.approx(case["expected"]["final"], abs=1e-6)


def test_the_decay_is_that_of_the_recipe() -> None:
    """b = 0, then ½·1, then ½·½ + ½·0."""
    one = stage("ema", credit__baseline_decay=0.5)
    (number,) = adaptive_numbers(one, no_policy)
    for reward, after in ((1.0, 0.5), (0.0, 0.25)):
        train(one, number, batch([reward]))
        assert number.value == after


@pytest.mark.parametrize("baseline", ["ema", "running_mean"])
def test_what_could_not_be_scored_moves_nothing(baseline: str) -> None:
    one = stage(baseline)
    (number,), (other,) = adaptive_numbers(one, no_policy), adaptive_numbers(one, no_policy)
    train(one, number, batch([1.0, NAN, 0.0]))
    train(one, other, batch([1.0, 0.0]))
    assert (number.value, number.seen) == (other.value, other.seen)
    before = number.value
    advantages, _ = train(one, number, batch([NAN, NAN]))
    assert number.value == before
    assert not advantages.valid.any()


def test_it_is_the_mean_of_the_shaped_rewards() -> None:
    """Reward 1, and a KL of ½ on each of two tokens at β = 0.2: 0.8."""
    one = stage("running_mean", kl__coefficient=0.2, kl__placement="reward", kl__estimator="k1")
    (number,) = adaptive_numbers(one, no_policy)
    old = torch.full((1, 2), -1.0, dtype=torch.float64)
    train(one, number, batch([1.0], logp_old=old, logp_ref=old - 0.5))
    assert number.value == pytest.approx(0.8)


def test_every_digit_is_in_the_checkpoint(tmp_path: Path) -> None:
    one = stage("running_mean")
    (number,), (other,) = adaptive_numbers(one, no_policy), adaptive_numbers(one, no_policy)
    train(one, number, batch([1.0, 1.0, 0.0]))
    other.load(tmp_path, number.save(tmp_path))
    assert (other.value, other.seen) == (number.value, 3) == (2 / 3, 3)


def test_credit_that_was_built_once_reads_the_number_as_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """b = 0, then ½·1; and no module is looked up in a step."""
    one = stage("ema", credit__baseline_decay=0.5)
    (number,) = adaptive_numbers(one, no_policy)
    credit, earned = credit_of(one, [number]), list[float]()

    def never(_: str) -> None:
        raise AssertionError("a string is resolved in a step")

    monkeypatch.setattr("polopt.assembly.chosen.import_module", never)
    for _ in range(2):
        advantages = assign(batch([1.0]), credit)
        earned.append(advantages.advantages[0, 0].item())
        number.update(batch([1.0]), advantages, 0)
    assert earned == [1.0, 0.5]


def test_a_stage_without_one_has_no_numbers() -> None:
    one = stage("constant")
    assert adaptive_numbers(one, no_policy) == []


def test_the_row_says_which_baseline_it_has() -> None:
    entries = {entry["column"]: entry for entry in describe(stage("ema"))}
    assert entries["baseline"]["settings"] == {"credit.baseline_decay": 0.9}
    assert entries["baseline"]["file"] == "src/polopt/math/baselines.py"


def test_a_decay_without_it_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^credit.baseline_decay: 0.5 has no effect with cred"):
        stage("running_mean", credit__baseline_decay=0.5)
