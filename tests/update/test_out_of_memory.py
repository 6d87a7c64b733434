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


def sizes(card: Card, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each pass that is tried from now on."""
    tried, score = list[int](), Card.score

    def counting(self: Card, rows: TokenRows, want: object) -> object:
        tried.append(len(rows.tokens))
        return score(self, rows, want)

    monkeypatch.setattr(Card, "score", counting)
    return tried


def test_the_next_measurement_begins_with_the_smaller_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines, rows = list[str](), batch()[0].tokens
    card, room[0] = on_card(lines), ROWS - 1
    tried = sizes(card, monkeypatch)
    first = measured(card, rows, "logp")
    assert tried[0] == ROWS > max(tried[1:])
    fitted = tried[1:]
    tried.clear()
    assert torch.equal(measured(card, rows, "logp"), first)
    assert tried == fitted and len(lines) == 1  # nothing fails again, nothing is said again


@pytest.mark.parametrize("first", ["measured", "trained on"])
def test_what_is_measured_and_what_is_trained_on_are_cut_alike(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of them was short first: rounding depends on the rows of a pass."""
    lines, one = list[str](), learner(builtin_model(), UPDATE)
    one.scorer = card = on_card(lines)
    room[0] = ROWS - 1
    tried = sizes(card, monkeypatch)
    if first == "trained on":
        one.update(*batch(), 0)
    measured(card, batch()[0].tokens, "logp")
    if first == "measured":
        one.update(*batch(), 0)
    assert tried[0] == ROWS and tried.count(ROWS) == 1 and len(lines) == 1
    count = (len(tried) - 1) // 2
    assert tried[1 : 1 + count] == tried[1 + count :]


def test_two_roles_that_nobody_told_how_share_no_memory_of_it() -> None:
    one, other = (Actor(builtin_model()) for _ in range(2))
    one.how.room.tokens = 3
    assert other.how.room.tokens is None and one.how == other.how
