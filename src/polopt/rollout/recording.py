"""Recording one episode of a policy, step by step, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from polopt.envs.control.recording.interface import Watch
from polopt.envs.control.recording.view import rounded
from polopt.roles.control import StepActor

LONGEST = 2_000  # steps


def shown(watch: Watch, actor: StepActor, *, seed: int) -> dict[str, Any]:
    """The episode from ``seed`` by the most likely actions, as samples.jsonl holds it."""
    environments = watch.environments
    observations = [environments.reset(seed)[0]]
    watch.look()
    actions, rewards = list[Any](), list[float]()
    ending, facts = "", dict[str, float]()
    while not ending and len(rewards) < LONGEST:
        moved = actor.moved(actor.choose(observations[-1][None], None))
        step = environments.step(moved)
        watch.look()
        actions.append(moved[0])
        rewards.append(float(step.rewards[0]))
        observations.append(step.successors[0])
        if step.terminated[0] or step.truncated[0]:
            ending = "terminated" if step.terminated[0] else "truncated"
            facts = {name: float(values[0]) for name, values in step.facts.items()}
    return {
        "return": sum(rewards),
        "length": len(rewards),
        "ending": ending or "not shown to its end",
        "facts": facts,
        "observations": rounded(np.stack(observations)),
        "actions": rounded(np.stack(actions)),
        "rewards": rounded(np.array(rewards)),
        **watch.told(np.stack(actions)),
    }
