"""One Ray of our own: the bits of alternate through killed actors, who may talk to it, its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_processes import ENGINE, REWARD, actors, alive, killed

import polopt
from polopt.cluster import session, trainers
from polopt.coordination.stage import Event
from polopt.errors import EngineError, RankError, SilentRankError
from polopt.models import load as load_model
from polopt.recipe import load
from polopt.recipe.schema import Coordination
from polopt.resolution import resolve
from polopt.rollout.engines.shared import ClosedError, EngineThread
from runs import lines, metrics, wait_for, weights

pytest.importorskip("ray")
from polopt.cluster.engines import RemoteEngine, remote_engines
from polopt.cluster.hosting import Made

pytestmark = pytest.mark.timeout(900)

RECIPE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
    "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6},
    "reward": {
        "file": str(Path(__file__).parents[1] / "letters.py"),
        "function": "variety",
    },
    "kl": {"coefficient": 0.0},
    "update": {"learning_rate": 1e-3},
    "evaluation": {"prompts": 2, "every": 2},
    "run": {"steps": 4, "threads": 1, "seed": 1, "checkpoint_every": 2},
}
CLUSTER = {"coordination.mode": "cluster", "coordination.engines": 2}


@pytest.fixture(scope="module")
def a_ray() -> Iterator[None]:
    stages = resolve(load(RECIPE, CLUSTER)).stages
    with session.connected(stages, lambda _: None):
        yield


@pytest.mark.usefixtures("a_ray", "one_thread")
def test_killed_actors_change_no_bit(tmp_path: Path) -> None:
    """An engine dies and a reward worker; others take over, and the run says so."""
    alternate = polopt.train(RECIPE, flags={"run.directory": str(tmp_path / "alternate")})
    dead = list[int]()

    def kill(event: Event) -> None:
        if event.kind == "metrics" and event.values["step"] == 1:
            dead.append(killed(ENGINE))
        if event.kind == "metrics" and event.values["step"] == 2:
            dead.append(killed(REWARD))

    flags = {"run.directory": str(tmp_path / "cluster"), **CLUSTER}
    run = polopt.train(RECIPE, flags=flags, observers=[kill]).directory
    assert weights(run) == weights(alternate.directory)
    assert [line["step"] for line in metrics(run)] == [0, 1, 2, 3, 4]
    said = [line["message"] for line in lines(run, "warnings") if "actor" in line["message"]]
    assert len(said) == 1
    assert f"(process {dead[0]} on 127.0.0.1) died; another actor takes over" in said[0]
    wait_for(lambda: not any(map(alive, dead)) and actors(ENGINE) == [])


@pytest.mark.usefixtures("a_ray")
def test_only_this_machine_and_only_with_the_token() -> None:
    listening = set[str]()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.Error):  # it ended
            found = process.net_connections()
            listening |= {one.laddr.ip for one in found if one.status == "LISTEN"}
    assert listening and {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    import ray

    assert not session._lets_in_anybody(ray.get_runtime_context().gcs_address)


@pytest.fixture
def without_a_slot() -> Iterator[RemoteEngine]:
    """An engine that wants more than there is."""
    how = Made("local", autocast=False, rows=None, devices=4096)
    (engine,) = remote_engines(
        load_model("builtin:tiny", seed=0), how, Coordination(), lambda _: None
    )
    yield engine
    engine.close()


@pytest.mark.usefixtures("a_ray")
def test_an_engine_without_a_slot_is_one_line(
    without_a_slot: RemoteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polopt.cluster.engines.START", 1.0)
    line = r"^coordination\.engines: engine 1 of 1 does not start in 1 s: its slots are held by oth"
    with pytest.raises(EngineError, match=line):
        without_a_slot.publish(dict, 1)


@pytest.mark.usefixtures("a_ray")
def test_a_run_that_ends_does_not_wait_for_its_engines(
    without_a_slot: RemoteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polopt.rollout.engines.shared.TURN", 0.5)
    thread, ended = EngineThread(without_a_slot, abandon=without_a_slot.abandon), list[str]()

    def publish() -> None:
        try:
            thread.publish(dict, 1)
        except ClosedError:
            ended.append("closed")

    waiting = threading.Thread(target=publish)
    waiting.start()
    time.sleep(0.5)
    thread.close()
    waiting.join(30)
    assert ended == ["closed"]


@pytest.mark.usefixtures("a_ray")
def test_a_rank_whose_actor_died_is_named_by_ray() -> None:
    """Where the group of the ranks itself cannot tell which of them it was."""
    import ray

    class Rank:
        def follow(self, seconds: float) -> None:
            time.sleep(seconds)

    others = [ray.remote(num_cpus=0, max_restarts=0)(Rank).remote() for _ in range(3)]
    ended = [one.follow.remote(seconds) for one, seconds in zip(others, (0, 0, 60), strict=True)]
    wait_for(lambda: len(ray.wait(ended, num_returns=3, timeout=0)[0]) == 2)
    trainers._check(ended)  # two have come to their end
    ray.kill(others[2])
    line = "^rank 3 is gone: its actor died$"
    with pytest.raises(RankError, match=line), trainers._told(lambda: trainers._check(ended)):
        raise SilentRankError("rank 0: another rank is gone or says nothing")
    failed = ray.remote(num_cpus=0)(Rank).remote().follow.remote(-1)
    wait_for(lambda: bool(ray.wait([failed], timeout=0)[0]))
    with pytest.raises(RankError, match=r"^rank 1 ended: ValueError: "):
        trainers._check([failed])


def test_what_other_ranks_have_to_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local files of the recipe; a task, a built-in model and what is not there are none."""
    monkeypatch.chdir(tmp_path)  # the actor of a rank changes it
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    stages = resolve(load({**RECIPE, "data": {"source": str(rows)}}, CLUSTER)).stages
    assert trainers._local(stages) == sorted([str(rows), RECIPE["reward"]["file"]])
    assert trainers._local(resolve(load(RECIPE, CLUSTER)).stages) == [RECIPE["reward"]["file"]]
    host = trainers.TrainerHost([], str(tmp_path))
    found = host.find("polopt.api.follower:follow", [str(rows), str(tmp_path / "model")])
    assert found == f"{tmp_path / 'model'} is not there"
