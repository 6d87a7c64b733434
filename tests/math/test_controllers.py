"""Coefficients that follow a metric."""

import pytest

from polopt.math.controllers import fixed, ppo_update, ziegler_update


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (12.0, 0.100512),  # error 1 clipped to .2: .1(1 + .2·256/10000)
        (6.0, 0.1),
        (0.0, 0.099488),
        (6.6, 0.1 * (1 + 0.1 * 0.0256)),
    ],
)
def test_ziegler_by_hand(kl, expected):
    beta = ziegler_update(0.1, kl, 256.0, target=6.0, horizon=10_000.0)
    assert beta == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(0.0, 0.5), (0.0066, 0.5), (0.0067, 1.0), (0.015, 1.0), (0.0151, 2.0)],
)
def test_ppo_halves_and_doubles_strictly_outside(kl, expected):
    assert ppo_update(1.0, kl, 256.0, target=0.01) == expected


def test_fixed_stays():
    assert fixed(0.3, 100.0, 256.0) == 0.3
