"""The controller of lag, on mismatches made by hand: one action at a time, and back again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from polopt.coordination.controller import (
    ABOVE,
    BELOW,
    Controller,
    Held,
    Rung,
    advance,
    in_words,
    ladder,
    mismatch_of,
)

TARGET = 0.1


def walked(mismatches: Sequence[float], held: Held | None = None, last: int = 3) -> list[Held]:
    """The state after each step."""
    held, states = held or Held(), list[Held]()
    for mismatch in mismatches:
        held = advance(held, mismatch, target=TARGET, last=last)
        states.append(held)
    return states


def rungs(mismatches: Sequence[float], held: Held | None = None) -> list[int]:
    return [one.rung for one in walked(mismatches, held)]


def test_the_window_is_lowered_first_then_s_then_the_rate_then_the_kl_is_raised() -> None:
    found = ladder(5, 2, rate=True, kl=True)
    assert [(r.window, r.staleness, r.rate, r.kl) for r in found] == [
        (5, 2, 1, 1),
        (2, 2, 1, 1),
        (1, 2, 1, 1),
        (1, 1, 1, 1),
        (1, 0, 1, 1),
        (1, 0, 1 / 2, 1),
        (1, 0, 1 / 4, 1),
        (1, 0, 1 / 8, 1),
        (1, 0, 1 / 8, 2),
        (1, 0, 1 / 8, 4),
        (1, 0, 1 / 8, 8),
    ]
    assert ladder(1, 0, rate=False) == [Rung(1, 0)]
    assert len(ladder(1, 1)) == 5


def test_so_many_steps_above_give_one_action() -> None:
    assert (ABOVE, BELOW) == (3, 10)
    assert rungs([0.2] * 7) == [0, 0, 1, 1, 1, 2, 2]
    assert rungs([0.2, 0.2, 0.08, 0.2, 0.2, 0.01, 0.2, 0.2]) == [0] * 8  # never three in a row
    assert rungs([0.1] * 9) == [0] * 9  # at the target is not above it


def test_the_last_rung_is_the_end() -> None:
    assert rungs([9.0] * 12)[-1] == 3
    assert rungs([9.0] * 40)[-1] == 3


def test_it_is_taken_back_after_many_steps_far_below_and_never_beyond_the_recipe() -> None:
    at_two = Held(rung=2)
    assert rungs([0.04] * 10, at_two) == [2] * 9 + [1]
    assert rungs([0.05] * 30, at_two) == [2] * 30  # half of the target is not below half of it
    assert rungs([0.04] * 9 + [0.07] + [0.04] * 9, at_two) == [2] * 19
    assert rungs([0.0] * 40, at_two)[-1] == 0


def test_what_had_to_be_taken_again_waits_twice_as_long() -> None:
    """Otherwise S would go to and fro for ever where the target lies between two rungs."""
    states = walked([0.0] * 10 + [0.2] * 3, Held(rung=1))
    assert [(one.rung, one.wait) for one in states[9:]] == [(0, 10), (0, 10), (0, 10), (1, 20)]
    again = walked([0.0] * 20 + [0.2] * 3, states[-1])
    assert [one.rung for one in again] == [1] * 19 + [0] * 3 + [1]
    assert again[-1].wait == 40
    assert walked([0.2] * 3, Held(rung=1))[-1].wait == 10  # not where nothing was undone


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ({}, None),
        ({"behaviour/kl": 0.1, "behaviour/ess": 0.9}, 0.1),
        ({"behaviour/kl": 0.1, "lag/0/kl": 0.0, "lag/2/kl": 0.3, "lag/2/ess": 0.8}, 0.3),
        ({"behaviour/kl": 0.1, "lag/2/ess": 0.49}, float("inf")),
        ({"lag/2/ess": 0.49}, None),  # nothing to compare with the target
        ({"lag/mean": 3.0, "lag/max": 4.0, "policy/kl": 9.0, "lag/2/kl/x": 9.0}, None),
    ],
)
def test_the_worst_of_all_lags_is_what_counts(line: dict[str, float], found: float | None) -> None:
    assert mismatch_of(line) == found


def test_each_action_is_in_words() -> None:
    assert in_words(Rung(4, 2), Rung(2, 2)) == "window 4 to 2"
    assert in_words(Rung(1, 2), Rung(1, 1)) == "staleness 2 to 1"
    assert in_words(Rung(1, 0), Rung(1, 0, 0.5)) == (
        "learning rate 1 to 0.5 times that of the recipe"
    )
    assert in_words(Rung(1, 0, 0.5, 2), Rung(1, 0, 0.5, 1)) == "KL 2 to 1 times that of the recipe"


def test_what_it_does_is_in_force_told_and_saved(tmp_path: Path) -> None:
    forced, told = list[Rung](), list[str]()
    rungs = ladder(2, 1)
    one = Controller(rungs, TARGET, forced.append, told.append)
    lines = [one.react({"behaviour/kl": 0.25}) for _ in range(4)]
    assert forced == [Rung(1, 1)]
    assert told == [
        "coordination.target_mismatch = 0.1: k3 0.25 is above it for 3 steps: window 2 to 1"
    ]
    # Each line has what was in force in its own step.
    assert [line["controller/window"] for line in lines] == [2, 2, 2, 1]
    assert [line["controller/actions"] for line in lines] == [0, 0, 0, 1]
    assert one.react({}) == lines[-1]  # nothing was measured: nothing is counted
    counters = one.save(tmp_path)

    other = Controller(rungs, TARGET, forced.append, told.append)
    other.load(tmp_path, counters)
    assert forced == [Rung(1, 1)] * 2
    for _ in range(2):  # the one step above before it was saved counts
        other.react({"behaviour/kl": 0.25})
    assert forced[-1] == Rung(1, 0)
    for _ in range(10):
        other.react({"behaviour/kl": 0.0, "behaviour/ess": 1.0})
    assert forced[-1] == Rung(1, 1)
    assert told[-1].endswith("k3 0 is below 0.5 times it for 10 steps: staleness 0 to 1")
    assert other.update(None, None, 0) == {}  # type: ignore[arg-type]
