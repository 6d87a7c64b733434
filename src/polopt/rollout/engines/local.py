"""The engine in this process: it decodes with the module that is trained.

A prompt is read once for its whole group, rows that finished leave the batch, and results do not
depend on which rows are decoded together: draws are seeded per row, the cache is ragged, and the
batch comes in sizes at which CPU kernels keep their bits. (The last bits of a mixture of experts
depend on the batch all the same, for that decides how many rows meet in an expert; so do those of
any model where 3, 5 or 6 threads cut long vectors anywhere.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from polopt.memory.plan import MOST_ROWS
from polopt.models import LanguageModel
from polopt.rollout.engines.decode import Decode
from polopt.rollout.engines.interface import Hear, Request, Weights
from polopt.rollout.engines.lowered import lowered
from polopt.rollout.engines.proof import prove
from polopt.types import Group


class LocalEngine:
    """Generation in this process on the weights of ``language_model`` (an alias, no copy).

    Args:
        language_model: in evaluation mode.
        autocast: whether products are taken in bfloat16.
        rows: decoded together at most; others wait until some have ended.
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
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._language_model, self._tell = language_model, tell
        self._autocast = autocast
        self._most = rows
        self._queue: list[Request] = []
        self._version = 0
        prove(self, language_model, "local", autocast=autocast)

    @property
    def version(self) -> int:
        """The version of the weights being served."""
        return self._version

    def publish(self, weights: Weights, version: int) -> None:
        """Set the version; the weights are shared."""
        self._version = version

    def rest(self) -> None:
        """Nothing to do: the engine holds no memory between its polls."""

    def close(self) -> None:
        """Nothing to do: the engine is a part of this process."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests."""
        self._queue.extend(requests)

    def poll(self, heard: Hear | None = None) -> list[Group]:
        """Decode queued requests of one sampling distribution; [] when idle.

        ``heard`` gets the first response of them after each token, to show it as it grows.
        """
        if not self._queue:
            return []
        requests = self._next()
        try:
            return self._decoded(requests, heard)
        except torch.OutOfMemoryError:
            self._most = max(1, min(self._most, sum(r.count for r in requests)) // 2)
        # Out of the handler, whose traceback held the cache. Draws go by the request: the same.
        self._tell(f"out of memory while decoding; going on with {self._most} rows at once")
        return self._decoded(requests, heard)

    def _decoded(self, requests: Sequence[Request], heard: Hear | None) -> list[Group]:
        model = self._language_model.model
        device = model.device.type
        with (
            lowered(model) if self._autocast else nullcontext(),
            torch.inference_mode(),
            _row_independent_attention(device),
            torch.autocast(device, dtype=torch.bfloat16, enabled=self._autocast),
        ):
            decode = Decode(self._language_model, requests, self._most)
            return decode.run(self._version, heard)

    def _next(self) -> list[Request]:
        """Take from the queue what is sampled as its first request is."""
        sampling, queue = self._queue[0].sampling, self._queue
        self._queue = [request for request in queue if request.sampling != sampling]
        return [request for request in queue if request.sampling == sampling]


def _row_independent_attention(device: str) -> AbstractContextManager[object]:
    """The CPU's flash kernel gives a row other bits on another thread; plain products do not."""
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()
