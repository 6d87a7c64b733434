"""How training gave prompts and sampled responses, as a file beside the weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from polopt.errors import ModelError, one_line
from polopt.record import write_json
from polopt.types import Sampling

FILE = "rollout.json"


@dataclass(frozen=True)
class Usage:
    """The form of the prompts of a training, and its sampling; both are reused later."""

    messages: bool  # prompts were chat messages: a plain text is a turn of the user
    prompt_field: str  # the column of the prompts
    sampling: Sampling


def write(usage: Usage, directory: Path) -> None:
    """Write it beside the weights."""
    write_json(directory / FILE, asdict(usage))


def read(directory: Path) -> Usage | None:
    """What :func:`write` wrote; None where there is no such file.

    Raises:
        ModelError: a file that was written by hand, and cannot be read.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        sampling = values.pop("sampling")
        stop = tuple(sampling.pop("stop"))
        return Usage(sampling=Sampling(**sampling, stop=stop), **values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        raise ModelError(f"{path}: cannot be read: {reason}") from error
