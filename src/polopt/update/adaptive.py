"""Adaptive numbers: moving baselines and coefficients in the place of fields of the recipe.

A batch is trained on with the current number, and then updates it. So each number is a learner
that comes after all those that read it, and its state is in the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polopt.math.baselines import ema_update, running_mean_update
from polopt.math.controllers import Controller
from polopt.math.divergence import k3, response_kl
from polopt.math.guards import require_finite
from polopt.math.ratios import token_log_ratio
from polopt.record import write_json
from polopt.types import Advantages, Experience, Metrics

STATE_FILE = "number.json"

Follow = Callable[[float, int, Experience, Advantages], tuple[float, int, Metrics]]
"""``(number, seen, experience, advantages) -> (number, seen, metrics)`` after one batch."""


LogProbs = Callable[[Any], Tensor]
"""``rows -> log π[B, T]`` of the policy that is trained, without gradient."""


class AdaptiveNumber:
    """A number that replaces a field of the recipe and is updated after every batch."""

    def __init__(self, name: str, field: str, start: float, follow: Follow) -> None:
        self.name, self.field = name, field
        self.start = self.value = start
        self.seen = 0  # count of rewards, for a running mean
        self._follow = follow

    def __float__(self) -> float:
        """The current value; read at each use, in the place of the field."""
        return self.value

    def update(self, experience: Experience, advantages: Advantages, step: int) -> Metrics:
        """Update on one batch; the metrics hold the value before it, used for that batch."""
        self.value, self.seen, metrics = self._follow(self.value, self.seen, experience, advantages)
        return {f"{self.name}/{name}": value for name, value in metrics.items()}

    def save(self, directory: Path) -> dict[str, int]:
        """Write the number exactly; return its count."""
        write_json(directory / STATE_FILE, self.value)
        return {"seen": self.seen}

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        """Restore what :meth:`save` wrote."""
        self.value = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
        self.seen = counters["seen"]


Earned = Callable[[Advantages], Tensor]
"""The values of one batch over which a baseline is the mean; NaN is skipped."""


def whole_rewards(advantages: Advantages) -> Tensor:
    """The shaped reward of every row, [B]."""
    assert advantages.rewards is not None, "what assigns credit gives them"
    return advantages.rewards


def step_returns(advantages: Advantages) -> Tensor:
    """The return of every step, before any baseline, [M]."""
    assert advantages.value_targets is not None, "what assigns credit gives them"
    return advantages.value_targets[advantages.mask]


def ema(decay: float, earned: Earned = whole_rewards) -> Follow:
    """``b ← αb + (1-α)·mean(R)`` over the rewards R of the batch."""

    def follow(
        value: float, seen: int, experience: Experience, advantages: Advantages
    ) -> tuple[float, int, Metrics]:
        return ema_update(value, earned(advantages), decay), seen, {"value": value}

    return follow


def running_mean(earned: Earned = whole_rewards) -> Follow:
    """The mean of all rewards so far."""

    def follow(
        value: float, seen: int, experience: Experience, advantages: Advantages
    ) -> tuple[float, int, Metrics]:
        return *running_mean_update(value, seen, earned(advantages)), {"value": value}

    return follow


def controlled(controller: Controller) -> Follow:
    """A coefficient adapted to hold the KL of responses to the reference at a target."""

    def follow(
        value: float, seen: int, experience: Experience, advantages: Advantages
    ) -> tuple[float, int, Metrics]:
        kl, responses = measured_kl(experience)
        after = controller(value, kl, float(responses)) if responses else value
        return after, seen, {"coefficient": value}

    return follow


def steered(metric: str = "") -> Follow:
    """A number that somebody else changes between two batches; a metric tells of it."""

    def follow(
        value: float, seen: int, experience: Experience, advantages: Advantages
    ) -> tuple[float, int, Metrics]:
        return value, seen, {metric: value} if metric else {}

    return follow


def penalised(controller: Controller, log_probs: LogProbs) -> Follow:
    """A coefficient adapted to hold the KL of one update, KL(π_old‖π) per token, at a target.

    Measured after the update, by one more forward pass: the mean of ``ρ - 1 - log ρ``.
    """

    def follow(
        value: float, seen: int, experience: Experience, advantages: Advantages
    ) -> tuple[float, int, Metrics]:
        assert experience.logp_old is not None
        mask, tokens = advantages.mask, float(advantages.mask.sum())
        if not tokens:
            return value, seen, {"coefficient": value}
        after = log_probs(experience.inputs)
        require_finite("penalty", "logp of the policy", after, mask)
        kl = float(k3(token_log_ratio(experience.logp_old, after, mask)).sum()) / tokens
        return controller(value, kl, tokens), seen, {"coefficient": value, "kl": kl}

    return follow


def measured_kl(experience: Experience) -> tuple[float, int]:
    """KL of the policy before the update to the reference, and the number of responses.

    Over responses with a reward: summed over tokens, mean over responses.
    """
    assert experience.logp_old is not None and experience.logp_ref is not None, "KL has a reference"
    mask = experience.mask & ~torch.isnan(experience.rewards)[:, None]
    kl = response_kl(experience.logp_old, experience.logp_ref, mask)
    return float(kl), int(mask.any(-1).sum())
