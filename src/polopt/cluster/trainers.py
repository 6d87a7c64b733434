"""The other ranks of a run that several processes train: actors that run the same program.

The process that was started is rank 0. It finds the others when they have started, tells them where
it listens, and ends with them; one that dies ends the run with the line of its group.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from polopt.cluster.placement import trainers
from polopt.cluster.session import connected, free_port
from polopt.errors import EngineError, RankError, SilentRankError, one_line
from polopt.ranks import Ranks, joined
from polopt.recipe import StageRecipe
from polopt.resolution import settings

START = 300.0  # seconds for an actor to start, and for its imports
END = 60.0  # seconds for it to end after this process
NOTICED = 10.0  # seconds for Ray to notice that an actor died
READ = ("path", "source", "evaluation_source")  # fields of what every rank reads itself
INTERFACE = "GLOO_SOCKET_IFNAME"


class TrainerHost:
    """The actor of one rank."""

    def __init__(self, path: Sequence[str], directory: str) -> None:
        sys.path += [entry for entry in path if entry not in sys.path]
        os.chdir(directory)

    def find(self, function: str, seen: Sequence[str]) -> str | None:
        """Import what will be run; what is missing for it, on one line."""
        _function(function)
        return next((f"{path} is not there" for path in seen if not os.path.exists(path)), None)

    def follow(self, function: str, arguments: Sequence[Any], environment: dict[str, str]) -> None:
        """Run it, until the run ends."""
        os.environ.update(environment)
        _function(function)(*arguments)


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    return attrgetter(attribute)(import_module(module))


@contextmanager
def led(
    stages: Sequence[StageRecipe],
    directory: Path,
    follow: str,
    tell: Callable[[str], None],
    gpu: str | None,
) -> Generator[Ranks]:
    """Inside, this process is rank 0 of as many as the recipe asks for, more than one.

    Args:
        stages: of the run.
        directory: of the run, which all ranks read.
        follow: ``module:function`` of the others; it is called with the directory, the rank, the
            number of ranks and the address of this one.
        tell: of the address of a dashboard.
        gpu: the name of this rank's, where the run computes on GPUs.

    Raises:
        EngineError: an actor does not start, or cannot read the directory of the run.
    """
    with ExitStack() as stack:
        stack.enter_context(connected(stages, tell, gpu))
        import ray
        from ray.exceptions import RayError

        size = trainers(stages)
        here = ray.util.get_node_ip_address()
        environment = {INTERFACE: "lo"} if here == "127.0.0.1" else {}
        seen = [str(directory), *_local(stages)]
        hosts = stack.enter_context(_hosts(size - 1, seen, follow, gpu))
        address = f"{here}:{free_port(here)}"
        ended = [
            host.follow.remote(follow, (str(directory), rank, size, address), environment)
            for rank, host in enumerate(hosts, start=1)
        ]
        watch = partial(_check, ended)
        with _set(environment), _told(watch), joined(0, size, address, watch=watch) as ranks:
            yield ranks
        with suppress(RayError):  # what went wrong in one was told to all
            ray.wait(ended, num_returns=len(ended), timeout=END)


def _local(stages: Sequence[StageRecipe]) -> list[str]:
    """Files and directories of this machine that stages read."""
    named = {
        value
        for stage in stages
        for field, value in settings(stage).items()
        if isinstance(value, str) and field.rpartition(".")[2] in READ
    }
    files = {reward.file for stage in stages for reward in stage.rewards if reward.file is not None}
    return sorted(path for path in map(os.path.abspath, named | files) if os.path.exists(path))


def _check(ended: Sequence[Any]) -> None:
    """Say which of the other ranks is no longer there.

    Raises:
        RankError: one has ended, by its own error or with its actor.
    """
    import ray
    from ray.exceptions import RayActorError, RayError

    done, _ = ray.wait([*ended], num_returns=len(ended), timeout=0)
    for rank, one in enumerate(ended, start=1):
        if one in done:
            try:
                ray.get(one)
            except RayActorError as error:
                raise RankError(f"rank {rank} is gone: its actor died") from error
            except RayError as error:
                last = str(error).strip().splitlines()[-1]
                raise RankError(f"rank {rank} ended: {one_line(last, 200)}") from error


@contextmanager
def _told(watch: Callable[[], None]) -> Generator[None]:
    """Inside, an error that names no other rank becomes one that does, as far as Ray knows.

    Raises:
        RankError: in its place.
    """
    try:
        yield
    except SilentRankError:
        deadline = time.monotonic() + NOTICED
        while time.monotonic() < deadline:
            watch()
            time.sleep(0.1)
        raise


@contextmanager
def _hosts(count: int, seen: Sequence[str], follow: str, gpu: str | None) -> Generator[list[Any]]:
    """The actors of the other ranks; all have imported what they need, and see the directory."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    made: Any = ray.remote(TrainerHost)
    # Without GPUs ranks share the processors with the engines, which wait for them.
    options = {"num_cpus": 0, "num_gpus": int(gpu is not None), "max_restarts": 0}
    made = made.options(**options, scheduling_strategy="SPREAD")
    path = [entry for entry in sys.path if entry]
    hosts = [made.remote(path, os.getcwd()) for _ in range(count)]
    try:
        for rank, host in enumerate(hosts, start=1):
            try:
                problem: str | None = ray.get(host.find.remote(follow, seen), timeout=START)
            except GetTimeoutError:
                problem = f"its actor does not start in {START:g} s"
            except RayError as error:
                problem = str(error).strip().splitlines()[-1][:120]
            if problem is not None:
                raise EngineError(f"coordination.trainers: rank {rank}: {problem}")
        yield hosts
    finally:
        for host in hosts:
            ray.kill(host)


@contextmanager
def _set(values: dict[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
