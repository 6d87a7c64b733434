"""Out of memory in a pass: once more with half the tokens, the same numbers, and a line says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_first_order import ROWS, UPDATE, assert_same_gradient, batch, learner
from torch import Tensor

from kept_gradients import in_one, kept
from polopt.roles import Actor, Computing, measured
from polopt.types import TokenRows
from random_models import builtin_model


class Card(Actor):
    """An actor on a device that has room for so many rows in a pass."""

    def score(self, rows: TokenRows, want: object) -> object:
        if len(rows.tokens) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().score(rows, want)  # type: ignore[arg-type]


room = [ROWS]


@pytest.fixture(autouse=True)
def _whole() -> None:
    room[0] = ROWS


def on_card(lines: list[str]) -> Card:
    return Card(builtin_model(), Computing(tell=lines.append))


def gradient(lines: list[str]) -> Tensor:
    one = learner(builtin_model(), UPDATE)
    one.scorer = on_card(lines)
    one._named = dict(one.scorer.parameters)
    one._weights = list(one._named.values())
    one._optimiser = torch.optim.AdamW(one._weights, lr=0.0)
    with kept(one) as gradients:
        one.update(*batch(), 0)
    return in_one(gradients)


def test_an_update_that_is_too_large_is_cut_in_two() -> None:
    lines = list[str]()
    whole = gradient(lines)
    assert not lines
    room[0] = ROWS - 1
    assert_same_gradient(whole, gradient(lines))
    (line,) = lines
    assert line.startswith("out of memory in a pass of all tokens; going on with at most ")


def test_the_next_update_begins_with_the_smaller_passes() -> None:
    lines, room[0] = list[str](), ROWS - 1
    one = learner(builtin_model(), UPDATE)
    one.scorer = on_card(lines)
    for step in range(3):
        one.update(*batch(), step)
    assert len(lines) == 1


def test_a_second_time_is_an_error_and_the_weights_stay() -> None:
    lines, room[0] = list[str](), 0
    one = learner(builtin_model(), UPDATE)
    one.scorer = on_card(lines)
    with pytest.raises(torch.OutOfMemoryError):
        one.update(*batch(), 0)
    assert len(lines) == 1 and one.optimiser_steps == 0


def test_log_probs_that_are_too_large_are_cut_in_two() -> None:
    lines, rows = list[str](), batch()[0].tokens
    card = on_card(lines)
    whole = measured(card, rows, "logp")
    room[0] = ROWS - 1
    halves = measured(card, rows, "logp")
    assert len(lines) == 1 and not halves.requires_grad
    mask = batch()[0].mask
    torch.testing.assert_close(whole[mask], halves[mask], rtol=1e-5, atol=1e-5)
    smaller = replace(card, how=Computing(tokens=20, tell=lines.append))
    measured(smaller, rows, "logp")
    assert len(lines) == 1
