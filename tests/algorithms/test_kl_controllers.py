"""A KL coefficient that holds the KL to a target: golden numbers through the learner, effects."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from polopt.assembly.adaptive import adaptive_numbers
from polopt.assembly.objective import policy_gradient
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.errors import RecipeError
from polopt.recipe import StageRecipe, load
from polopt.resolution import describe, resolve
from polopt.roles.policies.token import Outputs
from polopt.types import Experience, TokenRows
from polopt.update import AdaptiveNumber

BASE = {"model": {"path": "builtin:tiny"}, "data": {"source": "task:reverse"}}
NAN = float("nan")


def no_policy(_: TokenRows) -> torch.Tensor:
    raise AssertionError("nobody asks it")


def stage(algorithm: str = "grpo", **flags: Any) -> StageRecipe:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return resolve(load({**BASE, "algorithm": algorithm}, named)).stages[0]


def golden(name: str) -> dict[str, Any]:
    document = json.loads(
        (files("polopt.diagnose.conformance") / "golden.json").read_text(encoding="utf-8")
    )
    (case,) = (case for case in document["cases"] if case["name"] == f"kl_control/{name}")
    return case


def batch(kl: float, responses: int = 2, tokens: int = 2) -> Experience:
    """Responses whose tokens' KLs add up to ``kl``, and one that could not be scored."""
    mask = torch.ones(responses + 1, tokens, dtype=torch.bool)
    logp = torch.full(mask.shape, -1.0, dtype=torch.float64)
    apart = torch.full(mask.shape, kl / tokens, dtype=torch.float64)
    apart[-1] = 100.0
    return Experience(
        mask=mask,
        group=torch.arange(responses + 1) // 2,
        rewards=torch.tensor([0.0] * responses + [NAN], dtype=torch.float64),
        logp_old=logp,
        logp_ref=logp - apart,
    )


def held(number: AdaptiveNumber, experience: Experience, one: StageRecipe) -> float:
    advantages = assign(experience, credit_of(one, [number]))
    before = number.value
    assert number.update(experience, advantages, 0) == {"kl/coefficient": before}
    return number.value


@pytest.mark.parametrize("placement", ["reward", "loss"])
@pytest.mark.parametrize("name", ["ziegler", "ppo"])
def test_golden_numbers(name: str, placement: str) -> None:
    case = golden(name)
    inputs = case["inputs"]
    horizon = {"kl__horizon": float(inputs["horizon"])} if "horizon" in inputs else {}
    one = stage(
        kl__controller=name,
        kl__coefficient=inputs["beta"],
        kl__target=inputs["target"],
        kl__placement=placement,
        kl__estimator="k1",
        **horizon,
    )
    (number,) = adaptive_numbers(one, no_policy)
    found = [held(number, batch(kl, inputs.get("n_steps", 2)), one) for kl in inputs["kls"]]
    assert found == pytest.approx(case["expected"]["betas"], abs=1e-6)


def test_the_unit_of_the_target_is_the_sum_over_the_tokens_of_a_response() -> None:
    """Two tokens of 0.6: 1.2 a response, more than 1.5 · 0.7 though a token has less than 0.7."""
    one = stage(kl__controller="ppo", kl__target=0.7)
    (number,) = adaptive_numbers(one, no_policy)
    assert held(number, batch(1.2), one) == 0.08


def test_a_batch_without_a_scored_response_changes_nothing() -> None:
    one = stage(kl__controller="ppo", kl__target=0.7)
    (number,) = adaptive_numbers(one, no_policy)
    assert held(number, batch(5.0, responses=0), one) == 0.04


def test_the_next_batch_pays_the_new_coefficient_in_the_reward() -> None:
    """KL 2 against a target of 1: β doubles, and with it what a response loses."""
    flags = {"kl__coefficient": 0.1, "kl__placement": "reward", "kl__estimator": "k1"}
    one = stage("pg", kl__controller="ppo", kl__target=1.0, **flags)
    (number,) = adaptive_numbers(one, no_policy)
    credit, lost = credit_of(one, [number]), []  # made once, as a stage does
    for _ in range(2):
        advantages = assign(batch(2.0), credit)
        lost.append(advantages.advantages[0, 0].item())
        held(number, batch(2.0), one)
    assert lost == pytest.approx([-0.2, -0.4])


def test_the_next_batch_pays_the_new_coefficient_in_the_loss() -> None:
    flags = {"kl__coefficient": 0.1, "kl__placement": "loss", "kl__estimator": "k1"}
    one = stage("pg", kl__controller="ppo", kl__target=1.0, **flags)
    (number,) = adaptive_numbers(one, no_policy)
    loss, experience, paid = policy_gradient(one, [number]), batch(2.0), []
    for _ in range(2):
        advantages = assign(experience, credit_of(one))
        terms = loss.terms(experience, advantages)
        value, _ = loss.value(Outputs(logp=experience.logp_old), terms)
        paid.append(float(value))
        held(number, experience, one)
    assert paid == pytest.approx([0.2, 0.4])  # two tokens of 1 a response, times β


@pytest.mark.parametrize("name", ["fixed", None])
def test_a_fixed_coefficient_does_not_move(name: str | None) -> None:
    flags = {} if name is None else {"kl__controller": name}
    assert adaptive_numbers(stage(**flags), no_policy) == []


def test_every_digit_is_in_the_checkpoint(tmp_path: Path) -> None:
    one = stage(kl__controller="ziegler", kl__target=0.3, kl__coefficient=1 / 3)
    (number,), (other,) = adaptive_numbers(one, no_policy), adaptive_numbers(one, no_policy)
    held(number, batch(0.31), one)
    other.load(tmp_path, number.save(tmp_path))
    assert other.value == number.value not in (1 / 3, 0.0)


def test_the_row_says_how_its_coefficient_moves() -> None:
    entries = {e["column"]: e for e in describe(stage(kl__controller="ziegler", kl__target=6.0))}
    assert entries["controller"]["settings"] == {"kl.target": 6.0, "kl.horizon": 10_000.0}
    assert "controller" not in {entry["column"] for entry in describe(stage())}


def test_a_horizon_that_could_turn_the_coefficient_negative_is_refused() -> None:
    """16 prompts of 8 responses: β(1 - 0.2·128/horizon) is above 0 from 25.6 upwards."""
    flags = {"kl__controller": "ziegler", "kl__target": 1.0}
    with pytest.raises(RecipeError, match=r"^kl.horizon: 25.6 is not allowed with 128 responses"):
        stage(**flags, kl__horizon=25.6)
    one = stage(**flags, kl__horizon=25.7)
    (number,) = adaptive_numbers(one, no_policy)
    assert held(number, batch(-1.0, responses=128), one) > 0
