"""Every KL combination as rows assemble it: its expected gradient, exact, against that of the KL.

Two policies whose responses can all be listed: a bandit of four arms, and a tree of two tokens
whose first token may end the response. So expectations are sums over responses, nothing is sampled,
and what the shipped assembly does on average is a number to compare with.

In the loss an estimator sees one token at a time: what it can have is the gradient of the KL at the
states that were visited. In the reward, credited to all tokens before it, it can have the gradient
of the KL of whole responses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from polopt.assembly.objective import objective_of
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.objective import policy_loss, step_terms
from polopt.recipe import StageRecipe, load
from polopt.resolution import inert, resolve
from polopt.types import Experience

Function = Callable[[Tensor], Tensor]

END = 0  # at the first state of the tree
BASE = {
    "algorithm": "pg",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
    "kl": {"coefficient": 1.0},
}


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@dataclass(frozen=True)
class Problem:
    """Logits ``[states, actions]`` of three policies, and every response as (states, actions)."""

    logits: Tensor
    old: Tensor
    reference: Tensor
    responses: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    def log_probs(self, logits: Tensor) -> list[Tensor]:
        """Of every token of every response."""
        table = logits.log_softmax(-1)
        return [table[list(states), list(actions)] for states, actions in self.responses]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of every response."""
        return torch.stack([logp.sum() for logp in self.log_probs(logits)]).exp()

    def visits(self, logits: Tensor) -> Tensor:
        """How often a response passes each state."""
        found = torch.zeros(len(logits), dtype=torch.float64)
        for p, (states, _) in zip(self.probabilities(logits), self.responses, strict=True):
            found[list(states)] += p
        return found


BANDIT = Problem(
    logits=tensor([1.0, 0.2, -0.5, 0.1]),
    old=tensor([0.3, 0.6, -0.2, 0.4]),
    reference=tensor([0.1, 0.4, 0.3, -0.2]),
    responses=tuple(((0,), (arm,)) for arm in range(4)),
)
TREE = Problem(
    logits=tensor([0.2, 0.9, -0.4], [1.1, -0.3, 0.2], [-0.8, 0.5, 0.1]),
    old=tensor([0.6, 0.1, 0.3], [0.2, 0.4, -0.5], [0.3, -0.6, 0.2]),
    reference=tensor([-0.3, 0.4, 0.5], [-0.2, 0.9, 0.0], [0.7, -0.1, -0.9]),
    responses=(
        ((0,), (END,)),
        *(((0, first), (first, second)) for first, second in product((1, 2), range(3))),
    ),
)
PROBLEMS = {"bandit": BANDIT, "tree": TREE}


# What the gradients should be


def gradient_at(logits: Tensor, function: Function) -> Tensor:
    point = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(point), point)
    return found


def of_responses(problem: Problem, p: Tensor, q: Tensor) -> Tensor:
    """``KL(p‖q)`` of whole responses."""
    mass = problem.probabilities(p)
    return (mass * (mass.log() - problem.probabilities(q).log())).sum()


def of_states(problem: Problem, p: Tensor, q: Tensor, sampler: Tensor) -> Tensor:
    """``KL(p‖q)`` at the states that the sampler visits; that p leads elsewhere is left out."""
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    return problem.visits(sampler).detach() @ (log_p.exp() * (log_p - log_q)).sum(-1)


# What the assembly of a row does


def stage(*flags: dict[str, Any]) -> StageRecipe:
    """``pg`` with a penalty; a ratio, for a row that takes several steps."""
    merged = {"objective.ratio": "token", "objective.bound": "none"}
    for more in flags:
        merged |= more
    if merged["objective.ratio"] == "none":
        del merged["objective.bound"]
    return resolve(load(BASE, merged)).stages[0]


def expected_gradient(one: StageRecipe, problem: Problem, sampler: Tensor) -> Tensor:
    """Of the shipped loss at the problem's policy: its mean over all responses of the sampler.

    No response earns anything, so that the penalty is all there is.
    """
    credit, objective = credit_of(one), objective_of(one)
    logits = problem.logits.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    per_response = zip(
        problem.probabilities(sampler),
        problem.log_probs(logits),
        problem.log_probs(sampler),
        problem.log_probs(problem.reference),
        strict=True,
    )
    for probability, logp, logp_old, logp_ref in per_response:
        experience = Experience(
            mask=torch.ones(1, len(logp), dtype=torch.bool),
            group=torch.zeros(1, dtype=torch.int64),
            rewards=torch.zeros(1, dtype=torch.float64),
            logp_old=logp_old[None],
            logp_ref=logp_ref[None],
        )
        terms = step_terms(experience, assign(experience, credit), objective)
        loss, _ = policy_loss(logp[None], None, terms, objective)
        total = total + probability * loss
    (found,) = torch.autograd.grad(total, logits)
    return found


def same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() < 1e-12)


def has_the_gradient_of_the_kl(one: StageRecipe, sampled_by: str) -> bool:
    """Measured on both problems, which must agree."""
    answers = set[bool]()
    for problem in PROBLEMS.values():
        sampler = getattr(problem, sampled_by)
        target = gradient_at(problem.logits, divergence(problem, one.kl.placement, sampler))
        answers.add(same(expected_gradient(one, problem, sampler), target))
    assert len(answers) == 1
    return answers.pop()


def divergence(problem: Problem, placement: str | None, sampler: Tensor) -> Function:
    """What a penalty of this placement can have the gradient of."""
    if placement == "reward":
        return lambda logits: of_responses(problem, logits, problem.reference)
    return lambda logits: of_states(problem, logits, problem.reference, sampler)


ESTIMATORS = ("k1", "k2", "k3")
ONE_STEP = {"update.epochs": 1}
TWO_STEPS = {"update.epochs": 2}  # the second one meets samples of another policy


def loss(estimator: str, corrected: bool = False) -> dict[str, Any]:
    return {
        "kl.placement": "loss",
        "kl.estimator": estimator,
        "kl.importance_corrected": corrected,
    }


def reward(estimator: str, returns: str = "outcome") -> dict[str, Any]:
    return {"kl.placement": "reward", "kl.estimator": estimator, "credit.returns": returns}


# The targets themselves


def test_the_target_is_that_of_published_numbers() -> None:
    exact = gradient_at(BANDIT.logits, divergence(BANDIT, "reward", BANDIT.logits))
    wanted = tensor([0.258545, -0.121565, -0.124762, -0.012218])
    torch.testing.assert_close(exact, wanted, atol=1e-6, rtol=0)
    value = of_responses(BANDIT, BANDIT.logits, BANDIT.reference)
    assert float(value) == pytest.approx(0.191997, abs=1e-6)


def test_the_two_targets_differ_where_a_response_has_several_tokens() -> None:
    for problem, equal in ((BANDIT, True), (TREE, False)):
        one, other = (
            gradient_at(problem.logits, divergence(problem, placement, problem.logits))
            for placement in ("reward", "loss")
        )
        assert same(one, other) is equal


# A combination is warned of exactly where its gradient is another one


def warnings(one: StageRecipe) -> list[str]:
    return [line for line in inert(one) if line.startswith("kl.")]


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("steps", "sampled_by"), [(ONE_STEP, "logits"), (TWO_STEPS, "old")])
def test_a_line_where_the_loss_has_another_gradient(
    steps: dict[str, int], sampled_by: str, estimator: str, corrected: bool
) -> None:
    one = stage(loss(estimator, corrected), steps)
    assert len(warnings(one)) == (not has_the_gradient_of_the_kl(one, sampled_by))


SCORE_FUNCTION = {"objective.ratio": "none"}
WHOLE = {"objective.ratio": "sequence_sum", "objective.aggregation": "seq_mean_token_mean"}


@pytest.mark.parametrize(
    ("returns", "ratio"),
    [
        ("outcome", SCORE_FUNCTION),
        ("reward_to_go", SCORE_FUNCTION),
        ("outcome", {}),
        ("reward_to_go", {}),
        ("outcome", WHOLE),  # one ratio for a response has one return for it
    ],
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_line_where_the_reward_has_another_gradient(
    estimator: str, returns: str, ratio: dict[str, str]
) -> None:
    one = stage(reward(estimator, returns), ratio)
    assert len(warnings(one)) == (not has_the_gradient_of_the_kl(one, "logits"))
    if ratio is not SCORE_FUNCTION:  # a reward is that of the policy that sampled, however many
        assert warnings(stage(reward(estimator, returns), ratio, TWO_STEPS)) == warnings(one)


def test_no_line_without_a_penalty() -> None:
    assert warnings(stage({"kl.coefficient": 0.0})) == []


# What each is instead, where it is not the gradient of the KL; the messages say so


def test_k1_in_the_loss_does_nothing_and_then_drives_the_policy_away() -> None:
    for problem in PROBLEMS.values():
        one = stage(loss("k1"), TWO_STEPS)
        assert same(expected_gradient(one, problem, problem.logits), torch.zeros(()))
        from_old = gradient_at(
            problem.logits, lambda logits, of=problem: -of_responses(of, of.old, logits)
        )
        assert same(expected_gradient(one, problem, problem.old), from_old)


def test_k3_in_the_loss_has_the_gradient_of_the_other_divergence() -> None:
    for problem in PROBLEMS.values():

        def forward(logits: Tensor, of: Problem = problem) -> Tensor:
            log_p, log_q = logits.log_softmax(-1), of.reference.log_softmax(-1)
            return of.visits(of.logits).detach() @ (log_q.exp() * (log_q - log_p)).sum(-1)

        found = expected_gradient(stage(loss("k3")), problem, problem.logits)
        assert same(found, gradient_at(problem.logits, forward))
    wanted = tensor([0.249087, -0.096917, -0.175927, 0.023757])
    found = expected_gradient(stage(loss("k3")), BANDIT, BANDIT.logits)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_k3_in_the_reward_is_the_difference_of_both_divergences() -> None:
    """One token: ∇KL(π‖π_ref) - ∇KL(π_ref‖π), which cancels where both agree."""
    exact = gradient_at(BANDIT.logits, divergence(BANDIT, "reward", BANDIT.logits))
    forward = tensor([0.249087, -0.096917, -0.175927, 0.023757])
    found = expected_gradient(stage(reward("k3")), BANDIT, BANDIT.logits)
    torch.testing.assert_close(found, exact - forward, atol=1e-6, rtol=0)


def test_k1_credited_to_its_own_token_is_k2_in_the_loss() -> None:
    """γ = 0: neither sees that a token decides which states come next."""
    own = {**reward("k1", "reward_to_go"), "credit.gamma": 0.0}
    for problem in PROBLEMS.values():
        found = expected_gradient(stage(own), problem, problem.logits)
        assert same(found, expected_gradient(stage(loss("k2")), problem, problem.logits))


def test_after_the_first_step_the_reward_still_holds_the_policy_that_sampled() -> None:
    """With the ratio of the response: ∇E_π[log π_old - log π_ref], less than ∇KL(π‖π_ref)."""
    one = stage(reward("k1"), WHOLE)
    for problem in PROBLEMS.values():

        def fixed(logits: Tensor, of: Problem = problem) -> Tensor:
            return of_responses(of, logits, of.reference) - of_responses(of, logits, of.old)

        found = expected_gradient(one, problem, problem.old)
        assert same(found, gradient_at(problem.logits, fixed))
