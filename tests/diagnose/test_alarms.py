"""Alarms ring after a collapse has begun and not before; one noisy step never rings."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from collapses import AFTER, ONSET, SIMULATED, Collapse

from polopt.choices.alarms import Alarm
from polopt.choices.alarms import Alarms as Section
from polopt.diagnose.alarms import Alarms, replayed, standing, thresholds
from polopt.diagnose.alarms.ringing import CALM, CONFIRMED, Held, advance
from polopt.diagnose.alarms.rules import AT_EVALUATIONS, RULES
from polopt.recipe import load
from polopt.recipe.fields import fact
from polopt.resolution import resolve

DEFAULTS = {name: float(getattr(Section(), name)) for name in RULES}


def rung(collapse: Collapse, seed: int, steps: int) -> list[tuple[int, str]]:
    """Step and name of every alarm in the first steps of a simulation."""
    alarms, found = Alarms(DEFAULTS), list[tuple[int, str]]()
    for step, (line, earned) in enumerate(islice(collapse(np.random.default_rng(seed)), steps)):
        alarms.earned(earned)
        found += [(step, one.name) for one in alarms.hear({"stage_step": step, **line})]
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("collapse", "name"), SIMULATED.items(), ids=lambda x: getattr(x, "__name__", x)
)
def test_a_collapse_is_noticed_within_twenty_steps(
    collapse: Collapse, name: str, seed: int
) -> None:
    found = rung(collapse, seed, ONSET + AFTER + 1)
    assert all(step > ONSET for step, _ in found), "before anything was wrong"
    assert name in [one for _, one in found]


def test_what_is_sound_does_not_ring() -> None:
    """The same simulations up to their onset, with other seeds: two of each."""
    for collapse in SIMULATED:
        for seed in (11, 12):
            assert rung(collapse, seed, ONSET) == [], collapse.__name__


def test_every_alarm_has_a_rule_a_threshold_and_a_meaning() -> None:
    own = {name for name in Section.model_fields if fact(f"alarms.{name}", Alarm) is not None}
    assert own == RULES.keys() == Section.model_fields.keys() - {"policy", "off"}
    assert RULES.keys() > AT_EVALUATIONS


@pytest.mark.parametrize("spike", [1, 2])
def test_a_few_noisy_steps_never_ring(spike: int) -> None:
    """A gradient a thousand times as long, every twelfth step, one or two at a time."""
    alarms = Alarms({"gradient": 10.0})
    for step in range(200):
        norm = 1000.0 if step % 12 < spike else 1.0
        assert alarms.hear({"policy/grad_norm": norm}) == []


def test_an_alarm_rings_once_an_onset() -> None:
    held = Held()
    ringing = list[bool]()
    readings = [True] * CONFIRMED + [False, True] * 5 + [False] * CALM + [True] * CONFIRMED
    for holds in readings:
        before, held = held, advance(held, holds, CONFIRMED)
        ringing.append(held.rings and not before.rings)
    onsets = [place for place, begins in enumerate(ringing) if begins]
    assert onsets == [CONFIRMED - 1, len(readings) - 1]


def test_what_is_heard_again_is_what_was_heard() -> None:
    """After a resume: the alarms stand where they stood, and say nothing twice."""
    steps = list(islice(learnt(), 60))
    lines = [{"step": n, "stage_step": n, **line} for n, (line, _) in enumerate(steps)]
    prompts = [{"step": n, "earned": earned} for n, (_, earned) in enumerate(steps) if earned]
    alone = Alarms(DEFAULTS)
    found = list[Any]()
    for n, line in enumerate(lines):
        alone.earned(steps[n][1])
        found.append([one.name for one in alone.hear(line)])
    assert any(found[:45]) or any(found)
    for cut in (20, 45, 55):
        again = Alarms(DEFAULTS)
        replayed(again, lines[:cut], [p for p in prompts if p["step"] < cut])
        later = list[Any]()
        for n in range(cut, 60):
            again.earned(steps[n][1])
            later.append([one.name for one in again.hear(lines[n])])
        assert later == found[cut:]


def learnt() -> Any:
    return next(c for c in SIMULATED if SIMULATED[c] == "overfitting")(np.random.default_rng(1))


def test_steps_that_were_rolled_back_are_not_heard_again() -> None:
    lines = [{"step": step} for step in range(9)]
    kept = standing(lines, [{"step": 5, "back_to": 2}, {"step": 7, "back_to": 2}])
    assert [line["step"] for line in kept] == [0, 1, 2, 8]


def test_a_metric_that_is_missing_says_nothing() -> None:
    """Lines without a number, with NaN's stand-in None, text, and one row alone."""
    alarms = Alarms(DEFAULTS)
    assert alarms.hear({}) == []
    assert alarms.hear({"stage": "rl", "reward/mean": None, "policy/entropy": "low"}) == []
    for _ in range(40):
        assert alarms.hear({"policy/entropy": 0.0, "policy/grad_norm": 0.0}) == []


def test_alarms_of_a_stage_are_those_that_have_something_to_look_at() -> None:
    def of(algorithm: str, **tables: Any) -> set[str]:
        tables = {"model": {"path": "builtin:tiny"}, "data": {"source": "task:chain_sum"}} | tables
        recipe = resolve(load({"algorithm": algorithm, **tables}), own_reward=True)
        return set(thresholds(recipe.stages[0]))

    assert of("sft") == {"gradient"}
    assert of("sft", evaluation={"every": 2}) == {"gradient", "held_out"}
    assert "critic" in of("ppo") and "critic" not in of("grpo")
    assert "kl" in of("grpo") and "kl" not in of("grpo", kl={"coefficient": 0.0})
    assert "length" not in of("grpo", alarms={"off": ["length"]})
    control = {"model": {"path": "builtin:mlp"}, "data": {"source": "control:cartpole"}}
    assert of("ppo", **control) == {"gradient", "critic"}


def test_the_sentence_says_what_was_measured_what_it_means_and_what_to_try() -> None:
    alarms = Alarms({"truncation": 0.3})
    told = [one for _ in range(12) for one in alarms.hear({"response/truncated": 0.5})]
    assert [one.message for one in told] == [
        "alarm truncation: 0.5 of the answers are cut at the length limit (alarm above 0.3): the "
        "limit decides what an answer earns; try a larger rollout.max_new_tokens, "
        "credit.drop_truncated, credit.overlong_penalty; if answers never ended, a longer warm "
        "start"
    ]
