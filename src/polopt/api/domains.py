"""The parts of the API that depend on the domain, in one table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polopt.algorithms import row
from polopt.choices.domain import CONTROL, DOMAINS, TEXT
from polopt.coordination import checkpoint
from polopt.recipe import StageRecipe, load, standalone
from polopt.recipe.contradictions import ENDED
from polopt.resolution import stated_in_vain


@dataclass(frozen=True)
class InDomain:
    """How a policy of the domain is loaded and evaluated outside of a run."""

    algorithm: str  # the row that an evaluation outside of a run uses
    recipe: Callable[[StageRecipe, Path], dict[str, Any]]  # of an evaluation, from that of training
    examiner: str  # module:function, (inputs of a stage, what is asked) -> what was examined
    policy: str  # module:function that loads a trained policy for use
    evaluated: str  # field of ``evaluation`` that counts what it is evaluated on
    weights: str = ""  # file that marks a directory of weights; "": a model of transformers


EXAMINED = {  # sections by the role whose weights a run ends with
    "actor": {"model", "data", "rewards", "rollout", "evaluation", "run"},
    "reward_model": {"model", "data", "preference", "evaluation", "run"},
}


def of_evaluation(stage: StageRecipe, checkpoints: Path) -> dict[str, Any]:
    """The tables of a stage that an evaluation needs: data, sampling, rewards."""
    return IN_DOMAIN[stage.domain].recipe(stage, checkpoints)


def _of_text(stage: StageRecipe, checkpoints: Path) -> dict[str, Any]:
    """The same for text, of a policy or of a reward model."""
    trains = row(stage.algorithm).trains
    of_training = {
        "model": {"lora", "lora_alpha", "lora_targets"},  # evaluated weights have it merged in
        "evaluation": {"every"},
        "run": {"steps", "checkpoint_every", "keep", "track", "directory"},
    }
    tables: dict[str, Any] = {
        "algorithm": IN_DOMAIN[stage.domain].algorithm if trains == "actor" else stage.algorithm
    }
    tables |= {k: table for k, table in standalone(stage).items() if k in EXAMINED[trains]}
    if rewards := tables.pop("rewards", ()):
        tables["rewards"] = [_of_judging(one, checkpoints) for one in rewards]
    tables = without_fields(
        tables, {f"{name}.{field}" for name in of_training for field in of_training[name]}
    )
    return without_fields(tables, stated_in_vain(load(tables)))


def without_fields(tables: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Tables without the fields of these dotted names."""
    return {
        name: {field: v for field, v in table.items() if f"{name}.{field}" not in fields}
        if isinstance(table, Mapping)
        else table
        for name, table in tables.items()
        if name not in fields
    }


def _of_control(stage: StageRecipe, checkpoints: Path) -> dict[str, Any]:
    """The same for control: the environment and the number of episodes."""
    tables = standalone(stage)
    kept = {
        "model": {},
        "data": ("source", "parameters"),
        "evaluation": ("episodes",),
        "run": ("seed", "threads"),
    }
    return {
        name: {field: value for field, value in tables.get(name, {}).items() if field in fields}
        for name, fields in kept.items()
    }


def _of_judging(reward: Mapping[str, Any], checkpoints: Path) -> dict[str, Any]:
    """A reward with frozen weights; ``stage:NAME`` becomes the path of its checkpoint."""
    of_training = ("labels", "refresh_every", "learning_rate")
    kept = {field: value for field, value in reward.items() if field not in of_training}
    model = str(kept.get("model", ""))
    if model.startswith(ENDED):
        ends = checkpoint.read_state(checkpoints / "last")["progress"]["stage_ends"]
        kept["model"] = str(checkpoints / ends[model.removeprefix(ENDED)])
    return kept


IN_DOMAIN: Mapping[str, InDomain] = {
    TEXT.name: InDomain(
        algorithm="sft",
        recipe=_of_text,
        examiner="polopt.api.examine:of_text",
        policy="polopt.api.policy:of_text",
        evaluated="prompts",
    ),
    CONTROL.name: InDomain(
        algorithm="ppo",
        recipe=_of_control,
        examiner="polopt.api.examine:of_control",
        policy="polopt.api.policy:of_control",
        evaluated="episodes",
        weights="policy.json",
    ),
}
assert IN_DOMAIN.keys() == DOMAINS.keys(), "a domain of which the API knows nothing"


def domain_of_weights(directory: str) -> str:
    """The domain of the weights in a directory, by the files in it."""
    named = (d for d, one in IN_DOMAIN.items() if one.weights)
    found = (d for d in named if (Path(directory) / IN_DOMAIN[d].weights).is_file())
    return next(found, TEXT.name)
