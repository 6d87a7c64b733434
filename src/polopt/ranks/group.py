"""What the ranks of a group say to each other. ``torch.distributed`` loads with the first word."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polopt.errors import RankError

if TYPE_CHECKING:
    from torch import Tensor

BUCKET = 1 << 25  # numbers that are summed in one go


@dataclass(frozen=True)
class Ranks:
    """One process of a group; every method that speaks to the others is called by all of them.

    Where it is alone, nothing is said.
    """

    rank: int = 0
    size: int = 1
    processes: tuple[str, ...] = ()  # host and process of each, for messages

    @property
    def first(self) -> bool:
        """Whether it is the one that keeps the record."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    def turns(self, count: int) -> list[tuple[int, bool]]:
        """Which of so many pieces of work are this rank's, ``r, r + n, …``, and whether they count.

        Every rank has equally many, for sharded weights are gathered by all in each pass: where
        one is short it repeats the first, which does not count.
        """
        end = -(-count // self.size) * self.size
        places = range(self.rank, end, self.size)
        return [(place, True) if place < count else (0, False) for place in places]

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks; all have the same shapes and types.

        The sum is taken in one order, and is the same to the bit on every rank and in every run.
        """
        if self.alone:
            return
        import torch
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                dist.all_reduce(bucket[0])
                continue
            flat = torch.cat([one.reshape(-1) for one in bucket])
            dist.all_reduce(flat)
            parts = flat.split([one.numel() for one in bucket])
            for one, part in zip(bucket, parts, strict=True):
                one.copy_(part.view_as(one))

    def gathered(self, own: Tensor) -> list[Tensor]:
        """The vectors of all ranks by rank, of one type and of any length, on the processor."""
        if self.alone:
            return [own]
        import torch
        import torch.distributed as dist

        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(own)]))
        counts = [int(length) for length in lengths]
        longest = own.new_zeros(max(counts))
        longest[: len(own)] = own
        found = [torch.empty_like(longest) for _ in counts]
        dist.all_gather(found, longest)
        return [one[:count] for one, count in zip(found, counts, strict=True)]

    def said(self, own: Any) -> list[Any]:  # noqa: ANN401 - JSON
        """What every rank says, by rank, in JSON."""
        if self.alone:
            return [own]
        found = self.gathered(_bytes(json.dumps(own).encode()))
        return [json.loads(one.numpy().tobytes()) for one in found]

    def any_said(self, own: str | None) -> str | None:
        """What the first rank that says something says, on every rank; None where none does."""
        texts: Sequence[str | None] = self.said(own)
        found = next(((rank, text) for rank, text in enumerate(texts) if text is not None), None)
        return own if self.alone or found is None else f"rank {found[0]}: {found[1]}"

    def heard(self, own: Tensor | None) -> Tensor:
        """The bytes of the first rank, on every rank; what the others give is not looked at."""
        import torch
        import torch.distributed as dist

        if self.alone:
            assert own is not None
            return own
        length = torch.tensor([0 if own is None else len(own)])
        dist.broadcast(length, 0)
        data = (
            own if self.first and own is not None else torch.empty(int(length), dtype=torch.uint8)
        )
        dist.broadcast(data, 0)
        return data

    def decided(self, own: Any) -> Any:  # noqa: ANN401 - JSON
        """What the first rank says, in JSON; what the others give is not looked at."""
        if self.alone:
            return own
        data = self.heard(_bytes(json.dumps(own).encode()) if self.first else None)
        return json.loads(data.numpy().tobytes())

    def wait(self) -> None:
        """Wait until all are here."""
        if not self.alone:
            self.said(None)  # on the processor: a barrier would pick a device

    def agree(self, name: str, parts: Iterable[bytes]) -> None:
        """Make sure that all ranks have the same bytes.

        Raises:
            RankError: on all of them, which ones differ from the first.
        """
        if self.alone:
            return
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        found: Sequence[str] = self.said(digest.hexdigest())
        others = [str(rank) for rank, one in enumerate(found) if one != found[0]]
        if others:
            raise RankError(
                f"{name} of rank {', '.join(others)} is not that of rank 0: the ranks need the "
                "same data, models and versions of packages"
            )


ALONE = Ranks()


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Tensors of one type and device that are summed together, in a fixed order."""
    kinds: dict[Any, list[Tensor]] = {}
    for one in tensors:
        kinds.setdefault((one.dtype, one.device), []).append(one)
    for of_kind in kinds.values():
        bucket, numbers = list[Any](), 0
        for one in of_kind:
            if bucket and numbers + one.numel() > BUCKET:
                yield bucket
                bucket, numbers = [], 0
            bucket.append(one)
            numbers += one.numel()
        yield bucket


def _bytes(data: bytes) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
