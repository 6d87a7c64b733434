"""What the parts of a recorded run took, and how well the simulation repeats it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from polopt.diagnose.simulation.distributions import (
    Distribution,
    constant,
    draws,
    exponential,
    recorded,
)
from polopt.diagnose.simulation.engine import Costs
from polopt.diagnose.simulation.events import Setting, Simulated
from polopt.diagnose.simulation.given import EFFICIENCY, Parts
from polopt.diagnose.simulation.grid import measured, own_setting
from polopt.errors import RunDirectoryError
from polopt.recipe import StageRecipe, load
from polopt.report import read
from polopt.resolution import resolve

ROUNDS = 6  # of finding the seconds of a token
FEW = 16  # lengths: fewer say nothing of their distribution
SKIPPED = 1  # first step, in which much happens once


@dataclass(frozen=True)
class _Means:
    """Of a step, in seconds but for the tokens."""

    rollout: float  # of all threads that generate
    reward: float  # of all threads that score
    waited: float  # by the trainer for its batch: also for generating and scoring it itself
    publish: float
    update: float  # the rest
    tokens: float


def traced(directory: Path) -> tuple[Parts, dict[str, Any]]:
    """The parts of a run, and its own figures beside those of its simulation.

    Seconds of a decoding step are those with which its simulation generates as long as it did.

    Raises:
        RunDirectoryError: too little is on record.
    """
    run = read.load(directory)
    rows = _sampled(run)
    own_reward = run.config.get("reward_from_python") is not None
    recipe = resolve(load(run.config["recipe"]), own_reward=own_reward)
    stage = next(one for one in recipe.stages if one.name == rows[0]["stage"])
    setting, means = own_setting(stage), _means(rows)
    calls = setting.prompts / setting.share
    length = _lengths(run, rows)
    costs = Costs(
        token=means.rollout / calls / length.mean,
        update=means.update / means.tokens * setting.speed(EFFICIENCY),
        rows=stage.rollout.rows,
        publish=means.publish / setting.engines,
        efficiency=EFFICIENCY,
    )
    parts = Parts(length, _scoring(run, rows, means.reward / calls, setting.share), costs)
    for _ in range(ROUNDS):
        found = _again(parts, setting, stage)
        factor = means.rollout / calls / found.rollout_seconds if found.rollout_seconds else 1.0
        parts = replace(parts, costs=replace(parts.costs, token=parts.costs.token * factor))
    idle = _idle(run, rows, setting.staleness)
    return parts, _replayed(rows, means, idle, _again(parts, setting, stage))


def _sampled(run: read.RunRecord) -> list[read.Row]:
    """The steps of the last stage that sampled, without those that evaluate."""
    rows = [row for row in run.metrics if {"lag/mean", "tokens", "time/update"} <= row.keys()]
    rows = [row for row in rows if row.get("stage") == rows[-1].get("stage")][SKIPPED:]
    rows = [row for row in rows if not any(name.startswith("eval/") for name in row)]
    if not rows:
        raise RunDirectoryError(
            f"--trace: {run.directory}: has no step of a stage that samples, beside the first one "
            "and those that evaluate; a longer run"
        )
    return rows


def _means(rows: Sequence[read.Row]) -> _Means:
    def mean(*names: str) -> float:
        return fmean(sum(float(row.get(name, 0.0)) for name in names) for row in rows)

    inline, publish = ("time/rollout", "time/greedy"), mean("time/publish", "time/prove")
    waited = mean("time/wait", *inline, "time/reward")
    return _Means(
        rollout=mean(*inline, "threads/rollout", "threads/greedy"),
        reward=mean("time/reward", "threads/reward"),
        waited=waited,
        publish=publish,
        update=max(0.0, mean("time/step") - waited - publish),
        tokens=mean("tokens"),
    )


def _idle(run: read.RunRecord, rows: Sequence[read.Row], staleness: int) -> float | None:
    """The share of the time in which engines had nothing to do, where it was recorded.

    While a run evaluates, engines fill all slots, and wait in the steps that use them up.
    """
    stage = rows[0]["stage"]
    paused = {
        row["step"]
        for row in run.metrics
        if row.get("stage") == stage and any(name.startswith("eval/") for name in row)
    }
    after = {step + more for step in paused for more in range(1, staleness + 2)}
    calm = [row for row in rows if "idle/engines" in row and row["step"] not in after]
    seconds = sum(float(row["time/step"]) for row in calm)
    idle = sum(float(row["idle/engines"]) * float(row["time/step"]) for row in calm)
    return idle / seconds if seconds else None


def _lengths(run: read.RunRecord, rows: Sequence[read.Row]) -> Distribution:
    """As they were recorded: of the first responses of every step, with the mean of all."""
    mean = fmean(float(row["response/length"]) for row in rows)
    stage = rows[0]["stage"]
    shown = [row for row in run.samples if row.get("stage") == stage and row["kind"] == "train"]
    lengths = [float(row["tokens"]) for row in shown if row.get("tokens")]
    return recorded(lengths, mean) if len(lengths) >= FEW else exponential(mean)


def _scoring(
    run: read.RunRecord, rows: Sequence[read.Row], mean: float, share: int
) -> Distribution:
    """Seconds of a group, of which a claim's share is scored side by side: the longest counts."""
    steps, stage = {row["step"] for row in rows}, rows[0]["stage"]
    seconds = [
        float(each)
        for one in run.timeline
        if one["stage"] == stage and one["step"] in steps
        for each in one.get("calls", ())
    ]
    if len(seconds) < FEW or not any(seconds):
        return constant(mean)
    return recorded(seconds, mean, of=share)


def _again(parts: Parts, setting: Setting, stage: StageRecipe) -> Simulated:
    drawn = draws(
        parts.length,
        parts.reward,
        group_size=stage.rollout.group_size or 1,
        longest=stage.rollout.max_new_tokens,
        seed=0,
    )
    return measured(setting, parts.costs, drawn).found


def _replayed(
    rows: Sequence[read.Row], means: _Means, idle: float | None, found: Simulated
) -> dict[str, Any]:
    """Recorded and simulated, of the run's own setting."""
    seconds = means.waited + means.publish + means.update
    return {
        "steps": len(rows),
        "seconds_per_step": {"recorded": seconds, "simulated": found.seconds_per_step},
        "trainer_idle": {
            "recorded": means.waited / seconds if seconds else 0.0,
            "simulated": found.trainer_idle,
        },
        "engine_idle": {
            "recorded": idle,
            "simulated": found.engine_idle,
        },
        "lag_mean": {
            "recorded": fmean(float(row["lag/mean"]) for row in rows),
            "simulated": found.lag_mean,
        },
    }
