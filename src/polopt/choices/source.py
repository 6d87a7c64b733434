"""A data source as a recipe writes it, parsed once: its kind, its name, and so the domain."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath

from polopt.choices.domain import CONTROL, TEXT, Domain

FILES = (".jsonl", ".parquet", ".csv")
ENVIRONMENTS = ("cartpole", "pendulum", "biped")  # built in
_GYMNASIUM_ID = r"(\w[\w.]*:)?(\w[\w-]*/)?\w[\w.-]*-v\d+"  # of a module, in a namespace


@dataclass(frozen=True)
class Kind:
    """The facts that sources of one kind share."""

    domain: Domain
    takes_parameters: bool = False
    has_columns: bool = False  # rows whose columns the recipe names
    has_verifier: bool = False  # has a verifier of right answers


KINDS = {
    "task": Kind(TEXT, takes_parameters=True, has_verifier=True),
    "reasoning-gym": Kind(TEXT, takes_parameters=True, has_verifier=True),
    "hub": Kind(TEXT, has_columns=True),
    "control": Kind(CONTROL, takes_parameters=True),
}
FILE = Kind(TEXT, has_columns=True)


@dataclass(frozen=True)
class Source:
    """``task:chain_sum`` is ``Source("task", "chain_sum")``; a file has the kind ``file``."""

    kind: str
    name: str

    @property
    def of(self) -> Kind:
        """The facts of its kind."""
        return KINDS.get(self.kind, FILE)

    @property
    def domain(self) -> str:
        """The name of the domain that it belongs to."""
        return self.of.domain.name

    @property
    def is_known(self) -> bool:
        """Whether it is written as a source can be: a kind and a name, or a data file."""
        return bool(self.name) and (self.kind in KINDS or PurePath(self.name).suffix in FILES)


@lru_cache(maxsize=256)
def parse(text: str) -> Source:
    """Kind and name; what has no kind before a colon is a file."""
    kind, _, name = text.partition(":")
    return Source(kind, name) if kind in KINDS else Source("file", text)


def lacks_kind(text: str, model: str) -> bool:
    """Whether the text is the name of an environment, without the kind that stands before one.

    ``owner/name-v0`` may as well be a data set of a hub: the path of the model tells.
    """
    if text in ENVIRONMENTS:
        return True
    if parse(text).kind != "file" or Path(text).exists():
        return False
    return ("/" not in text or model == CONTROL.model) and re.fullmatch(
        _GYMNASIUM_ID, text
    ) is not None
