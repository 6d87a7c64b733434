"""The terms that make a walk of it, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from polopt.envs.control.biped.reward import GAIT_PRESETS, gait_terms

COSTS: dict[str, float] = {
    "enough_speed": 0.4,
    "flight_cost": 0.25,
    "swing_bonus": 4.0,
    "least_swing": 0.1,
    "longest_swing": 0.3,
    "stride_bonus": 20.0,
    "longest_stride": 0.1,
    "clearance_bonus": 0.4,
    "enough_clearance": 0.02,
    "change_cost": 0.02,
}


def terms(
    speed: float = 0.0,
    contacts: Any = (True, True),
    swing: Any = (0.0, 0.0),
    clearance: Any = (0.0, 0.0),
    began: Any = (0.0, 0.0),
    ahead: Any = (0.0, 0.0),
    torques: Any = (0.0, 0.0),
    before: Any = (0.0, 0.0),
) -> dict[str, float]:
    given = [torch.tensor([x]) for x in (contacts, swing, clearance, began, ahead, torques, before)]
    found = gait_terms(torch.tensor([speed]), *given, **COSTS)
    return {name: float(value) for name, value in found.items()}


def only(name: str, value: float) -> Any:
    names = ("too fast", "flight", "swing", "stride", "clearance", "jerks")
    return pytest.approx({**dict.fromkeys(names, 0.0), name: value})


def test_standing_earns_and_costs_nothing() -> None:
    assert terms() == only("flight", 0.0)


def test_what_is_faster_than_enough_earns_no_more() -> None:
    assert terms(speed=0.3) == only("too fast", 0.0)
    assert terms(speed=0.55) == only("too fast", -0.15)


def test_a_flight_costs_while_it_lasts_and_one_foot_is_enough() -> None:
    assert terms(contacts=(False, False), swing=(0.05, 0.1)) == only("flight", -0.25)
    assert terms(contacts=(False, True), swing=(0.05, 0.0)) == only("flight", 0.0)


@pytest.mark.parametrize(
    ("seconds", "earned"),
    [(0.025, -0.3), (0.1, 0.0), (0.2, 0.4), (0.5, 0.8)],  # 4 (min(t, .3) - .1)
)
def test_a_landing_pays_for_its_swing_and_chatter_costs(seconds: float, earned: float) -> None:
    assert terms(swing=(0.0, seconds)) == only("swing", earned)


@pytest.mark.parametrize(
    ("began", "ahead", "earned"),
    [
        (-0.06, 0.08, 1.2),  # 20 · .06: from behind to the front
        (-0.2, 0.3, 2.0),  # no more than 10 cm count
        (0.05, 0.06, -1.0),  # a foot that stays in front
        (-0.2, -0.15, -2.0),  # or behind: 20 · -.1
    ],
)
def test_a_foot_that_passes_the_other_is_paid(began: float, ahead: float, earned: float) -> None:
    found = terms(swing=(0.1, 0.0), began=(began, 0.0), ahead=(ahead, 0.0))
    assert found == only("stride", earned)


@pytest.mark.parametrize(("height", "earned"), [(0.005, 0.1), (0.02, 0.4), (0.07, 0.4)])
def test_a_foot_that_was_raised_is_paid_as_it_lands(height: float, earned: float) -> None:
    assert terms(swing=(0.1, 0.0), clearance=(height, 0.0)) == only("clearance", earned)


def test_a_foot_in_the_air_is_not_paid_yet() -> None:
    found = terms(
        contacts=(False, True),
        swing=(0.2, 0.0),
        clearance=(0.02, 0.0),
        began=(-0.1, 0.0),
        ahead=(0.1, 0.0),
    )
    assert found == only("flight", 0.0)


def test_jerks_cost_by_their_squares() -> None:
    """.02 · (1² + .5²)."""
    assert terms(torques=(1.0, 0.5), before=(0.0, 1.0)) == only("jerks", -0.025)


def test_the_preset_names_every_number() -> None:
    assert GAIT_PRESETS["walk"].keys() == COSTS.keys()
