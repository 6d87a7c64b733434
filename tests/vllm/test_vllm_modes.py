"""vLLM beside the trainer: in a thread, and in an actor of Ray, alone or on several devices."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from serving_models import TOLERANCE, change, farthest, gone, request, small, weights

import polopt
from polopt.coordination.stage import Event
from polopt.rollout.engines import answered
from polopt.rollout.engines.interface import Place
from polopt.rollout.engines.vllm import VllmEngine
from runs import lines

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
STEPS = 6
KILLS = 5
RECIPE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:small"},
    "data": {"source": "task:chain_sum", "parameters": {"terms": 3, "modulus": 5}},
    "reward": {"verifier": "task"},
    "rollout": {
        "engine": "vllm",
        "prompts_per_step": 4,
        "group_size": 4,
        "max_new_tokens": 16,
    },
    "evaluation": {"prompts": 4},
    "run": {"steps": STEPS, "threads": 1, "seed": 1},
}


@pytest.mark.parametrize(
    ("mode", "staleness"), [("split", 0), ("split", 1), ("buffered", 0), ("buffered", 2)]
)
def test_it_generates_in_a_thread(mode: str, staleness: int, tmp_path: Path) -> None:
    trained(tmp_path / "run", mode, staleness)
    assert computing() == []


def test_it_generates_in_an_actor_and_is_replaced_there(tmp_path: Path) -> None:
    """Killed after a step, at some moment of the next one, as soon as another has taken over."""
    killed, rng, kills = list[int](), random.Random(1), list[threading.Thread]()
    last = 10 * KILLS  # some steps are over before the engine is

    def kill(engine: psutil.Process) -> None:
        time.sleep(rng.random())
        engine.kill()

    def harm(event: Event) -> None:
        going = any(one.is_alive() for one in kills)
        steps = event.values["step"] if event.kind == "metrics" else 0
        there = computing()  # one process, by one name or another
        # One that died after its last answer of a step is missed by nobody until the next.
        if 1 <= steps < last and len(killed) < KILLS and not going and there:
            engine = there[0]
            killed.append(engine.pid)
            kills.append(threading.Thread(target=kill, args=(engine,)))
            kills[-1].start()

    said = trained(tmp_path / "run", "cluster", 0, observers=[harm], **{"run.steps": last})
    assert len(set(killed)) == len(killed) == KILLS and all(map(gone, killed))
    losses = [one for one in said if "another actor takes over" in one]
    # One that is killed while it starts may be missed together with the one before it.
    assert KILLS - 2 <= len(losses) <= KILLS
    for line in losses:
        assert line.startswith(("engine 1 of 1 (process ", "engine 1 of 1 failed"))
        assert 'failed: rollout.engine: "vllm" was killed by signal 9 during ' in line


@pytest.mark.parametrize("shard", [True, False])
def test_it_generates_in_an_actor_for_two_ranks(shard: bool, tmp_path: Path) -> None:
    """Weights of divided layers reach it whole, and are proved to have arrived."""
    flags = {"coordination.trainers": 2, "update.shard": shard}
    trained(tmp_path / "run", "cluster", 0, **flags)
    assert computing() == []


def test_it_generates_on_two_devices_of_an_actor(tmp_path: Path) -> None:
    workers = list[int]()

    def count(event: Event) -> None:
        if event.kind == "metrics":
            workers.append(sum("Worker" in one.cmdline()[0] for one in computing()))

    flags = {"coordination.engine_devices": 2, "observers": [count]}
    trained(tmp_path / "run", "cluster", 1, **flags)
    assert workers and set(workers) == {2}


def test_each_of_two_devices_has_a_part_of_the_weights() -> None:
    model = small()
    engine = VllmEngine(model, place=Place("cpu", 2))
    try:
        assert len(before := computing()) == 3  # one that schedules, two that compute
        change(model, 1)
        engine.publish(lambda: weights(model), 1)
        groups = answered(engine, [request(i, max_new_tokens=12) for i in range(4)])
        assert farthest(model, groups) < TOLERANCE
        assert {span.version for g in groups for s in g.samples for span in s.spans} == {1}
        change(model, 2)  # and not told to the engine
        assert engine._different(lambda: weights(model)) is not None
    finally:
        engine.close()
    assert all(gone(process.pid) for process in before)


def test_weights_go_to_another_gpu_by_a_file() -> None:
    from polopt.rollout.engines.transfer import BY_FILE, backend

    own, divided = Place("cuda", 1, gpu="1"), Place("cuda", 2)
    assert [backend(one) for one in (own, divided, Place("cpu", 1))] == [BY_FILE] * 3
    assert backend(Place("cuda", 1, shared=True)) == backend(Place("cuda", 1)) == "ipc"


def trained(directory: Path, mode: str, staleness: int, **options: Any) -> list[str]:
    """What was said in a run whose metrics are as they have to be."""
    observers = options.pop("observers", ())
    flags = {"coordination.mode": mode, "coordination.staleness": staleness, **options}
    flags["run.directory"] = str(directory)
    count = flags.get("run.steps", STEPS)
    polopt.train(RECIPE, flags=flags, observers=observers)
    steps = [line for line in lines(directory, "metrics") if line["step"]]
    assert [line["step"] for line in steps] == list(range(1, count + 1))
    for line in steps:
        assert line["lag/max"] <= staleness
        if not staleness:
            assert line["policy/ratio_mean"] == pytest.approx(1, abs=1e-4)
    return [line["message"] for line in lines(directory, "warnings")]


def computing() -> list[psutil.Process]:
    """vLLM's processes, by the names that it gives them."""
    found = list[psutil.Process]()
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if "VLLM::" in " ".join(one.cmdline()):
                found.append(one)
    return found
