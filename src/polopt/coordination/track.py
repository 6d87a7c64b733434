"""Trackers as observers of the loop: TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from polopt.coordination.stage import Event, Observer
from polopt.errors import missing_extra

Log = Callable[[Mapping[str, float], int], None]

# In control, also the names of CleanRL: tools such as openrlbenchmark read them.
FAMILIAR = {
    "return/mean": "charts/episodic_return",
    "episode/length": "charts/episodic_length",
    "policy/learning_rate": "charts/learning_rate",
    "policy/policy_loss": "losses/policy_loss",
    "policy/entropy": "losses/entropy",
    "policy/approx_kl": "losses/approx_kl",
    "critic/value_loss": "losses/value_loss",
    "value/explained_variance": "losses/explained_variance",
}
# Of methods with a replay buffer.
OFF_POLICY = {
    "critic/q_mean": "losses/qf1_values",
    "critic/loss": "losses/qf_loss",
    "policy/loss": "losses/actor_loss",
    "policy/alpha": "losses/alpha",
    "policy/alpha_loss": "losses/alpha_loss",
}


def trackers(
    names: Sequence[str], run: Path, config: Mapping[str, Any], stack: ExitStack
) -> list[Observer]:
    """An observer for each tracker; ``stack`` closes them.

    Raises:
        MissingExtraError: a tracker that is not installed.
    """
    found: list[Observer] = []
    for name in names:
        log = _TRACKERS[name](run, config, stack)
        found.append(_observer(log))
        if name == "tensorboard":
            found.append(familiar(log, _taken(run)))
    return found


def familiar(log: Log, taken: float) -> Observer:
    """Log runs in control under the names of CleanRL as well, by environment steps."""

    def observe(event: Event) -> None:
        nonlocal taken
        values = event.values
        if event.kind != "metrics" or "steps" not in values:
            return
        taken += values["steps"]
        names = FAMILIAR | (OFF_POLICY if "critic/q_mean" in values else {})
        numbers = {new: values[own] for own, new in names.items() if own in values}
        if values.get("time/step"):
            numbers["charts/SPS"] = values["steps"] / values["time/step"]
        bounds = ("policy/clip_fraction_low", "policy/clip_fraction_high")
        if all(name in values for name in bounds):
            numbers["losses/clipfrac"] = sum(values[name] for name in bounds)
        log(numbers, round(taken))

    return observe


def _taken(run: Path) -> float:
    """Environment steps taken before the run was resumed."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return sum(json.loads(line).get("steps", 0.0) for line in lines)


def _observer(log: Log) -> Observer:
    """Log the numbers of every line of metrics; text stays in metrics.jsonl."""

    def observe(event: Event) -> None:
        if event.kind == "metrics":
            stage, step = event.values["stage"], event.values["step"]
            numbers = {
                f"{stage}/{name}": value
                for name, value in event.values.items()
                if name not in ("step", "stage") and isinstance(value, int | float)
            }
            log(numbers, step)

    return observe


def _tensorboard(run: Path, _: Mapping[str, Any], stack: ExitStack) -> Log:
    writer = _module("torch.utils.tensorboard", "tensorboard").SummaryWriter(
        str(run / "tensorboard")
    )
    stack.callback(writer.close)

    def log(numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return log


def _wandb(run: Path, config: Mapping[str, Any], stack: ExitStack) -> Log:
    module = _module("wandb", "wandb")
    # The run directory names the run, so that a resumed run goes on in the same curve.
    tracked = module.init(
        project="polopt",
        name=run.name,
        id=_identity(run),
        resume="allow",
        dir=str(run),
        config=dict(config),
    )
    stack.callback(tracked.finish)
    return lambda numbers, step: tracked.log(dict(numbers), step=step)


def _trackio(run: Path, config: Mapping[str, Any], stack: ExitStack) -> Log:
    module = _module("trackio", "trackio")
    tracked = module.init(project="polopt", name=run.name, config=dict(config), resume="allow")
    stack.callback(tracked.finish)
    return lambda numbers, step: module.log(dict(numbers), step=step)


def _identity(run: Path) -> str:
    return "".join(c if c.isalnum() else "-" for c in str(run))[-64:]


def _module(name: str, tracker: str) -> Any:  # noqa: ANN401
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_extra(f'run.track: "{tracker}"', tracker, "track", error) from error


_TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Any], ExitStack], Log]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
