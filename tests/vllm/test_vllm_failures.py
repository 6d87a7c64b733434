"""An engine that dies, hangs or does not start: one line, and no process that is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from serving_models import children, gone, request, small, weights

from polopt.errors import EngineError, with_hints
from polopt.models import LanguageModel
from polopt.rollout.engines.vllm import VllmEngine
from random_models import builtin_model

pytestmark = pytest.mark.vllm
LONG = {"max_new_tokens": 900, "min_new_tokens": 900}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return small()


@pytest.fixture
def engine(model: LanguageModel) -> Iterator[VllmEngine]:
    engine = VllmEngine(model, patience=4)
    yield engine
    engine.close()


def core(engine: VllmEngine) -> int:
    """vLLM's first process; the second one computes."""
    process = engine._server.process.pid
    assert process is not None
    return process


def fails(ask: Callable[[], object], line: str, seconds: float, *processes: int) -> None:
    """Asking ends in the line within the time, and ends the processes."""
    begun = time.monotonic()
    with pytest.raises(EngineError, match=rf'^rollout.engine: "vllm" {line}\n') as caught:
        ask()
    assert time.monotonic() - begun < seconds
    log = Path(with_hints(caught.value).rpartition(" ")[2])
    assert log.stat().st_size, "the log stays, to be read"
    log.unlink()
    assert all(gone(process) for process in processes)


def polled(engine: VllmEngine) -> None:
    """Wait for a group, a little at a time."""
    while not engine.poll():
        pass


def test_a_kill_in_generation(engine: VllmEngine) -> None:
    process, (worker,) = core(engine), children(core(engine))
    engine.submit([request(0, **LONG)])
    time.sleep(0.3)
    os.kill(process, signal.SIGKILL)
    fails(partial(polled, engine), "was killed by signal 9 during generation", 10, process, worker)


def test_a_kill_of_what_computes(engine: VllmEngine) -> None:
    process, (worker,) = core(engine), children(core(engine))
    engine.submit([request(0, **LONG)])
    time.sleep(0.3)
    os.kill(worker, signal.SIGKILL)
    fails(partial(polled, engine), "died: .* during generation", 20, process, worker)


def test_a_hang_in_generation(engine: VllmEngine) -> None:
    process, (worker,) = core(engine), children(core(engine))
    engine.submit([request(0, **LONG)])
    time.sleep(0.3)
    os.kill(process, signal.SIGSTOP)
    fails(partial(polled, engine), "did not answer for 4 s during generation", 15, process, worker)


def test_a_hang_in_an_update(engine: VllmEngine, model: LanguageModel) -> None:
    process, (worker,) = core(engine), children(core(engine))

    def half_way() -> Mapping[str, torch.Tensor]:
        os.kill(worker, signal.SIGSTOP)
        return weights(model)

    line = "did not answer for 4 s during an update"
    fails(lambda: engine.publish(half_way, 1), line, 20, process, worker)
    assert engine.version == 0


def test_the_engine_ends_with_a_killed_trainer() -> None:
    code = """
import time
from serving_models import small
from polopt.rollout.engines.vllm import VllmEngine
if __name__ == "__main__":
    engine = VllmEngine(small())
    print("up", flush=True)
    time.sleep(600)
"""
    script = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert script.stdout is not None and script.stdout.readline() == b"up\n"
    processes = children(script.pid)
    assert len(processes) >= 2
    script.kill()
    script.wait()
    assert all(gone(process) for process in processes)


def test_what_does_not_start_is_one_line() -> None:
    """vLLM has no kernel for heads of 16 numbers on a CPU."""
    before = set(children(os.getpid()))
    with pytest.raises(EngineError, match=r'"vllm" died: \w+: .*head_dim=16.* during generation\n'):
        VllmEngine(builtin_model("tiny"))
    assert all(gone(process) for process in set(children(os.getpid())) - before)
