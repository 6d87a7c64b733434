"""Adapter of the golden op ``objective``: its configuration as the choices of a row, assembled.

The case runs through ``assign``, ``step_terms`` and ``policy_loss``, as a training step does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polopt import credit
from polopt.credit import Credit, assign
from polopt.diagnose.conformance.credit import DENOMINATORS, SPREADS
from polopt.diagnose.conformance.loss import CORRECTIONS
from polopt.math import normalise, surrogates
from polopt.math.corrections import m2po_mask
from polopt.math.divergence import ESTIMATORS
from polopt.math.reduce import AGGREGATIONS, masked
from polopt.objective import (
    NONE,
    SEQUENCE_MEAN,
    SEQUENCE_SUM,
    TOKEN,
    KLTerm,
    PolicyObjective,
    RatioLevel,
    policy_loss,
    step_terms,
)
from polopt.types import Experience

Config = Mapping[str, Any]
OURS = {"scores": "rewards", "greedy_scores": "greedy_rewards"}  # by their names in golden cases
LEVELS = {"token": TOKEN, "seq_mean": SEQUENCE_MEAN, "seq_sum": SEQUENCE_SUM}


def objective(batch: dict[str, Any], config: Config) -> dict[str, Any]:
    """Credit, terms and loss of one batch; the gradient is that of autograd."""
    logp: Tensor = batch["logp"].requires_grad_()
    # Golden last_values are 0 where a response ended by itself: all may be bootstrapped.
    experience = Experience(
        **{OURS.get(name, name): value for name, value in batch.items() if name != "logp"},
        truncated=torch.ones_like(batch["scores"], dtype=torch.bool),
    )
    choice = _objective(**_without(config, "reward", "returns", "baseline", "norm"))
    advantages = assign(
        experience, _credit(**_only(config, "reward", "returns", "baseline", "norm"))
    )
    terms = step_terms(experience, advantages, choice, logp.detach())
    loss, _ = policy_loss(logp, None, terms, choice)
    (gradient,) = torch.autograd.grad(loss, logp)
    targets = advantages.value_targets
    return {
        "advantages": masked(advantages.advantages, terms.reduction.mask),
        "valid": advantages.valid,
        "loss": loss,
        "grad_logp": gradient,
        "value_targets": None if targets is None else masked(targets, terms.reduction.mask),
    }


def _only(config: Config, *keys: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k in keys}


def _without(config: Config, *keys: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in keys}


def _credit(
    reward: Config | None = None,
    returns: Config | None = None,
    baseline: Config | None = None,
    norm: Config | None = None,
) -> Credit:
    estimator = (returns or {}).get("kind", "outcome")
    return Credit(
        shapers=_shapers(**(reward or {})),
        returns=_returns(**(returns or {"kind": "outcome"})),
        baseline=_baseline(estimator, **(baseline or {"kind": "none"})),
        normalise=_normalise(**(norm or {"kind": "none"})),
    )


def _shapers(
    kl_beta: float = 0.0,
    kl_est: str = "k1",
    clip: list[float] | None = None,
    overlong: list[float] | None = None,
    spread: tuple[float, str] | None = None,
) -> tuple[credit.Shaper, ...]:
    bounds = None if clip is None else (float(clip[0]), float(clip[1]))
    if spread is None:
        shapers = [credit.terminal(bounds)]
    else:
        gamma, kind = float(spread[0]), spread[1]
        shapers = [credit.spread(lambda scores, mask: SPREADS[kind](scores, mask, gamma), bounds)]
    if overlong is not None:
        shapers.append(credit.overlong(*map(float, overlong)))
    if kl_beta:
        shapers.append(credit.kl_penalty(float(kl_beta), ESTIMATORS[kl_est]))
    return tuple(shapers)


def _returns(kind: str, gamma: float = 1.0, lam: float = 1.0) -> credit.Returns:
    table: dict[str, Callable[[], credit.Returns]] = {
        "outcome": lambda: credit.outcome,
        "rtg": lambda: credit.reward_to_go(float(gamma)),
        "gae": lambda: credit.gae(float(gamma), float(lam), bootstrap_truncated=True),
    }
    return table[kind]()


def _baseline(returns: str, kind: str, value: float = 0.0) -> credit.Baseline:
    if kind == "value" and returns == "gae":
        return credit.no_baseline  # V is in GAE already
    table = {
        "none": credit.no_baseline,
        "loo": credit.leave_one_out,
        "group_mean": credit.group_mean,
        "length_weighted": credit.length_weighted,
        "const": credit.constant(float(value)),
        "ema": credit.constant(float(value)),
        "greedy": credit.greedy,
        "value": credit.value,
    }
    return table[kind]


def _normalise(
    kind: str, ddof: int = 1, eps: float | None = None, eps_mode: str = "var_plus"
) -> credit.Normalise:
    small = float(1e-6 if eps is None else eps)
    tiny = float(1e-8 if eps is None else eps)
    table = {
        "none": credit.unchanged,
        "group_std": credit.scaled(partial(normalise.group_std, ddof=ddof, eps=small)),
        "group_mean": credit.scaled(partial(normalise.group_mean_divide, eps=small)),
        "batch_std": credit.scaled(partial(normalise.batch_std, ddof=ddof, eps=small)),
        "batch_z": credit.batch_z(ddof, tiny, DENOMINATORS[eps_mode]),
    }
    return table[kind]


def _objective(
    surrogate: Config,
    agg: Config,
    correction: Config | None = None,
    kl_loss: Config | None = None,
    m2po_tau: float | None = None,
) -> PolicyObjective:
    ratio, loss = _surrogate(**surrogate)
    return PolicyObjective(
        ratio=ratio,
        surrogate=loss,
        aggregate=AGGREGATIONS[agg["mode"]],
        aggregation_length=agg.get("const"),
        kl=None if kl_loss is None else _kl(**kl_loss),
        correction=None if correction is None else _correction(**correction),
        mask_edit=None if m2po_tau is None else partial(m2po_mask, tau=float(m2po_tau)),
    )


def _surrogate(
    kind: str, level: str = "token", **numbers: float | None
) -> tuple[RatioLevel, surrogates.Surrogate]:
    renamed = {"tau_pos": "tau_positive", "tau_neg": "tau_negative"} | {
        "w_min": "weight_min",
        "w_max": "weight_max",
    }
    bound = {renamed.get(k, k): v if v is None else float(v) for k, v in numbers.items()}
    table: dict[str, tuple[RatioLevel, Callable[..., Any]]] = {
        "pg": (NONE, surrogates.score_function),
        "is": (LEVELS[level], surrogates.importance_sampled),
        "clip": (LEVELS[level], surrogates.clipped),
        "cispo": (LEVELS[level], surrogates.cispo),
        "sapo": (LEVELS[level], surrogates.sapo),
        "opmd": (SEQUENCE_SUM, surrogates.opmd),
    }
    ratio, loss = table[kind]
    return ratio, partial(loss, **bound)


def _kl(est: str, beta: float, is_correct: bool = False) -> KLTerm:
    return KLTerm(ESTIMATORS[est], float(beta), is_correct)


def _correction(
    mode: str, c_max: float, c_min: float = 0.0
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return partial(CORRECTIONS[mode], high=float(c_max), low=float(c_min))


OBJECTIVE: dict[str, Callable[..., dict[str, Any]]] = {"objective": objective}
