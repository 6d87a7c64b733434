"""How processes become the ranks of a group, and how they learn that one of them is gone."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from polopt.errors import RankError, SilentRankError, Stopped, UserError, one_line
from polopt.ranks.group import ALONE, Ranks

SILENCE = 3600.0  # seconds after which a rank that says nothing is given up
MEETING = 300.0  # seconds for all of them to come
NOTICED = 3.0  # seconds in which a process that ended is known to have
_WHY, _CAME = "polopt/why", "polopt/came"


@dataclass(frozen=True)
class Place:
    """Which one of the processes of a group this is, as whoever started it says."""

    rank: int
    size: int
    local_rank: int  # among those on this machine
    local_size: int


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that torchrun gave this process; alone without it."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not all(environment.get(name) for name in names):
        return Place(0, 1, 0, 1)
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    local = int(environment.get("LOCAL_RANK", rank)), int(environment.get("LOCAL_WORLD_SIZE", size))
    return Place(rank, size, *local)


_MET = threading.Event()


def met() -> bool:
    """Whether this process has been one of several ranks."""
    return _MET.is_set()


@contextmanager
def joined(
    rank: int | None = None,
    size: int | None = None,
    address: str | None = None,
    *,
    silence: float = SILENCE,
    watch: Callable[[], None] = lambda: None,
) -> Generator[Ranks]:
    """A group for as long as the block lasts; it is left on an error, too.

    Args:
        rank: of this process; None: as torchrun says, or alone.
        size: of the group.
        address: ``host:port`` on which rank 0 listens; None: as torchrun says.
        silence: seconds after which a rank that says nothing is given up.
        watch: called by rank 0 while it waits for the others; raises where one cannot come.

    Raises:
        RankError: one of the others is gone, or does not come.
    """
    if rank is None or size is None:
        own = place()
        rank, size = own.rank, own.size
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    limit = timedelta(seconds=silence)
    try:
        store = None if address is None else _meeting(address, rank, size, watch)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    except UserError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise RankError(
            f"rank {rank}: the group of {size} ranks did not meet: {one_line(error)}"
        ) from error
    ranks = Ranks(rank, size)
    _MET.set()
    try:
        with told_of_peers(ranks):
            ranks = replace(
                ranks, processes=tuple(ranks.said(f"{socket.gethostname()} {os.getpid()}"))
            )
            yield ranks
    except Stopped:  # all of them are
        _let_finish()
        _leave(broken=False)
        raise
    except BaseException as error:
        if not isinstance(error, RankError):
            with suppress(Exception):  # the store may have been that of a rank that is gone
                _store().set(f"{_WHY}/{rank}", _reason(error))
        _let_finish()
        _leave(broken=True)
        raise
    _leave(broken=False)


@contextmanager
def told_of_peers(ranks: Ranks) -> Generator[None]:
    """Inside, what a collective raises where another rank is gone becomes one line that says which.

    Raises:
        RankError: in the place of the error of the collective.
    """
    try:
        yield
    except UserError:
        raise
    except RuntimeError as error:
        if ranks.alone or not _of_transport(error):
            raise
        own = f"rank {ranks.rank}"
        if reason := _gone(ranks):
            raise RankError(f"{own}: {reason}") from error
        raise SilentRankError(
            f"{own}: another rank is gone or says nothing: {one_line(error)}"
        ) from error


def _of_transport(error: RuntimeError) -> bool:
    """Whether it is one of the group, and none of the computation."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _gone(ranks: Ranks) -> str:
    """Which of the others is gone, and why as far as it said; empty where nobody here knows."""
    others = [rank for rank in range(ranks.size) if rank != ranks.rank]
    deadline = time.monotonic() + NOTICED
    while time.monotonic() < deadline:
        for rank in others:
            if why := _written(f"{_WHY}/{rank}"):
                return f"rank {rank} ended: {why}"
        for rank in others:
            if ranks.processes and _ended(ranks.processes[rank]):
                return f"rank {rank} is gone: its process was killed, or crashed"
        time.sleep(0.05)
    return ""


def _ended(who: str) -> bool:
    """Whether a process of this machine has ended; of another one nobody here knows."""
    import psutil

    host, _, process = who.partition(" ")
    if host != socket.gethostname():
        return False
    try:
        return psutil.Process(int(process)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _written(key: str) -> str:
    """What is under a key of the store; empty where nothing is, or where it is gone itself."""
    with suppress(Exception):
        store = _store()
        return store.get(key).decode() if store.check([key]) else ""
    return ""


def _meeting(address: str, rank: int, size: int, watch: Callable[[], None]) -> Any:  # noqa: ANN401
    """The store of the group, when all ranks have come.

    Rank 0 listens on this address alone, not on all of its machine.
    """
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    host, _, port = address.rpartition(":")
    limit = timedelta(seconds=MEETING)
    if rank:
        store = TCPStore(host, int(port), timeout=limit, wait_for_workers=False)
        store.set(f"{_CAME}/{rank}", "")
        return store
    store = TCPStore(
        host,
        int(port),
        is_master=True,
        timeout=limit,
        wait_for_workers=False,
        master_listen_fd=socket.create_server((host, int(port))).detach(),
    )
    deadline = time.monotonic() + MEETING
    while missing := [one for one in range(1, size) if not store.check([f"{_CAME}/{one}"])]:
        watch()
        if time.monotonic() > deadline:
            raise ValueError(f"rank {missing[0]} did not come in {MEETING:g} s")
        time.sleep(0.05)
    return store


def _store() -> Any:  # noqa: ANN401 - of torch
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]


def _reason(error: BaseException) -> str:
    """The line of an error; hints behind it are given by every rank itself."""
    if isinstance(error, UserError):
        return str(error)
    return one_line(f"{type(error).__name__}: {error}")


def _let_finish() -> None:
    """Ignore SIGTERM, which torchrun sends when it sees that a rank ended: this one ends, too.

    What it has to say would be cut short. Elsewhere nothing is changed.
    """
    if place().size == 1:
        return
    nobody_else = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if nobody_else and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave(*, broken: bool) -> None:
    """Leave the group; a broken one is not waited for."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    with suppress(Exception):
        if broken:
            distributed_c10d._abort_process_group()  # pyright: ignore[reportPrivateUsage]
        else:
            dist.destroy_process_group()
