"""Settings that turn out to do nothing, by counting in the metrics of a run."""

from __future__ import annotations

from typing import Any

import pytest

from polopt.recipe import StageRecipe, dump, load
from polopt.resolution import did_nothing, did_nothing_in, inert, resolve
from polopt.resolution.counted import ENOUGH

MOVES = {"update.epochs": 2}  # so that the ratio moves
SOUND = {
    "policy/clip_fraction_low": 0.01,
    "policy/clip_fraction_high": 0.02,
    "kl/measured": 4.0,
    "response/length": 10.0,
    "advantage_std": 1.0,
}


def stage(**flags: Any) -> StageRecipe:
    tables = {"model": {"path": "builtin:tiny"}, "data": {"source": "task:chain_sum"}}
    flags = {"algorithm": "grpo", "kl.coefficient": 0.1, **flags}
    return resolve(load(tables, flags), own_reward=True).stages[0]


def said(one: StageRecipe, steps: int = ENOUGH, **measured: float) -> list[str]:
    lines = [{"stage": "train", "stage_step": 0, "eval/accuracy": 0.0}]
    lines += [{"stage": "train", "stage_step": n + 1, **SOUND, **measured} for n in range(steps)]
    return did_nothing(one, lines)


@pytest.mark.parametrize(
    ("flags", "measured", "line"),
    [
        (
            MOVES,
            {"policy/clip_fraction_low": 0.0},
            "objective.clip_low = 0.2 did nothing in 20 steps: no ratio went below it where that "
            "is held back",
        ),
        (
            {"algorithm": "dapo", "rollout.resample_rounds": 2, "kl.coefficient": 0.0, **MOVES},
            {"resampled_groups": 0.0},
            "rollout.resample_rounds = 2 did nothing in 20 steps: no group was replaced",
        ),
        (
            {"credit.drop_truncated": True, **MOVES},
            {"response/truncated": 0.0},
            "credit.drop_truncated = true did nothing in 20 steps: no response was cut",
        ),
        (
            {"kl.controller": "ppo", "kl.target": 6.0, **MOVES},
            {},
            "kl.target = 6.0 did nothing in 20 steps: the KL never reached it, 4 at most",
        ),
        (  # 0.1 x 0.4 / 10 = 0.004 at a token, of a spread of 1
            MOVES,
            {"kl/measured": 0.4},
            "kl.coefficient = 0.1 did nothing in 20 steps: it pulls at a token with 0.004 at most, "
            "and advantages spread by 1",
        ),
        (
            MOVES,
            {"reward/format": 0.5, "reward_std/format": 0.0},
            "reward format did nothing in 20 steps: it was 0.5 all the time",
        ),
    ],
    ids=["clip", "filter", "truncated", "target", "coefficient", "reward"],
)
def test_what_did_nothing(flags: dict[str, Any], measured: dict[str, float], line: str) -> None:
    one = stage(**flags)
    assert said(one, **measured) == [line]
    assert said(one, steps=ENOUGH - 1, **measured) == []
    acted = {name: value + 0.3 + 60 * (name == "kl/measured") for name, value in measured.items()}
    lines = [{"stage_step": n + 1, **SOUND, **measured} for n in range(ENOUGH)]
    lines += [{"stage_step": ENOUGH + 1, **SOUND, **(acted or {"kl/measured": 7.0})}]
    assert did_nothing(one, lines) == []  # once is enough


def test_what_acts_is_not_told() -> None:
    assert said(stage(**MOVES)) == []


def test_what_is_known_before_the_run_is_not_told_again() -> None:
    """With one optimiser step the ratio is 1: that no token was clipped says nothing new."""
    once = stage()
    assert any(line.startswith("objective.clip_low has no effect") for line in inert(once))
    zero = {"policy/clip_fraction_low": 0.0, "policy/clip_fraction_high": 0.0}
    assert said(once, **zero) == []


def test_without_its_metric_nothing_is_shown() -> None:
    lines = [{"stage_step": n + 1, "reward/mean": 0.5} for n in range(50)]
    assert did_nothing(stage(**MOVES), lines) == []
    assert did_nothing(stage(**MOVES), []) == []


def test_a_reward_that_is_measured_and_not_earned_may_be_constant() -> None:
    tables = {
        "algorithm": "grpo",
        "model": {"path": "builtin:tiny"},
        "data": {"source": "task:chain_sum"},
        "rewards": [{"verifier": "task", "weight": 0.0}, {"verifier": "task", "name": "other"}],
    }
    one = resolve(load(tables), own_reward=True).stages[0]
    flat = {"reward_std/task": 0.0, "reward_std/other": 0.0}
    found = said(one, **{"reward/task": 1.0, "reward/other": 0.0, "reward/mean": 0.0, **flat})
    assert [line.split(":")[0] for line in found] == ["reward other did nothing in 20 steps"]


def test_a_reward_that_ranks_within_its_group_has_a_constant_mean_and_acts() -> None:
    """Ranks 0, 1/3, 2/3, 1 in every group: their mean is always 1/2, their deviation √5/6."""
    one = stage(**MOVES)
    assert said(one, **{"reward/rank": 0.5, "reward_std/rank": 5**0.5 / 6}) == []
    assert said(one, **{"reward/rank": 0.5}) == []  # of an older version: nobody knows


def test_once_is_enough_for_a_spread_too() -> None:
    flat = {"reward/rank": 0.5, "reward_std/rank": 0.0}
    lines = [{"stage_step": n + 1, **SOUND, **flat} for n in range(ENOUGH)]
    assert len(did_nothing(stage(**MOVES), lines)) == 1
    lines[7] |= {"reward_std/rank": 0.1}
    assert did_nothing(stage(**MOVES), lines) == []
    del lines[7]["reward_std/rank"]
    assert did_nothing(stage(**MOVES), lines) == []


def test_of_a_reward_per_token_a_sum_that_stays_says_nothing() -> None:
    tables = {
        "algorithm": "grpo",
        "model": {"path": "builtin:tiny"},
        "data": {"source": "task:chain_sum"},
        "rewards": [
            {"file": "letters.py", "function": "variety", "per_token": True},
            {"verifier": "task"},
        ],
    }
    one = resolve(load(tables), own_reward=True).stages[0]
    flat = {f"reward{kind}/{n}": 0.0 for kind in ("", "_std") for n in ("variety", "task")}
    assert [line.split(":")[0] for line in said(one, **flat)] == [
        "reward task did nothing in 20 steps"
    ]


def test_a_run_is_read_by_its_configuration() -> None:
    recipe = resolve(
        load(
            {
                "algorithm": "grpo",
                "model": {"path": "builtin:tiny"},
                "data": {"source": "task:chain_sum"},
                "update": {"epochs": 2},
            }
        ),
        own_reward=True,
    )
    config = {"recipe": dump(recipe), "reward_from_python": "own"}
    zero = {"policy/clip_fraction_low": 0.0, "stage": recipe.stages[0].name}
    lines = [{"stage_step": n + 1, **zero} for n in range(ENOUGH)]
    (found,) = did_nothing_in(config, lines).values()
    assert len(found) == 1
    assert did_nothing_in({}, lines) == {}
    assert did_nothing_in({"recipe": {"nonsense": 1}}, lines) == {}
