from __future__ import annotations

import asyncio
import functools
import inspect
import math
import os
import random
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
import torch

from polopt.errors import RewardError
from polopt.rewards import Completions, RewardSpec
from polopt.rewards import score as score_groups
from polopt.types import Outcome, Prompt

COUNT = 3
TIMEOUT = 0.2


def score(prompts, texts, ids, specs, seed):
    """The rewards of one group."""
    return score_groups([Completions(prompts, texts, ids, seed)], specs)


def scored(*functions, on_error="unscorable", timeout=5.0, weights=None, seed=0, columns=None):
    weights = weights or [1.0] * len(functions)
    specs = [
        RewardSpec(f"r{i}", function, weight, timeout, on_error, is_accuracy=True)
        for i, (function, weight) in enumerate(zip(functions, weights, strict=True))
    ]
    prompts = [
        Prompt(i, f"p{i}", (1, 2), {"answer": str(i), **(columns or {})}) for i in range(COUNT)
    ]
    return score(
        prompts, [f"c{i}" for i in range(COUNT)], [[i, 9] for i in range(COUNT)], specs, seed
    )


def rewards(*functions, **options):
    return [one.reward for one in scored(*functions, **options)]


class Quiet(BaseException):
    pass


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")


def raising(error):
    def body():
        raise error

    return body


def endless_recursion():
    return endless_recursion()


def busy():
    end = time.monotonic() + 5 * TIMEOUT
    while time.monotonic() < end:
        pass


def generator():
    yield from [1.0, 1.0, 1.0]


E = Outcome.ERROR
U = Outcome.UNSCORABLE
MISBEHAVIOURS = {
    "exception": (raising(ZeroDivisionError("no")), E, "raised ZeroDivisionError: no"),
    "base exception": (raising(Quiet()), E, "Quiet"),
    "system exit": (raising(SystemExit(3)), E, "SystemExit: 3"),
    "keyboard interrupt": (raising(KeyboardInterrupt()), E, "KeyboardInterrupt"),
    "generator exit": (raising(GeneratorExit()), E, "GeneratorExit"),
    "stop iteration": (raising(StopIteration()), E, "StopIteration"),
    "cancelled": (raising(asyncio.CancelledError()), E, "CancelledError"),
    "own timeout": (raising(TimeoutError("http")), E, "TimeoutError: http"),
    "memory": (raising(MemoryError("4 GB")), Outcome.MEMORY, "MemoryError: 4 GB"),
    "recursion": (endless_recursion, E, "RecursionError"),
    "lines in message": (raising(ValueError("a\nb\r\nc")), E, "ValueError: a b c"),
    "escape sequences": (raising(ValueError("\x1b[2Ja")), E, "ValueError: \\x1b[2Ja"),
    "long message": (raising(ValueError("x" * 10**6)), E, "ValueError: xxx"),
    "message fails": (raising(Unprintable()), E, "Unprintable"),
    "sleeps": (lambda: time.sleep(5 * TIMEOUT), Outcome.TIMEOUT, "no answer within 0.2 s"),
    "busy": (busy, Outcome.TIMEOUT, "no answer within 0.2 s"),
    "none": (lambda: None, E, "returned None; a list of 3 numbers"),
    "one number": (lambda: 1.0, E, "a value of type float"),
    "string": (lambda: "abc", E, "a value of type str"),
    "bytes": (lambda: b"abc", E, "a value of type bytes"),
    "dict": (lambda: {0: 1.0, 1: 1.0, 2: 1.0}, E, "a value of type dict"),
    "set": (lambda: {1.0, 2.0, 3.0}, E, "a value of type set"),
    "generator": (generator, E, "a value of type generator"),
    "too few": (lambda: [1.0, 1.0], E, "returned 2 values; a list of 3"),
    "too many": (lambda: [1.0] * 4, E, "returned 4 values; a list of 3"),
    "empty": (lambda: [], E, "returned 0 values"),
    "matrix": (lambda: np.ones((3, 1)), E, "returned values of shape (3, 1)"),
    "scalar tensor": (lambda: torch.tensor(1.0), E, "returned values of shape ()"),
    "nan": (lambda: [1.0, math.nan, 1.0], U, "row 1: returned nan"),
    "inf": (lambda: [1.0, math.inf, 1.0], U, "row 1: returned inf"),
    "minus inf": (lambda: [1.0, -math.inf, 1.0], U, "row 1: returned -inf"),
    "nan array": (lambda: np.array([1.0, np.nan, 1.0]), U, "row 1: returned nan"),
    "nan tensor": (lambda: torch.tensor([1.0, math.nan, 1.0]), U, "row 1: returned nan"),
    "beyond float32": (lambda: [1.0, 1e300, 1.0], U, "row 1: returned 1e+300"),
    "huge integer": (lambda: [1.0, 10**400, 1.0], U, "row 1: returned inf"),
    "string inside": (lambda: [1.0, "1", 1.0], E, "row 1: returned a value of type str"),
    "complex": (lambda: [1.0, 1j, 1.0], E, "row 1: returned a value of type complex"),
    "object": (lambda: [1.0, object(), 1.0], E, "row 1: returned a value of type object"),
    "nested": (lambda: [1.0, [1.0], 1.0], E, "row 1: returned a value of type list"),
    "vector inside": (lambda: [1.0, np.ones(2), 1.0], E, "row 1: returned a value of type list"),
}


def as_function(body, kind):
    if kind == "sync":
        return lambda completions: body()

    async def function(completions):
        return body()

    return function


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_misbehaviour_is_a_typed_outcome_and_never_a_zero(name, kind):
    body, outcome, _ = MISBEHAVIOURS[name]
    began = time.monotonic()
    result = scored(as_function(body, kind), lambda completions: [0.5] * COUNT, timeout=TIMEOUT)
    assert time.monotonic() - began < TIMEOUT + 2
    one_row = " row 1" in f" {MISBEHAVIOURS[name][2]}"
    failed = [1] if one_row else range(COUNT)
    for row, one in enumerate(result):
        assert one.parts["r1"] == 0.5
        if row in failed:
            assert math.isnan(one.reward) and math.isnan(one.parts["r0"]) and one.outcome is outcome
        else:
            assert one.reward == 1.5 and one.outcome is Outcome.OK


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_misbehaviour_stops_with_one_line(name, kind):
    body, _, message = MISBEHAVIOURS[name]
    with pytest.raises(RewardError) as error:
        scored(as_function(body, kind), on_error="stop", timeout=TIMEOUT)
    line = str(error.value)
    assert line.startswith("reward 'r0': row") and message in line
    assert "\n" not in line and len(line) < 400


def test_a_coroutine_that_hangs_is_cancelled():
    cancelled = threading.Event()

    async def function(completions):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    assert scored(function, timeout=TIMEOUT)[0].outcome is Outcome.TIMEOUT
    assert cancelled.wait(2)


def test_the_row_that_raises_is_named_with_file_and_line():
    def length_of_half(completions, answer):
        return [1 / (int(a) - 2) for a in answer]

    with pytest.raises(RewardError) as error:
        scored(length_of_half, on_error="stop")
    line = inspect.getsourcelines(length_of_half)[1] + 1
    assert str(error.value) == (
        "reward 'r0': row 2: raised ZeroDivisionError: division by zero "
        f"(test_reward_score.py:{line})"
    )
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_batch_of_one_names_its_row():
    for body in (raising(ValueError()), lambda: "a"):
        spec = RewardSpec("r", lambda body=body: body())
        with pytest.raises(RewardError, match="reward 'r': row 0: "):
            score([Prompt(0, "", (), {})], [""], [[]], [spec], 0)


def test_what_only_a_batch_raises_is_told_of_all_rows():
    def at_most_two(completions):
        return [1.0] * len(completions) if len(completions) < 3 else [][1]

    with pytest.raises(RewardError, match="rows 0 to 2 together: raised IndexError"):
        scored(functools.partial(at_most_two), on_error="stop")


def well_behaved():
    class Callable:
        def __call__(self, completions):
            return [1.0, 0.0, 2.0]

    class AsyncCallable:
        async def __call__(self, completions):
            await asyncio.sleep(0)
            return [1.0, 0.0, 2.0]

        async def method(self, completions):
            return [1.0, 0.0, 2.0]

    async def coroutine(completions, scale):
        return [1.0, 0.0, scale]

    return {
        "tuple": lambda completions: (1, 0, 2),
        "bool": lambda completions: [True, False, 2],
        "numpy scalars": lambda completions: [np.float32(1), np.bool_(False), np.int64(2)],
        "numpy 0-d": lambda completions: [np.array(1.0), np.array(False), np.array(2)],
        "numpy 1-d": lambda completions: np.array([1, 0, 2], dtype=np.float16),
        "tensor": lambda completions: torch.tensor([1.0, 0.0, 2.0], requires_grad=True),
        "bfloat16": lambda completions: torch.tensor([1.0, 0.0, 2.0], dtype=torch.bfloat16),
        "tensors": lambda completions: [
            torch.tensor(x, requires_grad=True) for x in (1.0, 0.0, 2.0)
        ],
        "fractions": lambda completions: [Fraction(1), Fraction(0), Fraction(4, 2)],
        "callable": Callable(),
        "async callable": AsyncCallable(),
        "async method": AsyncCallable().method,
        "partial of coroutine": functools.partial(coroutine, scale=2.0),
        "no parameters": lambda: [1.0, 0.0, 2.0],
    }


@pytest.mark.parametrize("name", well_behaved())
def test_numbers_of_every_kind(name):
    result = scored(well_behaved()[name], on_error="stop")
    assert [one.reward for one in result] == [1.0, 0.0, 2.0]
    assert all(type(one.reward) is float for one in result)
    assert [one.outcome for one in result] == [Outcome.OK, Outcome.WRONG, Outcome.OK]


def test_weighted_sum_over_the_parts_that_apply():
    # row 0: 2·1 + 0.5·4 = 4; row 1: only the second, 0.5·4 = 2; row 2: neither
    result = scored(
        lambda completions: [1.0, None, None],
        lambda completions: [4.0, 4.0, None],
        weights=[2.0, 0.5],
        on_error="stop",
    )
    assert [one.reward for one in result[:2]] == [4.0, 2.0] and math.isnan(result[2].reward)
    assert [one.parts for one in result] == [{"r0": 1.0, "r1": 4.0}, {"r1": 4.0}, {}]
    assert [one.outcome for one in result] == [Outcome.OK, Outcome.OK, Outcome.UNSCORABLE]


def test_the_first_reward_that_applies_decides_between_ok_and_wrong():
    result = scored(lambda completions: [0.0, 0.99, None], lambda completions: [1.0, 1.0, 1.0])
    assert [one.outcome for one in result] == [Outcome.WRONG, Outcome.WRONG, Outcome.OK]


def test_only_declared_arguments_are_passed():
    seen = {}

    def some(prompts, completion_ids, answer, missing=5):
        seen["some"] = (prompts, completion_ids, answer, missing)
        return [0.0] * 3

    def everything(completions, **rest):
        seen["rest"] = rest
        return [0.0] * 3

    scored(some, everything, columns={"completions": "shadowed", "level": 2}, on_error="stop")
    assert seen["some"] == (["p0", "p1", "p2"], [[0, 9], [1, 9], [2, 9]], ["0", "1", "2"], 5)
    assert set(seen["rest"]) == {"prompts", "prompt_ids", "completion_ids", "answer", "level"}
    assert seen["rest"]["level"] == [2, 2, 2]


def test_tokens_come_as_lists_of_int():
    got = []
    spec = RewardSpec("r", lambda completion_ids: got.extend(completion_ids) or [0.0])
    score([Prompt(0, "", (), {})], [""], [np.array([5, 6])], [spec], 0)
    assert got == [[5, 6]] and type(got[0]) is list and type(got[0][0]) is int


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_timeout_may_be_as_long_as_one_likes(kind):
    assert rewards(as_function(lambda: [1.0] * COUNT, kind), timeout=1e300) == [1.0] * COUNT


def test_a_column_that_some_rows_lack_is_none_there():
    prompts = [Prompt(0, "a", (), {"x": 1}), Prompt(1, "b", (), {})]
    got = []
    spec = RewardSpec("r", lambda x: [got.append(x) or 0.0, 0.0])
    score(prompts, ["", ""], [[], []], [spec], 0)
    assert got == [[1, None]]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda anwser: [], "parameter 'anwser' is no column of the data; did you mean answer?"),
        (lambda zzz: [], "(there are: answer, completion_ids, completions, prompt_ids, prompts)"),
        (lambda completions, /: [], "parameter 'completions' is positional-only"),
        (dict.fromkeys, "positional-only"),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "unscorable"])
def test_a_parameter_that_cannot_be_filled_stops_always(function, message, on_error):
    with pytest.raises(RewardError) as error:
        scored(function, on_error=on_error)
    assert message in str(error.value) and str(error.value).startswith("reward 'r0': ")


def test_inputs_cannot_be_changed():
    columns = {"tests": [{"in": [1]}]}
    ids = [[1], [2], [3]]
    prompts = [Prompt(i, "p", (), columns) for i in range(3)]

    def vandal(prompts, completions, completion_ids, tests):
        assert completions == ["a", "b", "c"] and tests[0] == [{"in": [1]}]
        prompts.clear(), completions.clear(), completion_ids[0].clear()
        tests[0][0]["in"].append(666)
        return [1.0, 1.0, 1.0]

    specs = [RewardSpec("one", vandal), RewardSpec("two", vandal)]
    completions = ["a", "b", "c"]
    assert [s.reward for s in score(prompts, completions, ids, specs, 0)] == [2.0, 2.0, 2.0]
    assert columns == {"tests": [{"in": [1]}]} and ids == [[1], [2], [3]]
    assert completions == ["a", "b", "c"]


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def reseeding(completions):
    random.seed(1), np.random.seed(1), torch.manual_seed(1), draws()
    return [1.0] * len(completions)


def failing_after_reseeding(completions):
    reseeding(completions)
    raise ValueError


@pytest.mark.parametrize("function", [reseeding, failing_after_reseeding])
def test_random_states_are_undisturbed(function):
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    expected = [draws(), draws()]
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    first = draws()
    scored(function)
    assert [first, draws()] == expected


def test_a_reward_that_draws_is_reproducible():
    def noisy(completions):
        return [sum(draws()) for _ in completions]

    random.seed(1)
    first = rewards(noisy, seed=2**62 + 5)
    random.seed(2)
    assert rewards(noisy, seed=2**62 + 5) == first != rewards(noisy, seed=2**62 + 6)


def test_the_working_directory_is_put_back(tmp_path):
    before = os.getcwd()
    rewards(lambda completions: [os.chdir(tmp_path) or 1.0, 1.0, 1.0])
    assert os.getcwd() == before


def test_nothing_to_score():
    assert score([], [], [], [RewardSpec("r", lambda: [])], 0) == []
    with pytest.raises(ValueError, match="differ in length"):
        score([], ["a"], [[1]], [], 0)


def test_weight_0_is_recorded_and_earns_nothing():
    for one in scored(
        lambda completions: [1.0, 2.0, 3.0], lambda completions: [5.0, 6.0, 7.0], weights=[2.0, 0.0]
    ):
        assert one.reward == 2.0 * one.parts["r0"]
        assert one.parts["r1"] == one.parts["r0"] + 4.0


@pytest.mark.parametrize("answer", [raising(ValueError("no")), lambda completions: [math.nan] * 3])
def test_weight_0_that_fails_takes_no_reward_away(answer):
    for one in scored(lambda completions: [0.5] * 3, answer, weights=[1.0, 0.0]):
        assert one.reward == 0.5
        assert math.isnan(one.parts["r1"])
        assert one.outcome is Outcome.WRONG


def test_weight_0_alone_is_no_reward():
    """Where what is weighted does not apply, 0 would be a reward that nobody gave."""
    for one in scored(
        lambda completions: [None] * 3, lambda completions: [1.0] * 3, weights=[1.0, 0.0]
    ):
        assert math.isnan(one.reward)
        assert one.outcome is Outcome.UNSCORABLE
        assert one.parts == {"r1": 1.0}


def test_a_label_of_weight_0_says_what_is_right():
    outcomes = [
        one.outcome
        for one in scored(
            lambda completions: [1.0, 0.0, None], lambda completions: [0.3] * 3, weights=[0.0, 1.0]
        )
    ]
    assert outcomes == [Outcome.OK, Outcome.WRONG, Outcome.WRONG]


def test_a_number_without_a_verdict_is_neither_right_nor_wrong():
    prompts, texts, ids = [Prompt(0, "p", (1, 2))] * 2, ["a", "b"], [[4], [5]]
    model = RewardSpec("model", lambda completions: [7.0, -7.0])
    verifier = RewardSpec("task", lambda completions: [1.0, None], is_accuracy=True)
    alone = score(prompts, texts, ids, [model], 0)
    assert [one.outcome for one in alone] == [Outcome.SCORED, Outcome.SCORED]
    both = score(prompts, texts, ids, [model, verifier], 0)
    assert [one.outcome for one in both] == [Outcome.OK, Outcome.SCORED]
    assert [one.reward for one in both] == [8.0, -7.0]


def test_booleans_say_right_or_wrong_and_numbers_do_not():
    """Whatever they are kept in; a length of 7 is no right answer."""
    prompts, texts, ids = [Prompt(0, "p", (1, 2))] * 3, ["a"] * 3, [[4]] * 3
    for yes, no in ((True, False), (np.True_, np.False_), torch.tensor([True, False])):
        spec = RewardSpec("r", lambda yes=yes, no=no: [yes, no, 7])
        found = score(prompts, texts, ids, [spec], 0)
        assert [one.outcome for one in found] == [Outcome.OK, Outcome.WRONG, Outcome.SCORED]
        assert [one.reward for one in found] == [1.0, 0.0, 7.0]


def test_ids_of_prompts_are_those_that_were_sampled_from():
    seen = []

    def look(prompt_ids, completion_ids):
        seen.extend(zip(prompt_ids, completion_ids, strict=True))
        return [0.0] * COUNT

    scored(look, on_error="stop")
    assert seen == [([1, 2], [i, 9]) for i in range(COUNT)]


def test_what_is_ours_is_called_as_it_is():
    """Without a time limit it stays in this thread, and what it raises travels on."""
    threads = []

    def ours(completions):
        threads.append(threading.current_thread())
        raise KeyError("ours")

    prompts = [Prompt(0, "p", (1, 2))]
    with pytest.raises(KeyError, match="ours"):
        score(prompts, ["a"], [[4]], [RewardSpec("model", ours, timeout=None)], 0)
    assert threads == [threading.current_thread()]
    nothing = RewardSpec("model", lambda completions: [math.nan], timeout=None)
    with pytest.raises(RewardError, match="reward 'model': row 0: returned nan"):
        score(prompts, ["a"], [[4]], [nothing], 0)
