"""The learning rate by hand: warm-up, decay, both, and past the end."""

import pytest

from polopt.recipe import Update
from polopt.update import learning_rate


def rates(steps: int, at: list[int], **settings) -> list[float]:
    update = Update(learning_rate=8.0, **settings)
    return [learning_rate(update, step, steps) for step in at]


def test_constant() -> None:
    assert rates(10, [0, 5, 9]) == [8.0, 8.0, 8.0]


def test_warm_up_ends_at_the_peak() -> None:
    assert rates(10, [0, 1, 2, 3, 4, 9], warmup_steps=4) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_linear_decay_reaches_zero_at_the_end() -> None:
    assert rates(4, [0, 1, 2, 3, 4, 5], decay="linear") == [8.0, 6.0, 4.0, 2.0, 0.0, 0.0]


def test_linear_decay_begins_after_warm_up() -> None:
    # steps 0, 1 warm up; then 4 steps of the way: 0, 1/4, 1/2, 3/4
    found = rates(6, [0, 1, 2, 3, 4, 5], decay="linear", warmup_steps=2)
    assert found == [4.0, 8.0, 8.0, 6.0, 4.0, 2.0]


def test_cosine_decay() -> None:
    # ½ (1 + cos πp): 1 at 0, (2 + √2)/4 at ¼, ½ at ½
    found = rates(4, [0, 1, 2, 4], decay="cosine")
    assert found == pytest.approx([8.0, 2 * (2 + 2**0.5), 4.0, 0.0])


def test_warm_up_longer_than_the_run() -> None:
    assert rates(2, [0, 1], warmup_steps=8, decay="linear") == [1.0, 2.0]
