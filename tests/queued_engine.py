"""An engine for tests, without a model: it keeps what is asked, and a test says how it answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polopt.rollout.engines import Request, Weights
from polopt.types import Group, Sample, Span


class Queued:
    """Answers the newest request first, one a turn, with one token of its version."""

    def __init__(self) -> None:
        self.version, self.queue = 0, list[Request]()

    def submit(self, requests: Sequence[Request]) -> None:
        self.queue.extend(requests)

    def poll(self) -> list[Group]:
        return [stamped(self.queue.pop(), self.version)] if self.queue else []

    def publish(self, weights: Weights, version: int) -> None:
        self.version = version

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


def stamped(request: Request, version: int) -> Group:
    """A group of one-token responses that say which version drew them."""
    sample = Sample(
        np.array([1, 2]),
        np.array([False, True]),
        np.zeros(2, dtype=np.float32),
        1,
        spans=(Span(version, 1, 2),),
        sampling=request.sampling,
    )
    return Group(request.ticket, request.prompt, (sample,) * request.count)
