"""Accuracy, pass@k and their intervals, from answers that are known."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from polopt.rollout.engines import Request, Weights
from polopt.rollout.evaluation import SHOWN, Examination, evaluate, means, proportion
from polopt.types import Finish, Group, Outcome, Prompt, Sample, Sampling

OK, WRONG, TIMEOUT = Outcome.OK, Outcome.WRONG, Outcome.TIMEOUT


class Recited:
    """An engine that answers prompt i with i + 1 tokens."""

    version = 0

    def __init__(self) -> None:
        self.asked = list[Request]()
        self._queue = list[Request]()

    def submit(self, requests: Sequence[Request]) -> None:
        self.asked.extend(requests)
        self._queue.extend(requests)

    def poll(self) -> list[Group]:
        if not self._queue:
            return []
        request = self._queue.pop()  # the last first: order is the examination's business
        length = request.prompt.id + 1
        sample = Sample(
            tokens=np.zeros(2 + length, dtype=np.int64),
            mask=np.arange(2 + length) >= 2,
            logp_rollout=np.zeros(2 + length, dtype=np.float32),
            prompt_length=2,
            finish=Finish.LENGTH if request.prompt.id == 0 else Finish.STOP,
        )
        return [Group(request.ticket, request.prompt, (sample,) * request.count)]

    def publish(self, weights: Weights, version: int) -> None:
        pass

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


def examination(outcomes: list[list[Outcome]], **fields) -> Examination:
    """One whose answers are judged as told: prompt by prompt, answer by answer."""

    def score(groups: Sequence[Group]) -> list[Group]:
        assert [group.ticket for group in groups] == sorted(group.ticket for group in groups)
        return [
            replace(
                group,
                samples=tuple(
                    replace(
                        sample,
                        outcome=outcome,
                        reward=math.nan if outcome is TIMEOUT else float(outcome is OK),
                    )
                    for sample, outcome in zip(group.samples, judged, strict=True)
                ),
            )
            for group, judged in zip(groups, outcomes, strict=True)
        ]

    settings = {
        "engine": Recited(),
        "prompts": [Prompt(i, f"p{i}", (5, 6)) for i in range(len(outcomes))],
        "sampling": Sampling(0.8, max_new_tokens=9),
        "seed": 0,
        "score": score,
        "text": lambda sample: f"{sample.mask.sum()} tokens",
        "describe": lambda text, columns: {},
        "answers": len(outcomes[0]),
    }
    return Examination(**(settings | fields))


def test_accuracy_is_the_share_of_right_answers_among_those_judged() -> None:
    found = evaluate(examination([[OK], [WRONG], [OK], [TIMEOUT]]), greedy=False)
    assert found.metrics["accuracy"] == pytest.approx(2 / 3)
    assert found.metrics["reward"] == pytest.approx(2 / 3)
    assert found.metrics["length"] == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert found.metrics["truncated"] == 0.25
    assert "accuracy_greedy" not in found.metrics


def test_the_majority_is_the_most_frequent_answer() -> None:
    """Right once and wrong twice, but the wrong ones differ; then right once, wrong twice alike."""
    said = iter(["7", "8", "9", "7", "8", "8", "1", "2", "2"])
    texts: dict[int, str] = {}
    outcomes = [[OK, WRONG, WRONG], [OK, WRONG, WRONG], [WRONG, OK, OK]]
    found = evaluate(
        examination(
            outcomes,
            text=lambda sample: texts.setdefault(id(sample), next(said, "")),
        ),
        greedy=False,
    )
    assert found.metrics["majority@3"] == pytest.approx(2 / 3)
    assert found.metrics["pass@3"] == 1.0
    assert found.intervals["majority@3"] == proportion(2, 3)


def test_pass_at_k_is_a_share_of_the_prompts_that_were_judged() -> None:
    """One of two was passed; of the third nothing is known."""
    found = evaluate(examination([[OK, WRONG], [WRONG, WRONG], [TIMEOUT, TIMEOUT]]), greedy=False)
    assert found.metrics["pass@2"] == 0.5


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (50, 100, 0.4038, 0.5962),
        (0, 32, 0.0, 0.1072),
        (32, 32, 0.8928, 1.0),
        (1, 10, 0.0179, 0.4042),
    ],
)
def test_wilson_intervals_from_tables(right: int, count: int, low: float, high: float) -> None:
    assert proportion(right, count) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_accuracy_is_that_of_a_proportion() -> None:
    found = evaluate(examination([[OK]] * 5 + [[WRONG]] * 5), greedy=False)
    assert found.intervals["accuracy"] == pytest.approx(proportion(5, 10))


def test_pass_at_k_is_the_share_of_prompts_with_a_right_answer() -> None:
    outcomes = [[OK, WRONG], [WRONG, WRONG], [OK, OK], [WRONG, OK]]
    found = evaluate(examination(outcomes), greedy=False)
    assert found.metrics["accuracy"] == 0.5
    assert found.metrics["pass@2"] == 0.75
    assert found.intervals["pass@2"] == pytest.approx(proportion(3, 4))


def test_answers_to_one_prompt_go_together_in_the_interval() -> None:
    # prompt means 1/2, 0, 1, 1/2: mean 1/2, s = sqrt(1/6), t(3, 0.975) = 3.1824
    found = evaluate(
        examination([[OK, WRONG], [WRONG, WRONG], [OK, OK], [WRONG, OK]]), greedy=False
    )
    half = 3.1824463 * math.sqrt(1 / 6) / 2
    low, high = found.intervals["accuracy"]
    assert (low, high) == (pytest.approx(max(0.0, 0.5 - half)), pytest.approx(min(1, 0.5 + half)))


def test_equal_answers_have_no_width() -> None:
    found = evaluate(examination([[OK, WRONG], [WRONG, OK]]), greedy=False)
    assert found.intervals["accuracy"] == (0.5, 0.5)


def test_greedy_answers_are_figures_of_their_own() -> None:
    asked = examination([[OK], [WRONG]])
    found = evaluate(asked, greedy=True)
    assert {"accuracy", "accuracy_greedy", "reward_greedy"} <= found.metrics.keys()
    assert {request.sampling.temperature for request in asked.engine.asked} == {0.8, 0.0}
    assert "length_greedy" not in found.metrics


def test_every_prompt_is_asked_with_its_own_draws_each_time() -> None:
    asked = examination([[OK], [WRONG], [OK]])
    evaluate(asked, greedy=False)
    evaluate(asked, greedy=False)
    assert [request.ticket for request in asked.engine.asked] == [0, 1, 2, 0, 1, 2]


def test_nothing_judged_is_no_accuracy() -> None:
    found = evaluate(examination([[TIMEOUT], [TIMEOUT]]), greedy=False)
    assert "accuracy" not in found.metrics and "reward" not in found.metrics
    assert "accuracy" not in found.intervals


def test_answers_are_recorded_as_plain_lines() -> None:
    found = evaluate(examination([[OK], [TIMEOUT]]), greedy=False)
    assert found.samples[0] == {
        "ticket": 0,
        "prompt": "p0",
        "completion": "1 tokens",
        "reward": 1.0,
        "parts": {},
        "outcome": "ok",
        "finish": "length",
        "tokens": 1,
    }
    assert found.samples[1]["reward"] is None
    many = evaluate(examination([[OK]] * (SHOWN + 5)), greedy=False)
    assert len(many.samples) == SHOWN


def test_means_leave_out_what_does_not_apply() -> None:
    assert means([{"a": 1.0, "b": None}, {"a": 0.0, "b": 3.0}, {}]) == {"a": 0.5, "b": 3.0}
