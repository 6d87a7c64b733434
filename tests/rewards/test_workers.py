"""Reward functions of a user run in worker processes: what they do there costs a worker at most."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from polopt import isolated
from polopt.errors import RewardError
from polopt.isolated import workers
from polopt.isolated.calls import Returned
from polopt.isolated.origins import Origin, origin_of
from polopt.rewards import Completions, RewardSpec, from_file, score
from polopt.types import Outcome, Prompt

SOURCE = '''
import asyncio, ctypes, os, random, re, signal, subprocess, sys, time
from dataclasses import dataclass
from fractions import Fraction

def length(completions):
    return [len(text) for text in completions]

def process(completions):
    return [os.getpid()] * len(completions)

def size(completions):
    return [len(completions)] * len(completions)

def alone(completions):
    assert "torch" not in sys.modules and "numpy" not in sys.modules
    assert os.environ["OMP_NUM_THREADS"] == "1" and "PYTHONSAFEPATH" not in os.environ
    return [hash("a") % 97] * len(completions)

def draws(completions):
    import numpy
    return [random.random() + numpy.random.rand() for _ in completions]

def draws_of_torch(completions):
    import torch
    return torch.rand(len(completions))

def of_numpy(completions):
    import numpy
    return [numpy.float32(1), numpy.bool_(False), Fraction(3, 2)][: len(completions)]

async def awaited(completions):
    await asyncio.sleep(0)
    return [1.0] * len(completions)

KEPT = []

def grows(completions):
    KEPT.append(bytes(2**29 * (not KEPT)) + b"x")
    KEPT[0] = KEPT[0].replace(b"x", b"y")  # touches its pages
    time.sleep(1.1)
    return [1.0] * len(completions)

def elsewhere(completions):
    os.chdir("/")
    random.seed(1)
    return [1.0] * len(completions)

def here(completions):
    return [float(os.path.exists("sign"))] * len(completions)

def talks(completions):
    print("from python", "x" * 2**17)
    print("as an error", file=sys.stderr)
    os.write(1, b"from C")
    return [1.0] * len(completions)

def unpicklable(completions):
    return [lambda: 1.0] * len(completions)  # unpicklable

class Strange(Exception):
    def __init__(self, one, two):
        self.lock = __import__("threading").Lock()

def strange(completions):
    raise Strange(1, 2)  # strange

def memory(completions):
    raise MemoryError("4 GB")  # memory

def leaves(completions):
    sys.exit(3)  # leaves

def alarm(completions):
    """What needs the main thread of a process."""
    def late(number, frame):
        raise TimeoutError("own")  # alarm
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(30)

def acts(completions):
    """Each completion says what is done about it."""
    return [act(text) for text in completions]

def act(text):
    if text == "hang":
        time.sleep(60)
    if text == "hang in C":
        re.match("(a+)+b", "a" * 99)
    if text == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if text == "memory fault":
        ctypes.string_at(0)
    if text == "exit":
        os._exit(3)
    if text == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return float(len(text))

def starts_another(completions):
    open("pid", "w").write(str(subprocess.Popen(["sleep", "60"]).pid))
    time.sleep(60)
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "my_reward.py"
    path.write_text(SOURCE)
    yield path
    isolated.close()


@pytest.fixture
def spec(file):
    def made(name, **settings):
        found = from_file(str(file), name)
        return RewardSpec(name, found.function, origin=found.origin, **settings)

    return made


def group(*texts, seed=0):
    count = len(texts)
    return Completions([Prompt(0, "p", (1,))] * count, texts, [[1]] * count, seed)


def rewards(spec, *groups):
    return [one.reward for one in score(groups or [group("a", "bb")], [spec])]


def is_gone(process):
    for _ in range(400):
        try:
            if Path(f"/proc/{process}/stat").read_text().split()[2] == "Z":
                return True  # nobody has waited for it, which is for whoever started it
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_a_function_runs_elsewhere_and_is_called_once_for_each_group(spec):
    assert rewards(spec("length"), group("a", "bb"), group("ccc")) == [1.0, 2.0, 3.0]
    of_process = rewards(spec("process"), group("a", "bb"))
    assert of_process[0] == of_process[1] != os.getpid()
    assert rewards(spec("size"), group("a", "bb"), group("ccc"), group()) == [2.0, 2.0, 1.0]
    alike = rewards(spec("alone"))
    isolated.close()
    assert rewards(spec("alone")) == alike


def test_groups_are_scored_side_by_side(file, tmp_path, monkeypatch):
    """Two of them wait for each other."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "meet.py"
    path.write_text(
        "import os, time\n"
        "def meet(completions):\n"
        "    open(completions[0], 'w').close()\n"
        "    while not (os.path.exists('a') and os.path.exists('b')): time.sleep(0.01)\n"
        "    return [1.0]\n"
    )
    if isolated.CONCURRENT < 2:
        pytest.skip("one processor")
    found = from_file(str(path), "meet")
    meet = RewardSpec("meet", found.function, origin=found.origin, timeout=30.0)
    assert rewards(meet, group("a"), group("b")) == [1.0, 1.0]


@pytest.mark.parametrize(("name", "processes"), [("draws", 4), ("draws_of_torch", 1)])
def test_draws_go_by_the_seed_of_a_group_in_any_company(spec, name, processes, monkeypatch):
    """Also those of a package that the function imports in its first call."""
    monkeypatch.setattr(isolated.processes, "CONCURRENT", processes)
    monkeypatch.setattr(workers, "_pool", isolated.Pool(workers.Worker))
    groups = [group("a", "b", seed=2**62 + place) for place in range(4)]
    together = rewards(spec(name), *groups)
    apart = [reward for one in reversed(groups) for reward in reversed(rewards(spec(name), one))]
    assert together == apart[::-1]
    assert len(set(together)) == 8
    isolated.close()


def test_inside_a_block_functions_run_elsewhere(spec):
    ended = list[str]()

    class Elsewhere:
        alive = True

        def ask(self, arguments, limit):
            _, given, _ = arguments
            assert limit == spec("length").timeout
            return Returned([float(10 * len(text)) for text in given["completions"]])

        def kill(self):
            ended.append("killed")

    with workers.served_by(Elsewhere, 1):
        assert rewards(spec("length"), group("a", "bbb", seed=1)) == [10.0, 30.0]
    assert ended == ["killed"]
    assert rewards(spec("length"), group("a", "bbb", seed=1)) == [1.0, 3.0]


def test_two_threads_judge_what_one_does(spec):
    groups = [group("a" * n, "b", seed=n) for n in range(12)]
    alone = rewards(spec("draws"), *groups)
    found = {}

    def judge(name):
        found[name] = rewards(spec("draws"), *groups)

    threads = [threading.Thread(target=judge, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: alone, 1: alone}


@pytest.mark.parametrize("text", ["hang", "hang in C"])
def test_a_hang_is_killed_at_its_limit_and_replaced(spec, text):
    acts = spec("acts", timeout=0.3, on_error="unscorable")
    rewards(acts)
    began = time.monotonic()
    hung, well = score([group("a", text), group("bb", "c")], [acts])[::2]
    assert time.monotonic() - began < 30
    assert hung.outcome is Outcome.TIMEOUT and math.isnan(hung.reward)
    assert well.reward == 2.0
    with pytest.raises(RewardError) as error:
        score([group("a"), group("b", text)], [spec("acts", timeout=0.3)])
    assert str(error.value) == "reward 'acts': rows 1 to 2 together: no answer within 0.3 s"
    assert rewards(acts) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("signal", "its process died by signal 11 (SIGSEGV)"),
        ("memory fault", "its process died by signal 11 (SIGSEGV)"),
        ("exit", "its process ended with exit code 3"),
        ("kill", "its process died by signal 9 (SIGKILL, as where memory runs out)"),
    ],
)
def test_a_crash_costs_one_worker_and_is_an_outcome(spec, text, message, capfd):
    acts = spec("acts", on_error="unscorable")
    found = score([group("a", "bb"), group("ccc", text)], [acts])
    assert [one.reward for one in found[:2]] == [1.0, 2.0]
    assert [one.outcome for one in found[2:]] == [Outcome.ERROR] * 2
    assert all(math.isnan(one.reward) and math.isnan(one.parts["acts"]) for one in found[2:])
    with pytest.raises(RewardError) as error:
        score([group("a", "bb"), group("ccc", text)], [spec("acts")])
    assert str(error.value) == f"reward 'acts': row 3: {message}"
    assert rewards(acts) == [1.0, 2.0]
    assert capfd.readouterr() == ("", "")


def test_many_calls_with_kills_in_between(spec):
    """Each group has its own reward, or its own failure, in its place."""
    bad = {17: "exit", 40: "signal", 41: "hang", 90: "kill", 150: "hang in C", 199: "exit"}
    groups = [group(bad.get(place, "a" * place)) for place in range(200)]
    found = score(groups, [spec("acts", timeout=2.0, on_error="unscorable")])
    for place, one in enumerate(found):
        if place in bad:
            late = bad[place].startswith("hang")
            assert one.outcome is (Outcome.TIMEOUT if late else Outcome.ERROR), place
        else:
            assert one.reward == place


def test_a_worker_that_died_idle_is_replaced_unseen(spec):
    (process,) = rewards(spec("process"), group("a"))
    os.kill(int(process), signal.SIGKILL)
    assert is_gone(int(process))
    time.sleep(0.5)  # for loky to notice
    assert rewards(spec("process"), group("a")) != [process]


@pytest.mark.parametrize(
    ("name", "outcome", "message"),
    [
        ("memory", Outcome.MEMORY, "raised MemoryError: 4 GB (my_reward.py:{line})"),
        ("strange", Outcome.ERROR, "Strange: (1, 2) (my_reward.py:{line})"),
        ("leaves", Outcome.ERROR, "raised SystemExit: 3 (my_reward.py:{line})"),
        ("alarm", Outcome.ERROR, "raised TimeoutError: own (my_reward.py:{line})"),
        ("unpicklable", Outcome.ERROR, "returned a value of type function; a number or None"),
    ],
)
def test_what_goes_wrong_is_told_in_one_line(spec, name, outcome, message):
    found = score([group("a", "b")], [spec(name, on_error="unscorable")])
    assert [one.outcome for one in found] == [outcome] * 2
    with pytest.raises(RewardError) as error:
        score([group("a", "b")], [spec(name)])
    assert str(error.value).startswith(f"reward '{name}': row 0: ")
    line = 1 + next(n for n, text in enumerate(SOURCE.splitlines()) if f"# {name}" in text)
    assert str(error.value).endswith(message.format(line=line))


def test_values_of_every_kind_come_back(spec):
    found = score([group("a", "b", "c")], [spec("of_numpy")])
    assert [one.reward for one in found] == [1.0, 0.0, 1.5]
    assert [one.outcome for one in found] == [Outcome.SCORED, Outcome.WRONG, Outcome.SCORED]
    assert rewards(spec("awaited")) == [1.0, 1.0]


def test_the_trainer_is_not_disturbed(spec, tmp_path, monkeypatch):
    """And a worker is in the trainer's directory, wherever an earlier call went."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sign").touch()
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    rewards(spec("elsewhere"), *[group("a")] * 4)
    rewards(spec("draws"))
    assert os.getcwd() == str(tmp_path)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert states == after
    assert rewards(spec("here"), *[group("a")] * 4) == [1.0] * 4


def test_what_a_function_prints_comes_at_its_end_and_to_stderr(spec, capfd):
    isolated.close()  # so that a process starts with this output
    assert rewards(spec("talks")) == [1.0, 1.0]
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("from Cfrom python xxx") and len(err) == 6 + 2**16
    assert rewards(spec("length")) == [1.0, 2.0]
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_reaches_no_worker(spec):
    (process,) = rewards(spec("process"), group("a"))
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(int(process), number)
    assert rewards(spec("process"), group("a")) == [process]


def test_what_a_killed_function_has_started_ends_with_it(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    late = spec("starts_another", timeout=1.0, on_error="unscorable")
    assert score([group("a")], [late])[0].outcome is Outcome.TIMEOUT
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_a_file_is_that_of_the_beginning(tmp_path):
    path = tmp_path / "edited.py"
    path.write_text("def score(completions): return [1.0] * len(completions)\n")
    found = from_file(str(path), "score")
    path.write_text("def score(completions): return [2.0] * len(completions)\n")
    isolated.close()
    assert rewards(RewardSpec("score", found.function, origin=found.origin)) == [1.0, 1.0]
    again = from_file(str(path), "score")
    assert rewards(RewardSpec("score", again.function, origin=again.origin)) == [2.0, 2.0]


def test_a_file_that_runs_here_alone_stops_the_run(tmp_path):
    path = tmp_path / "choosy.py"
    path.write_text(
        "import os\n"
        f"assert os.getpid() == {os.getpid()}, 'not here'\n"
        "def score(completions): return [1.0] * len(completions)\n"
    )
    found = from_file(str(path), "score")
    spec = RewardSpec("score", found.function, origin=found.origin, on_error="unscorable")
    with pytest.raises(RewardError) as error:
        rewards(spec)
    message = "reward 'score': cannot be loaded in a worker process: AssertionError: not here"
    assert str(error.value) == message


def test_a_process_that_grows_stays(spec):
    """loky would replace it, and what a function keeps would be loaded again at every call."""
    (process,) = rewards(spec("process"), group("a"))
    for _ in range(2):  # the growth is seen after a second
        rewards(spec("grows"), group("a"))
    time.sleep(0.5)
    assert rewards(spec("process"), group("a")) == [process]


def importable(completions):
    return [1.0] * len(completions)


class Kept:
    @staticmethod
    def static(completions):
        return [1.0] * len(completions)

    def method(self, completions):
        return [1.0] * len(completions)

    def __call__(self, completions):
        return [1.0] * len(completions)


def test_only_what_another_process_finds_by_name_is_sent(monkeypatch, tmp_path):
    def closure(completions):
        return [1.0] * len(completions)

    assert origin_of(importable) == Origin("importable", __name__)
    assert origin_of(Kept.static) == Origin("Kept.static", __name__)
    for function in (closure, lambda completions: [1.0], Kept().method, Kept(), Kept, len):
        assert origin_of(function) is None
    (tmp_path / "by_hand.py").write_text("def score(completions): return [1.0]\n")
    assert origin_of(from_file(str(tmp_path / "by_hand.py"), "score").function) is None
    monkeypatch.setattr(importable, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "importable", importable, raising=False)
    assert origin_of(importable) is None


def test_a_reward_says_where_it_runs(spec):
    assert not spec("length").in_trainer
    assert RewardSpec("one", lambda completions: [1.0]).in_trainer
    assert not RewardSpec("verifier", lambda completions: [1.0], timeout=None).in_trainer


RUN = """
import os, sys, threading
from polopt.isolated import workers
from polopt.isolated.calls import Returned
from polopt.isolated.origins import Origin
origin = Origin("acts", path=sys.argv[1], source=open(sys.argv[1], "rb").read())
process = Origin("process", path=origin.path, source=origin.source)
print(int(workers.call(process, {"completions": ["a"]}, 60.0, 0).value[0]), flush=True)
if sys.argv[2] != "idle":
    threading.Thread(target=input).start()
    workers.call(origin, {"completions": [sys.argv[2]]}, 2.0, 0)
input()
"""


@pytest.mark.parametrize("doing", ["idle", "hang", "hang in C"])
@pytest.mark.parametrize("number", [signal.SIGKILL, None])
def test_no_worker_outlives_the_trainer(file, doing, number):
    """Killed, or at its normal end; this script has no guard against being run again."""
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(file), doing],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stdout is not None and run.stdin is not None
    process = int(run.stdout.readline())
    if number is not None:
        time.sleep(0.3)
        run.send_signal(number)
    else:
        run.stdin.write("\n\n")
    run.stdin.close()
    run.wait()
    run.stdout.close()
    assert is_gone(process)
