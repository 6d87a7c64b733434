"""An engine for tests that does not take over the weights it is given, in one of several ways."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch

from polopt.assembly.placement import following
from polopt.models import LanguageModel
from polopt.roles import Actor, Computing
from polopt.rollout.engines import LocalEngine, Request, Weights
from polopt.rollout.engines.arrival import Proof
from polopt.rollout.engines.interface import Arrival
from polopt.rollout.timeline import Timeline
from random_models import builtin_model


class Defective(LocalEngine):
    """A copy of a policy that goes wrong in some way at its next publishes."""

    def __init__(
        self,
        trained: LanguageModel,
        defect: str = "",
        times: int = 0,
        copy: LanguageModel | None = None,
    ) -> None:
        copy = copy or replace(trained, model=deepcopy(trained.model))
        served, follow = following(Actor(trained, Computing()), copy)
        self.defect, self.times = defect, times
        super().__init__(served.language_model, follow=follow)

    @torch.no_grad()
    def publish(self, weights: Weights, version: int) -> None:
        wrong, self.times = self.times > 0, self.times - 1
        if wrong and self.defect == "deaf":
            return
        model = self._language_model.model
        last = list(model.named_parameters())[-1]
        before = last[1].clone()
        super().publish(weights, version)
        if wrong and self.defect == "one tensor":
            last[1].copy_(before)
        if wrong and self.defect == "old version":
            self._version -= 1
        if wrong and self.defect == "old weights":
            model.load_state_dict(builtin_model(seed=5).model.state_dict())

    def arrived(self, probe: Sequence[Request]) -> Arrival:
        arrival = super().arrived(probe)
        if self.times < 0 or self.defect != "log-probs":
            return arrival
        groups = [
            replace(
                g, samples=tuple(replace(s, logp_rollout=s.logp_rollout - 0.1) for s in g.samples)
            )
            for g in arrival.groups
        ]
        return replace(arrival, groups=groups)


@torch.no_grad()
def step(model: LanguageModel) -> None:
    """Change every weight, also those of layers that are divided."""
    for weight in model.model.parameters():
        weight.mul_(1.02)


def proof_of(model: LanguageModel, told: list[str], **how: Any) -> Proof:
    """What an arrival is compared with."""
    how = {"autocast": False, "timeline": Timeline()} | how
    return Proof(model, tell=told.append, **how)
