"""Trackers as observers of the loop: TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from polopt.coordination.stage import Event, Observer
from polopt.errors import MissingExtraError

Log = Callable[[Mapping[str, float], int], None]


def trackers(
    names: Sequence[str], run: Path, config: Mapping[str, Any], stack: ExitStack
) -> list[Observer]:
    """An observer for each tracker; ``stack`` closes them.

    Raises:
        MissingExtraError: a tracker that is not installed.
    """
    return [_observer(_TRACKERS[name](run, config, stack)) for name in names]


def _observer(log: Log) -> Observer:
    """Hand every line of metrics on; text fields stay in metrics.jsonl."""

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
        raise MissingExtraError(
            f'run.track: {tracker!r} is not installed; pip install "polopt[track]"'
        ) from error


_TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Any], ExitStack], Log]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
