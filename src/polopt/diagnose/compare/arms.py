"""Arms of a comparison: runs that differ in their seed alone, and what arms must have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polopt.diagnose.compare.read import BATCHES, UNITS, Trained
from polopt.errors import RecipeError, counted
from polopt.recipe import shown
from polopt.record import HEADLINES, LESS_IS_BETTER

OF_A_RUN = ("run.", "from")  # settings that say nothing of what was learned, but run.steps
TASK = (  # what all arms must have in common: prompts, and those that they are judged on
    "data.source",
    "data.parameters",
    "data.prompt_field",
    "data.evaluation_source",
    "evaluation.prompts",
    "evaluation.episodes",
)


@dataclass(frozen=True)
class Arm:
    """What is compared: a row, a recipe."""

    name: str
    runs: Sequence[Trained]

    @property
    def finished(self) -> list[Trained]:
        """The runs that did not fail."""
        return [run for run in self.runs if not run.problem]


def grouped(runs: Sequence[Trained]) -> list[Arm]:
    """Arms of finished runs: those of one recipe, whatever their seeds.

    Raises:
        RecipeError: two runs of an arm have the same seed, so that one of them says nothing.
    """
    groups = dict[str, list[Trained]]()
    for run in runs:
        key = json.dumps([run.stage, run.domain, plain(run)], sort_keys=True)
        groups.setdefault(key, []).append(run)
    for same in groups.values():
        seeds = dict[int, Trained]()
        for run in same:
            if (other := seeds.setdefault(run.seed, run)) is not run:
                raise RecipeError(
                    f"{run.directory}: the same recipe and seed ({run.seed}) as {other.directory}; "
                    "a seed counts once"
                )
    names = _names([same[0] for same in groups.values()])
    return [Arm(name, same) for name, same in zip(names, groups.values(), strict=True)]


def _names(firsts: Sequence[Trained]) -> list[str]:
    """The shortest names that tell the arms apart: method, recipe, both, with a number."""
    for names in (
        [run.algorithm for run in firsts],
        [run.name for run in firsts],
        [f"{run.name} ({run.algorithm})" for run in firsts],
    ):
        if len(set(names)) == len(names) and all(names):
            return names
    return [f"{run.algorithm} {number}" for number, run in enumerate(firsts, start=1)]


def plain(run: Trained) -> dict[str, Any]:
    """The settings of a run without what belongs to a single run.

    A start that was trained for the seed of the run is the same in all runs of an arm.
    """
    text = json.dumps(
        {
            name: value
            for name, value in run.settings.items()
            if name == "run.steps" or not name.startswith(OF_A_RUN)
        }
    )
    return json.loads(text.replace(f"-{run.seed}/checkpoints/", "-SEED/checkpoints/"))


def check(arms: Sequence[Arm]) -> None:
    """Refuse what cannot be compared.

    Raises:
        RecipeError: a single arm; arms of different tasks.
    """
    if len(arms) < 2:
        runs = counted(len(arms[0].runs), "run")
        raise RecipeError(
            f"one arm alone ({arms[0].name}, {runs}); name several recipes, --algorithms A,B, or "
            "runs of several"
        )
    same_task([(arm.name, run.settings) for arm in arms for run in arm.runs])


def same_task(arms: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse arms, by name and settings, that learn from or are judged on other prompts.

    Raises:
        RecipeError: names the field that differs.
    """
    first, there = arms[0]
    for name, here in arms:
        for field in TASK:
            if here.get(field) != there.get(field):
                raise RecipeError(
                    f"{field}: {shown(there.get(field))} in {first} and {shown(here.get(field))} "
                    f"in {name}; arms of a comparison have the same task"
                )


def differences(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Settings in which arms differ, with the value of each; None: it has no such setting."""
    own = [plain(arm.runs[0]) for arm in arms]
    fields = dict.fromkeys(field for settings in own for field in settings)
    rows = ((field, [settings.get(field) for settings in own]) for field in fields)
    return [
        {"field": field, "values": values}
        for field, values in rows
        if any(value != values[0] for value in values)
    ]


def metric_of(arms: Sequence[Arm]) -> str:
    """The metric on held-out prompts or starts by which arms are judged.

    The first of HEADLINES that every run measured which did not fail.

    Raises:
        RecipeError: they have none in common, or earned different rewards.
    """
    runs = [run for arm in arms for run in arm.finished]
    by_run = [_measured(run) for run in runs]
    common = set[str].intersection(*by_run)
    name = next((one for one in HEADLINES if one in common), None)
    if name is None:
        pairs = {arm.name: _measured(run) for arm in arms for run in arm.finished}
        said = "; ".join(f"{arm}: {', '.join(found) or 'none'}" for arm, found in pairs.items())
        raise RecipeError(f"no metric of evaluation is common to all arms ({said})")
    rewards = {json.dumps(plain(run).get("rewards")) for run in runs}
    if name == "reward" and len(rewards) > 1:
        raise RecipeError(
            "reward: arms have different rewards, and nothing else says who is ahead; a reward "
            "with is_accuracy = true that all of them have"
        )
    return name


def _measured(run: Trained) -> set[str]:
    """The headlines that a run measured, without those that are no better when they are higher."""
    names = {f"eval/{name}": name for name in HEADLINES if name not in LESS_IS_BETTER}
    return {names[found] for line in run.lines for found in line.values if found in names}


def unit_of(arms: Sequence[Arm]) -> str:
    """What the budget is counted in: the first of UNITS that all runs counted."""
    runs = [run for arm in arms for run in arm.finished]
    counted_by_all = (u for u in UNITS if all(run.lines[-1].spent.get(u) for run in runs))
    return next(counted_by_all, BATCHES)


def sampled(arms: Sequence[Arm]) -> bool:
    """Whether every arm generates what it learns from."""
    return all("response/length" in run.lines[-1].values for arm in arms for run in arm.finished)
