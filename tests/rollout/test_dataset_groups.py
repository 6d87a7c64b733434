"""Given responses as groups: whoever has the lower rank has the higher reward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polopt.data import Demonstration, Ranking
from polopt.rollout.comparison import compare
from polopt.rollout.dataset import ranked
from polopt.types import Batch, Prompt

PROMPT = Prompt(0, "", (4,))


def response(*tokens: int) -> Demonstration:
    """To a prompt of one token, 4."""
    every = np.array([4, *tokens])
    return Demonstration(PROMPT, every, np.arange(len(every)) > 0, 1)


def test_what_is_chosen_is_rewarded_more_than_what_is_rejected() -> None:
    ranking = Ranking(PROMPT, (response(7, 8), response(9)), (0, 1))
    group = ranked(3, ranking)
    assert group.ticket == 3 and group.prompt == ranking.prompt
    chosen, rejected = group.samples
    assert chosen.tokens.tolist() == [4, 7, 8] and rejected.tokens.tolist() == [4, 9]
    assert chosen.reward > rejected.reward


@pytest.mark.parametrize(
    ("ranks", "expected"), [((2, 0.5, 2), [-2, -0.5, -2]), ((1, 3, 2), [-1, -3, -2])]
)
def test_a_reward_is_minus_the_rank(ranks: tuple[float, ...], expected: list[float]) -> None:
    ranking = Ranking(PROMPT, tuple(response(5 + i) for i in range(3)), ranks)
    group = ranked(0, ranking)
    assert [sample.reward for sample in group.samples] == expected
    assert [int(sample.tokens[1]) for sample in group.samples] == [5, 6, 7]


def test_a_verdict_is_right_where_the_better_one_is_given_more() -> None:
    """Two pairs whose chosen ones are given 2 and 5, and whose rejected ones -1 and 6."""
    given = {7: 2.0, 8: -1.0, 5: 5.0, 6: 6.0}

    def measure(batch: Batch) -> dict[str, torch.Tensor]:
        said = [int(one.tokens[1]) for group in batch.groups for one in group.samples]
        return {"reward": torch.tensor([given[token] for token in said])}

    rankings = [
        Ranking(PROMPT, (response(7), response(8)), (0, 1)),
        Ranking(PROMPT, (response(6), response(5)), (1, 0)),
    ]
    found = compare(rankings, measure).metrics
    assert found["pair_accuracy"] == 0.5
    assert (found["reward_chosen"], found["reward_rejected"]) == (3.5, 2.5)
    assert found["reward_margin"] == 1.0
