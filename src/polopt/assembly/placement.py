"""Which device an engine generates on, and the copy of the policy that it has there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import torch

from polopt.errors import RecipeError, counted
from polopt.models import LanguageModel
from polopt.models.sharded import whole
from polopt.roles import Actor


def engine_devices(training: torch.device, engines: int) -> Sequence[torch.device]:
    """The devices of engines that generate while another device trains.

    Where there is no accelerator, all share the processor.

    Raises:
        RecipeError: fewer GPUs than engines and the trainer need.
    """
    if training.type != "cuda":
        return [training] * engines
    others = [i for i in range(torch.cuda.device_count()) if i != (training.index or 0)]
    if len(others) < engines:
        raise RecipeError(
            f"coordination.engines: {engines} is not allowed with "
            f"{counted(len(others) + 1, 'GPU')}: one trains, and each engine needs one of its own; "
            "mode = alternate shares one"
        )
    return [torch.device("cuda", i) for i in others[:engines]]


def followed(actor: Actor, device: torch.device) -> tuple[Actor, Callable[[], None]]:
    """A copy of a policy on a device, and what has it take over the weights of the policy."""
    trained = actor.language_model
    copy = replace(trained, model=deepcopy(trained.model))
    copy.model.to(device)  # pyright: ignore[reportArgumentType] - torch's overloads
    return following(actor, copy)


def following(actor: Actor, copy: LanguageModel) -> tuple[Actor, Callable[[], None]]:
    """A policy with a copy of its model, and what has the copy take over its weights.

    Where they are sharded they are gathered one at a time, and all ranks follow together.
    """
    copy.model.requires_grad_(False)
    pairs = list(zip(copy.model.parameters(), actor.language_model.model.parameters(), strict=True))

    @torch.no_grad()
    def follow() -> None:
        for served, trains in pairs:
            if trains.requires_grad:
                served.copy_(whole(trains))

    return Actor(copy, actor.how), follow
