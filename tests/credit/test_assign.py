"""Credit assignment: order of the steps, who leaves, what is exact."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from polopt.credit import (
    Credit,
    action_value,
    assign,
    batch_z,
    constant,
    full,
    gae,
    greedy,
    group_mean,
    kl_penalty,
    leave_one_out,
    length_weighted,
    overlong,
    reward_to_go,
    scaled,
    spread,
    terminal,
    value,
)
from polopt.errors import NonFiniteError
from polopt.math.normalise import batch_std, group_mean_divide, group_std
from polopt.math.shaping import spread_uniform
from polopt.types import Experience, TokenRows

NAN = float("nan")
GRPO = Credit(baseline=group_mean, normalise=scaled(group_std))
RLOO = Credit(baseline=leave_one_out)


def experience(scores, lengths=None, group=None, **fields):
    n = len(scores)
    lengths = [2] * n if lengths is None else lengths
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Experience(
        mask=mask,
        group=torch.tensor([0] * n if group is None else group),
        rewards=torch.tensor(scores, dtype=torch.float64),
        **fields,
    )


def per_row(advantages):
    return advantages.advantages[:, 0].tolist()


def test_the_default_is_the_score_on_every_token():
    got = assign(experience([1.0, -2.0], [3, 1]), Credit())
    assert got.advantages.tolist() == [[1, 1, 1], [-2, 0, 0]]
    assert got.value_targets.tolist() == got.advantages.tolist()
    assert got.valid.tolist() == [True, True]


def test_grpo_by_hand():
    # 1,1,0,0: mean 1/2, unbiased σ = √(1/3)
    got = assign(experience([1.0, 1.0, 0.0, 0.0]), GRPO)
    assert per_row(got) == pytest.approx([0.866024] * 2 + [-0.866024] * 2, abs=1e-6)
    assert got.metrics["degenerate_groups"] == 0.0
    assert got.metrics["advantage_mean"] == pytest.approx(0.0)
    assert got.metrics["advantage_std"] == pytest.approx(0.866024, abs=1e-6)


def test_rf_plus_plus_baseline_by_hand():
    # groups (1,0), (1,1), one token each: ±.5, 0, 0; mean 0, unbiased σ² = .5/3, population .5/4
    e = experience([1.0, 0.0, 1.0, 1.0], [1] * 4, [0, 0, 1, 1])
    for ddof, expected in ((1, 1.224745), (0, 1.414214)):
        got = assign(e, Credit(baseline=group_mean, normalise=batch_z(ddof, 0.0)))
        assert per_row(got) == pytest.approx([expected, -expected, 0, 0], abs=1e-6)


def test_the_token_population_weighs_long_rows_more():
    # lengths 3 and 1, advantages ±.5: mean .25, population σ² = (3·.0625 + .5625)/4 = .1875
    e = experience([1.0, 0.0], [3, 1])
    got = assign(e, Credit(baseline=group_mean, normalise=batch_z(0, 0.0)))
    assert per_row(got) == pytest.approx([0.25 / 0.1875**0.5, -0.75 / 0.1875**0.5])


def test_kl_in_the_reward_goes_into_the_baseline():
    # scores 1,0,0, summed KL 2,0,1, β = .1: totals .8, 0, -.1; others' means -.05, .35, .4
    logp = torch.zeros(3, 2, dtype=torch.float64)
    e = experience(
        [1.0, 0.0, 0.0], logp_old=logp, logp_ref=-torch.tensor([[1.0], [0.0], [0.5]]).expand(3, 2)
    )
    got = assign(e, Credit(shapers=(terminal(), kl_penalty(0.1)), baseline=leave_one_out))
    assert per_row(got) == pytest.approx([0.85, -0.35, -0.50])
    assert got.value_targets[:, 0].tolist() == pytest.approx([0.8, 0.0, -0.1])


def test_opo_weighs_by_trained_tokens():
    got = assign(experience([1.0, 0.0, 0.0], [2, 1, 3]), Credit(baseline=length_weighted))
    assert per_row(got) == pytest.approx([2 / 3, -1 / 3, -1 / 3])


def test_lite_ppo_and_maxrl_by_hand():
    e = experience([1.0, 0.0, 1.0, 1.0], group=[0, 0, 1, 1])
    # batch σ² of 1,0,1,1 is 1/4
    got = assign(
        e, Credit(baseline=group_mean, normalise=scaled(partial(batch_std, ddof=1, eps=0.0)))
    )
    assert per_row(got) == pytest.approx([1.0, -1.0, 0.0, 0.0])
    got = assign(
        e, Credit(baseline=group_mean, normalise=scaled(partial(group_mean_divide, eps=0.0)))
    )
    assert per_row(got) == pytest.approx([1.0, -1.0, 0.0, 0.0])


def test_greedy_constant_and_value_baselines():
    e = experience([1.0, 0.5], greedy_rewards=torch.tensor([0.25, NAN]))
    got = assign(e, Credit(baseline=greedy))
    assert got.advantages.tolist() == [[0.75, 0.75], [0, 0]]
    assert got.valid.tolist() == [True, False]  # nothing to compare the second row with
    assert per_row(assign(e, Credit(baseline=constant(0.2)))) == pytest.approx([0.8, 0.3])
    e = experience([1.0], values=torch.tensor([[0.25, 0.5]]))
    got = assign(e, Credit(returns=reward_to_go(0.5), baseline=value))
    assert got.advantages.tolist() == [[0.25, 0.5]]  # .5 - .25, 1 - .5


def test_returns_by_hand():
    e = experience([1.0], [3])
    assert assign(e, Credit(returns=reward_to_go(0.5))).advantages.tolist() == [[0.25, 0.5, 1]]
    assert assign(e, Credit(returns=full(0.5))).advantages.tolist() == [[0.25] * 3]
    shaped = Credit(shapers=(spread(spread_uniform),), returns=reward_to_go(1.0))
    assert assign(e, shaped).advantages[0].tolist() == pytest.approx([1, 2 / 3, 1 / 3])


def test_gae_is_normalised_but_its_targets_are_not():
    v = torch.tensor([[0.5, 0.6, 0.7]], dtype=torch.float64)
    e = experience([1.0], [3], values=v)
    got = assign(e, Credit(returns=gae(0.99, 0.95), normalise=batch_z()))
    assert got.advantages[0].tolist() == pytest.approx([0.992025, 0.015760, -1.007786], abs=1e-5)
    assert got.value_targets[0].tolist() == pytest.approx([0.946829, 0.975150, 1.0], abs=1e-6)


def test_gae_bootstraps_from_last_values():
    v = torch.zeros(1, 2, dtype=torch.float64)
    e = experience([0.0], values=v, last_values=torch.tensor([2.0], dtype=torch.float64))
    cut = replace(e, truncated=torch.tensor([True]))
    bootstrapped = Credit(returns=gae(0.5, 1.0, bootstrap_truncated=True))
    assert assign(cut, bootstrapped).advantages.tolist() == [[0.5, 1.0]]
    ended = replace(e, truncated=torch.tensor([False]))
    assert assign(ended, bootstrapped).advantages.tolist() == [[0.0, 0.0]]
    assert assign(cut, Credit(returns=gae(0.5, 1.0))).advantages.tolist() == [[0.0, 0.0]]
    with pytest.raises(ValueError, match="truncated"):
        assign(e, bootstrapped)


def test_gae_with_a_lambda_of_the_length_and_one_of_the_critic():
    """alpha .5: lengths 3 and 4 give λ = 1/3 and 1/2; δ = 0, 0, 1 where V = 0."""
    v = torch.zeros(2, 4, dtype=torch.float64)
    e = experience([1.0, 1.0], [3, 4], values=v)
    got = assign(e, Credit(returns=gae(1.0, None, critic_lam=1.0, length_adaptive=0.5)))
    assert got.advantages[0].tolist() == pytest.approx([1 / 9, 1 / 3, 1, 0])
    assert got.advantages[1].tolist() == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1])
    assert got.value_targets.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_action_values_are_their_own_return_and_learn_one_step_ahead():
    """SARSA with γ = .5: r + .5 Q' = .3, .45 and, at the end, the score."""
    q = torch.tensor([[0.2, 0.6, 0.9]], dtype=torch.float64)
    got = assign(experience([1.0], [3], values=q), Credit(returns=action_value(0.5)))
    assert got.advantages[0].tolist() == [0.2, 0.6, 0.9]
    assert got.value_targets[0].tolist() == pytest.approx([0.3, 0.45, 1.0])


def test_overlong_rows_pay():
    got = assign(experience([1.0, 1.0], [4, 2]), Credit(shapers=(terminal(), overlong(4.0, 2.0))))
    assert per_row(got) == [0.0, 1.0]


def test_a_group_of_one_leaves_every_denominator():
    e = experience([1.0, 0.0, 7.0], group=[0, 0, 1])
    for credit in (GRPO, RLOO, Credit(normalise=scaled(group_std))):
        got = assign(e, credit)
        assert got.valid.tolist() == [True, True, False]
        assert got.advantages[2].tolist() == [0.0, 0.0]
        assert not got.mask[2].any()
        assert got.metrics["excluded_rows"] == pytest.approx(1 / 3)


def test_a_singleton_leaves_the_batch_statistics_too():
    with_one = experience([1.0, 0.0, 7.0], group=[0, 0, 1])
    without = experience([1.0, 0.0])
    credit = Credit(baseline=group_mean, normalise=batch_z())
    assert torch.equal(assign(with_one, credit).advantages[:2], assign(without, credit).advantages)


def test_the_unscorable_and_the_empty_are_dropped_before_statistics():
    # a NaN score and a row without tokens shift nobody's baseline
    e = experience([1.0, NAN, 0.0, -99.0], [2, 2, 2, 0])
    got = assign(e, RLOO)
    assert per_row(got) == [1.0, 0.0, -1.0, 0.0]
    assert got.valid.tolist() == [True, False, True, False]
    assert got.metrics["excluded_rows"] == 0.5


@pytest.mark.parametrize("reward", [0.1, 0.3, 0.9, 0.97])
@pytest.mark.parametrize("n", [2, 8, 15, 16, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_group_teaches_exactly_nothing(reward, n, dtype):
    mask = torch.ones(n + 2, 3).bool()
    scores = torch.tensor([reward] * n + [0.0, 1.0], dtype=dtype)
    e = Experience(mask=mask, group=torch.tensor([0] * n + [1, 1]), rewards=scores)
    tiny, none = partial(group_std, eps=1e-9), partial(group_std, ddof=0, eps=0.0)
    for normalise in (tiny, none, batch_std, group_mean_divide):
        got = assign(e, Credit(baseline=group_mean, normalise=scaled(normalise)))
        assert torch.equal(got.advantages[:n], torch.zeros(n, 3, dtype=dtype))
        assert got.valid.all()  # it still counts in the denominators
        assert got.metrics["degenerate_groups"] == 0.5
    for credit in (RLOO, Credit(baseline=group_mean), Credit(baseline=length_weighted)):
        assert torch.equal(assign(e, credit).advantages[:n], torch.zeros(n, 3, dtype=dtype))


def test_nothing_outside_the_mask_is_read():
    clean, nan, infinite = (
        torch.tensor([[0.1, 0.2], [0.3, x]], dtype=torch.float64) for x in (0.0, NAN, float("inf"))
    )
    credit = Credit((terminal(), kl_penalty(0.1)), gae(0.9, 0.9), group_mean, batch_z())

    def run(x):
        tensors = {"values": x, "logp_old": x, "logp_ref": 2 * x}
        return assign(experience([1.0, 0.0], [2, 1], **tensors), credit)

    for dirty in (nan, infinite):
        assert torch.equal(run(dirty).advantages, run(clean).advantages)
        assert torch.equal(run(dirty).value_targets, run(clean).value_targets)


def test_row_order_changes_nothing():
    gen = torch.Generator().manual_seed(0)
    order = torch.randperm(12, generator=gen)
    e = Experience(
        mask=torch.rand(12, 5, generator=gen) < 0.7,
        group=torch.randint(0, 4, (12,), generator=gen),
        rewards=torch.randn(12, generator=gen, dtype=torch.float64),
    )
    for credit in (GRPO, RLOO, Credit(baseline=group_mean, normalise=batch_z())):
        before, after = assign(e, credit), assign(e.rows(order), credit)
        assert torch.allclose(before.advantages[order], after.advantages, atol=1e-12)
        assert torch.equal(before.mask[order], after.mask)


@pytest.mark.parametrize("score", [float("inf"), -float("inf")])
def test_an_infinite_score_is_an_error_with_its_row(score):
    with pytest.raises(NonFiniteError, match=r"credit: reward is -?inf at row 1"):
        assign(experience([1.0, score]), GRPO)


@pytest.mark.parametrize("name", ["logp_old", "logp_ref", "logp_rollout", "values"])
def test_nan_inside_the_mask_is_an_error_with_its_row(name):
    x = torch.zeros(2, 2)
    x[1, 0] = NAN
    with pytest.raises(NonFiniteError, match=f"{name} is nan at row 1, token 0"):
        assign(experience([1.0, 0.0], **{name: x}), GRPO)


def test_rows_that_left_are_not_checked():
    x = torch.zeros(2, 2)
    x[1] = NAN
    assign(experience([1.0, NAN], logp_old=x), Credit())


@pytest.mark.parametrize(
    ("credit", "word"),
    [
        (Credit(returns=gae()), "values"),
        (Credit(baseline=value), "values"),
        (Credit(baseline=greedy), "greedy_rewards"),
        (Credit(shapers=(kl_penalty(0.1),)), "logp_ref"),
    ],
)
def test_a_missing_tensor_is_named(credit, word):
    with pytest.raises(ValueError, match=word):
        assign(experience([1.0, 0.0]), credit)


@pytest.mark.parametrize("scores", [[], [NAN, NAN], [3.0]])
def test_metrics_are_always_plain_and_finite(scores):
    e = Experience(
        mask=torch.ones(len(scores), 2).bool(),
        group=torch.zeros(len(scores), dtype=torch.int64),
        rewards=torch.tensor(scores),
    )
    got = assign(e, GRPO)
    assert set(got.metrics) == {
        "degenerate_groups",
        "excluded_rows",
        "advantage_mean",
        "advantage_std",
    }
    assert all(type(x) is float and math.isfinite(x) for x in got.metrics.values())
    assert not got.valid.any()


def test_nothing_is_attached_to_a_graph():
    e = experience([1.0, 0.0], values=torch.zeros(2, 2, requires_grad=True))
    got = assign(e, Credit(returns=gae()))
    assert not got.advantages.requires_grad
    assert not got.value_targets.requires_grad


def test_rows_of_experience_and_credited():
    ids = TokenRows(torch.arange(6).view(3, 2), torch.ones(3, 2).bool(), 1, 0.7)
    e = experience([1.0, 0.0, 2.0], logp_old=torch.zeros(3, 2), tokens=ids)
    pick = torch.tensor([2, 0])
    some = e.rows(pick)
    assert some.rewards.tolist() == [2.0, 1.0]
    assert some.tokens.tokens.tolist() == [[4, 5], [0, 1]]
    assert some.tokens.temperature == 0.7
    assert some.logp_ref is None
    advantages = assign(e, Credit())
    assert advantages.rows(pick).advantages[:, 0].tolist() == [2.0, 1.0]
    assert advantages.rows(pick).metrics == advantages.metrics


def test_a_critic_that_errs_by_the_same_number_everywhere_explains_all_of_the_variance():
    e = experience([1.0, 0.0], group=[0, 1], values=torch.tensor([[6.0, 6.0], [5.0, 5.0]]))
    assert assign(e, Credit()).metrics["value/explained_variance"] == 1.0


def test_the_spread_of_the_batch_counts_a_group_of_one():
    """Of 1, 0 and 5 it is √(14/2) = √7; the group of 5 has nothing to compare and leaves."""
    e = experience([1.0, 0.0, 5.0], group=[0, 0, 1])
    normalise = scaled(partial(batch_std, ddof=1, eps=0.0))
    got = assign(e, Credit(baseline=group_mean, normalise=normalise))
    assert per_row(got) == pytest.approx([0.5 / 7**0.5, -0.5 / 7**0.5, 0.0])
    assert got.valid.tolist() == [True, True, False]


def test_targets_with_a_lambda_of_their_own_bootstrap_too():
    """One token that earned 1 and was cut; V after it is 10."""
    e = experience(
        [1.0],
        [1],
        values=torch.zeros(1, 1),
        truncated=torch.tensor([True]),
        last_values=torch.tensor([10.0]),
    )
    returns = gae(1.0, 0.0, critic_lam=1.0, bootstrap_truncated=True)
    assert assign(e, Credit(returns=returns)).value_targets.tolist() == [[11.0]]
