"""The figures of a comparison as JSON: curves, scores at the common budget, who is better."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.diagnose.compare import arms as of_arms
from polopt.diagnose.compare.arms import Arm
from polopt.diagnose.compare.read import BATCHES, TRAINING, Trained
from polopt.diagnose.compare.statistics import LEAST, better, estimate, interval, iqm
from polopt.errors import RecipeError
from polopt.record import HEADLINES, words_of

POINTS = 60  # of a curve, at most
BINS = 30  # over which noisy figures of training are averaged
SAID = {
    "steps": "steps in environments",
    "tokens": "tokens generated",
    "trained": "tokens trained on",
    "batches": "batches",
}
Floats = NDArray[np.float64]


def compared(arms: Sequence[Arm]) -> dict[str, Any]:
    """All figures.

    Every run is cut at the smallest budget that all runs reached which did not fail: what an arm
    made of more than that is not compared. Between evaluations curves are straight. Where every run
    failed, ``metric`` and ``budget`` are None, and the runs say why.

    Raises:
        RecipeError: what cannot be compared.
    """
    of_arms.check(arms)
    finished = [run for arm in arms for run in arm.finished]
    if not finished:
        return _told(arms) | {
            "metric": None,
            "training": None,
            "budget": None,
            "arms": [_arm(arm, "", BATCHES, 0.0, np.array([]), "") for arm in arms],
            "improvement": [],
        }
    metric, unit = of_arms.metric_of(arms), of_arms.unit_of(arms)
    ends = [_points(run, f"eval/{metric}", unit)[0][-1] for run in finished]
    budget, training = min(ends), _training(finished)
    if not budget:
        shortest = finished[ends.index(budget)].directory
        raise RecipeError(f"{shortest}: eval/{metric} was not measured after training")
    grid = _grid(finished, f"eval/{metric}", unit, budget)
    rewarded = "" if training is None else training
    return _told(arms) | {
        "metric": {
            "name": metric,
            "said": words_of(metric),
            "is_share": HEADLINES[metric].is_share,
        },
        "training": training,
        "budget": {
            "unit": unit,
            "said": SAID["trained" if unit == "tokens" and not of_arms.sampled(arms) else unit],
            "value": float(budget),
            "largest": float(max(ends)),
        },
        "arms": [_arm(arm, metric, unit, float(budget), grid, rewarded) for arm in arms],
        "improvement": [
            {
                "arm": one.name,
                "over": other.name,
                **estimate(*_scores((one, other), metric, unit, budget), statistic=better),
            }
            for one, other in permutations(arms, 2)
        ],
    }


def _told(arms: Sequence[Arm]) -> dict[str, Any]:
    """What is known of a comparison, whatever became of its runs."""
    first = arms[0].runs[0]
    return {
        "task": first.settings.get("data.source"),
        "domain": first.domain,
        "stage": first.stage,
        "least_runs": LEAST,
        "differences": of_arms.differences(arms),
    }


def _arm(
    arm: Arm, metric: str, unit: str, budget: float, grid: Floats, training: str
) -> dict[str, Any]:
    name, whole = f"eval/{metric}", arm.finished
    runs = [_run(run, name, unit, budget) for run in arm.runs]
    measured = [run for run in runs if run["status"] == "finished"]
    curves = np.array([np.interp(grid, *_points(run, name, unit)) for run in whole])
    bins = (np.arange(BINS) + 0.5) * budget / BINS
    trained = [_binned(run, training, unit, budget) for run in whole if training]
    firsts = [run["before"] for run in measured if run["before"] is not None]
    return {
        "name": arm.name,
        "algorithm": arm.runs[0].algorithm,
        "finished": len(whole),
        "failed": len(arm.runs) - len(whole),
        "score": estimate([run["score"] for run in measured]),
        "before": estimate(firsts),
        "training": estimate([float(values[-BINS // 10 :].mean()) for values in trained]),
        "curve": _curve(grid, curves),
        "training_curve": _curve(bins, np.array(trained)),
        **{
            figure: _median([run[figure] for run in measured])
            for figure in ("steps", "spent", "seconds", "seconds_to_budget")
        },
        "memory": max((run["memory"] or 0 for run in measured), default=0) or None,
        "runs": runs,
    }


def _run(run: Trained, name: str, unit: str, budget: float) -> dict[str, Any]:
    last = run.lines[-1] if run.lines else None
    found: dict[str, Any] = {
        "directory": run.directory,
        "seed": run.seed,
        "status": "failed" if run.problem else "finished",
        "line": run.problem,
        "steps": 0 if last is None else last.spent["batches"],
        "spent": 0.0 if last is None else last.spent.get(unit, 0.0),
        "seconds": 0.0 if last is None else last.seconds,
        "memory": run.memory,
        "before": None,
        "score": None,
        "curve": [],
    }
    if found["status"] == "failed":
        return found
    xs, ys = _points(run, name, unit)
    spent = np.array([line.spent.get(unit, 0.0) for line in run.lines])
    seconds = np.array([line.seconds for line in run.lines])
    inside = xs < budget
    score = float(np.interp(budget, xs, ys))
    curve = [*zip(xs[inside].tolist(), ys[inside].tolist(), strict=True), (budget, score)]
    return found | {
        "before": float(ys[0]) if xs[0] == 0 else None,
        "score": score,
        "seconds_to_budget": float(np.interp(budget, spent, seconds)),
        "curve": [list(point) for point in curve],
    }


def _points(run: Trained, name: str, unit: str) -> tuple[Floats, Floats]:
    """What was spent until each evaluation, and what it measured; [P] each."""
    lines = run.measured(name)
    xs = np.array([line.spent.get(unit, 0.0) for line in lines])
    return xs, np.array([line.values[name] for line in lines])


def _grid(runs: Sequence[Trained], name: str, unit: str, budget: float) -> Floats:
    """Where curves are compared: at evaluations, from where all runs have one, to the budget."""
    own = [_points(run, name, unit)[0] for run in runs]
    begin = max(xs[0] for xs in own)
    every = np.unique(np.concatenate([*own, [budget]]))
    every = every[(every >= begin) & (every <= budget)]
    kept = np.linspace(0, len(every) - 1, min(len(every), POINTS)).round().astype(int)
    return every[kept]


def _curve(grid: Floats, curves: Floats) -> list[dict[str, Any]]:
    """The interquartile mean of runs, [N, P], at every point, with its interval."""
    if not len(curves):
        return []
    values, ends = iqm(curves, axis=0), interval(curves)
    return [
        {
            "at": float(at),
            "value": float(values[place]),
            "interval": None if ends is None else [float(end[place]) for end in ends],
        }
        for place, at in enumerate(grid)
    ]


def _training(runs: Sequence[Trained]) -> str | None:
    """The figure of training that is shown beside the held-out one."""
    return next((name for name in TRAINING if all(run.measured(name) for run in runs)), None)


def _binned(run: Trained, name: str, unit: str, budget: float) -> Floats:
    """Means over BINS equal parts of the budget; [BINS]. A part without a batch is interpolated."""
    lines = run.measured(name)
    xs = np.array([line.spent.get(unit, 0.0) for line in lines])
    ys = np.array([line.values[name] for line in lines])
    at = np.clip(np.ceil(xs * BINS / budget).astype(int) - 1, 0, BINS)  # behind the budget: BINS
    counts = np.bincount(at, minlength=BINS + 1)[:BINS]
    sums = np.bincount(at, ys, minlength=BINS + 1)[:BINS]
    known = counts > 0
    centres = np.arange(BINS) + 0.5
    if not known.any():
        return np.full(BINS, ys[0])
    return np.interp(centres, centres[known], sums[known] / counts[known])


def _scores(arms: Sequence[Arm], metric: str, unit: str, budget: float) -> list[list[float]]:
    """The figures of every run at the budget; a run that failed is below all others."""
    return [
        [
            -np.inf
            if run.problem
            else float(np.interp(budget, *_points(run, f"eval/{metric}", unit)))
            for run in arm.runs
        ]
        for arm in arms
    ]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
