"""The nodes of a cluster: whether they have the room and the versions that a run needs."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from polopt.errors import EngineError, RecipeError, counted, one_line

PACKAGES = ("polopt", "torch", "transformers", "ray")
PATIENCE = 120.0  # seconds for the nodes to say what they have


def check_slots(engines: int, trainers: int, *, cuda: bool) -> None:
    """Refuse more engines and trainers than the cluster has room for.

    On processors they share the slots: trainers wait for engines, or these for them.

    Raises:
        RecipeError: names how many there are.
    """
    import ray

    kind, noun = ("GPU", "GPU") if cuda else ("CPU", "processor slot")
    slots = int(ray.cluster_resources().get(kind, 0))
    for field, count, taken in (
        ("trainers", trainers, 0),
        ("engines", engines, trainers if cuda else 0),
    ):
        if count + taken > slots:
            beside = f" beside the {counted(taken, 'trainer')}" if taken else ""
            raise RecipeError(
                f"coordination.{field}: {count} is not allowed: the cluster has "
                f"{counted(slots, noun)}, and each{beside} needs one"
            )


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
        answers[node["NodeManagerAddress"] + f" ({node['NodeID'][:8]})"] = placed.remote()
    for name, answer in answers.items():
        try:
            found: Any = ray.get(answer, timeout=PATIENCE)
        except GetTimeoutError:
            problem = f"does not answer in {PATIENCE:g} s"
        except RayError as error:  # no polopt there, as a rule
            last = str(error).strip().splitlines()[-1]
            problem = f"cannot say what it has: {one_line(last, 120)}"
        else:
            problem = differing(versions(), found)
        if problem is not None:
            raise EngineError(f"coordination.mode: the node {name} {problem}")


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
