"""The recipe and the weights in the directory of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polopt.coordination.checkpoint import MANIFEST, is_step, step_of
from polopt.errors import RunDirectoryError
from polopt.places import is_run
from polopt.recipe import Recipe, load
from polopt.record import NOTHING_KNOWN, Prompts, recorded_prompts
from polopt.resolution import resolve


def recorded(config: Mapping[str, Any], flags: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """The resolved recipe of a run, with some of its fields overridden."""
    own_reward = config["reward_from_python"] is not None
    return resolve(load(config["recipe"], flags), own_reward=own_reward)


def located(path: Path) -> tuple[Path, Path] | None:
    """The run directory and the weights of a path: a run, with its last weights, or a checkpoint.

    None where the path is neither.

    Raises:
        RunDirectoryError: a run without a checkpoint.
    """
    if is_run(path):
        last = path / "checkpoints" / "last"
        if not last.exists():
            raise RunDirectoryError(f"{path}: the run has no checkpoint yet")
        return path, last
    real = path.resolve()  # checkpoints/best is a link to one beside it
    is_checkpoint = real.parent.name == "checkpoints" and is_step(real)
    if is_checkpoint and (path / MANIFEST).is_file() and is_run(real.parents[1]):
        return real.parents[1], path
    return None


def prompts_of(path: str) -> Prompts | None:
    """The prompts that weights of a run were trained on; None: they are not of a run.

    Nothing is known of a checkpoint that was copied elsewhere, or of a run without a record.
    """
    if not Path(path).is_dir():
        return None
    if (found := located(Path(path))) is None:
        return NOTHING_KNOWN if (Path(path) / MANIFEST).is_file() else None
    run, weights = found
    return recorded_prompts(run, step_of(weights)) or NOTHING_KNOWN
