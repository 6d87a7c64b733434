"""What Kimi's mirror descent has beside its loss: an optimiser that begins anew, and lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polopt.assembly.objective import policy_gradient
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.errors import RecipeError
from polopt.recipe import StageRecipe, load
from polopt.resolution import describe, resolve
from polopt.roles import Actor
from polopt.types import Experience, TokenRows
from polopt.update import FirstOrder
from random_models import builtin_model

BASE: dict[str, Any] = {"model": {"path": "builtin:tiny"}, "data": {"source": "task:reverse"}}
NAN = float("nan")


def stage(algorithm: str = "kimi_opmd", **flags: Any) -> StageRecipe:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return resolve(load({**BASE, "algorithm": algorithm}, named)).stages[0]


# The reward for short right responses


def credited(
    lengths: list[int], right: list[float], scores: list[float] | None = None, **flags: Any
) -> Tensor:
    """What each response is credited with by the plain policy gradient; one group."""
    one = stage("pg", credit__length_reward=2.0, **flags)
    experience = Experience(
        mask=torch.arange(max(lengths)) < torch.tensor(lengths)[:, None],
        group=torch.zeros(len(lengths), dtype=torch.int64),
        rewards=torch.tensor([0.0] * len(lengths) if scores is None else scores),
        right=torch.tensor(right, dtype=torch.float32),
    )
    return assign(experience, credit_of(one)).advantages[:, 0]


def test_short_right_responses_gain_and_wrong_ones_do_not() -> None:
    """Lengths 2, 4, 6: λ = ½, 0, -½, twice; wrong ones have at most 0."""
    assert credited([2, 4, 6], [1, 1, 1]).tolist() == [1.0, 0.0, -1.0]
    assert credited([2, 4, 6], [0, 0, 0]).tolist() == [0.0, 0.0, -1.0]
    assert credited([2, 3, 6], [0, 1, 0]).tolist() == [0.0, 0.5, -1.0]


def test_it_is_added_to_the_reward() -> None:
    assert credited([2, 4, 6], [1, 0, 1], [1.0, 0.0, 1.0]).tolist() == [2.0, 0.0, 0.0]


def test_equal_lengths_gain_nothing() -> None:
    assert credited([3, 3, 3], [1, 0, 1]).tolist() == [0.0, 0.0, 0.0]


def test_what_nobody_judged_gains_nothing() -> None:
    assert credited([2, 4, 6], [1, 1, NAN]).tolist() == [1.0, 0.0, 0.0]


def test_what_has_no_score_is_no_measure() -> None:
    """Without the longest: 2 and 4 are the shortest and the longest."""
    found = credited([2, 4, 6], [1, 1, NAN], [0.0, 0.0, NAN])
    assert found.tolist() == [1.0, -1.0, 0.0]


def test_groups_are_measured_apart() -> None:
    one = stage("pg", credit__length_reward=1.0)
    experience = Experience(
        mask=torch.arange(9) < torch.tensor([[1], [5], [3], [9]]),
        group=torch.tensor([0, 1, 0, 1]),
        rewards=torch.zeros(4),
        right=torch.ones(4),
    )
    found = assign(experience, credit_of(one)).advantages[:, 0]
    assert found.tolist() == [0.5, 0.5, -0.5, -0.5]
    with pytest.raises(ValueError, match="right"):
        assign(Experience(experience.mask, experience.group, experience.rewards), credit_of(one))


def test_a_group_of_one_has_no_lengths_to_compare() -> None:
    with pytest.raises(
        RecipeError, match=r"^rollout.group_size: 1 is not allowed with credit.length_reward = 0.5"
    ):
        stage("pg", credit__length_reward=0.5, rollout__group_size=1)


def test_the_row_says_so() -> None:
    entries = [e for e in describe(stage(credit__length_reward=0.5)) if e["column"] == "shaping"]
    assert [(e["choice"], e["settings"]) for e in entries] == [
        ("length", {"credit.length_reward": 0.5})
    ]
    assert not [e for e in describe(stage()) if e["column"] == "shaping"]


# The optimiser


def experience(seed: int) -> Experience:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 259, (4, 6), generator=generator)
    rows = TokenRows(tokens, torch.ones_like(tokens, dtype=torch.bool), 2)
    return Experience(
        mask=torch.ones(4, 4, dtype=torch.bool),
        group=torch.zeros(4, dtype=torch.int64),
        rewards=torch.rand(4, generator=generator),
        logp_old=Actor(builtin_model()).log_probs(rows),
        tokens=rows,
    )


def learner(one: StageRecipe) -> FirstOrder[Any]:
    settings = one.update.model_copy(update={"learning_rate": 1e-3, "minibatches": 2})
    loss = policy_gradient(one)
    return FirstOrder(Actor(builtin_model()), loss, settings, steps=10, seed=7, name="policy")


def consume(trained: FirstOrder[Any], one: StageRecipe, seed: int) -> None:
    batch = experience(seed)
    trained.update(batch, assign(batch, credit_of(one)), 1)


def weights(trained: FirstOrder[Any]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trained.scorer.parameters.values()])


@pytest.mark.parametrize("reset", [True, False])
def test_the_second_batch_meets_an_optimiser_without_a_past(reset: bool) -> None:
    """A new optimiser on the same weights takes the same steps, bit for bit; only with reset."""
    one = stage() if reset else stage(update__reset_optimiser=False)
    assert one.update.reset_optimiser is reset
    old, new = learner(one), learner(one)
    consume(old, one, 1)
    with torch.no_grad():
        for name, weight in old.scorer.parameters.items():
            new.scorer.parameters[name].copy_(weight)
    for trained in (old, new):
        consume(trained, one, 2)
    assert weights(old).equal(weights(new)) is reset


def test_the_steps_within_a_batch_share_their_moments() -> None:
    """Two minibatches: the second step of a batch has the moments of the first."""
    one = stage()
    trained = learner(one)
    consume(trained, one, 1)
    states = trained._optimiser.state.values()
    assert {float(state["step"]) for state in states} == {2.0}


@pytest.mark.parametrize("name", ["sft", "grpo", "rejection_sampling"])
def test_other_rows_remember(name: str) -> None:
    assert stage(name).update.reset_optimiser is False
