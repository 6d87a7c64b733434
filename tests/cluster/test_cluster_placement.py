"""What each process of a cluster gets is said without Ray."""

from __future__ import annotations

import pytest
from test_cluster_short import RECIPE

from polopt.cluster.placement import ADDRESS, placement
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
        {"who": "rewards", "count": CONCURRENT, "where": HERE, "gets": "no slot: what is free"},
    ]
    (_, engines, _) = placement(stage(mode="cluster", engine_devices=1), cuda=False)
    assert engines["gets"] == "1 processor slot each"


def test_other_modes_place_nothing() -> None:
    assert placement(stage(mode="split"), cuda=True) == []
