"""The engine in this process: it decodes with the module that is trained.

A prompt is read once for its whole group, rows that finished leave the batch, and results do not
depend on which rows are decoded together: draws are seeded per row, the cache is ragged, and the
batch comes in sizes at which CPU kernels keep their bits. (The last bits of a mixture of experts
depend on the batch all the same, for that decides how many rows meet in an expert; so do those of
any model where 3, 5 or 6 threads cut long vectors anywhere.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress

import torch

from polopt.memory.plan import MOST_ROWS
from polopt.models import LanguageModel
from polopt.rollout.engines.arrival import checksums
from polopt.rollout.engines.decode import Decode
from polopt.rollout.engines.interface import Arrival, Hear, Request, Weights
from polopt.rollout.engines.lowered import Lowered
from polopt.rollout.engines.plain_attention import attending_plainly
from polopt.rollout.engines.proof import prove
from polopt.types import Group


class LocalEngine:
    """Generation in this process with ``language_model``: the one that is trained, or a copy of it.

    Args:
        language_model: in evaluation mode.
        autocast: whether products are taken in bfloat16.
        rows: decoded together at most; others wait until some have ended.
        follow: called to take over the weights that train, where they are others.
        tell: of what a run should know: out of memory, half as many rows are decoded from then on.

    Raises:
        ModelError: an architecture that cannot be decoded with a ragged cache.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        autocast: bool = False,
        rows: int = MOST_ROWS,
        follow: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._language_model, self._tell = language_model, tell
        self._autocast = autocast
        self._most = rows
        self._follow = follow
        self._queue: list[Request] = []
        self._decoding: Decode | None = None
        self._lowered: Lowered | None = None  # weights in bfloat16, until others are published
        self._version = 0
        prove(self, language_model, "local", autocast=autocast)

    @property
    def version(self) -> int:
        """The version of the weights being served."""
        return self._version

    def publish(self, weights: Weights, version: int) -> None:
        """Serve the weights as they are now; what is being decoded goes on with them."""
        self._follow()
        self._lowered = None
        self._version = version

    def arrived(self, probe: Sequence[Request]) -> Arrival:
        """What is served: by a decoding of its own, beside what is being decoded."""
        decoding, groups = Decode(self._language_model, list(probe), self._most), list[Group]()
        while decoding.requests:
            groups.extend(self._advanced(decoding, None))
        if self._decoding is None:
            self._lowered = None
        named = self._language_model.model.named_parameters()
        return Arrival(self._version, checksums(named), groups)

    def rest(self) -> None:
        """Nothing to do: the engine holds no memory when nothing is asked."""

    def close(self) -> None:
        """Nothing to do: the engine is a part of this process."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; those that are sampled as the ones that are decoded join them."""
        for request in requests:
            if self._decoding is not None and request.sampling == self._decoding.sampling:
                self._decoding.add([request])
            else:
                self._queue.append(request)

    def poll(self, heard: Hear | None = None) -> list[Group]:
        """Decode until a group is done, or for a while; requests of one sampling at a time.

        ``heard`` gets the first response of them after each token, to show it as it grows.
        """
        if self._decoding is None:
            if not self._queue:
                return []
            self._decoding = self._next()
        decoding, self._decoding = self._decoding, None  # what fails is forgotten
        requests, groups = decoding.requests, None
        with suppress(torch.OutOfMemoryError):
            groups = self._advanced(decoding, heard)
        if groups is None:
            # Out of the block, whose traceback held the cache. Draws go by the request: the same.
            self._most = max(1, min(self._most, sum(r.count for r in requests)) // 2)
            decoding = Decode(self._language_model, requests, self._most)
            self._tell(f"out of memory while decoding; going on with {self._most} rows at once")
            groups = self._advanced(decoding, heard)
        if decoding.requests:
            self._decoding = decoding
        else:
            self._lowered = None  # nor is its memory held
        return groups

    def _advanced(self, decoding: Decode, heard: Hear | None) -> list[Group]:
        model = self._language_model.model
        if self._autocast and self._lowered is None:
            self._lowered = Lowered(model)
        with (
            self._lowered or nullcontext(),
            torch.inference_mode(),
            attending_plainly(model),
            torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=self._autocast),
        ):
            return decoding.advance(self._version, heard)

    def _next(self) -> Decode:
        """Begin with what is sampled as the first request in the queue is."""
        sampling, queue = self._queue[0].sampling, self._queue
        self._queue = [request for request in queue if request.sampling != sampling]
        requests = [request for request in queue if request.sampling == sampling]
        return Decode(self._language_model, requests, self._most)
