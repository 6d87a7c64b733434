"""PPO with a penalty in the place of the clip: exact on a policy whose actions can be listed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from polopt.assembly.adaptive import adaptive_numbers
from polopt.assembly.objective import objective_of, policy_gradient
from polopt.errors import NonFiniteError, RecipeError
from polopt.objective import policy_loss, step_terms
from polopt.recipe import StageRecipe, load
from polopt.resolution import describe, inert, resolve
from polopt.roles import Actor
from polopt.types import Advantages, Experience, TokenRows
from polopt.update import FirstOrder
from random_models import builtin_model

BASE = {"model": {"path": "builtin:tiny"}, "data": {"source": "task:reverse"}}
NEW, OLD = torch.tensor([0.3, -0.2, 0.9]).double(), torch.tensor([0.1, 0.4, -0.3]).double()


def stage(**flags: Any) -> StageRecipe:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    recipe = {**BASE, "algorithm": "ppo", "objective": {"bound": "kl_penalty"}}
    return resolve(load(recipe, named)).stages[0]


def expected(one: StageRecipe, logits: Tensor, advantages: Tensor) -> tuple[float, Tensor]:
    """Mean of the shipped loss over the actions that π_old draws, and its gradient."""
    logits = logits.clone().requires_grad_()
    old, objective = OLD.log_softmax(-1), objective_of(one)
    total = torch.zeros((), dtype=torch.float64)
    for action in range(3):
        mask = torch.ones(1, 1, dtype=torch.bool)
        experience = Experience(
            mask, torch.zeros(1).long(), torch.zeros(1), logp_old=old[None, [action]]
        )
        credited = Advantages(advantages[None, [action]], mask, mask[:, 0])
        logp = logits.log_softmax(-1)[None, [action]]
        loss, _ = policy_loss(logp, None, step_terms(experience, credited, objective), objective)
        total = total + old[action].exp() * loss
    (gradient,) = torch.autograd.grad(total, logits)
    return float(total.detach()), gradient


def test_value_and_gradient_are_those_of_the_divergence() -> None:
    one = stage(objective__penalty_coefficient=0.7)
    value, gradient = expected(one, NEW, torch.zeros(3).double())
    old, new = OLD.softmax(-1), NEW.softmax(-1)
    assert value == pytest.approx(0.7 * float((old * (old / new).log()).sum()))
    torch.testing.assert_close(gradient, 0.7 * (new - old))  # of KL(π_old‖softmax z)


def test_at_the_policy_that_sampled_only_the_advantage_pulls() -> None:
    """The penalty has no slope there: the gradient is that of -E[ρ A]."""
    advantages = torch.tensor([1.0, -0.5, 0.2]).double()
    _, gradient = expected(stage(objective__penalty_coefficient=100.0), OLD, advantages)
    p = OLD.softmax(-1)
    torch.testing.assert_close(gradient, -p * (advantages - p @ advantages))


def test_the_best_policy_is_at_a_distance_that_the_coefficient_decides() -> None:
    """Steps down the exact gradient: the larger β, the nearer they end."""
    advantages = torch.tensor([1.0, -0.5, 0.2]).double()
    distances = []
    for coefficient in (0.5, 2.0, 8.0):
        one, logits = stage(objective__penalty_coefficient=coefficient), OLD.clone()
        for _ in range(100):
            logits = logits - 0.3 / coefficient * expected(one, logits, advantages)[1]
        old, new = OLD.softmax(-1), logits.softmax(-1)
        distances.append(float((old * (old / new).log()).sum()))
    assert distances[0] > 2 * distances[1] > 4 * distances[2] > 0


# The coefficient that adapts


def experience() -> Experience:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, 259, (4, 5), generator=generator)
    rows = TokenRows(tokens, torch.ones_like(tokens, dtype=torch.bool), 2)
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[3, 1:] = False
    return Experience(
        mask=mask,
        group=torch.arange(4),
        rewards=torch.zeros(4),
        logp_old=Actor(builtin_model()).log_probs(rows),
        tokens=rows,
    )


@pytest.mark.parametrize(("shift", "after"), [(0.001, 0.5), (0.1414, 1.0), (0.4, 2.0)])
def test_the_update_is_measured_after_it(shift: float, after: float) -> None:
    """Every token ``shift`` less likely: e^-s - 1 + s is 5e-7, 0.0095 and 0.07 around 0.01."""
    batch = experience()
    assert batch.logp_old is not None
    moved = batch.logp_old - shift
    moved[~batch.mask] = torch.nan
    (number,) = adaptive_numbers(stage(objective__penalty_target=0.01), lambda _: moved)
    credited = Advantages(torch.zeros(4, 3), batch.mask, batch.mask.any(-1))
    metrics = number.update(batch, credited, 0)
    wanted = torch.expm1(torch.tensor(-shift)).item() + shift
    assert metrics["penalty/kl"] == pytest.approx(wanted, rel=1e-3, abs=1e-7)
    assert metrics["penalty/coefficient"] == 1.0
    assert number.value == after
    nothing = replace(credited, mask=torch.zeros_like(batch.mask))
    assert number.update(batch, nothing, 1) == {"penalty/coefficient": after}
    assert number.value == after


def test_a_policy_that_broke_is_an_error() -> None:
    batch = experience()
    broken = torch.full(batch.mask.shape, torch.nan)
    (number,) = adaptive_numbers(stage(objective__penalty_target=0.01), lambda _: broken)
    with pytest.raises(NonFiniteError, match="penalty: logp of the policy is nan at row 0"):
        number.update(batch, Advantages(broken, batch.mask, batch.mask.any(-1)), 0)


def test_a_larger_coefficient_makes_a_smaller_update() -> None:
    """The learner reads the number as it stands, not as the recipe has it."""
    one, batch, found = stage(objective__penalty_target=0.01), experience(), []
    generator = torch.Generator().manual_seed(5)
    credited = Advantages(
        torch.randn(4, 3, generator=generator) * batch.mask, batch.mask, batch.mask.any(-1)
    )
    for coefficient in (0.01, 100.0):
        actor = Actor(builtin_model())
        (number,) = adaptive_numbers(one, actor.log_probs)
        number.value = coefficient
        settings = one.update.model_copy(update={"learning_rate": 1e-3, "epochs": 6})
        loss = policy_gradient(one, [number])
        FirstOrder(actor, loss, settings, steps=10, seed=7, name="policy").update(
            batch, credited, 0
        )
        found.append(number.update(batch, credited, 0)["penalty/kl"])
    assert found[0] > 5 * found[1] > 0


def test_without_a_target_nothing_is_measured() -> None:
    def never(_: TokenRows) -> Tensor:
        raise AssertionError("a forward pass too many")

    assert adaptive_numbers(stage(), never) == []


# The recipe


def test_the_row_says_what_it_has() -> None:
    entries = {e["column"]: e for e in describe(stage(objective__penalty_target=0.02))}
    assert entries["bound"]["choice"] == "kl_penalty"
    assert entries["bound"]["settings"] == {
        "objective.penalty_coefficient": 1.0,
        "objective.penalty_target": 0.02,
    }
    assert stage().objective.clip_low is None


def test_other_levels_of_the_ratio_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"^objective.ratio: .* it must be token"):
        stage(objective__ratio="sequence_mean")


def test_check_says_where_it_does_nothing() -> None:
    lines = inert(stage(update__epochs=1, objective__penalty_target=0.02))
    named = {line.split()[0] for line in lines if "ratio is 1" in line}
    assert named == {"objective.penalty_coefficient", "objective.penalty_target"}
    assert not [line for line in inert(stage()) if "penalty" in line]
