"""A Ray cluster of three nodes: the bits of alternate, whoever is killed, hung or lost with a node.

The cluster is used by all tests; ``make test-cluster`` runs them.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_processes import ENGINE, REWARD, actors, alive
from test_cluster_short import CLUSTER, RECIPE

import polopt
from polopt.cluster import session
from polopt.cluster.gpus import Holder, reserved
from polopt.cluster.nodes import Asked, check_nodes, check_slots, differing, versions
from polopt.coordination.stage import Event
from polopt.errors import EngineError, RecipeError, RewardError, with_hints
from polopt.recipe import load
from polopt.record.directory import begun
from polopt.resolution import resolve
from runs import metrics, steps_taken, wait_for, weights

pytest.importorskip("ray")
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600), pytest.mark.usefixtures("one_thread")]

STEPS = 24
LONG = {"run.steps": STEPS, "evaluation.every": STEPS, "rollout.prompts_per_step": 4}
KILLS = 10  # in each of the tests below, with five seeds each
NOTICED = 30.0  # seconds


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text("0123456789abcdef" * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        yield file


@pytest.fixture(scope="module")
def nodes(token: Path) -> Iterator[Any]:
    """A head with one slot, two nodes with one each, one of them with two GPUs that are none."""
    import ray
    from ray.cluster_utils import Cluster

    session._read_again(ray)
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "num_gpus": 2})
    cluster.add_node(**small)
    cluster.add_node(**small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        stages = resolve(load(RECIPE, CLUSTER)).stages
        with session.connected(stages, lambda _: None):
            yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def alternate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("alternate") / "run"
    return polopt.train(RECIPE, flags={"run.directory": str(directory), **LONG}).directory


class Fault(threading.Thread):
    """Does harm to a run, again and again, each time at some moment of it."""

    def __init__(self, harm: Callable[[random.Random], None], seed: int, times: int) -> None:
        super().__init__(daemon=True)
        self._harm, self._rng, self._left = harm, random.Random(seed), times
        self.ended = threading.Event()
        self.done = list[float]()  # when

    def run(self) -> None:
        while len(self.done) < self._left and not self.ended.is_set():
            time.sleep(self._rng.random() * 2)
            if not self.ended.is_set():
                self._harm(self._rng)
                self.done.append(time.monotonic())


def kill(title: str, count: int) -> Callable[[random.Random], None]:
    """Kill one of so many actors, when all of them are there."""

    def harm(rng: random.Random) -> None:
        deadline = time.monotonic() + NOTICED * 4
        while len(found := actors(title)) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        if found:
            rng.choice(found).kill()

    return harm


def slots() -> int:
    import ray

    return int(ray.cluster_resources().get("CPU", 0))


def through(fault: Fault, directory: Path, silent: float = 0.0, **flags: Any) -> list[str]:
    """A run that goes on beside a fault, and again where it ended in one line; what was said.

    Args:
        fault: begins with it.
        directory: of the run.
        silent: seconds in which an engine need not answer.
        flags: of the run.
    """
    fault.start()
    flags = {"run.directory": str(directory), **LONG, **CLUSTER, **flags}
    said = list[str]()

    def hear(event: Event) -> None:
        if event.kind == "warning":
            said.append(event.values["message"])
            if "another actor takes over" in said[-1] and fault.done:
                assert time.monotonic() - fault.done[-1] < silent + NOTICED

    try:
        while True:
            try:
                if begun(directory):
                    polopt.resume(directory, observers=[hear])
                else:
                    polopt.train(RECIPE, flags=flags, observers=[hear])
                break
            except (EngineError, RewardError) as error:  # of one that was killed too often
                assert re.search(r"engine \d of|its process died", str(error))
                assert begun(directory) == ("polopt resume" in with_hints(error))
                said.append(str(error))
    finally:
        fault.ended.set()
        fault.join()
    wait_for(lambda: actors(ENGINE) == [])
    return said


def test_the_bits_of_alternate_over_nodes(nodes: Any, alternate: Path, tmp_path: Path) -> None:
    import ray

    there = set[str]()

    def look(event: Event) -> None:
        if event.kind == "metrics" and event.values["step"] == 2:
            from ray.util.state import list_actors  # noqa: F401  # what users look at

            table = ray._private.state.actors().values()
            there.update(
                one["Address"]["NodeID"]
                for one in table
                if one["State"] == "ALIVE" and one["ActorClassName"] == "EngineHost"
            )

    flags = {"run.directory": str(tmp_path / "run"), **LONG, **CLUSTER}
    run = polopt.train(RECIPE, flags=flags, observers=[look]).directory
    assert weights(run) == weights(alternate)
    assert len(there) == 2


@pytest.mark.parametrize("seed", range(5))
def test_killed_engines(seed: int, nodes: Any, alternate: Path, tmp_path: Path) -> None:
    left, number = KILLS, 0
    while left > 0:
        fault = Fault(kill(ENGINE, 2), seed * 100 + number, left)
        said = through(fault, tmp_path / f"run-{number}")
        assert weights(tmp_path / f"run-{number}") == weights(alternate)
        # One that is killed where nobody asks it any more is missed by nobody.
        noticed = [line for line in said if re.search("another actor takes|and so did", line)]
        assert len(fault.done) - 2 <= len(noticed) <= len(fault.done)
        left, number = left - len(fault.done), number + 1


@pytest.mark.parametrize("seed", range(5))
def test_killed_reward_workers(seed: int, nodes: Any, alternate: Path, tmp_path: Path) -> None:
    left, number = KILLS, 0
    while left > 0:
        fault = Fault(kill(REWARD, 1), 1000 + seed * 100 + number, left)
        through(fault, tmp_path / f"run-{number}")
        assert weights(tmp_path / f"run-{number}") == weights(alternate)
        left, number = left - len(fault.done), number + 1


def test_an_engine_that_stands_still_is_replaced(
    nodes: Any, alternate: Path, tmp_path: Path
) -> None:
    stopped = list[int]()

    def stop(rng: random.Random) -> None:
        wait_for(lambda: steps_taken(tmp_path / "run") >= 2)
        stopped.append(rng.choice(actors(ENGINE)).pid)
        os.kill(stopped[-1], signal.SIGSTOP)

    flags = {"coordination.patience": 120.0}  # before the run gives up; of an engine, half of it
    said = through(Fault(stop, 1, 1), tmp_path / "run", silent=60.0, **flags)
    assert any("did not answer in 60 s; another actor takes over" in line for line in said)
    assert weights(tmp_path / "run") == weights(alternate)
    wait_for(lambda: not alive(stopped[0]))


def test_engines_that_always_die_end_the_run_in_one_line(nodes: Any, tmp_path: Path) -> None:
    ended = threading.Event()

    def kill_all() -> None:
        while not ended.is_set():
            for process in actors(ENGINE):
                process.kill()
            time.sleep(0.05)

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with pytest.raises(
            EngineError,
            match=r"coordination.engines: engine \d of 2.* died, and so did 3 actors before it",
        ):
            polopt.train(RECIPE, flags={"run.directory": str(tmp_path / "run"), **CLUSTER})
    finally:
        ended.set()
        killer.join()


@pytest.mark.parametrize("seed", range(10))
def test_a_node_is_lost(seed: int, nodes: Any, alternate: Path, tmp_path: Path) -> None:
    lost = list[float]()

    def remove(rng: random.Random) -> None:
        step = rng.randint(1, STEPS // 2)  # Ray says nothing of a node that an actor starts on
        wait_for(lambda: steps_taken(tmp_path / "run") > step)
        time.sleep(rng.random())
        nodes.remove_node(rng.choice(sorted(nodes.worker_nodes, key=id)), allow_graceful=False)
        lost.append(time.monotonic())

    try:
        through(Fault(remove, seed, 1), tmp_path / "run")  # two nodes are left for two engines
    finally:
        nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20)  # ends with the thread, else
        wait_for(lambda: slots() == 3, seconds=120)  # Ray takes its time to notice
    assert lost and weights(tmp_path / "run") == weights(alternate)
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(STEPS + 1))


def test_what_the_cluster_has_not(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    with pytest.raises(
        RecipeError,
        match=r"coordination.engines: 4 is not allowed: the cluster has 3 processor slots, and "
        "each needs one",
    ):
        check_slots(Asked(4, 1, 1, cuda=False))
    with pytest.raises(RecipeError, match="and each needs 2 of one node"):  # there are three of one
        check_slots(Asked(1, 2, 1, cuda=False))
    with reserved("1"):
        check_slots(Asked(1, 1, 1, cuda=True))
        with pytest.raises(RecipeError, match="has 1 GPU, and each needs one"):
            check_slots(Asked(2, 1, 1, cuda=True))
        with pytest.raises(RecipeError, match=r"engines: 1 .* each beside 1 other trainer needs"):
            check_slots(Asked(1, 1, 2, cuda=True))
        with pytest.raises(RecipeError, match=r"coordination.trainers: 3 is not allowed: the clus"):
            check_slots(Asked(1, 1, 3, cuda=True))
        monkeypatch.setattr("polopt.cluster.nodes.FREED", 1.0)
        holder: Any = ray.remote(Holder)
        other = holder.options(num_gpus=1, num_cpus=0).remote()
        ray.get(other.names.remote())
        with pytest.raises(
            RecipeError, match=r"has 0 free GPUs, .* \(waited 1 s for others to end"
        ):
            check_slots(Asked(1, 1, 1, cuda=True))
        ray.kill(other)
        monkeypatch.undo()
        check_slots(Asked(1, 1, 1, cuda=True))  # when Ray has heard of it


def test_other_versions_on_a_node(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_nodes()
    here = versions()
    monkeypatch.setattr("polopt.cluster.nodes.differing", lambda _, there: differing(here, there))
    here["torch"] = "9.9"
    line = r"coordination.mode: the node [\d.]+ \(\w+\) has \S+ where torch 9.9 is needed"
    with pytest.raises(EngineError, match=line):
        check_nodes()


def test_the_gpu_of_the_trainer_is_given_to_nobody(nodes: Any) -> None:
    import ray

    with reserved("1"):
        other = ray.remote(num_gpus=1)(lambda: ray.get_gpu_ids())
        assert ray.get([other.remote() for _ in range(3)]) == [[0]] * 3


def test_a_cluster_of_others_is_joined_with_its_token_alone(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not session._lets_in_anybody(nodes.address)
    with pytest.raises(EngineError, match=r"RAY_ADDRESS: no Ray answers at 127\.0\.0\.1:1 "):
        session._lets_in_anybody("127.0.0.1:1")


def test_differing_versions_are_named() -> None:
    assert differing({"python": "3.11.7", "ray": "2.60.0"}, {"python": "3.11.7"}) == (
        "has no ray where ray 2.60.0 is needed, that of the trainer"
    )
    assert differing({"ray": "2.60.0"}, {"ray": "2.60.0", "torch": "2.1"}) is None
    assert re.fullmatch(r"3\.\d+\.\d+.*", versions()["python"] or "")
