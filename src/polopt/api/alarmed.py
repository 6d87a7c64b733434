"""The alarms of a run: an observer of its loop that asks for what their policy says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polopt.coordination.stage import Event, Request
from polopt.diagnose.alarms import Alarms, Rung, replayed, standing, thresholds
from polopt.recipe import Recipe


class Alarmed:
    """Hears the events of a run, one stage after the other.

    Where a stage goes on, after a resume or a step back, the record of it is heard again first.

    Args:
        run: its directory.
        recipe: resolved.
    """

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self._run = run
        self._stages = {stage.name: stage for stage in recipe.stages}
        self._alarms = Alarms({})
        self._asked: Request | None = None

    def hear(self, event: Event) -> list[Event]:
        """What is to be told of an event: a warning and an alarm for each that begins to ring."""
        match event.kind:
            case "stage":
                self._begin(str(event.values["name"]), int(event.values["step"]))
            case "prompts":
                self._alarms.earned(event.values.get("earned", {}))
            case "metrics":
                return [
                    told
                    for rung in self._alarms.hear(event.values)
                    for told in self._rung(event, rung)
                ]
            case _:
                pass
        return []

    def asked(self) -> Request | None:
        """What alarms ask for since the last time that somebody looked."""
        asked, self._asked = self._asked, None
        return asked

    def _begin(self, name: str, step: int) -> None:
        self._alarms = Alarms(thresholds(self._stages[name]))
        if step > 0:
            backs = [line for line in self._lines("alarms", name) if "back_to" in line]
            metrics, prompts = (
                standing(self._lines(file, name), backs) for file in ("metrics", "prompts")
            )
            replayed(self._alarms, metrics, prompts)

    def _rung(self, event: Event, rung: Rung) -> Iterator[Event]:
        where = {name: event.values[name] for name in ("step", "stage")}
        policy = self._stages[where["stage"]].alarms.policy
        yield Event("warning", {**where, "message": rung.message})
        yield Event(
            "alarm",
            {
                **where,
                "alarm": rung.name,
                "title": rung.title,
                "metrics": list(rung.metrics),
                "value": rung.value,
                "threshold": rung.threshold,
                "policy": policy,
                "message": rung.message,
            },
        )
        if policy != "warn":
            self._asked = self._asked or Request(alarm=rung.name, roll_back=policy == "roll_back")

    def _lines(self, file: str, stage: str) -> list[dict[str, Any]]:
        text = (self._run / f"{file}.jsonl").read_text(encoding="utf-8")
        return [line for line in map(json.loads, text.splitlines()) if line["stage"] == stage]
