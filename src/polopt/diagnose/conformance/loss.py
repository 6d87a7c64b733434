"""Adapters of golden ops about losses: they rename inputs and outputs, no mathematics here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polopt.credit import Credit, assign, group_mean
from polopt.diagnose.conformance import formulas, softmax
from polopt.math import corrections, divergence, preference, ratios, surrogates
from polopt.math.reduce import (
    AGGREGATIONS,
    masked,
    row_mean,
    seq_mean_token_mean,
    seq_mean_token_sum,
    spread_rows,
    token_mean,
    weighted_sum,
)
from polopt.math.values import value_loss
from polopt.objective import (
    SEQUENCE_MEAN,
    SEQUENCE_SUM,
    TOKEN,
    PolicyObjective,
    StepTerms,
    policy_loss,
    reduction,
    step_terms,
    supervised_loss,
)
from polopt.types import Advantages, Experience

Outputs = dict[str, Any]

CORRECTIONS: dict[str, Callable[..., Tensor]] = {
    "token_tis": corrections.token_truncated,
    "token_mask": corrections.token_masked,
    "seq_tis": corrections.sequence_truncated,
    "seq_mask": corrections.sequence_masked,
    "seq_geo_mask": corrections.sequence_geometric_masked,
}


def _rows(mask: Tensor) -> Tensor:
    return torch.arange(mask.shape[0])


def _weights(mask: Tensor, mode: str, const: int | None, group: Tensor | None) -> Tensor:
    prompts = _rows(mask) if group is None else group
    return AGGREGATIONS[mode](mask, prompts, const, torch.float64)


def _slope(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at, retain_graph=True)[0]


def _assembled(
    choice: PolicyObjective,
    logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    logp_old: Tensor,
    logp_rollout: Tensor | None = None,
) -> tuple[Tensor, Tensor, StepTerms]:
    """Loss, gradient and terms of given advantages through the assembly that the rows use."""
    experience = Experience(
        mask=mask,
        group=_rows(mask),
        rewards=logp.new_zeros(len(mask)),
        logp_old=logp_old,
        logp_rollout=logp_rollout,
    )
    terms = step_terms(experience, Advantages(masked(advantages, mask), mask, mask.any(-1)), choice)
    live = logp.clone().requires_grad_()
    loss, _ = policy_loss(live, None, terms, choice)
    return loss, _slope(loss, live), terms


def _aggregate(
    per_token_loss: Tensor,
    mask: Tensor,
    mode: str,
    const: int | None = None,
    group: Tensor | None = None,
) -> Outputs:
    weights = _weights(mask, mode, const, group)
    return {"loss": weighted_sum(per_token_loss, weights, mask), "weights": weights}


def _ppo_clip_loss(
    logp: Tensor,
    logp_old: Tensor,
    adv: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    aggs: Sequence[str] = ("token_mean",),
    const: int | None = None,
    group: Tensor | None = None,
) -> Outputs:
    logp = logp.requires_grad_()
    log_ratio = ratios.token_log_ratio(logp, logp_old, mask)
    advantages = masked(adv, mask)
    loss, events = surrogates.clipped(
        masked(logp, mask),
        log_ratio,
        advantages,
        mask,
        low=clip_low,
        high=clip_high,
        dual=dual_clip,
    )
    nowhere = torch.zeros_like(mask)
    outputs: Outputs = {
        "ratio": masked(ratios.safe_exp(log_ratio), mask),
        "per_token_loss": masked(loss, mask),
        "clipped": events["clip_fraction_low"] | events["clip_fraction_high"],
        "dual_clipped": events.get("dual_clip_fraction", nowhere),
        "dloss_dlogp_per_token": _slope(masked(loss, mask).sum(), logp),
    }
    for mode in aggs:
        total = weighted_sum(loss, _weights(mask, mode, const, group), mask)
        outputs |= {f"loss_{mode}": total, f"grad_{mode}": _slope(total, logp)}
    return outputs


def _gspo_loss(
    logp: Tensor,
    logp_old: Tensor,
    mask: Tensor,
    adv_seq: Tensor,
    clip_low: float,
    clip_high: float,
) -> Outputs:
    bound = partial(surrogates.clipped, low=clip_low, high=clip_high)
    choice = PolicyObjective(SEQUENCE_MEAN, bound, seq_mean_token_mean)
    loss, gradient, _ = _assembled(choice, logp, spread_rows(adv_seq, mask), mask, logp_old)
    log_ratio = row_mean(ratios.token_log_ratio(logp, logp_old, mask), mask)
    return {"seq_ratio": ratios.safe_exp(log_ratio), "loss": loss, "grad_logp": gradient}


def _gmpo_loss(
    logp: Tensor,
    logp_old: Tensor,
    mask: Tensor,
    adv_seq: Tensor,
    clip_low: float,
    clip_high: float,
) -> Outputs:
    bound = partial(surrogates.gmpo, low=clip_low, high=clip_high)
    choice = PolicyObjective(TOKEN, bound, seq_mean_token_mean)
    advantages = spread_rows(adv_seq, mask)
    loss, gradient, _ = _assembled(choice, logp, advantages, mask, logp_old)
    log_ratio = ratios.token_log_ratio(logp, logp_old, mask)
    mean, _ = surrogates.gmpo_log_ratio(log_ratio, advantages, mask, low=clip_low, high=clip_high)
    return {
        "seq_ratio": ratios.safe_exp(row_mean(mean, mask)),
        "loss": loss,
        "grad_logp": gradient,
    }


def _cispo_loss(
    logp: Tensor,
    logp_old: Tensor,
    mask: Tensor,
    adv: Tensor,
    w_max: float,
    w_min: float = 0.0,
) -> Outputs:
    bound = partial(surrogates.cispo, weight_min=w_min, weight_max=w_max)
    choice = PolicyObjective(TOKEN, bound, token_mean)
    loss, gradient, _ = _assembled(choice, logp, adv, mask, logp_old)
    log_ratio = ratios.token_log_ratio(logp, logp_old, mask)
    weight = surrogates.capped_weight(log_ratio, weight_min=w_min, weight_max=w_max)
    return {"weight": masked(weight, mask), "loss": loss, "grad_logp": gradient}


def _sapo_loss(
    logp: Tensor,
    logp_old: Tensor,
    mask: Tensor,
    adv: Tensor,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
) -> Outputs:
    bound = partial(surrogates.sapo, tau_positive=tau_pos, tau_negative=tau_neg)
    choice = PolicyObjective(TOKEN, bound, seq_mean_token_mean)
    loss, gradient, _ = _assembled(choice, logp, adv, mask, logp_old)
    log_ratio = ratios.token_log_ratio(logp, logp_old, mask)
    per_token, _ = bound(masked(logp, mask), log_ratio, masked(adv, mask), mask)
    return {"per_token_loss": masked(per_token, mask), "loss": loss, "grad_logp": gradient}


def _kimi_opmd_loss(
    logp_seq: Tensor, logp_old_seq: Tensor, rewards: Tensor, group: Tensor, tau: float
) -> Outputs:
    logp = logp_seq[:, None].clone().requires_grad_()
    experience = Experience(
        mask=torch.ones_like(logp, dtype=torch.bool),
        group=group,
        rewards=rewards,
        logp_old=logp_old_seq[:, None],
    )
    bound = partial(surrogates.opmd, tau=tau)
    choice = PolicyObjective(SEQUENCE_SUM, bound, seq_mean_token_sum)
    advantages = assign(experience, Credit(baseline=group_mean))
    loss, _ = policy_loss(logp, None, step_terms(experience, advantages, choice), choice)
    return {"loss": loss, "grad_logp_seq": _slope(loss, logp)[:, 0]}


def _tis_weights(
    logp_old: Tensor,
    logp_rollout: Tensor,
    mask: Tensor,
    mode: str,
    c_max: float,
    c_min: float = 0.0,
) -> Outputs:
    correct = CORRECTIONS[mode]
    return {"w": correct(logp_old, logp_rollout, mask, high=c_max, low=c_min)}


def _decoupled_ppo_loss(
    logp: Tensor,
    logp_prox: Tensor,
    logp_behav: Tensor,
    adv: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
    c_max: float = float("inf"),
) -> Outputs:
    choice = PolicyObjective(
        TOKEN,
        partial(surrogates.clipped, low=clip_low, high=clip_high),
        token_mean,
        correction=partial(corrections.token_truncated, high=c_max),
    )
    loss, gradient, terms = _assembled(choice, logp, adv, mask, logp_prox, logp_behav)
    return {"w": terms.correction, "loss": loss, "grad_logp": gradient}


def _m2po_mask(logp: Tensor, logp_behav: Tensor, adv: Tensor, mask: Tensor, tau: float) -> Outputs:
    return {"keep": corrections.m2po_mask(logp, logp_behav, adv, mask, tau=tau)}


def _opsm_mask(
    logp: Tensor, logp_old: Tensor, adv_seq: Tensor, mask: Tensor, delta: float
) -> Outputs:
    return {"keep": corrections.opsm_mask(logp, logp_old, adv_seq, mask, delta=delta)}


def _value_loss(
    v: Tensor,
    v_old: Tensor,
    ret: Tensor,
    mask: Tensor,
    clip: float | None = None,
    agg: str = "token_mean",
    const: int | None = None,
    group: Tensor | None = None,
) -> Outputs:
    loss, bites = value_loss(v, v_old, ret, mask, clip)
    total = weighted_sum(loss, _weights(mask, agg, const, group), mask)
    return {"per_token_loss": loss, "clipped": bites, "loss": total}


def _kl_estimators(logp: Tensor, logq: Tensor) -> Outputs:
    logp = logp.requires_grad_()
    everywhere = torch.ones_like(logp, dtype=torch.bool)
    log_ratio = masked(logp, everywhere) - logq
    outputs: Outputs = {}
    for name, estimator in divergence.ESTIMATORS.items():
        k = estimator(log_ratio)
        outputs |= {name: k, f"dloss_dlogp_{name}": _slope(k.sum(), logp)}
    return outputs


def _kl_expectations(p: Tensor, q: Tensor) -> Outputs:
    outputs: Outputs = {
        "kl_p_q": softmax.kl_divergence(p, q),
        "kl_q_p": softmax.kl_divergence(q, p),
        "grad_kl_p_q": softmax.reverse_kl_gradient(p, q),
        "grad_kl_q_p": softmax.forward_kl_gradient(p, q),
    }
    for name, estimator in divergence.ESTIMATORS.items():
        mean, as_loss, as_reward = softmax.expected_estimator(p, q, estimator)
        outputs |= {
            f"mean_{name}": mean,
            f"loss_grad_{name}": as_loss,
            f"reward_grad_{name}": as_reward,
        }
    return outputs


def _ranking_loss(
    scores: Sequence[Tensor], ranks: Sequence[Tensor] | None = None, margin: float = 0.0
) -> Outputs:
    order = [torch.arange(len(s), dtype=torch.float64) for s in scores] if ranks is None else ranks
    prompt = torch.repeat_interleave(torch.tensor([len(s) for s in scores]))
    flat, places = torch.cat(list(scores)), torch.cat(list(order))
    per_prompt, loss = formulas.ranking_loss(flat, places, prompt, margin)
    return {"per_prompt": per_prompt, "loss": loss}


def _dpo_loss(
    pc: Tensor,
    pr: Tensor,
    rc: Tensor,
    rr: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
    kind: str = "sigmoid",
) -> Outputs:
    logits = formulas.preference_logits(pc, pr, rc, rr)
    table: dict[str, Callable[[], Tensor]] = {
        "sigmoid": lambda: preference.dpo_loss(logits, beta=beta, label_smoothing=label_smoothing),
        "ipo": lambda: preference.ipo_loss(logits, beta=beta),
    }
    per_pair = table[kind]()
    return {
        "logits": logits,
        "per_pair": per_pair,
        "loss": per_pair.mean(),
        "reward_chosen": preference.implicit_reward(pc, rc, beta),
        "reward_rejected": preference.implicit_reward(pr, rr, beta),
        "grad_weight": formulas.dpo_gradient_weight(logits, beta=beta),
    }


def _ppo_ptx_objective(
    rewards: Tensor,
    logp_rl_seq: Tensor,
    logp_sft_seq: Tensor,
    pretrain_logp_tokens: Tensor,
    pretrain_mask: Tensor,
    beta: float,
    ptx_coef: float,
) -> Outputs:
    nll = formulas.negative_log_likelihood(pretrain_logp_tokens, pretrain_mask)
    return {
        "rl_term": formulas.regularised_reward(rewards, logp_rl_seq, logp_sft_seq, beta),
        "ptx_nll_token_mean": nll,
        "loss_addition": ptx_coef * nll,
    }


def _sft_loss(
    logp: Tensor,
    mask: Tensor,
    mode: str = "token_mean",
    const: int | None = None,
    group: Tensor | None = None,
) -> Outputs:
    prompts = _rows(mask) if group is None else group
    reduce = reduction(mask, prompts, AGGREGATIONS[mode], const, torch.float64)
    live = logp.clone().requires_grad_()
    loss, _ = supervised_loss(live, reduce)
    return {"loss": loss, "grad_logp": _slope(loss, live)}


LOSS: dict[str, Callable[..., Outputs]] = {
    "aggregate": _aggregate,
    "ppo_clip_loss": _ppo_clip_loss,
    "gspo_loss": _gspo_loss,
    "gmpo_loss": _gmpo_loss,
    "cispo_loss": _cispo_loss,
    "sapo_loss": _sapo_loss,
    "kimi_opmd_loss": _kimi_opmd_loss,
    "tis_weights": _tis_weights,
    "decoupled_ppo_loss": _decoupled_ppo_loss,
    "m2po_mask": _m2po_mask,
    "opsm_mask": _opsm_mask,
    "value_loss": _value_loss,
    "kl_estimators": _kl_estimators,
    "kl_expectations": _kl_expectations,
    "ranking_loss": _ranking_loss,
    "dpo_loss": _dpo_loss,
    "ppo_ptx_objective": _ppo_ptx_objective,
    "sft_loss": _sft_loss,
}
