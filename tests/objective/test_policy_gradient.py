"""The policy loss: published numbers, what adds up, identities, hostile input."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from polopt.credit import Credit, assign, group_mean, scaled
from polopt.errors import NonFiniteError
from polopt.math.corrections import m2po_mask, token_truncated
from polopt.math.divergence import k1, k2, k3
from polopt.math.normalise import group_std
from polopt.math.reduce import (
    AGGREGATIONS,
    seq_mean_token_mean,
    seq_mean_token_sum_const,
    token_mean,
)
from polopt.math.surrogates import (
    cispo,
    clipped,
    gmpo,
    importance_sampled,
    sapo,
    score_function,
)
from polopt.objective import (
    NONE,
    SEQUENCE_MEAN,
    SEQUENCE_SUM,
    TOKEN,
    KLTerm,
    PolicyObjective,
    idle_rows,
    policy_loss,
    step_terms,
)
from polopt.types import Advantages, Experience

NAN = float("nan")
CLIP = partial(clipped, low=0.2, high=0.2)
# two rows of 3 and 2 tokens, advantages 2 and -1.5
OLD = torch.tensor([[-1.0, -0.7, -0.2], [-0.5, -1.2, NAN]], dtype=torch.float64)
NEW = torch.tensor([[-0.8, -0.9, -0.1], [-0.9, -1.0, NAN]], dtype=torch.float64)
MASK = ~torch.isnan(OLD)
ADVANTAGES = torch.tensor([[2.0, 2.0, 2.0], [-1.5, -1.5, NAN]], dtype=torch.float64)


def given(advantages=ADVANTAGES, mask=MASK, **fields):
    experience = Experience(
        mask=mask,
        group=torch.arange(len(mask)),
        rewards=torch.zeros(len(mask), dtype=torch.float64),
        **{"logp_old": OLD, **fields},
    )
    inside = torch.where(mask, advantages, 0.0)
    return experience, Advantages(inside, mask, mask.any(-1))


def loss_of(objective, logp=NEW, entropy=None, **fields):
    experience, advantages = given(**fields)
    live = logp.clone().requires_grad_()
    terms = step_terms(experience, advantages, objective, logp)
    loss, metrics = policy_loss(live, entropy, terms, objective)
    (gradient,) = torch.autograd.grad(loss, live)
    return loss.item(), gradient, {k: v.item() for k, v in metrics.items()}


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (PolicyObjective(TOKEN, CLIP, token_mean), -0.643140),
        (PolicyObjective(TOKEN, CLIP, seq_mean_token_mean), -0.283275),
        (PolicyObjective(TOKEN, CLIP, seq_mean_token_sum_const, 4), -0.401962),
        (PolicyObjective(SEQUENCE_MEAN, CLIP, seq_mean_token_mean), -0.355267),
        (PolicyObjective(TOKEN, partial(gmpo, low=0.2, high=0.2), seq_mean_token_mean), -0.283895),
        (
            PolicyObjective(
                TOKEN, partial(sapo, tau_positive=1.0, tau_negative=1.05), seq_mean_token_mean
            ),
            -0.659452,
        ),
        (
            PolicyObjective(TOKEN, partial(sapo, tau_positive=1.0, tau_negative=1.05), token_mean),
            -1.346868,
        ),
        (
            PolicyObjective(TOKEN, partial(cispo, weight_min=0.8, weight_max=1.2), token_mean),
            0.146950,
        ),
        (PolicyObjective(TOKEN, partial(cispo, weight_max=5.0), token_mean), 0.182392),
    ],
)
def test_numbers_that_other_libraries_compute(objective, expected):
    assert loss_of(objective)[0] == pytest.approx(expected, abs=1e-6)


def test_metrics_by_hand():
    _, _, metrics = loss_of(PolicyObjective(TOKEN, CLIP, token_mean))
    # ρ = e^.2, e^-.2, e^.1 with A = 2; e^-.4, e^.2 with A = -1.5: one above 1.2, one below .8
    assert metrics["clip_fraction_high"] == pytest.approx(1 / 5)
    assert metrics["clip_fraction_low"] == pytest.approx(1 / 5)
    rho = torch.tensor([0.2, -0.2, 0.1, -0.4, 0.2], dtype=torch.float64).exp()
    assert metrics["ratio_mean"] == pytest.approx(rho.mean().item())
    assert metrics["approx_kl"] == pytest.approx((rho - 1 - rho.log()).mean().item())


def test_at_ratio_one_the_clip_has_the_policy_gradient():
    _, clip, _ = loss_of(PolicyObjective(TOKEN, CLIP, token_mean), OLD)
    _, plain, _ = loss_of(PolicyObjective(NONE, score_function, token_mean), OLD)
    _, free, _ = loss_of(PolicyObjective(TOKEN, importance_sampled, token_mean), OLD)
    assert torch.allclose(clip, plain)
    assert torch.allclose(clip, free)
    assert clip[0, 0].item() == pytest.approx(-2.0 / 5)


def test_gspo_gradient_by_hand():
    # row 1: log-ratio mean -.1, s = e^-.1, A<0 and s below 1 - ε: stopped; row 0: mean .1/3
    wide = PolicyObjective(
        SEQUENCE_MEAN, partial(clipped, low=0.05, high=0.05), seq_mean_token_mean
    )
    _, gradient, _ = loss_of(wide)
    s = torch.tensor(0.1 / 3, dtype=torch.float64).exp().item()
    assert gradient[0].tolist() == pytest.approx([-s * 2 / 3 / 2] * 3)
    assert gradient[1].tolist() == [0.0, 0.0, 0.0]


def test_sequence_ratios_take_the_row_mean_of_the_advantage():
    # of both signs, so that the clip would treat the tokens of a row differently
    uneven = torch.tensor([[9.0, -3.0, 3.0], [2.0, -5.0, NAN]], dtype=torch.float64)
    even = torch.tensor([[3.0] * 3, [-1.5, -1.5, NAN]], dtype=torch.float64)
    for level in (SEQUENCE_MEAN, SEQUENCE_SUM):
        bound = partial(clipped, low=0.01, high=0.01)
        objective = PolicyObjective(level, bound, seq_mean_token_mean)
        left, right = (loss_of(objective, advantages=a) for a in (uneven, even))
        assert left[0] == pytest.approx(right[0])
        assert torch.allclose(left[1], right[1])


def random_batch(seed=0, b=12, t=7):
    gen = torch.Generator().manual_seed(seed)
    mask = torch.rand(b, t, generator=gen) < 0.7
    mask[3] = False

    def noise():
        return torch.where(mask, -torch.rand(b, t, generator=gen, dtype=torch.float64), NAN)

    scores = torch.randint(0, 3, (b,), generator=gen).double()
    scores[5] = NAN
    experience = Experience(
        mask=mask,
        group=torch.arange(b) % 3,
        rewards=scores,
        logp_old=noise(),
        logp_ref=noise(),
        logp_rollout=noise(),
    )
    return experience, noise(), noise().abs()


EVERYTHING = {
    name: PolicyObjective(
        TOKEN,
        partial(clipped, low=0.1, high=0.2, dual=1.5),
        aggregate,
        aggregation_length=9,
        kl=KLTerm(k3, 0.04, corrected=True),
        correction=partial(token_truncated, high=1.2),
        mask_edit=partial(m2po_mask, tau=0.05),
        entropy_coefficient=0.01,
    )
    for name, aggregate in AGGREGATIONS.items()
}
GRPO = Credit(baseline=group_mean, normalise=scaled(group_std))


def whole_and_split(objective, parts, seed=0):
    experience, logp, entropy = random_batch(seed)
    advantages = assign(experience, GRPO)
    terms = step_terms(experience, advantages, objective, logp)
    out = []
    for slices in ([torch.arange(12)], parts):
        live = logp.clone().requires_grad_()
        losses, metrics = [], {}
        for i in slices:
            loss, share = policy_loss(live[i], entropy[i], terms.rows(i), objective)
            loss.backward()
            losses.append(loss.item())
            for name, x in share.items():
                metrics[name] = metrics.get(name, 0.0) + x.item()
        out.append((sum(losses), live.grad, metrics))
    return out


@pytest.mark.parametrize("name", sorted(EVERYTHING))
@pytest.mark.parametrize(
    "parts",
    [
        torch.arange(12).split(1),
        torch.arange(12).split(5),
        [torch.tensor([11, 0, 4]), torch.tensor([1, 2, 3, 5, 6]), torch.tensor([10, 9, 8, 7])],
    ],
)
def test_micro_batches_add_up(name, parts):
    whole, split = whole_and_split(EVERYTHING[name], parts)
    assert split[0] == pytest.approx(whole[0], abs=1e-12)
    assert torch.allclose(split[1], whole[1], atol=1e-12)
    assert split[2] == pytest.approx(whole[2], abs=1e-12)
    assert {"kl_reference", "entropy", "dual_clip_fraction", "policy_loss"} <= set(whole[2])


@pytest.mark.parametrize("name", sorted(EVERYTHING))
def test_padding_and_row_order_change_nothing(name):
    objective = EVERYTHING[name]
    experience, logp, entropy = random_batch()

    def run(experience, logp, entropy):
        advantages = assign(experience, GRPO)
        live = logp.clone().requires_grad_()
        terms = step_terms(experience, advantages, objective, logp)
        loss, _ = policy_loss(live, entropy, terms, objective)
        loss.backward()
        return loss.item(), live.grad

    loss, gradient = run(experience, logp, entropy)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    turned, turned_gradient = run(experience.rows(order), logp[order], entropy[order])
    assert turned == pytest.approx(loss, abs=1e-12)
    assert torch.allclose(turned_gradient, gradient[order], atol=1e-12)

    def pad(x):
        fill = torch.full((12, 3), NAN, dtype=torch.float64) if x.is_floating_point() else False
        fill = torch.zeros(12, 3).bool() if fill is False else fill
        return torch.cat([x, fill], 1)

    wide = Experience(
        mask=pad(experience.mask),
        group=experience.group,
        rewards=experience.rewards,
        logp_old=pad(experience.logp_old),
        logp_ref=pad(experience.logp_ref),
        logp_rollout=pad(experience.logp_rollout),
    )
    padded, padded_gradient = run(wide, pad(logp), pad(entropy))
    assert padded == pytest.approx(loss, abs=1e-12)
    assert torch.allclose(padded_gradient[:, :7], gradient, atol=1e-12)
    assert (padded_gradient[:, 7:] == 0).all()


def test_a_pilot_in_float32_agrees_to_six_digits():
    whole, split = whole_and_split(EVERYTHING["token_mean"], torch.arange(12).split(5))
    assert split[0] == pytest.approx(whole[0], rel=1e-6)
    experience, logp, entropy = random_batch()
    single = Experience(
        **{
            k: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
            for k, v in vars(experience).items()
        }
    )
    objective = EVERYTHING["token_mean"]
    terms = step_terms(single, assign(single, GRPO), objective, logp.float())
    loss, _ = policy_loss(logp.float(), entropy.float(), terms, objective)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(whole[0], rel=1e-5)


def test_half_precision_is_accumulated_in_float32():
    experience, advantages = given(advantages=ADVANTAGES.float(), logp_old=OLD.bfloat16())
    objective = PolicyObjective(TOKEN, CLIP, token_mean)
    terms = step_terms(experience, advantages, objective)
    loss, _ = policy_loss(OLD.bfloat16(), None, terms, objective)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("name", sorted(EVERYTHING))
def test_a_batch_that_left_entirely_gives_zero_and_zero_gradient(name):
    objective = EVERYTHING[name]
    experience, logp, entropy = random_batch()
    experience = Experience(**{**vars(experience), "rewards": torch.full((12,), NAN).double()})
    live = logp.clone().requires_grad_()
    terms = step_terms(experience, assign(experience, GRPO), objective, logp)
    loss, metrics = policy_loss(live, entropy, terms, objective)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(live.grad, torch.zeros_like(live.grad))
    assert all(x.item() == 0.0 for x in metrics.values())


def test_extreme_log_probs_stay_finite():
    far = torch.where(MASK, OLD - 300.0, OLD)
    objective = PolicyObjective(TOKEN, CLIP, token_mean, kl=KLTerm(k3, 0.04))
    loss, gradient, metrics = loss_of(objective, far, logp_ref=OLD)
    assert abs(loss) < float("inf")
    assert gradient.isfinite().all()
    assert all(abs(x) < float("inf") for x in metrics.values())


@pytest.mark.parametrize("estimator", [k1, k2, k3])
def test_kl_is_added_after_the_correction_with_the_same_aggregation(estimator):
    correction = partial(token_truncated, high=0.5)  # halves every policy loss: rollout = old
    both = PolicyObjective(
        TOKEN, CLIP, seq_mean_token_mean, kl=KLTerm(estimator, 0.3), correction=correction
    )
    fields = {"logp_ref": OLD + 0.25, "logp_rollout": OLD}
    with_kl = loss_of(both, OLD, **fields)[0]
    alone = loss_of(PolicyObjective(TOKEN, CLIP, seq_mean_token_mean), OLD)[0]
    k = estimator(torch.tensor(-0.25, dtype=torch.float64)).item()  # the same on every token
    assert with_kl == pytest.approx(0.5 * alone + 0.3 * k)


def test_a_correction_weighs_a_token_by_how_much_likelier_it_was_made_since_the_rollout():
    # π_old/π_rollout = 2, ½, 1 | 4, 1 on A = 2, 2, 2 | -1.5, -1.5 at ratio 1, over 5 tokens
    log_u = torch.tensor([[2, 0.5, 1], [4, 1, NAN]], dtype=torch.float64).log()
    weighed = PolicyObjective(
        TOKEN, importance_sampled, token_mean, correction=partial(token_truncated, high=9.0)
    )
    loss, gradient, _ = loss_of(weighed, OLD, logp_rollout=OLD - log_u)
    assert loss == pytest.approx(-(2 * (2 + 0.5 + 1) - 1.5 * (4 + 1)) / 5)
    slopes = [[-4 / 5, -1 / 5, -2 / 5], [6 / 5, 1.5 / 5, 0]]
    assert torch.allclose(gradient, torch.tensor(slopes, dtype=torch.float64))
    low = replace(weighed, correction=partial(token_truncated, high=1.0))
    loss, _, _ = loss_of(low, OLD, logp_rollout=OLD - log_u)  # 1, ½, 1 | 1, 1
    assert loss == pytest.approx(-(2 * 2.5 - 1.5 * 2) / 5)


def test_the_loss_kl_reads_the_live_policy_and_pulls_towards_the_reference():
    objective = PolicyObjective(NONE, score_function, token_mean, kl=KLTerm(k2, 1.0))
    zero = torch.zeros_like(ADVANTAGES)
    reference = OLD.clone()
    loss, gradient, metrics = loss_of(objective, NEW, advantages=zero, logp_ref=reference)
    # slope of d²/2 is d, over 5 tokens
    expected = torch.where(MASK, NEW - OLD, 0.0) / 5
    assert torch.allclose(gradient, expected)
    assert metrics["kl_reference"] > 0
    assert loss > 0


def test_the_entropy_bonus_is_subtracted():
    objective = PolicyObjective(TOKEN, CLIP, token_mean, entropy_coefficient=0.5)
    entropy = torch.where(MASK, 2.0, NAN).double()
    with_bonus, _, metrics = loss_of(objective, entropy=entropy)
    assert with_bonus == pytest.approx(-0.643140 - 0.5 * 2.0, abs=1e-6)
    assert metrics["entropy"] == pytest.approx(2.0)


def test_m2po_drops_tokens_from_numerator_and_denominator():
    # log-ratios: .2 -.2 .1 | -.4 .2 with A +,-: drifting are .2, .1, -.4; τ = .03 keeps .1, .2
    edited = PolicyObjective(
        TOKEN, importance_sampled, token_mean, mask_edit=partial(m2po_mask, tau=0.03)
    )
    loss, gradient, _ = loss_of(edited)
    rho = torch.tensor([0.2, -0.2, 0.1, 0.2], dtype=torch.float64).exp()
    expected = (-2 * rho[:3].sum() + 1.5 * rho[3]) / 4
    assert loss == pytest.approx(expected.item())
    assert gradient[1, 0].item() == 0.0


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_a_bad_log_prob_names_the_row_of_the_step(bad):
    experience, advantages = given()
    objective = PolicyObjective(TOKEN, CLIP, token_mean)
    terms = step_terms(experience, advantages, objective)
    logp = NEW.clone()
    logp[1, 1] = bad
    second = torch.tensor([1])
    with pytest.raises(NonFiniteError, match=r"objective: logp is .* at row 1, token 1"):
        policy_loss(logp[second], None, terms.rows(second), objective)


def test_a_bad_reference_is_refused_before_the_step():
    experience, advantages = given(logp_ref=torch.full_like(OLD, NAN))
    with pytest.raises(NonFiniteError, match="logp_ref"):
        step_terms(experience, advantages, PolicyObjective(TOKEN, CLIP, token_mean))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"ratio": TOKEN}, "logp_old"),
        ({"kl": KLTerm(k3, 0.1)}, "logp_ref"),
        ({"kl": KLTerm(k3, 0.1, corrected=True)}, "logp_old"),
        ({"correction": partial(token_truncated, high=2.0)}, "logp_old"),
        ({"mask_edit": partial(m2po_mask, tau=0.04)}, "logp_old"),
    ],
)
def test_a_missing_tensor_is_named(change, word):
    choices = {"ratio": NONE, "surrogate": score_function, "aggregate": token_mean, **change}
    experience, advantages = given(logp_old=None)
    with pytest.raises(ValueError, match=word):
        step_terms(experience, advantages, PolicyObjective(**choices))


def test_an_entropy_bonus_needs_the_entropy():
    objective = PolicyObjective(TOKEN, CLIP, token_mean, entropy_coefficient=0.5)
    experience, advantages = given()
    with pytest.raises(ValueError, match="entropy"):
        policy_loss(NEW, None, step_terms(experience, advantages, objective), objective)


def test_the_score_function_needs_no_old_policy():
    objective = PolicyObjective(NONE, score_function, token_mean)
    loss, _, metrics = loss_of(objective, logp_old=None)
    # -(2·(-.8-.9-.1) - 1.5·(-.9-1))/5
    assert loss == pytest.approx((3.6 - 2.85) / 5)
    assert "ratio_mean" not in metrics


def test_metrics_carry_no_graph():
    experience, advantages = given()
    objective = PolicyObjective(TOKEN, CLIP, token_mean)
    _, metrics = policy_loss(
        NEW.clone().requires_grad_(), None, step_terms(experience, advantages, objective), objective
    )
    assert not any(x.requires_grad for x in metrics.values())


ON_POLICY = PolicyObjective(TOKEN, CLIP, seq_mean_token_mean, old_is_new=True)


@pytest.mark.parametrize("ratio", [TOKEN, SEQUENCE_SUM, SEQUENCE_MEAN])
@pytest.mark.parametrize("surrogate", [CLIP, importance_sampled, partial(gmpo, low=0.1, high=0.1)])
def test_the_pass_with_gradient_gives_the_old_log_probs(ratio, surrogate) -> None:
    objective = replace(ON_POLICY, ratio=ratio, surrogate=surrogate)
    loss, gradient, metrics = loss_of(objective, logp_old=None)
    same, theirs, others = loss_of(replace(objective, old_is_new=False), logp_old=NEW)
    assert loss == same and torch.equal(gradient, theirs) and metrics == others
    assert metrics["ratio_mean"] == 1.0 and metrics["approx_kl"] == 0.0


def test_without_them_the_old_log_probs_are_asked_for() -> None:
    with pytest.raises(ValueError, match="logp_old"):
        loss_of(replace(ON_POLICY, old_is_new=False), logp_old=None)
    loss, *_ = loss_of(ON_POLICY)  # those that are given are taken
    assert loss == loss_of(replace(ON_POLICY, old_is_new=False))[0]


VANISHING = [
    CLIP,
    importance_sampled,
    partial(clipped, low=0.2, high=0.2, dual=3.0),
    partial(gmpo, low=0.1, high=0.1),
    partial(cispo, weight_min=0.0, weight_max=5.0),
    partial(sapo, tau_positive=1.0, tau_negative=1.05),
]


@pytest.mark.parametrize("surrogate", VANISHING)
def test_a_row_without_advantage_adds_nothing(surrogate) -> None:
    objective = PolicyObjective(TOKEN, surrogate, token_mean, vanishes=True)
    silent = torch.stack([ADVANTAGES[0], torch.zeros(3)])
    loss, gradient, metrics = loss_of(objective, advantages=silent)
    plain, theirs, others = loss_of(replace(objective, vanishes=False), advantages=silent)
    assert loss == plain and torch.equal(gradient, theirs) and not gradient[1].any()
    assert metrics["policy_loss"] == others["policy_loss"]
    # Metrics are means over the rows that are computed: 3 of the 5 tokens.
    ratio = torch.exp(NEW[0] - OLD[0]).mean().item()
    assert metrics["ratio_mean"] == pytest.approx(ratio)
    experience, advantages = given(advantages=silent)
    terms = step_terms(experience, advantages, objective)
    assert idle_rows(terms).tolist() == [False, True]
