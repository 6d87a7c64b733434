"""Real runs, recorded: sound ones of five rows ring never, collapses within twenty steps."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from alarm_runs import COLLAPSES, RECORDED, SOUND, Columns, columns, made, of_few_prompts
from collapses import AFTER

from polopt.choices.alarms import Alarms as Section
from polopt.diagnose.alarms import Alarms
from polopt.diagnose.alarms.rules import RULES
from runs import lines

RUNS: dict[str, Columns] = json.loads(RECORDED.read_text(encoding="utf-8"))
DEFAULTS = {name: float(getattr(Section(), name)) for name in RULES}


# Committed before the runs named "further" were made; whoever changes one makes new ones.
STOOD = {
    "entropy": 0.1,
    "held_out": 3.0,
    "length": 1.5,
    "repetition": 0.2,
    "filler": 0.3,
    "no_signal": 0.9,
    "truncation": 0.3,
    "kl": 0.5,
    "gradient": 10.0,
    "critic": 0.5,
    "effective_sample": 0.5,
    "mismatch": 0.02,
    "overfitting": 0.7,
    "hogging": 0.8,
    "diversity": 0.3,
}


def test_the_thresholds_are_those_that_stood_before_the_further_runs() -> None:
    assert DEFAULTS == STOOD


def rung(recorded: Columns) -> list[tuple[int, str]]:
    """Stage step and name of every alarm of a run."""
    alarms, found = Alarms(DEFAULTS), list[tuple[int, str]]()
    for values in zip(*recorded.values(), strict=True):
        line = {k: v for k, v in zip(recorded, values, strict=True) if v is not None}
        found += [(round(line["stage_step"]), one.name) for one in alarms.hear(line)]
    return found


def test_what_is_recorded_is_what_there_is() -> None:
    assert {*SOUND, *COLLAPSES} <= RUNS.keys()
    for name in SOUND:
        accuracy = [x for x in RUNS[name]["eval/accuracy"] if x is not None]
        assert accuracy[0] < 0.6 and accuracy[-1] > 0.9, "it learnt"


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_run_does_not_ring(name: str) -> None:
    assert rung(RUNS[name]) == []


@pytest.mark.parametrize("name", SOUND)
def test_nor_while_it_is_not_known_what_is_right(name: str) -> None:
    """Without accuracy nothing says that the policy is done; the reward is all there is."""
    known = {k: v for k, v in RUNS[name].items() if "accuracy" not in k}
    # Solved, nearly all groups are right with every answer: that is what the alarm says.
    assert {alarm for _, alarm in rung(known)} <= {"no_signal", "filler"}


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_collapse_rings_within_twenty_steps(name: str) -> None:
    _, _, onset, alarm = COLLAPSES[name]
    found = rung(RUNS[name])
    assert all(step > onset for step, _ in found)
    assert alarm in [one for step, one in found if step <= onset + AFTER]


# As docs/alarms.md tells them; one of the sound ones rang.
TOLD = {
    "further: gspo, seed 3": [],
    "further: sft and dpo": [],
    "further: reward model": [(26, "gradient")],
    "further: ppo on cartpole": [],
    "further: sac on pendulum": [],
    "further: short answers are paid": [(13, "filler"), (14, "held_out"), (19, "no_signal")],
    "further: ten times the learning rate": [
        (12, "filler"),
        (19, "truncation"),
        (20, "repetition"),
        (22, "no_signal"),
        (25, "length"),
        (40, "length"),
    ],
}


@pytest.mark.parametrize("name", TOLD)
def test_the_further_runs_ring_as_they_are_told(name: str) -> None:
    assert rung(RUNS[name]) == TOLD[name]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_runs_made_anew_ring_alike(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = Path(tmp_path_factory.mktemp("alarms"))
    for name in SOUND:
        assert rung(columns(made(name, directory))) == [], name
    for name, (_, _, onset, alarm) in COLLAPSES.items():
        found = rung(columns(made(name, directory)))
        assert all(step > onset for step, _ in found), name
        assert alarm in [one for step, one in found if step <= onset + AFTER], name


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("row", ["grpo", "rloo", "ppo"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_few_prompts_that_are_asked_often_do_not_ring(row: str, seed: int, tmp_path: Path) -> None:
    """What is learnt on them holds for others: neither over-fitting nor a few that hog the gain."""
    run = of_few_prompts(row, seed, tmp_path)
    earned = [line["earned"] for line in lines(run, "prompts") if "earned" in line]
    assert max(Counter(key for one in earned for key in one).values()) > 10
    assert {one["name"] for one in lines(run, "alarms")} & {"overfitting", "hogging"} == set()
