"""The one step of methods on a replay buffer: Adam by hand, and random numbers of its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from polopt.recipe import Update
from polopt.types import Advantages, Experience, Transitions
from polopt.update.single import SingleStep, Weights

NOBODY = torch.zeros(0)
NOTHING = Advantages(NOBODY, NOBODY, NOBODY)


def earned(reward: float) -> Experience:
    """One step that earned this."""
    table = torch.tensor([[0.0, 0.0, 0.0, reward, 0.0]])
    return Experience(NOBODY, NOBODY, NOBODY, transitions=Transitions(table, 1, 1))


def drawing(seen: list[float], seed: int = 1) -> SingleStep:
    """A learner that draws a number in every step."""
    weight = Parameter(torch.zeros(()))

    def loss(steps: Transitions, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(float(torch.randn((), generator=generator)))
        return weight * 1.0, {}

    groups = [Weights({"weight": weight}, Update(learning_rate=0.1))]
    return SingleStep(loss, groups, steps=9, seed=seed, name="policy")


def test_no_optimiser_step_draws_what_another_drew() -> None:
    """Several of them make a recorded step, which draws the same however a run came to it."""
    seen: list[float] = []
    learner = drawing(seen)
    for step in (0, 0, 0, 1, 1, 1, 2):
        learner.update(earned(0.0), NOTHING, step)
    assert len(set(seen)) == 7
    again: list[float] = []
    resumed = drawing(again)
    for _ in range(3):
        resumed.update(earned(0.0), NOTHING, 1)
    assert again == seen[3:6]
    other: list[float] = []
    drawing(other, seed=2).update(earned(0.0), NOTHING, 0)
    assert other[0] not in seen


def test_two_steps_of_adam_by_hand() -> None:
    """Gradients 1 and 3, β₁ = ½, β₂ = ¾: m = ½, 7/4 and v = ¼, 39/16.

    The first step is the rate long. In the second m̂ = (7/4)/(1 - ¼) = 7/3 and
    v̂ = (39/16)/(1 - 9/16) = 39/7.
    """
    weight = Parameter(torch.zeros(()))
    settings = Update(learning_rate=0.1, beta1=0.5, beta2=0.75)
    learner = SingleStep(
        lambda steps, _: (weight * steps.rewards.mean(), {}),
        [Weights({"weight": weight}, settings)],
        steps=9,
        seed=1,
        name="critic",
    )
    learner.update(earned(1.0), NOTHING, 0)
    assert weight.item() == pytest.approx(-0.1)
    told = learner.update(earned(3.0), NOTHING, 0)
    assert weight.item() == pytest.approx(-0.1 - 0.1 * (7 / 3) / math.sqrt(39 / 7))
    assert float(told["critic/grad_norm"]) == 3.0


def test_every_group_has_its_own_learning_rate() -> None:
    """The first step of Adam is as long as the rate, whatever the gradient: 0.1 and 0.01."""
    one, other = Parameter(torch.zeros(())), Parameter(torch.zeros(()))

    def loss(steps: Transitions, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return one * 3.0 - other * 7.0, {}

    groups = [
        Weights({"policy": one}, Update(learning_rate=0.1)),
        Weights({"log_alpha": other}, Update(learning_rate=0.01)),
    ]
    SingleStep(loss, groups, steps=9, seed=1, name="policy").update(earned(0.0), NOTHING, 0)
    assert one.item() == pytest.approx(-0.1)
    assert other.item() == pytest.approx(0.01)
