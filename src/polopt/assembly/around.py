"""Wrappers of a learner: same name and files, another batch or another moment for its update."""

from __future__ import annotations

from collections.abc import Callable

from polopt.coordination.stage import Learner, Measured
from polopt.types import Advantages, Experience

Update = Callable[[Experience, Advantages, int], Measured]
"""``(experience, advantages, step) -> metrics``: the update of a learner on one batch."""

Instead = Callable[[Update, Experience, Advantages, int], Measured]
"""The same, given the wrapped update first: to call it with another batch, or not at all."""


class Around:
    """A learner whose update wraps that of another learner."""

    def __init__(self, learner: Learner, instead: Instead) -> None:
        self.learner, self._instead = learner, instead
        self.name, self.save, self.load = learner.name, learner.save, learner.load

    def update(self, experience: Experience, advantages: Advantages, step: int) -> Measured:
        """Consume one batch by the wrapping function."""
        return self._instead(self.learner.update, experience, advantages, step)

    def around(self, update: Update) -> Update:
        """What this does with another update than that of its learner."""
        return lambda experience, advantages, step: self._instead(
            update, experience, advantages, step
        )


def core(learner: Learner) -> tuple[Learner, Callable[[Update], Update]]:
    """The learner inside of its wrappers, and what they make of an update in its place."""
    if not isinstance(learner, Around):
        return learner, lambda update: update
    inner, wrapped = core(learner.learner)
    return inner, lambda update: learner.around(wrapped(update))


def delayed(learner: Learner, steps: int) -> Learner:
    """A learner that skips the first ``steps`` batches."""

    def update(own: Update, experience: Experience, advantages: Advantages, step: int) -> Measured:
        return own(experience, advantages, step) if step >= steps else {}

    return Around(learner, update)


def every(count: int, learner: Learner) -> Learner:
    """A learner that updates on every ``count``-th batch."""

    def update(own: Update, experience: Experience, advantages: Advantages, step: int) -> Measured:
        return own(experience, advantages, step) if (step + 1) % count == 0 else {}

    return Around(learner, update)


def on_kept(learner: Learner) -> Learner:
    """A learner that updates on the valid rows alone; without any it skips the batch."""

    def update(own: Update, experience: Experience, advantages: Advantages, step: int) -> Measured:
        kept = advantages.valid.nonzero()[:, 0]
        return own(experience.rows(kept), advantages.rows(kept), step) if len(kept) else {}

    return Around(learner, update)


def recredited(learner: Learner, credit: Callable[[Experience], Advantages]) -> Learner:
    """A learner whose advantages are recomputed, after the updates of the learners before it.

    The metrics of these advantages replace the earlier ones.
    """

    def update(own: Update, experience: Experience, advantages: Advantages, step: int) -> Measured:
        fresh = credit(experience)
        return {**fresh.metrics, **own(experience, fresh, step)}

    return Around(learner, update)
