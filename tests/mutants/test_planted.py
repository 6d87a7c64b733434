"""The list of planted bugs does not rot: each stands in the source once, and leaves it Python."""

from __future__ import annotations

import pytest
from plant import ROOT, Mutant, mutated, planted, source_of

LIST = planted()


@pytest.mark.parametrize("mutant", LIST, ids=[one["name"] for one in LIST])
def test_it_can_be_planted(mutant: Mutant) -> None:
    file = source_of(mutant)
    compile(mutated(mutant, file.read_text(encoding="utf-8")), str(file), "exec")
    assert mutant["suffers"] and mutant["tests"]
    assert all((ROOT / test).exists() for test in mutant["tests"])


def test_there_are_sixty_of_them() -> None:
    assert len({one["name"] for one in LIST}) == len(LIST) >= 60
