"""Verifiers: no verdict is no reward and ends no run; mathematics by math-verify."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec

import pytest

from polopt import isolated
from polopt.errors import DataError
from polopt.rewards import Completions, RewardSpec, from_mathematics, from_verifier, score
from polopt.types import Outcome, Prompt


def scored(function, texts, rows, **spec):
    prompts = [Prompt(i, "?", (1,), row) for i, row in enumerate(rows)]
    spec = RewardSpec("verifier", function, **{"timeout": None, "is_accuracy": True, **spec})
    return score([Completions(prompts, texts, [[1]] * len(texts), 0)], [spec])


OUTCOMES = [
    (TimeoutError("late"), Outcome.TIMEOUT),
    (MemoryError(), Outcome.MEMORY),
    (isolated.DiedError("died"), Outcome.ERROR),
]


@pytest.mark.parametrize(("error", "outcome"), OUTCOMES)
def test_no_verdict_on_one_answer_leaves_the_others_and_the_run(error, outcome):
    def verify(text, row):
        if text == "9**9**9":
            raise error
        return float(text == row["answer"])

    found = scored(from_verifier(verify), ["7", "9**9**9", "8"], [{"answer": "7"}] * 3)
    assert [one.outcome for one in found] == [Outcome.OK, outcome, Outcome.WRONG]
    assert [found[0].reward, found[2].reward] == [1.0, 0.0]
    assert found[1].reward != found[1].reward  # NaN: neither earned nor lost


def test_a_bug_of_ours_raises_as_it_is():
    with pytest.raises(ZeroDivisionError):
        scored(from_verifier(lambda text, row: 1 / 0), ["7"], [{}])


@pytest.mark.parametrize("concurrent", [1, 2])
def test_a_batch_is_judged_until_its_time_is_over(concurrent):
    def verify(text, row):
        time.sleep(0.5)
        return 1.0

    found = scored(from_verifier(verify, 0.25, concurrent), ["a"] * 6, [{}] * 6)
    assert [one.outcome for one in found[:concurrent]] == [Outcome.OK] * concurrent
    assert [one.outcome for one in found[-2:]] == [Outcome.TIMEOUT] * 2


def test_answers_stay_with_their_rows_when_judged_side_by_side():
    def verify(text, row):
        time.sleep(0.01 * (row["answer"] == "0"))
        return float(text == row["answer"])

    rows = [{"answer": str(i % 3)} for i in range(30)]
    found = scored(from_verifier(verify, concurrent=4), ["0"] * 30, rows)
    assert [one.reward for one in found] == [1.0, 0.0, 0.0] * 10


MATHEMATICS = [
    (r"\boxed{0.5}", r"\frac{1}{2}", True),
    (r"Half of it: $\frac{1}{2}$", "0.5", True),
    (r"\boxed{\frac12}", "1/2", True),
    (r"\boxed{x^2 + 2x + 1}", "(x+1)^2", True),
    (r"\boxed{(1, 2]}", "(1,2]", True),
    (r"\boxed{[1, 2]}", "(1,2]", False),
    (r"\boxed{\{2, 1\}}", r"\{1,2\}", True),
    (r"\boxed{\{2, 1, 3\}}", r"\{1,2\}", False),
    (r"\boxed{\sqrt{2}}", r"$\sqrt2$", True),
    (r"\boxed{\text{east}}", r"\text{east}", True),
    (r"\boxed{1,000}", 1000, True),
    (r"\boxed{5}, not 7", "5", True),
    (r"7, or rather \boxed{5}", "7", False),
    (r"\boxed{5} or \boxed{7}", "7", False),
    ("so it is 8", "8", True),
    ("8 or 9", "8", False),
    ("<answer>8</answer>", "8", True),
    ("8 <answer>9</answer>", "8", False),
    (r"\boxed{72}", "6 * 12 = 72\n#### 72", True),
    (r"\boxed{7}", "8", False),
    (r"\boxed{}", "8", False),
    ("no idea", "8", False),
    ("", "8", False),
]
HOSTILE = [
    "__import__('os').system('touch run')",
    r"\boxed{__import__('os').system('touch run')}",
    r"\boxed{" * 3000 + "1" + "}" * 3000,
    "(" * 5000 + ")" * 5000,
    "\0",
    "\ud800",
    "a" * 10**6,
    "$" * 10**4,
]


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left():
    yield
    isolated.close()


@pytest.mark.skipif(find_spec("math_verify") is None, reason="math-verify is not installed")
class TestWithMathVerify:
    def test_the_last_answer_is_compared_with_the_column(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "math_verify", None)  # only where it can be killed
        texts, right, expected = zip(*MATHEMATICS, strict=True)
        found = scored(from_mathematics("solution"), texts, [{"solution": r} for r in right])
        assert [one.reward for one in found] == [float(e) for e in expected]
        assert [one.outcome is Outcome.OK for one in found] == list(expected)

    def test_hostile_texts_are_wrong_and_nothing_of_them_runs(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        isolated.close()  # so that a process starts here
        found = scored(from_mathematics("answer"), HOSTILE, [{"answer": "7"}] * len(HOSTILE))
        assert [one.reward for one in found] == [0.0] * len(HOSTILE)
        assert list(tmp_path.iterdir()) == []

    def test_what_hangs_computer_algebra_has_no_verdict(self, monkeypatch):
        monkeypatch.setattr(isolated.Pool.ask, "__kwdefaults__", {"limit": 0.5})
        texts = [r"\boxed{9^{9^{9^{9}}}}", "9**9**9**9", r"\boxed{7}"]
        found = scored(from_mathematics("answer"), texts, [{"answer": 7}] * 3)
        assert [one.outcome for one in found] == [Outcome.TIMEOUT, Outcome.TIMEOUT, Outcome.OK]

    @pytest.mark.parametrize("right", [None, "", " "])
    def test_a_right_answer_that_says_nothing_is_one_line(self, right):
        with pytest.raises(DataError, match=r"field 'answer': .* holds no answer") as error:
            scored(from_mathematics("answer"), ["7"], [{"answer": right}])
        assert "\n" not in str(error.value)
