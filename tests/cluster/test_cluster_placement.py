"""What each process of a cluster gets is said without Ray."""

from __future__ import annotations

import os

import pytest
from test_cluster_short import RECIPE

from polopt.cluster.nodes import Asked
from polopt.cluster.placement import ADDRESS, placement, reward_actors
from polopt.isolated import CONCURRENT
from polopt.recipe import StageRecipe, load
from polopt.resolution import resolve

HERE = "an actor of Ray each, on this machine"


def stage(**flags: object) -> StageRecipe:
    settings = {f"coordination.{name}": value for name, value in flags.items()}
    (found,) = resolve(load(RECIPE, {"rollout.engine": "vllm", **settings})).stages
    return found


def test_an_engine_has_a_slot_for_each_of_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    one = stage(mode="cluster", engines=4, engine_devices=2, trainers=3)
    assert placement(one, cuda=True) == [
        {"who": "trainer", "count": 1, "where": "this process", "gets": "1 GPU"},
        {"who": "other trainers", "count": 2, "where": HERE, "gets": "1 GPU each"},
        {"who": "engines", "count": 4, "where": HERE, "gets": "2 GPUs each"},
        {
            "who": "rewards",
            "count": reward_actors(os.cpu_count() or 1),
            "where": HERE,
            "gets": "no slot: at most one for each processor",
        },
    ]
    (_, engines, _) = placement(stage(mode="cluster", engine_devices=1), cuda=False)
    assert engines["gets"] == "1 processor slot each"
    assert [reward_actors(count) for count in (1, 32, 500)] == [CONCURRENT, 32, 64]


def test_other_modes_place_nothing() -> None:
    assert placement(stage(mode="split"), cuda=True) == []


@pytest.mark.parametrize(
    ("asked", "slots", "lacks"),
    [
        (Asked(2, 2, 1, cuda=True), [2, 3], None),
        (Asked(2, 2, 2, cuda=True), [2, 3], None),  # the other trainer has what is left
        (Asked(2, 2, 3, cuda=True), [2, 3], "engines: 2 is not allowed: the cluster has 5 GPUs"),
        (Asked(2, 2, 1, cuda=True), [1, 1, 1, 1], "each needs 2 of one node"),
        (Asked(1, 1, 4, cuda=True), [1, 1], "trainers: 4 is not allowed: the cluster has 2 GPUs"),
        (Asked(2, 1, 2, cuda=False), [2], None),  # on processors they share
        (Asked(1, 1, 3, cuda=False), [2], "trainers: 3 is not allowed"),
    ],
)
def test_engines_and_trainers_have_room_or_not(
    asked: Asked, slots: list[int], lacks: str | None
) -> None:
    found = asked.lacking(slots, free=False)
    assert (found is None) if lacks is None else (found is not None and lacks in found)
