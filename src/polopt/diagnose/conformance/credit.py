"""Adapters of golden ops about credit: they rename inputs and outputs, no mathematics here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from polopt.diagnose.conformance import formulas
from polopt.math import baselines, normalise, process, returns, selection, shaping
from polopt.math.divergence import k1
from polopt.math.reduce import spread_rows

Outputs = dict[str, Any]

SPREADS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "return": shaping.spread_discounted,
    "normalized": shaping.spread_normalised,
    "uniform": lambda scores, mask, _: shaping.spread_uniform(scores, mask),
}


DENOMINATORS: dict[str, normalise.Denominator] = {
    "std_plus": normalise.std_plus,
    "var_plus": normalise.var_plus,
    "var_clamp": formulas.var_clamp,
}


def _gae_tokens(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    gamma: float,
    lam: float | Tensor,
    last_values: Tensor | None = None,
) -> Outputs:
    advantages, targets = returns.token_gae(rewards, values, mask, gamma, lam, last_values)
    return {"advantages": advantages, "returns": targets}


def _gae_steps(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Outputs:
    advantages, targets = returns.step_gae(
        rewards, values, next_values, terminated, truncated, gamma, lam
    )
    return {"advantages": advantages, "returns": targets}


def _discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Outputs:
    return {"returns": returns.reward_to_go(rewards, mask, gamma)}


def _full_return(rewards: Tensor, mask: Tensor, gamma: float) -> Outputs:
    return {"returns": returns.full_return(rewards, mask, gamma)}


def _length_adaptive_lambda(lengths: Tensor, alpha: float) -> Outputs:
    return {"lam": returns.length_adaptive_lambda(lengths, alpha)}


def _singletons(advantages: Tensor, rewards: Tensor, group: Tensor, singleton: str) -> Outputs:
    scored = ~torch.isnan(rewards)
    if singleton == "raw":
        raw = formulas.raw_singletons(advantages, rewards, group, scored)
        return {"advantages": raw, "valid": scored}
    return {"advantages": advantages, "valid": baselines.has_peers(group, scored)}


def _rloo_advantage(rewards: Tensor, group: Tensor, singleton: str = "zero") -> Outputs:
    scored = ~torch.isnan(rewards)
    baseline = baselines.leave_one_out(rewards, group, scored)
    advantages = baselines.centred(rewards, baseline, scored)
    return _singletons(advantages, rewards, group, singleton)


def _grpo_advantage(
    rewards: Tensor,
    group: Tensor,
    ddof: int = 1,
    eps: float = 1e-6,
    scale: str = "group_std",
    singleton: str = "zero",
) -> Outputs:
    scored = ~torch.isnan(rewards)
    centred = baselines.centred(rewards, baselines.group_mean(rewards, group, scored), scored)
    given = (centred[:, None], rewards, group, scored)
    table: dict[str, Callable[[], Tensor]] = {
        "none": lambda: centred[:, None],
        "group_std": lambda: normalise.group_std(*given, ddof=ddof, eps=eps),
        "batch_std": lambda: normalise.batch_std(*given, ddof=ddof, eps=eps),
        "group_mean": lambda: normalise.group_mean_divide(*given, eps=eps),
    }
    return _singletons(table[scale]()[:, 0], rewards, group, singleton)


def _opo_advantage(rewards: Tensor, lengths: Tensor, group: Tensor) -> Outputs:
    scored = ~torch.isnan(rewards) & (lengths > 0)
    baseline = baselines.length_weighted(rewards, lengths, group, scored)
    valid = baselines.has_peers(group, scored)
    return {"advantages": baselines.centred(rewards, baseline, valid), "valid": valid}


def _remax_advantage(rewards: Tensor, greedy_rewards: Tensor) -> Outputs:
    valid = ~(torch.isnan(rewards) | torch.isnan(greedy_rewards))
    return {"advantages": baselines.centred(rewards, greedy_rewards, valid), "valid": valid}


def _whiten(
    x: Tensor,
    mask: Tensor,
    ddof: int = 1,
    eps: float = 1e-8,
    eps_mode: str = "var_plus",
    shift_mean: bool = True,
) -> Outputs:
    out = normalise.whiten(
        x,
        mask,
        ddof=ddof,
        eps=eps,
        denominator=DENOMINATORS[eps_mode],
        shift_mean=shift_mean,
    )
    return {"out": out}


def _reinforce_pp_advantage(
    scores: Tensor,
    logp_old: Tensor,
    logp_ref: Tensor,
    mask: Tensor,
    beta: float,
    gamma: float = 1.0,
    ddof: int = 1,
    eps: float = 1e-8,
    eps_mode: str = "var_plus",
) -> Outputs:
    scored = mask & ~torch.isnan(scores)[:, None]
    rewards = shaping.terminal_reward(scores, scored)
    rewards = rewards + shaping.kl_penalty(logp_old, logp_ref, scored, beta, k1)
    togo = returns.reward_to_go(rewards, scored, gamma)
    advantages = _whiten(togo, scored, ddof, eps, eps_mode)["out"]
    return {"token_rewards": rewards, "returns": togo, "advantages": advantages}


def _reinforce_pp_baseline_advantage(
    scores: Tensor,
    group: Tensor,
    mask: Tensor,
    ddof: int = 1,
    eps: float = 1e-8,
    eps_mode: str = "var_plus",
) -> Outputs:
    scored = mask.any(-1) & ~torch.isnan(scores)
    valid = baselines.has_peers(group, scored)
    mean = baselines.group_mean(scores, group, scored)
    centred = baselines.centred(scores, mean, valid)
    inside = mask & valid[:, None]
    advantages = _whiten(spread_rows(centred, inside), inside, ddof, eps, eps_mode)["out"]
    return {"centered": centred, "valid": valid, "advantages": advantages}


def _prime_advantage(
    q: Tensor,
    outcome: Tensor,
    mask: Tensor,
    group: Tensor,
    gamma: float = 1.0,
    variant: str = "paper",
    coef_process: float = 1.0,
    coef_outcome: float = 1.0,
    whiten_out: dict[str, Any] | None = None,
) -> Outputs:
    table = {
        "paper": process.prime_advantage,
        "reference_code": process.prime_reference_advantage,
    }
    advantages = table[variant](
        q,
        outcome,
        mask,
        group,
        gamma=gamma,
        process_coefficient=coef_process,
        outcome_coefficient=coef_outcome,
    )
    outputs: Outputs = {"advantages": advantages}
    if whiten_out is not None:
        outputs["whitened"] = _whiten(advantages, mask, **whiten_out)["out"]
    return outputs


def _prime_prm_ce(log_ratio: Tensor, outcome: Tensor, mask: Tensor, beta: float) -> Outputs:
    logits, loss = process.prime_cross_entropy(log_ratio, outcome, mask, beta=beta)
    return {"logits": logits, "loss": loss}


def _prime_batch_norm(q: Tensor, mask: Tensor) -> Outputs:
    return {"out": process.prime_batch_norm(q, mask)}


def _spread_terminal_reward(scores: Tensor, mask: Tensor, gamma: float, mode: str) -> Outputs:
    rewards = SPREADS[mode](scores, mask, gamma)
    return {"rewards": rewards, "row_sums": rewards.sum(-1)}


def _kl_shaped_reward(
    scores: Tensor,
    logp_old: Tensor,
    logp_ref: Tensor,
    mask: Tensor,
    beta: float,
    clip: Tensor | None = None,
) -> Outputs:
    bounds = None if clip is None else (float(clip[0]), float(clip[1]))
    penalty = shaping.kl_penalty(logp_old, logp_ref, mask, beta, k1)
    return {"rewards": shaping.terminal_reward(scores, mask, bounds) + penalty}


def _overlong_penalty(
    lengths: Tensor, l_max: float, l_cache: float, factor: float = 1.0
) -> Outputs:
    return {"penalty": shaping.overlong_penalty(lengths, l_max, l_cache, factor)}


def _centred_batches(batches: Sequence[Tensor], used: list[float]) -> list[Tensor]:
    pairs = zip(batches, used, strict=True)
    return [
        baselines.centred(batch, torch.full_like(batch, b), ~torch.isnan(batch))
        for batch, b in pairs
    ]


def _ema_baseline(batches: Sequence[Tensor], decay: float, b0: float = 0.0) -> Outputs:
    used = [b0]
    for batch in batches:
        used.append(baselines.ema_update(used[-1], batch, decay))
    *used, final = used
    return {
        "baseline_used": used,
        "advantages": _centred_batches(batches, used),
        "final": final,
    }


def _running_mean_baseline(batches: Sequence[Tensor]) -> Outputs:
    used, seen = [0.0], 0
    for batch in batches:
        mean, seen = baselines.running_mean_update(used[-1], seen, batch)
        used.append(mean)
    *used, final = used
    return {
        "baseline_used": used,
        "advantages": _centred_batches(batches, used),
        "final": final,
    }


def _rejection_select(rewards: Tensor, group: Tensor, mode: str, threshold: float = 0.0) -> Outputs:
    table: dict[str, Callable[[], Tensor]] = {
        "best": lambda: selection.best_of_group(rewards, group),
        "threshold": lambda: selection.at_least(rewards, group, threshold=threshold),
    }
    return {"keep": table[mode]()}


def _dynamic_sampling_keep(rewards: Tensor, group: Tensor) -> Outputs:
    return {"keep": selection.has_contrast(rewards, group)}


CREDIT: dict[str, Callable[..., Outputs]] = {
    "gae_tokens": _gae_tokens,
    "gae_steps": _gae_steps,
    "discounted_returns": _discounted_returns,
    "full_return": _full_return,
    "length_adaptive_lambda": _length_adaptive_lambda,
    "rloo_advantage": _rloo_advantage,
    "grpo_advantage": _grpo_advantage,
    "opo_advantage": _opo_advantage,
    "remax_advantage": _remax_advantage,
    "whiten": _whiten,
    "reinforce_pp_advantage": _reinforce_pp_advantage,
    "reinforce_pp_baseline_advantage": _reinforce_pp_baseline_advantage,
    "prime_advantage": _prime_advantage,
    "prime_prm_ce": _prime_prm_ce,
    "prime_batch_norm": _prime_batch_norm,
    "spread_terminal_reward": _spread_terminal_reward,
    "kl_shaped_reward": _kl_shaped_reward,
    "overlong_penalty": _overlong_penalty,
    "ema_baseline": _ema_baseline,
    "running_mean_baseline": _running_mean_baseline,
    "rejection_select": _rejection_select,
    "dynamic_sampling_keep": _dynamic_sampling_keep,
}
