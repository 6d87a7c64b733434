"""A learner around another: its name and its files are the other's, what it learns from is not."""

from __future__ import annotations

from collections.abc import Callable

from polopt.coordination.stage import Learner, Measured
from polopt.types import Advantages, Experience

Update = Callable[[Experience, Advantages, int], Measured]
"""``(experience, credited, step) -> metrics``: a learner consumes a batch."""

Instead = Callable[[Update, Experience, Advantages, int], Measured]
"""The same with the learner's own update at hand: to call it with another batch, or not at all."""


class Around:
    """A learner that does something else in the place of another's update."""

    def __init__(self, learner: Learner, instead: Instead) -> None:
        self.learner, self._instead = learner, instead
        self.name, self.save, self.load = learner.name, learner.save, learner.load

    def update(self, experience: Experience, credited: Advantages, step: int) -> Measured:
        """Consume a batch in the other's place."""
        return self._instead(self.learner.update, experience, credited, step)


def delayed(learner: Learner, steps: int) -> Learner:
    """A learner that leaves the first batches to the others."""

    def update(own: Update, experience: Experience, credited: Advantages, step: int) -> Measured:
        return own(experience, credited, step) if step >= steps else {}

    return Around(learner, update)


def every(count: int, learner: Learner) -> Learner:
    """A learner that learns from every k-th batch."""

    def update(own: Update, experience: Experience, credited: Advantages, step: int) -> Measured:
        return own(experience, credited, step) if (step + 1) % count == 0 else {}

    return Around(learner, update)


def on_kept(learner: Learner) -> Learner:
    """A learner that sees the responses that are kept, and no others; of none it makes no step."""

    def update(own: Update, experience: Experience, credited: Advantages, step: int) -> Measured:
        kept = credited.valid.nonzero()[:, 0]
        return own(experience.rows(kept), credited.rows(kept), step) if len(kept) else {}

    return Around(learner, update)


def recredited(learner: Learner, credit: Callable[[Experience], Advantages]) -> Learner:
    """A learner that has its batch credited anew, after the learners before it.

    The metrics of this credit replace those from before.
    """

    def update(own: Update, experience: Experience, credited: Advantages, step: int) -> Measured:
        fresh = credit(experience)
        return {**fresh.metrics, **own(experience, fresh, step)}

    return Around(learner, update)
