"""What few runs say together, by numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from polopt.diagnose.compare.statistics import better, estimate, interval, iqm

INF = float("inf")


def test_the_interquartile_mean_of_eight() -> None:
    """The two best and the two worst are left out: (3 + 4 + 5 + 6)/4."""
    assert iqm([7, 1, 100, 3, 2, 5, 6, 4]) == 4.5
    assert iqm([1.0, 2.0, 6.0]) == 3.0  # of three runs none is left out
    assert iqm([0.0, 2.0, 4.0, 100.0]) == 3.0  # of four one at either end


def test_the_probability_of_improvement() -> None:
    """Of 1, 2 over 0, 2: 1 > 0, 1 < 2, 2 > 0, 2 = 2, so (2 + 1/2)/4."""
    assert better([1, 2], [0, 2]) == 0.625
    assert better([0, 2], [1, 2]) == 0.375
    assert better([1, 2, 3], [1, 2, 3]) == better([5, 5], [5]) == 0.5
    assert better([2, 3], [0, 1]) == 1.0
    assert better([1, 2], [0, 0, 2]) == pytest.approx((2 + 2.5) / 6)  # arms of other sizes


def test_a_run_that_failed_is_worse_than_any_that_ended() -> None:
    """-∞ and 1 over -∞ and 1/2: a tie, a loss, a win, a win."""
    assert better([-INF, 1.0], [-INF, 0.5]) == (0.5 + 0 + 1 + 1) / 4


def test_the_bootstrap_of_runs_that_agree_has_no_width() -> None:
    assert estimate([0.5, 0.5, 0.5]) == {"value": 0.5, "interval": [0.5, 0.5]}
    tied = estimate([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], statistic=better)
    assert tied == {"value": 0.5, "interval": [0.5, 0.5]}


def test_runs_are_drawn_inside_their_own_arm() -> None:
    """Drawn from both together, runs of the worse arm would be taken for ones of the better."""
    found = estimate([2.0, 2.1, 2.2], [1.0, 1.1, 1.2], statistic=better)
    assert found == {"value": 1.0, "interval": [1.0, 1.0]}


def test_the_ends_of_the_interval_of_a_mean_by_hand() -> None:
    """Means of three draws from 0, 0, 3: 0 with (2/3)³ = 0.296, 3 with 1/27 = 0.037.

    So 2.5 % lie at 0, and 97.5 % are reached only at 3.
    """
    assert estimate([0.0, 0.0, 3.0]) == {"value": 1.0, "interval": [0.0, 3.0]}


def test_points_of_a_curve_come_from_the_same_draw() -> None:
    """A curve and the same curve shifted by 1: so are the ends of its interval."""
    runs = np.array([[0.0], [1.0], [2.0], [7.0]])
    ends = interval(np.hstack([runs, runs + 1.0]))
    assert ends is not None
    for end in ends:
        assert end[1] - end[0] == pytest.approx(1.0)


@pytest.mark.parametrize("few", [[], [0.5], [0.1, 0.9]])
def test_fewer_than_three_runs_have_no_interval(few: list[float]) -> None:
    found = estimate(few)
    assert found["interval"] is None and (found["value"] is None) == (not few)
    assert estimate([1.0, 2.0, 3.0], few, statistic=better)["interval"] is None
