"""The nodes of a cluster: whether they have the room and the versions that a run needs."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from polopt.errors import EngineError, RecipeError, counted, one_line

PACKAGES = ("polopt", "torch", "transformers", "ray")
FREED = 60.0  # seconds for others, a run that was killed for example, to give back their slots
PATIENCE = 120.0  # seconds for the nodes to say what they have


@dataclass(frozen=True)
class Asked:
    """What a run needs of a cluster. The GPU of the first trainer is not asked for any more."""

    engines: int
    devices: int  # of each engine, on one node
    trainers: int
    cuda: bool

    def lacking(self, slots: Sequence[int], *, free: bool) -> str | None:
        """What there is no room for, in words; None: there is.

        Engines and trainers have a GPU each; on processors they share the slots.

        Args:
            slots: of every node.
            free: whether these are the ones that nobody holds.
        """
        noun = "GPU" if self.cuda else "processor slot"
        has = f"the cluster has {counted(sum(slots), f'free {noun}' if free else noun)}"
        others = self.trainers - 1 if self.cuda else 0
        if sum(slots) < (others if self.cuda else self.trainers):
            return (
                f"coordination.trainers: {self.trainers} is not allowed: {has}, and each needs one"
            )
        whole = sum(count // self.devices for count in slots)
        if whole < self.engines or sum(slots) - self.engines * self.devices < others:
            beside = f" beside {counted(others, 'other trainer')}" if others else ""
            needs = "one" if self.devices == 1 else f"{self.devices} of one node"
            return (
                f"coordination.engines: {self.engines} is not allowed: {has}, and each{beside} "
                f"needs {needs}"
            )
        return None


def check_slots(asked: Asked) -> None:
    """Refuse more engines and trainers than the cluster has room for; others may hold some of it.

    Raises:
        RecipeError: names how many slots there are.
    """
    kind = "GPU" if asked.cuda else "CPU"
    if lack := asked.lacking(_slots(kind, held=asked.cuda), free=False):
        raise RecipeError(lack)
    deadline = time.monotonic() + FREED
    while lack := asked.lacking(_free(kind), free=True):
        if time.monotonic() > deadline:
            raise RecipeError(f"{lack} (waited {FREED:g} s for others to end)")
        time.sleep(0.2)


def _slots(kind: str, *, held: bool) -> list[int]:
    """Of every node, but for the GPU that the trainer holds."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [
        int(node["Resources"].get(kind, 0)) - int(held and node["NodeID"] == here) for node in nodes
    ]


def _free(kind: str) -> list[int]:
    """Of every node, those that nobody holds now."""
    from ray._private.state import available_resources_per_node

    found: Mapping[str, Mapping[str, float]] = available_resources_per_node()
    return [int(node.get(kind, 0)) for node in found.values()]


def check_nodes() -> None:
    """Refuse nodes where other code would run than here.

    Raises:
        EngineError: names the node, and what differs.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    asked: Any = ray.remote(versions)
    answers = dict[str, Any]()
    for node in others:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        placed = asked.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        answers[node["NodeID"]] = placed.remote()
    for node in others:
        answer = answers[node["NodeID"]]
        try:
            found: Any = ray.get(answer, timeout=PATIENCE)
        except GetTimeoutError:
            problem = f"does not answer in {PATIENCE:g} s"
        except RayError as error:  # no polopt there, as a rule
            last = str(error).strip().splitlines()[-1]
            problem = f"cannot say what it has: {one_line(last, 120)}"
        else:
            problem = differing(versions(), found)
        if problem is not None and not _is_lost(node["NodeID"]):
            name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            raise EngineError(f"coordination.mode: the node {name} {problem}")


def _is_lost(node: str) -> bool:
    """Whether Ray, which takes its time to notice, knows by now that a node is gone."""
    import ray

    return not any(one["Alive"] for one in ray.nodes() if one["NodeID"] == node)


def versions() -> dict[str, str | None]:
    """What decides which code runs, by name; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def differing(here: Mapping[str, str | None], there: Mapping[str, str | None]) -> str | None:
    """The first version that differs, in words."""
    for name, version in here.items():
        if there.get(name) != version:
            has = there.get(name) or f"no {name}"
            return f"has {has} where {name} {version} is needed, that of the trainer"
    return None
