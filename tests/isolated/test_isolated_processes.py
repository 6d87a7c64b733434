"""Processes that judge: what they say comes back, and what hangs, fills or dies is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from polopt import isolated
from polopt.isolated import processes
from polopt.isolated.answers import extracted

JUDGES = "isolated_judges:prepare"


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(
        processes, "CONCURRENT", 1
    )  # one process, so that it is seen to be replaced
    pool = isolated.Pool(partial(processes._Process, JUDGES, ("fixed",)))
    yield pool.ask
    pool.close()


def is_gone(process: int) -> bool:
    for _ in range(400):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_answers_come_back_whatever_the_text(asked):
    for text in ("", "\0", "a\nb\r\u2028", "\ud800", "x" * 10**6, "[" * 10**4, {"a": [1, None]}):
        assert asked("echo", text) == ["fixed", text]
    assert asked("torch") is False


def test_one_process_answers_all_questions(asked):
    assert asked("process") == asked("process") != os.getpid()


def test_the_time_limit_holds_in_c_code_and_leaves_no_process(asked):
    before = asked("process")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no verdict within 0\.1 s"):
        asked("hang", limit=0.1)
    assert time.monotonic() - began < 30
    assert is_gone(before)
    assert asked("process") != before


def test_memory_is_bounded_and_the_process_lives_on(asked):
    before = asked("process")
    with pytest.raises(MemoryError, match="no verdict within 4 GiB"):
        asked("fill")
    assert asked("process") == before


def test_a_process_that_dies_is_replaced(asked):
    with pytest.raises(isolated.DiedError, match="died"):
        asked("die")
    assert asked("echo", 1) == ["fixed", 1]


def test_a_process_that_died_between_questions(asked):
    before = asked("process")
    os.kill(before, signal.SIGKILL)
    with pytest.raises(isolated.DiedError):
        asked("echo", "x" * 10**6)
    assert asked("echo", 1) == ["fixed", 1]


def test_what_the_function_raises_is_told(asked):
    with pytest.raises(RuntimeError, match="IndexError: list index out of range"):
        asked("raise", 3)
    assert asked("echo", 1) == ["fixed", 1]


def test_a_process_that_cannot_start_is_no_verdict_on_an_answer():
    with pytest.raises(RuntimeError, match="isolated_judges:missing does not start"):
        isolated.pool("isolated_judges:missing").ask("x")


def test_an_interrupt_does_not_mix_up_answers(asked, monkeypatch):
    before = asked("process")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(processes, "wait", interrupted)
        asked("echo", "first")
    assert asked("echo", "second") == ["fixed", "second"]
    assert is_gone(before)


def test_threads_ask_side_by_side():
    pool = isolated.pool(JUDGES)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda i: pool.ask("echo", i), range(40)))
    assert found == [["", i] for i in range(40)]
    pool.close()


def test_closing_ends_the_processes_and_asking_starts_new_ones():
    ask = isolated.pool(JUDGES).ask
    before = ask("process")
    isolated.close()
    assert is_gone(before)
    assert ask("process") != before
    isolated.close()


RUN = """
import sys
from polopt import isolated
pool = isolated.pool("isolated_judges:prepare")
print(pool.ask("process"), flush=True)
if sys.argv[1:]:
    pool.ask("hang", sys.argv[1], limit=1.0)
input()
"""


@pytest.mark.parametrize("hangs", [True, False])
def test_a_process_does_not_outlive_a_killed_run(hangs, tmp_path):
    sign = tmp_path / "sign"
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, *([sign] if hangs else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["src", str(Path(__file__).parent)])},
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout is not None
    process = int(run.stdout.readline())
    while hangs and not sign.exists():
        time.sleep(0.01)
    run.kill()
    run.communicate()
    assert is_gone(process)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (" 7\n", "7"),
        ("so <answer> 7 </answer>.", "7"),
        ("<answer>6</answer> no, <answer>\n7\n</answer>", "7"),
        ("<answer>6 <answer>7</answer>", "7"),
        ("<answer>7", "<answer>7"),
        ("", ""),
    ],
)
def test_the_last_tags_hold_the_answer(completion, answer):
    assert extracted(completion) == answer


def test_tags_without_end_are_read_in_time():
    began = time.monotonic()
    extracted("<answer>" * 10**5 + "x" * 10**6)
    assert time.monotonic() - began < 10
