"""From readings to alarms that ring: once an onset, after several readings in a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from polopt.choices.alarms import Alarm
from polopt.diagnose.alarms.history import History
from polopt.diagnose.alarms.rules import AT_EVALUATIONS, RULES
from polopt.recipe import StageRecipe
from polopt.recipe.fields import fact
from polopt.resolution import settings

CONFIRMED = 3  # readings in a row that hold, until an alarm rings
CONFIRMED_EVALUATIONS = 2  # the same of what is read at evaluations
CALM = 10  # readings in a row that do not hold, until it may ring again


@dataclass(frozen=True)
class Held:
    """Where an alarm stands."""

    holds: int = 0  # readings in a row that held
    calm: int = 0  # and that did not
    rings: bool = False


@dataclass(frozen=True)
class Rung:
    """An alarm at its onset."""

    name: str  # of its field in [alarms]
    title: str
    metrics: tuple[str, ...]  # that it read
    value: float
    threshold: float
    message: str  # what was measured, what it means, what to try


def advance(held: Held, holds: bool, confirmed: int) -> Held:
    """The state after one more reading."""
    if holds:
        count = held.holds + 1
        return Held(count, 0, held.rings or count >= confirmed)
    return replace(held, holds=0, calm=held.calm + 1, rings=held.rings and held.calm + 1 < CALM)


def thresholds(stage: StageRecipe) -> dict[str, float]:
    """The alarms of a resolved stage that have something to look at and are not off."""
    given = settings(stage)
    return {
        name: float(given[f"alarms.{name}"])
        for name in RULES
        if name not in stage.alarms.off and f"alarms.{name}" in given
    }


class Alarms:
    """The alarms of one stage, told line by line what was measured.

    What it says follows from the lines alone, so that a run that is resumed reads its record again.
    """

    def __init__(self, thresholds: Mapping[str, float]) -> None:
        self._thresholds = dict(thresholds)
        self._history = History()
        self._held = {name: Held() for name in self._thresholds}

    def earned(self, prompts: Mapping[str, float]) -> None:
        """Hear what the prompts of a step earned."""
        self._history.earned(prompts)

    def hear(self, line: Mapping[str, Any]) -> list[Rung]:
        """Hear a line of metrics; the alarms whose onset it is."""
        self._history.add({k: v for k, v in line.items() if isinstance(v, int | float)})
        return [rung for name in self._thresholds if (rung := self._read(name)) is not None]

    def _read(self, name: str) -> Rung | None:
        threshold, held = self._thresholds[name], self._held[name]
        reading = RULES[name](self._history, threshold)
        if reading is None:
            return None
        confirmed = CONFIRMED_EVALUATIONS if name in AT_EVALUATIONS else CONFIRMED
        self._held[name] = advance(held, reading.holds, confirmed)
        if held.rings or not self._held[name].rings:
            return None
        alarm = fact(f"alarms.{name}", Alarm)
        assert alarm is not None, "every rule has a field with its alarm"
        said = alarm.says.format(
            value=f"{reading.value:.2g}", threshold=f"{threshold:g}", what=reading.what
        )
        message = f"alarm {name}: {said}: {alarm.means}; try {alarm.remedy}"
        return Rung(name, alarm.title, alarm.reads, reading.value, threshold, message)


def replayed(
    alarms: Alarms, lines: Iterable[Mapping[str, Any]], prompts: Iterable[Mapping[str, Any]]
) -> None:
    """Tell alarms the record of a stage, in the order in which it was written."""
    told = sorted([*lines, *prompts], key=lambda line: (line["step"], "earned" not in line))
    for line in told:
        if "earned" in line:
            alarms.earned(line["earned"])
        elif "stage_step" in line:
            alarms.hear(line)


def standing(
    lines: Iterable[Mapping[str, Any]], backs: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The lines of a record that the weights of now come from: not those that were rolled back."""
    gone = [(back["back_to"], back["step"]) for back in backs]
    return [line for line in lines if not any(low < line["step"] <= high for low, high in gone)]
