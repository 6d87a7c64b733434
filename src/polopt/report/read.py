"""Read a run directory: plain JSON in, plain dicts and lists out.

A run may still be going on, or have died: ``summary.json`` may be missing, the line files may be
empty, and the last line of one may be half written. None of this is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polopt.choices.source import parse
from polopt.errors import RunDirectoryError

Row = dict[str, Any]
RESPONSE = {"step": int, "kind": str, "prompt": str, "completion": str}
INTERVAL = {"step": int, "who": str, "what": str, "start": float, "end": float}
EPISODE = {"step": int, "kind": str, "rewards": list}
ALARM = {"step": int, "alarm": str}
EARNED = {"step": int, "earned": dict}


@dataclass(frozen=True)
class RunRecord:
    """The content of a run directory, as plain dicts and lists."""

    directory: Path
    config: Row  # config.json
    environment: Row  # environment.json; empty if missing
    metrics: list[Row]  # one a stage and step, in the order of the steps
    samples: list[Row]  # responses, in the order of the file
    episodes: list[Row]  # of runs in control, in the order of the file
    warnings: list[Row]  # in the order of the file
    summary: Row | None  # summary.json; None: the run has not finished
    unreadable: list[str] = field(default_factory=list[str])  # "metrics.jsonl line 12"
    timeline: list[Row] = field(default_factory=list[Row])  # in the order of the file
    alarms: list[Row] = field(default_factory=list[Row])  # in the order of the file
    earned: list[Row] = field(default_factory=list[Row])  # of prompts.jsonl, by step

    @property
    def in_control(self) -> bool:
        """Whether environments stand in the place of prompts.

        By the data source of the recipe, or, without one, by the recorded metrics.
        """
        tables = (stage.get("settings") for stage in self.config["stages"])
        sources = [table.get("data.source") for table in tables if isinstance(table, dict)]
        named = [source for source in sources if isinstance(source, str)]
        if named:
            return any(parse(source).domain == "control" for source in named)
        return bool(self.episodes) or any("steps" in row for row in self.metrics)


def load(run_directory: Path) -> RunRecord:
    """Read the run in ``run_directory``.

    Raises:
        RunDirectoryError: it is no run directory, or one of its files is not what it should be.
    """
    directory = Path(run_directory)
    config = _object(directory / "config.json")
    if config is None:
        raise RunDirectoryError(f"{directory}: not a run directory, it has no config.json")
    _check_stages(directory, config)
    metrics, torn_metrics = _rows(directory / "metrics.jsonl", {"step": int})
    samples, torn_samples = _rows(directory / "samples.jsonl", RESPONSE, EPISODE)
    warnings, torn_warnings = _rows(directory / "warnings.jsonl", {"message": str})
    timeline, torn_timeline = _rows(directory / "timeline.jsonl", INTERVAL)
    alarms, torn_alarms = _rows(directory / "alarms.jsonl", ALARM)
    # Lines of what was held out are of another kind, and no torn ones.
    earned, _ = _rows(directory / "prompts.jsonl", EARNED)
    return RunRecord(
        directory=directory,
        config=config,
        environment=_object(directory / "environment.json") or {},
        metrics=_one_per_step(metrics),
        samples=[row for row in samples if "rewards" not in row],
        episodes=[row for row in samples if "rewards" in row],
        warnings=warnings,
        summary=_object(directory / "summary.json"),
        unreadable=torn_metrics + torn_samples + torn_warnings + torn_timeline + torn_alarms,
        timeline=timeline,
        alarms=alarms,
        earned=earned,
    )


def _check_stages(directory: Path, config: Row) -> None:
    """Every stage needs a name; the page shows whatever else is there."""
    stages = config.get("stages")
    if not isinstance(stages, list) or not all(
        isinstance(stage, dict) and isinstance(stage.get("name"), str) for stage in stages
    ):
        config_file = directory / "config.json"
        raise RunDirectoryError(f"{config_file}: stages must be a list of objects with a name")


def _object(path: Path) -> Row | None:
    """The JSON object in ``path``, None if there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunDirectoryError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{path} must hold a JSON object")
    return value


def _rows(path: Path, *kinds: Mapping[str, type]) -> tuple[list[Row], list[str]]:
    """The objects of a line file that are of one of the kinds, and the places of other lines.

    A last line without its line end is still being written and is left out in silence.
    """
    rows: list[Row] = []
    unreadable: list[str] = []
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                row = _row(line, kinds)
                if row is not None:
                    rows.append(row)
                elif line.endswith(b"\n") and line.strip():
                    unreadable.append(f"{path.name} line {number}")
    except FileNotFoundError:
        pass  # nothing was recorded yet
    except OSError as error:
        raise RunDirectoryError(f"cannot read {path}: {error.strerror}") from error
    return rows, unreadable


def _row(line: bytes, kinds: Sequence[Mapping[str, type]]) -> Row | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    fits = (all(type(row.get(key)) is type_ for key, type_ in kind.items()) for kind in kinds)
    return row if any(fits) else None


def _one_per_step(rows: list[Row]) -> list[Row]:
    """Lines of the same stage and step become one; where they differ the later one wins."""
    merged: dict[tuple[object, int], Row] = {}
    for row in rows:
        merged.setdefault((str(row.get("stage")), row["step"]), {}).update(row)
    return sorted(merged.values(), key=lambda row: row["step"])
