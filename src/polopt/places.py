"""Files and directories that a user names: where they were looked for, and what is near them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from polopt.errors import ModelError, near

Fits = Callable[[Path], bool]  # whether a path can be meant: os.path.isfile, os.path.isdir
BUILT_IN = "builtin:"  # before the name of a model that needs no files
HUB_ID = r"\w[\w.-]*(/[\w.-]+)?"  # of a model
SLIP = 0.8  # likeness of two names at which one is taken for the other


def missing(path: Path, fits: Fits) -> str:
    """What is said of a path that does not exist: where it was looked for, and what is near it.

    Example: ``does not exist: /home/me has no promts.jsonl; did you mean prompts.jsonl?``
    """
    there = next((above for above in path.parents if above.is_dir()), Path(path.anchor))
    found = nearest(path, fits)
    hint = "" if found is None else f"; did you mean {found}?"
    return f"does not exist: {there.resolve()} has no {path.relative_to(there).parts[0]}{hint}"


def no_file(path: Path) -> str:
    """What is said of a path that is no file."""
    return "is not a file" if path.exists() else missing(path, os.path.isfile)


def nearest(path: Path, fits: Fits, cutoff: float = 0.6) -> Path | None:
    """The path nearest to one that is not there, directory by directory; None: nothing is near."""
    if fits(path):
        return path
    if path == path.parent:
        return None
    above = nearest(path.parent, os.path.isdir, cutoff)
    if above is None:
        return None
    try:
        names = [name for name in os.listdir(above) if fits(above / name)]
    except OSError:  # a directory that may not be read
        return None
    found = near(path.name, sorted(names), cutoff=cutoff)
    return above / found[0] if found else None


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run."""
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def model_directory(field: str, path: str) -> Path | None:
    """The directory of a model in Hugging Face layout; None: the path is the id of a hub model.

    ``owner/name`` is an id unless there is a directory ``owner``, or a directory so much alike
    (``model/qwen`` and ``models/qwen``) that it is taken for a slip.

    Raises:
        ModelError: one line: there is no such directory, and which is near; a file, a run, or a
            directory without config.json.
    """
    directory = Path(path).expanduser()
    if not directory.exists() and _may_be_id(path):
        return None
    where = f"{field}: {str(directory)!r}"
    if not directory.exists():
        raise ModelError(f"{where} {missing(directory, os.path.isdir)}{_no_id(path)}")
    if not directory.is_dir():
        raise ModelError(f"{where} is a file; a directory in Hugging Face layout is needed")
    if is_run(directory):
        last = directory / "checkpoints" / "last"
        its = f"its last weights are {last}" if last.exists() else "it has no checkpoint yet"
        raise ModelError(f"{where} is the directory of a run; {its}")
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"{where} has no config.json; a directory in Hugging Face layout is needed"
        )
    return directory


def _may_be_id(path: str) -> bool:
    """Whether a path that does not exist can be the id of a model on a hub."""
    if not re.fullmatch(HUB_ID, path):
        return False
    if "/" not in path:
        return True
    return not Path(path).parent.is_dir() and nearest(Path(path), os.path.isdir, SLIP) is None


def _no_id(path: str) -> str:
    """Why what looks like an id was not looked for on the hub."""
    if not re.fullmatch(HUB_ID, path) or nearest(Path(path), os.path.isdir) is not None:
        return ""
    return f"; no id of the hub, because {str(Path(path).parent)!r} is a directory"
