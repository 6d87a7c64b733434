"""Who generates, and when: the mode of coordination becomes a source of batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import pstdev

from torch import Tensor

from polopt.assembly.context import StageContext
from polopt.choices.coordination import reused_groups
from polopt.coordination.flow import Flow
from polopt.coordination.ledger import Ledger, Ticket, oldest
from polopt.coordination.relayed import RelayedSource
from polopt.coordination.rollouter import Rollouter, Sampled
from polopt.coordination.sources import BoundedSource, InlineSource, RolloutSource
from polopt.coordination.threaded import WORKERS, Key, Taking, ThreadedSource
from polopt.errors import RecipeError
from polopt.models.sharded import whole
from polopt.recipe.fields import flat
from polopt.recipe.schema import Coordination
from polopt.rollout.engines import Weights
from polopt.rollout.engines.shared import Asker
from polopt.rollout.timeline import TRAINER
from polopt.types import Batch


def source_of(of: StageContext, sampled: Sampled) -> RolloutSource[Batch]:
    """The source of a stage that samples its batches.

    Raises:
        RecipeError: a reward that cannot run beside a trainer.
    """
    settings, prompts = of.recipe.coordination, of.recipe.rollout.prompts_per_step
    timeline = of.inputs.serving.timeline
    if settings.mode == "alternate":
        alone = Rollouter(of.engine, sampled, timeline, who=TRAINER)
        return InlineSource(alone, Ledger(prompts), of.weights)
    if settings.staleness and (inline := [one.name for one in of.rewards if one.in_trainer]):
        raise RecipeError(
            f"coordination.staleness: {settings.staleness} is not allowed with the reward "
            f"{inline[0]!r}, which sets random state and working directory of the trainer while it "
            "runs; 0, or a function of a file or an importable module"
        )
    if settings.mode != "cluster":
        return _beside(of, sampled, of.weights)
    if of.inputs.ranks.alone:
        return _beside(of, sampled, lambda: dict(_trained(of)))
    return RelayedSource(
        of.inputs.ranks,
        lambda weights: _beside(of, sampled, weights),
        lambda: _trained(of),
        sampled.prompt,
    )


def _trained(of: StageContext) -> Iterator[tuple[str, Tensor]]:
    """The weights that are trained, by the names of the parameters.

    Those that are divided are gathered by all ranks.
    """
    for name, weight in of.actor.language_model.model.named_parameters():
        if weight.requires_grad:
            yield name, whole(weight.detach())


def _beside(of: StageContext, sampled: Sampled, weights: Weights) -> BoundedSource[Batch]:
    """Engines that generate in threads of their own."""
    settings, prompts = of.recipe.coordination, of.recipe.rollout.prompts_per_step
    timeline = of.inputs.serving.timeline
    fresh = prompts - reused_groups(flat(of.recipe))
    ledger = Ledger(fresh, staleness=settings.staleness, window=settings.window)
    threads = of.inputs.engine_threads(of.actor)
    count = threads_of(ledger.capacity, settings.staleness)
    source = ThreadedSource(
        [Rollouter(Asker(threads), sampled, timeline) for _ in range(count)],
        ledger,
        weights,
        Taking(order(settings), settings.max_age, settings.patience),
        Flow(ledger, timeline, engines=len(threads), max_age=settings.max_age),
        of.inputs.listen,
    )
    of.inputs.serving.end_first(source.close)
    return source


def threads_of(capacity: int, staleness: int) -> int:
    """How many threads roll out: one where a whole batch is there before anybody trains."""
    return min(capacity, WORKERS) if staleness else 1


def order(settings: Coordination) -> Key:
    """The order in which groups inside the window are trained on."""
    orders: dict[str, Key] = {
        "fifo": lambda ticket, _: ticket.id,
        "freshest": lambda ticket, _: (-oldest(ticket), ticket.id),
        "priority": lambda ticket, version: (-_worth(ticket, version, settings), ticket.id),
    }
    return orders[settings.select]


def _worth(ticket: Ticket, version: int, settings: Coordination) -> float:
    """``σ(rewards) · 2^(-age / half-life)``: what a group may teach, and how much of it is left."""
    assert ticket.group is not None and settings.half_life is not None, "delivered, resolved"
    rewards = [s.reward for s in ticket.group.samples if not math.isnan(s.reward)]
    spread = pstdev(rewards) if rewards else 0.0
    return spread * 2 ** (-(version - oldest(ticket)) / settings.half_life)
