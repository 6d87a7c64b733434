"""Adapters of golden ops about control, controllers and analysis: renaming, no mathematics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polopt.diagnose.conformance import formulas, softmax
from polopt.envs.control.biped.reward import BIPED_PRESETS, biped_terms
from polopt.math import controllers, natural, pathwise, statistics
from polopt.math.noise import ou_step

Outputs = dict[str, Any]


def _adaptive_kl_ziegler(
    beta: float, kls: Tensor, target: float, n_steps: float, horizon: float
) -> Outputs:
    betas = list[float]()
    for kl in kls.tolist():
        beta = controllers.ziegler_update(beta, kl, n_steps, target=target, horizon=horizon)
        betas.append(beta)
    return {"betas": betas}


def _adaptive_kl_ppo(beta: float, kls: Tensor, target: float) -> Outputs:
    betas = list[float]()
    for kl in kls.tolist():
        beta = controllers.ppo_update(beta, kl, 1.0, target=target)
        betas.append(beta)
    return {"betas": betas}


def _ou_noise(
    x0: Tensor, mu: Tensor, theta: float, sigma: float, dt: float, noise: Tensor
) -> Outputs:
    path, x = list[Tensor](), x0
    for draw in noise:
        x = ou_step(x, draw, mu, theta, sigma, dt)
        path.append(x)
    return {"x": path}


def _sac_target(
    r: Tensor, term: Tensor, q1: Tensor, q2: Tensor, logp: Tensor, alpha: float, gamma: float
) -> Outputs:
    return {"y": pathwise.sac_target(r, term, q1, q2, logp, alpha, gamma)}


def _ddpg_target(r: Tensor, term: Tensor, q: Tensor, gamma: float) -> Outputs:
    return {"y": pathwise.ddpg_target(r, term, q, gamma)}


def _soft_update(target: Tensor, source: Tensor, tau: float) -> Outputs:
    return {"target": pathwise.soft_update(target, source, tau)}


def _sac_temperature(log_alpha: float, logp: Tensor, target_entropy: float) -> Outputs:
    live = torch.tensor(log_alpha, dtype=torch.float64, requires_grad=True)
    loss = pathwise.temperature_loss_log(live, logp, target_entropy)
    return {
        "loss_log_form": loss,
        "dloss_dlog_alpha_log_form": torch.autograd.grad(loss, live)[0],
        "loss_exp_form": pathwise.temperature_loss_exp(live, logp, target_entropy),
    }


def _tanh_gaussian_logp(u: Tensor, mean: Tensor, log_std: Tensor) -> Outputs:
    action, logp = pathwise.tanh_gaussian(u, mean, log_std)
    return {"logp": logp, "action": action}


def _trpo_bandit_step(
    theta: Tensor,
    adv: Tensor,
    delta: float,
    damping: float = 0.0,
    backtrack: float = 0.8,
    max_iter: int = 10,
    cg_iters: int = 10,
    fixed_last: bool = True,
) -> Outputs:
    p_old, surrogate, kl = softmax.softmax_step_functions(theta, adv, fixed_last)
    gradient = softmax.gradient_of(surrogate, theta)
    step = natural.trust_region_step(
        lambda at: (surrogate(at), kl(at)),
        softmax.hessian_product(kl, theta, damping),
        gradient,
        theta,
        surrogate(theta),
        delta=delta,
        backtrack=backtrack,
        max_iterations=max_iter,
        cg_iterations=cg_iters,
    )
    fisher = softmax.hessian_product(kl, theta)
    return {
        "p_old": p_old,
        "g": gradient,
        "fisher": [fisher(row) for row in torch.eye(len(theta), dtype=theta.dtype)],
        "x": step.direction,
        "beta": step.scale,
        "accepted": step.accepted,
        "backtracks": step.backtracks,
        "theta_new": step.parameters,
        "kl": step.kl,
        "surrogate_old": surrogate(theta),
        "surrogate_new": step.surrogate,
    }


def _constant_baseline_variance(p: Tensor, rewards: Tensor, baselines: Tensor) -> Outputs:
    tried = [*baselines, softmax.optimal_baseline(p, rewards)]
    moments = [softmax.gradient_moments(p, rewards, b) for b in tried]
    return {
        "baselines": tried,
        "mean_gradient": [mean for mean, _ in moments],
        "total_variance": [variance for _, variance in moments],
    }


def _action_baseline_bias(p: Tensor, Q: Tensor, b: Tensor) -> Outputs:  # noqa: N803
    uncorrected = softmax.policy_gradient(p, Q - b)
    correction = softmax.policy_gradient(p, b)
    return {
        "uncorrected": uncorrected,
        "correction": correction,
        "corrected": uncorrected + correction,
        "true_gradient": softmax.policy_gradient(p, Q),
    }


def _biped_reward(
    vx: Tensor,
    y: Tensor,
    z: Tensor,
    u_prev: Tensor,
    ts: float,
    tf: float,
    preset: str = "toolbox",
) -> Outputs:
    terms = biped_terms(vx, y, z, u_prev, ts, tf, **BIPED_PRESETS[preset])
    return {"r": torch.stack([*terms.values()]).sum(0)}


def _exploration_probability(p: Tensor, k: int) -> Outputs:
    return {"prob": formulas.exploration_probability(p, k)}


def _token_shift(logp_base: Tensor, logp_rl: Tensor, mask: Tensor, top: int = 3) -> Outputs:
    shift = formulas.token_shift(logp_base, logp_rl, mask, top)
    return {
        "delta_logp": shift.delta_logp,
        "ratio": shift.ratio,
        "delta_p": shift.delta_p,
        "top_flat_index": shift.top,
        "mean_abs": shift.mean_abs,
    }


def _is_diagnostics(logp: Tensor, logp_behav: Tensor, mask: Tensor) -> Outputs:
    drift = statistics.drift(logp, logp_behav, mask)
    return {
        "mean_ratio": drift.mean_ratio,
        "ess_fraction": drift.ess_fraction,
        "k1_behav_to_cur": drift.k1,
        "k3_behav_to_cur": drift.k3,
        "m2": drift.m2,
    }


CONTROL: dict[str, Callable[..., Outputs]] = {
    "adaptive_kl_ziegler": _adaptive_kl_ziegler,
    "adaptive_kl_ppo": _adaptive_kl_ppo,
    "ou_noise": _ou_noise,
    "sac_target": _sac_target,
    "ddpg_target": _ddpg_target,
    "soft_update": _soft_update,
    "sac_temperature": _sac_temperature,
    "tanh_gaussian_logp": _tanh_gaussian_logp,
    "trpo_bandit_step": _trpo_bandit_step,
    "constant_baseline_variance": _constant_baseline_variance,
    "action_baseline_bias": _action_baseline_bias,
    "biped_reward": _biped_reward,
    "exploration_probability": _exploration_probability,
    "token_shift": _token_shift,
    "is_diagnostics": _is_diagnostics,
}
