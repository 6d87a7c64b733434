"""Which GPU an engine of vLLM has, with stand-ins for vLLM and for GPUs: nothing runs on one."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from polopt.assembly import StageInputs
from polopt.assembly import inputs as assembled
from polopt.recipe import load as load_recipe
from polopt.resolution import resolve
from polopt.roles import Actor
from polopt.rollout.engines import serving
from polopt.rollout.engines import vllm as of_vllm
from polopt.rollout.engines.choose import Chosen
from polopt.rollout.engines.interface import Place
from polopt.rollout.engines.vllm import GPU_SHARE, OWN_SHARE, VllmEngine
from random_models import builtin_model

VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARED = Place("cuda", 1, shared=True)
OWN, DIVIDED, OF_ACTOR = Place("cuda", 1, gpu="3"), Place("cuda", 2), Place("cuda", 1)


def stage(**tables: Any) -> Any:
    tables = {"algorithm": "grpo", "model": {"path": "builtin:tiny"}, **tables}
    tables["data"] = {"source": "task:chain_sum"}
    return resolve(load_recipe(tables)).stages[0]


@pytest.mark.parametrize(("visible", "names"), [("4,6,7", ["4", "7"]), (None, ["0", "2"])])
@pytest.mark.parametrize("mode", ["split", "buffered"])
def test_each_engine_beside_the_trainer_has_a_gpu_of_its_own(
    mode: str, visible: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer has the second of three."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(assembled, "chosen", lambda *_, **__: Chosen("vllm", "why"))
    monkeypatch.setattr(assembled, "made", lambda *_, place, **__: place)
    monkeypatch.delenv(VISIBLE, raising=False)
    if visible:
        monkeypatch.setenv(VISIBLE, visible)
    engines = {"engines": 2} if mode == "buffered" else {}
    found = stage(coordination={"mode": mode, **engines})
    inputs = StageInputs(found, "", "", torch.device("cuda", 1), lambda _: None, is_last=True)
    expected = [Place("cuda", 1, gpu=name) for name in names]
    places = [place for place, _ in inputs._engines(Actor(builtin_model()), None)]
    assert places == expected[: len(places)] and len(places) == engines.get("engines", 1)
    on_cpu = StageInputs(found, "", "", torch.device("cpu"), lambda _: None, is_last=True)
    shared = {place for place, _ in on_cpu._engines(Actor(builtin_model()), None)}
    assert shared == {Place("cpu", 1)}


def test_weights_are_read_in_place_only_on_one_gpu() -> None:
    assert SHARED.is_of_model and OF_ACTOR.is_of_model
    assert not any(one.is_of_model for one in (OWN, DIVIDED, Place("cpu", 1), Place("cpu", 2)))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[BaseProcess]:
    """A process where vLLM would start its own; it writes down which GPUs it sees."""
    processes = list[BaseProcess]()

    class Started:
        async def collective_rpc(self, *_: object, **__: object) -> list[int]:
            return []

        def shutdown(self, timeout: float) -> None:
            """Nothing to end."""

    async def start(arguments: object) -> Started:
        await asyncio.sleep(0)
        command = f"printenv {VISIBLE} > {tmp_path / str(len(processes))}"
        process = multiprocessing.get_context("spawn").Process(target=os.system, args=(command,))
        process.start()
        processes.append(process)
        return Started()

    monkeypatch.setattr(serving, "_started", start)
    monkeypatch.setattr(serving.Server, "call", lambda self, work, _: self._run(work))
    return processes


@pytest.mark.parametrize("before", [None, "0,1,2,3"])
def test_its_process_sees_that_gpu_alone(
    before: str | None,
    started: list[BaseProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if before:
        monkeypatch.setenv(VISIBLE, before)
    for gpu, expected in (("3", "3"), (None, before)):
        server = serving.Server(dict, patience=5, gpu=gpu)
        started[-1].join()
        seen = (tmp_path / str(len(started) - 1)).read_text().strip()
        assert seen == (expected or "")
        assert os.environ.get(VISIBLE) == before, "the trainer's own stays as it was"
        server.close()


@pytest.fixture
def engine_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes an engine at a place; what is asked of vLLM is noted in its ``asked``."""
    asked = list[str]()

    class Asked:
        def __getattr__(self, name: str) -> Any:
            async def note(*values: object, **named: object) -> list[object]:
                said = [str(value) for value in (*values, *named.values()) if name != "noted"]
                asked.append(" ".join([name, *said]))
                return []

            return note

    class Server:
        vllm = Asked()

        def __init__(self, arguments: object, patience: float, gpu: str | None) -> None:
            self.gpu = gpu

        def call(self, work: Any, doing: str, patience: float = 0.0) -> Any:
            return asyncio.run(work)

        def close(self) -> None:
            """Nothing to end."""

    class Transfer:
        def __init__(self, *_: object) -> None:
            """No way is needed."""

        def send(self, weights: object, version: int) -> None:
            asked.append(f"send {version}")

    ends = SimpleNamespace(Client=lambda *_: None, Transfer=Transfer, unlike=lambda *_: None)
    monkeypatch.setitem(sys.modules, "polopt.rollout.engines.transfer", ends)
    monkeypatch.setattr(of_vllm, "Server", Server)
    monkeypatch.setattr(of_vllm, "prove", lambda *_, **__: None)

    def make(place: Place | None) -> VllmEngine:
        engine: Any = VllmEngine(builtin_model(), place=place)
        engine.asked = asked
        asked.clear()
        return engine

    return make


def test_an_engine_sleeps_only_where_somebody_else_wakes(engine_at: Any) -> None:
    for place in (OWN, DIVIDED, OF_ACTOR, None):  # None: a model on the CPU
        engine = engine_at(place)
        engine.rest()
        assert not engine.sleeps and engine.asked == []
        assert engine._server.gpu == (place.gpu if place else None)
    engine = engine_at(SHARED)
    engine.rest()
    assert engine.sleeps and engine.asked == ["sleep 2"]


@pytest.mark.parametrize("rested", [True, False])
def test_new_weights_meet_no_old_keys_and_no_memory_that_is_kept(
    rested: bool, engine_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer's allocator keeps what was freed, and another process cannot have it."""
    engine = engine_at(SHARED)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: engine.asked.append("empty"))
    if rested:
        engine.rest()
    engine.publish(dict, 1)
    order = ["sleep 2", "empty", "wake_up ['weights']", "send 1"]
    order += ["collective_rpc polopt_sums", "empty", "wake_up ['kv_cache']"]
    assert engine.asked == order
    engine = engine_at(OWN)
    engine.publish(dict, 1)
    assert engine.asked[0] == "pause_generation keep True" and "empty" not in engine.asked


def test_an_engine_in_turn_gets_what_the_plan_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembled, "chosen", lambda *_, **__: Chosen("vllm", "why"))
    places = list[Place]()
    monkeypatch.setattr(assembled, "made", lambda *_, place, **__: places.append(place))
    for room, device in ((2.5, "cuda"), (None, "cuda"), (None, "cpu")):
        rollout = {"vllm_memory": room} if room else {}
        found = stage(rollout=rollout)
        inputs = StageInputs(found, "", "", torch.device(device), lambda _: None, is_last=True)
        inputs.engine(Actor(builtin_model()))
    planned = Place("cuda", 1, shared=True, room=5 << 29)
    assert places == [planned, SHARED, Place("cpu", 1)]


def test_what_it_takes_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 of 80 GiB are free. Of a GPU for itself vLLM takes what it is used to."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60 << 30, 80 << 30))
    found = {place: of_vllm._on_gpu(place) for place in (SHARED, OWN, DIVIDED, OF_ACTOR)}
    planned = of_vllm._on_gpu(Place("cuda", 1, shared=True, room=10 << 30))
    assert planned == {"gpu_memory_utilization": 1 / 8, "enable_sleep_mode": True}
    assert found[OWN] == found[DIVIDED] == {}
    assert found[SHARED]["gpu_memory_utilization"] == pytest.approx(GPU_SHARE * 60 / 80)
    assert found[OF_ACTOR]["gpu_memory_utilization"] == pytest.approx(OWN_SHARE * 60 / 80)
    assert [found[one]["enable_sleep_mode"] for one in (SHARED, OF_ACTOR)] == [True, False]
