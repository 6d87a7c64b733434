"""Supervised fine-tuning: the loss and what it has in common with the policy gradient."""

import pytest
import torch

from polopt.credit import Credit, assign
from polopt.errors import NonFiniteError
from polopt.math.reduce import AGGREGATIONS, seq_mean_token_mean, token_mean
from polopt.math.surrogates import score_function
from polopt.objective import (
    NONE,
    PolicyObjective,
    policy_loss,
    reduction,
    step_terms,
    supervised_loss,
)
from polopt.types import Experience

NAN = float("nan")
LOGP = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, NAN, NAN]], dtype=torch.float64)
MASK = ~torch.isnan(LOGP)
GROUP = torch.arange(2)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [(token_mean, 6.5 / 4), (seq_mean_token_mean, (2.0 + 0.5) / 2)],
)
def test_by_hand(aggregate, expected):
    reduce = reduction(MASK, GROUP, aggregate, None, torch.float64)
    loss, metrics = supervised_loss(LOGP, reduce)
    assert loss.item() == pytest.approx(expected)
    assert metrics["nll"].item() == pytest.approx(6.5 / 4)  # the metric is always a token mean


@pytest.mark.parametrize("name", sorted(AGGREGATIONS))
def test_it_is_the_policy_gradient_with_advantage_one(name):
    aggregate = AGGREGATIONS[name]
    live = [LOGP.clone().requires_grad_() for _ in range(2)]
    supervised_loss(live[0], reduction(MASK, GROUP, aggregate, 5, torch.float64))[0].backward()
    experience = Experience(mask=MASK, group=GROUP, rewards=torch.ones(2, dtype=torch.float64))
    objective = PolicyObjective(NONE, score_function, aggregate, 5)
    terms = step_terms(experience, assign(experience, Credit()), objective)
    policy_loss(live[1], None, terms, objective)[0].backward()
    assert torch.equal(live[0].grad, live[1].grad)


def test_micro_batches_add_up():
    reduce = reduction(MASK, GROUP, token_mean, None, torch.float64)
    parts = [supervised_loss(LOGP[i], reduce.rows(i)) for i in GROUP.split(1)]
    assert sum(loss for loss, _ in parts).item() == pytest.approx(6.5 / 4)
    assert sum(m["nll"] for _, m in parts).item() == pytest.approx(6.5 / 4)


def test_a_token_the_model_calls_impossible_is_an_error():
    reduce = reduction(MASK, GROUP, token_mean)
    logp = LOGP.clone()
    logp[1, 0] = -float("inf")
    with pytest.raises(NonFiniteError, match="supervised loss: logp is -inf at row 1, token 0"):
        supervised_loss(logp, reduce)
