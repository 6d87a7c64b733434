"""Answers to lag that have a state of their own: groups that are used again, and a controller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from polopt.assembly.context import StageContext
from polopt.choices.coordination import reused_groups
from polopt.coordination.controller import Controller, Rung, ladder
from polopt.coordination.pool import Pool, Reuse, Reusing
from polopt.coordination.rollouter import Sampled
from polopt.coordination.sources import BoundedSource, RolloutSource
from polopt.coordination.stage import Learner
from polopt.recipe.fields import flat
from polopt.types import Batch, Metrics
from polopt.update import AdaptiveNumber


@dataclass(frozen=True)
class Answered:
    """A source of batches with what answers its lag."""

    source: RolloutSource[Batch]
    learners: Sequence[Learner] = ()
    react: Callable[[Metrics], Metrics] = lambda _: {}


def answered(of: StageContext, sampled: Sampled, source: RolloutSource[Batch]) -> Answered:
    """The source with a pool and a controller, where the recipe asks for them."""
    settings = of.recipe.coordination
    answers = Answered(source)
    if settings.target_mismatch is not None:
        bounded = cast(BoundedSource[Batch], source)
        controller = _controller(of, bounded, settings.target_mismatch)
        answers = replace(answers, learners=[controller], react=controller.react)
    if settings.reuse:
        pool = Pool(_reuse(of), sampled.prompt)
        learners = [pool, *answers.learners]
        answers = replace(answers, source=Reusing(source, pool), learners=learners)
    return answers


def _reuse(of: StageContext) -> Reuse:
    settings = of.recipe.coordination
    assert settings.reuse_age is not None and settings.half_life is not None, "resolved"
    count = reused_groups(flat(of.recipe))
    return Reuse(count, settings.reuse_age, settings.half_life, of.seed("reuse"))


def _controller(of: StageContext, source: BoundedSource[Batch], target: float) -> Controller:
    """Its factors act on the adaptive numbers that take the place of fields of the recipe."""
    settings = of.recipe.coordination
    numbers = {one.field: one for one in of.adaptive}
    rate, kl = numbers.get("update.learning_rate"), numbers.get("kl.coefficient")
    if of.recipe.kl.controller not in (None, "fixed"):
        kl = None  # it has a controller of its own

    def apply(rung: Rung, rate: AdaptiveNumber | None, kl: AdaptiveNumber | None) -> None:
        source.bound(rung.staleness, rung.window)
        if rate is not None:
            rate.value = rate.start * rung.rate
        if kl is not None:
            kl.value = kl.start * rung.kl

    rungs = ladder(settings.window, settings.staleness, rate=rate is not None, kl=kl is not None)
    return Controller(
        rungs, target, partial(apply, rate=rate, kl=kl), partial(of.inputs.tell, warning=True)
    )
