"""What a check finds: what was compared, how far it is apart, and the smallest example of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["ok", "failed", "not applicable"]


@dataclass(frozen=True)
class Measure:
    """One quantity, computed in two ways.

    Example: ``Measure("gradient of policy", 3.1e-7, 1e-5)``
    """

    what: str
    difference: float
    tolerance: float
    example: Mapping[str, Any] | None = None  # of a difference above the tolerance

    @property
    def agrees(self) -> bool:
        """Whether it is the same number both ways; what is not a number never is."""
        return self.difference <= self.tolerance

    @property
    def entry(self) -> dict[str, Any]:
        """The measure as JSON, which knows no infinity."""
        finite = self.difference < float("inf")
        return {
            "what": self.what,
            "difference": self.difference if finite else None,
            "tolerance": self.tolerance,
            "ok": self.agrees,
            "example": self.example,
        }


@dataclass(frozen=True)
class Found:
    """What a check found; without a measure it does not apply, or an error was what it found."""

    compared: str
    measures: Sequence[Measure] = ()
    reason: str = ""  # why it does not apply
    error: str = ""  # what was raised where both had to agree

    @property
    def verdict(self) -> Verdict:
        """Ok, failed, or not applicable."""
        if self.error or not all(one.agrees for one in self.measures):
            return "failed"
        return "ok" if self.measures else "not applicable"

    @property
    def worst(self) -> Measure | None:
        """The measure that uses up most of its tolerance, or goes farthest above it."""
        if not self.measures:
            return None
        return max(self.measures, key=_used)

    def entry(self, name: str, seconds: float) -> dict[str, Any]:
        """The check as JSON."""
        worst = self.worst
        return {
            "check": name,
            "compared": self.compared,
            "verdict": self.verdict,
            "what": "" if worst is None else worst.what,
            "difference": None if worst is None else worst.entry["difference"],
            "tolerance": None if worst is None else worst.tolerance,
            "seconds": round(seconds, 3),
            "reason": self.reason or self.error,
            "example": None if worst is None else worst.example,
            "measures": [one.entry for one in self.measures],
        }


def _used(one: Measure) -> float:
    """The difference in tolerances; one that is no number is the worst."""
    if one.difference != one.difference:
        return float("inf")
    return one.difference / one.tolerance if one.tolerance else one.difference * 1e30


def unneeded(compared: str, reason: str) -> Found:
    """A check of what the run does not use."""
    return Found(compared, reason=reason)
