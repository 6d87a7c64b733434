"""Losses of preferences as the rows use them: numbers by hand, what adds up, hostile input."""

import math

import pytest
import torch

from polopt.diagnose.conformance.formulas import ranking_loss
from polopt.errors import NonFiniteError
from polopt.math.reduce import row_mean, row_sum
from polopt.objective import (
    PreferenceObjective,
    direct_preference_loss,
    preference_terms,
    reward_model_loss,
)
from polopt.objective.preference import hinge, ipo, plackett_luce, sigmoid
from polopt.types import Experience

NAN = float("nan")
LOSSES = {
    "sigmoid": sigmoid(beta=0.3, label_smoothing=0.1, margin=0.2),
    "hinge": hinge(beta=0.3),
    "ipo": ipo(beta=0.3),
    "plackett_luce": plackett_luce(beta=0.3),
}


def objective(name="sigmoid", **choices):
    return PreferenceObjective(LOSSES[name], beta=0.3, **choices)


def given(ranks, group, mask=None, logp_ref=None):
    """An experience of ranked responses."""
    ranks = torch.tensor(ranks, dtype=torch.float64)
    if mask is None:
        mask = torch.ones(len(ranks), 1, dtype=torch.bool)
    return Experience(mask=mask, group=torch.tensor(group), rewards=-ranks, logp_ref=logp_ref)


def of_logp(logp, experience, choice):
    live = logp.clone().requires_grad_()
    loss, metrics = direct_preference_loss(live, preference_terms(experience), choice)
    (slope,) = torch.autograd.grad(loss, live, allow_unused=True)
    return loss.item(), slope, {name: float(value) for name, value in metrics.items()}


# prompt 4: chosen 3 tokens, rejected 1; prompt 9: rejected 2 tokens, chosen 2
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]]).bool()
LOGP = torch.tensor(
    [[-3, -3, -4], [-12, NAN, NAN], [-4, -3.5, NAN], [-3, -5, NAN]], dtype=torch.float64
)
REF = torch.tensor(
    [[-4, -3, -4], [-11.5, NAN, NAN], [-4, -4, NAN], [-4, -4.2, NAN]], dtype=torch.float64
)
PAIRS = given([0, 1, 1, 0], [4, 4, 9, 9], MASK, REF)  # the golden pairs: h = 1.5 and -.3


def test_dpo_by_hand():
    """Golden ``dpo/sigmoid``: log-probs -10/-12 and -8/-7.5 against -11/-11.5 and -8.2/-8."""
    choice = PreferenceObjective(sigmoid(beta=0.1), beta=0.1)
    loss, slope, metrics = of_logp(LOGP, PAIRS, choice)
    assert loss == pytest.approx(0.664608, abs=1e-6)
    # β σ(-βh) / 2 on every token of the chosen one, the opposite on the rejected one
    weights = torch.tensor([0.046257, -0.046257, -0.050750, 0.050750]).double() / 2
    assert torch.allclose(-slope[:, 0], weights, atol=1e-6)
    assert torch.equal(slope != 0, MASK)
    assert metrics == pytest.approx(
        {
            "reward_chosen": (0.1 + 0.02) / 2,
            "reward_rejected": (-0.05 + 0.05) / 2,
            "reward_margin": (0.15 - 0.03) / 2,
            "pair_accuracy": 0.5,
            "logp_chosen": -9.0,
            "logp_rejected": -9.75,
        }
    )


def test_ipo_sums_or_averages_over_tokens():
    summed = PreferenceObjective(ipo(beta=0.1), beta=0.1)
    assert of_logp(LOGP, PAIRS, summed)[0] == pytest.approx(20.17)  # golden ``dpo/ipo``
    averaged = PreferenceObjective(ipo(beta=0.1), beta=0.1, of_response=row_mean)
    # h = 1/3 + .5 and .1 - .25: (.8333 - 5)² and (-.15 - 5)²
    assert of_logp(LOGP, PAIRS, averaged)[0] == pytest.approx(
        ((5 / 6 - 5) ** 2 + 5.15**2) / 2, abs=1e-9
    )


def test_both_likelihoods_may_fall_while_the_loss_falls():
    choice = PreferenceObjective(sigmoid(beta=0.1), beta=0.1)
    lower = LOGP - torch.tensor([[1.0], [4.0], [4.0], [1.0]])
    before, after = (of_logp(logp, PAIRS, choice) for logp in (LOGP, lower))
    assert after[0] < before[0] and after[2]["reward_margin"] > before[2]["reward_margin"]
    assert after[2]["logp_chosen"] < before[2]["logp_chosen"]


def test_a_reward_model_by_hand():
    """Golden ``rm/k4_ranking``, rows of the two prompts mixed."""
    scores = torch.tensor([0.3, 2, 1, 0.5, 0.1, -1], dtype=torch.float64)
    experience = given([0, 0, 1, 2, 1, 3], [1, 0, 0, 0, 1, 0])
    choice = PreferenceObjective(sigmoid(beta=1.0), beta=1.0)
    loss, metrics = reward_model_loss(scores, preference_terms(experience), choice)
    assert loss.item() == pytest.approx(0.412876, abs=1e-6)
    # pairs of prompt 0: chosen 2, 2, 2, 1, 1, .5, rejected 1, .5, -1, .5, -1, -1
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {
            "reward_chosen": (8.5 / 6 + 0.3) / 2,
            "reward_rejected": (-1 / 6 + 0.1) / 2,
            "reward_margin": (9.5 / 6 + 0.2) / 2,
            "pair_accuracy": 1.0,
        }
    )


def test_the_loss_is_ranking_loss_of_the_mathematics():
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(9, generator=generator, dtype=torch.float64)
    experience = given([0, 1, 2, 1, 1, 0, 2, 2, 2], [5, 5, 5, 1, 1, 1, 3, 3, 3])  # 3: ties alone
    choice = PreferenceObjective(sigmoid(beta=1.0, margin=0.4), beta=1.0)
    loss, _ = reward_model_loss(scores, preference_terms(experience), choice)
    _, expected = ranking_loss(scores, -experience.rewards, experience.group, 0.4)
    assert loss.item() == pytest.approx(expected.item())


def test_centring_pulls_both_scores_to_zero():
    """(3 + 1)² is 16, and grows by 8 with either of the two scores."""
    scores = torch.tensor([3.0, 1.0, 5.0], dtype=torch.float64, requires_grad=True)
    terms = preference_terms(given([0, 1, 0], [0, 0, 1]))  # the last has nobody to lose to
    plain, _ = reward_model_loss(scores, terms, objective())
    centred, _ = reward_model_loss(scores, terms, objective(centre=0.01))
    assert (centred - plain).item() == pytest.approx(0.16)
    (slope,) = torch.autograd.grad(centred - plain, scores)
    assert slope.tolist() == pytest.approx([0.08, 0.08, 0.0])


def random_batch(seed=0, prompts=5):
    """Prompts of two to four responses in a random order, NaN outside the mask."""
    generator = torch.Generator().manual_seed(seed)
    group = [p for p in range(prompts) for _ in range(2 + p % 3)]
    order = torch.randperm(len(group), generator=generator)
    group = torch.tensor(group)[order]
    count = len(group)
    ranks = torch.randint(0, 3, (count,), generator=generator).double()
    mask = torch.arange(6) < torch.randint(1, 7, (count, 1), generator=generator)
    logp, ref = (
        torch.where(mask, -3 * torch.rand(count, 6, generator=generator).double(), NAN)
        for _ in range(2)
    )
    return logp, Experience(mask=mask, group=group, rewards=-ranks, logp_ref=ref)


CHOICES = [(name, response) for name in LOSSES for response in (row_sum, row_mean)]


@pytest.mark.parametrize(("name", "response"), CHOICES)
def test_micro_batches_of_whole_prompts_add_up(name, response):
    logp, experience = random_batch()
    choice = objective(name, of_response=response)
    loss, slope, metrics = of_logp(logp, experience, choice)
    terms = preference_terms(experience)
    live = logp.clone().requires_grad_()
    totals = dict.fromkeys(metrics, 0.0)
    whole = 0.0
    for prompt in experience.group.unique():
        index = (experience.group == prompt).nonzero()[:, 0]
        part, shares = direct_preference_loss(live[index], terms.rows(index), choice)
        part.backward()
        whole += part.item()
        totals = {key: totals[key] + float(value) for key, value in shares.items()}
    assert whole == pytest.approx(loss, rel=1e-12)
    assert torch.allclose(live.grad, slope, rtol=1e-12)
    assert totals == pytest.approx(metrics, rel=1e-12)


@pytest.mark.parametrize(("name", "response"), CHOICES)
def test_the_order_of_rows_and_padding_change_nothing(name, response):
    logp, experience = random_batch(1)
    choice = objective(name, of_response=response)
    loss, slope, metrics = of_logp(logp, experience, choice)
    order = torch.randperm(len(logp), generator=torch.Generator().manual_seed(7))
    other = of_logp(logp[order], experience.rows(order), choice)
    assert other[0] == pytest.approx(loss, rel=1e-12) and other[2] == pytest.approx(metrics)
    assert torch.allclose(other[1], slope[order], rtol=1e-12)

    def wider(x, fill):
        return torch.cat([x, torch.full((len(x), 2), fill, dtype=x.dtype)], dim=1)

    padded = Experience(
        mask=wider(experience.mask, False),
        group=experience.group,
        rewards=experience.rewards,
        logp_ref=wider(experience.logp_ref, math.inf),
    )
    loss_padded, slope_padded, _ = of_logp(wider(logp, NAN), padded, choice)
    assert loss_padded == pytest.approx(loss, rel=1e-12)
    assert torch.allclose(slope_padded[:, :6], slope, rtol=1e-12)
    assert not slope_padded[:, 6:].any()


@pytest.mark.parametrize("name", LOSSES)
def test_ties_alone_are_no_signal(name):
    logp, experience = random_batch()
    tied = Experience(
        mask=experience.mask,
        group=experience.group,
        rewards=torch.zeros(len(logp), dtype=torch.float64),
        logp_ref=experience.logp_ref,
    )
    loss, slope, metrics = of_logp(logp, tied, objective(name, centre=0.1))
    assert loss == 0.0 and not slope.any()
    assert all(value == 0.0 for value in metrics.values())
    scores = torch.randn(len(logp), dtype=torch.float64, requires_grad=True)
    total, _ = reward_model_loss(scores, preference_terms(tied), objective(name, centre=0.1))
    total.backward()
    assert total.item() == 0.0 and not scores.grad.any()


def test_a_prompt_without_a_pair_is_in_no_divisor():
    scores = torch.tensor([2.0, 1.0, 9.0], dtype=torch.float64)
    choice = PreferenceObjective(sigmoid(beta=1.0), beta=1.0)
    alone = reward_model_loss(scores[:2], preference_terms(given([0, 1], [0, 0])), choice)
    both = reward_model_loss(scores, preference_terms(given([0, 1, 0], [0, 0, 1])), choice)
    assert both[0].item() == pytest.approx(alone[0].item()) == pytest.approx(0.313262, abs=1e-6)


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_numbers_that_are_none_are_an_error_with_their_place(bad):
    choice = objective()
    logp = LOGP.clone()
    logp[2, 1] = bad
    with pytest.raises(NonFiniteError, match=r"preference loss: logp is .* at row 2, token 1"):
        direct_preference_loss(logp, preference_terms(PAIRS), choice)
    reference = REF.clone()
    reference[3, 0] = bad
    spoiled = given([0, 1, 1, 0], [4, 4, 9, 9], MASK, reference)
    with pytest.raises(NonFiniteError, match=r"logp_ref is .* at row 3, token 0"):
        direct_preference_loss(LOGP, preference_terms(spoiled), choice)
    scores = torch.tensor([0.0, 1.0, bad, 0.0], dtype=torch.float64)
    terms = preference_terms(PAIRS)
    with pytest.raises(NonFiniteError, match=r"reward model: score is .* at row 2"):
        reward_model_loss(scores, terms, choice)
    with pytest.raises(NonFiniteError, match="at row 2"):  # of the step, not of the micro-batch
        index = torch.tensor([2, 3])
        reward_model_loss(scores[index], terms.rows(index), choice)


def test_without_a_reference_there_is_no_loss():
    with pytest.raises(ValueError, match="logp_ref"):
        direct_preference_loss(
            LOGP, preference_terms(given([0, 1, 1, 0], [4, 4, 9, 9], MASK)), objective()
        )


def test_half_precision_is_summed_in_single():
    """A thousand ratios of 1/16: sums of bfloat16 stop growing at 16."""
    mask = torch.ones(2, 1000, dtype=torch.bool)
    ref = torch.full((2, 1000), -10.0, dtype=torch.bfloat16)
    logp = ref.clone()
    logp[0] += 1 / 16
    experience = Experience(
        mask=mask,
        group=torch.zeros(2, dtype=torch.int64),
        rewards=torch.tensor([0.0, -1.0]),
        logp_ref=ref,
    )
    choice = PreferenceObjective(sigmoid(beta=1.0), beta=1.0)
    _, metrics = direct_preference_loss(logp, preference_terms(experience), choice)
    assert metrics["reward_chosen"].item() == 62.5
