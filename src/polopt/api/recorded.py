"""The recipe and the weights in the directory of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polopt.coordination.checkpoint import MANIFEST, is_step, read_state, step_of
from polopt.errors import ModelError, RunDirectoryError
from polopt.places import HUB_ID, is_run, nearest
from polopt.recipe import Recipe, StageRecipe, load
from polopt.record import NOTHING_KNOWN, Prompts, open_existing, recorded_prompts
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


def at_step(target: str) -> str:
    """``RUN@40`` and ``RUN@NAME`` as the directory of that checkpoint; anything else as it is.

    Raises:
        RunDirectoryError: the run has no such checkpoint; names those that it has.
    """
    run, mark, name = target.rpartition("@")
    checkpoints = Path(run).expanduser() / "checkpoints"
    if not mark or Path(target).exists() or not is_run(checkpoints.parent):
        return target
    found = checkpoints / (f"step_{name}" if name.isdecimal() else name)
    if not (found / MANIFEST).is_file():
        there = [path for path in checkpoints.iterdir() if (path / MANIFEST).is_file()]
        steps = sorted(step_of(path) for path in there if is_step(path))
        names = sorted(path.name for path in there if not is_step(path))
        known = ", ".join([*map(str, steps), *names]) or "none yet"
        raise RunDirectoryError(f"{target}: the run has no such checkpoint; there are: {known}")
    return str(found)


def stage_at(run: Path, checkpoint: Path) -> StageRecipe:
    """The resolved stage of a run in which a checkpoint was made."""
    progress = read_state(checkpoint)["progress"]
    ended = progress["stage_step"] == 0  # and the next one has not begun
    return recorded(open_existing(run).config).stages[progress["stage"] - ended]


def meant(target: str | Path, *, remote: bool = True, hub_id: str = "a hub id") -> str:
    """What a user names as a model, by the path or the id under which it is found.

    ``RUN@STEP`` becomes the directory of that checkpoint; anything else stays as it is.

    Raises:
        ModelError: no directory, and no hub id where those are allowed; names the allowed targets.
        RunDirectoryError: the run has no such checkpoint.
    """
    target = at_step(str(target))
    if Path(target).is_file():
        raise ModelError(f"{target}: a file; the directory of a run, a checkpoint or a model")
    elsewhere = target.startswith("builtin:") or re.fullmatch(HUB_ID, target)
    if not Path(target).expanduser().exists() and not (elsewhere and remote):
        found = nearest(Path(target).expanduser(), os.path.isdir)
        wanted = f"that of a run, a checkpoint or a model, or {hub_id}"
        hint = wanted if found is None else f"did you mean {found}?"
        raise ModelError(f"{target}: no such directory; {hint}")
    return target


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
