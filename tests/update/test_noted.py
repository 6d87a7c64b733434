"""What the record has of the tokens of an answer: advantages, and what the bound made of them."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from test_first_order import UPDATE, batch, learner

from polopt.math.reduce import seq_mean_token_mean
from polopt.math.surrogates import clipped, clipped_unless_stale, importance_sampled
from polopt.objective import (
    SEQUENCE_MEAN,
    SIDES,
    TOKEN,
    PolicyObjective,
    policy_loss,
    sides,
    step_terms,
)
from polopt.objective.policy_gradient import RatioLevel
from polopt.roles import measured
from polopt.rollout.groups import recorded
from polopt.rollout.noted import token_fields
from polopt.types import Advantages, Batch, Experience, Group, Noted, Prompt, Recorded, Sample
from polopt.update.minibatch import Loss
from random_models import STOP, TOKENIZER, builtin_model

LOW, HIGH, DUAL, STALE = range(1, 5)
CLIP = partial(clipped, low=0.2, high=0.2)
NAN = float("nan")
OLD = torch.tensor([[-1.0, -0.7, -0.2], [-0.5, -1.2, NAN]])
NEW = torch.tensor([[-0.8, -0.9, -0.1], [-0.9, -1.0, NAN]])


@pytest.mark.parametrize(
    ("ratio", "surrogate", "expected"),
    [
        # ratios 1.22, 0.82, 1.11 with A = 2, and 0.67, 1.22 with A = -1.5
        (TOKEN, CLIP, [[HIGH, 0, 0], [LOW, 0, 0]]),
        (TOKEN, partial(clipped, low=0.4, high=0.3), [[0, 0, 0], [0, 0, 0]]),
        (TOKEN, partial(clipped, low=0.2, high=0.2, dual=1.1), [[HIGH, 0, 0], [LOW, DUAL, 0]]),
        # ratios of the sequences: exp(0.1/3) = 1.03 and exp(-0.2/2) = 0.90
        (SEQUENCE_MEAN, CLIP, [[0, 0, 0], [0, 0, 0]]),
        (SEQUENCE_MEAN, partial(clipped, low=0.05, high=0.05), [[0, 0, 0], [LOW, LOW, 0]]),
        # mean of log π_old - log π of the second row: 0.1
        (
            TOKEN,
            partial(clipped_unless_stale, low=0.2, high=0.2, drift=0.05),
            [[HIGH, 0, 0], [STALE, STALE, 0]],
        ),
        (TOKEN, importance_sampled, None),
    ],
)
def test_the_sides_of_a_bound_by_hand(ratio: RatioLevel, surrogate: Any, expected: Any) -> None:
    objective = PolicyObjective(ratio, surrogate, seq_mean_token_mean)
    mask = ~torch.isnan(OLD)
    experience = Experience(mask, torch.arange(2), torch.zeros(2), logp_old=OLD)
    advantages = torch.tensor([[2.0, 2.0, 2.0], [-1.5, -1.5, 0.0]])
    terms = step_terms(experience, Advantages(advantages, mask, mask.any(-1)), objective)
    found = sides(NEW, terms, objective)
    assert (None if found is None else found.tolist()) == expected


OBJECTIVE = PolicyObjective(TOKEN, partial(clipped, low=0.02, high=0.02), seq_mean_token_mean)


def bounded(objective: PolicyObjective = OBJECTIVE) -> Loss:
    return Loss(
        {"logp"},
        lambda e, a: step_terms(e, a, objective),
        lambda outputs, terms: policy_loss(outputs.logp, None, terms, objective),
        sides=lambda outputs, terms: sides(outputs.logp, terms, objective),
    )


SHOWN = [4, 0, 3]  # rows, by their place in the record


def noted(objective: PolicyObjective = OBJECTIVE, **update: Any) -> Noted:
    experience, advantages = batch()
    slot = torch.full((len(experience.mask),), len(SHOWN))
    slot[SHOWN] = torch.arange(len(SHOWN))
    experience = replace(experience, recorded=Recorded(slot, len(SHOWN)))
    settings = UPDATE.model_copy(update={"learning_rate": 1e-12, **update})
    one = learner(builtin_model(), settings, loss=bounded(objective))
    one.update(experience, advantages, 0)
    found = one.taken()
    assert found is not None and one.taken() is None, "once"
    return found


WAYS = [
    {},
    {"micro_batch_tokens": 13},
    {"epochs": 2, "minibatches": 3},
    {"epochs": 3, "minibatches": 2, "micro_batch_tokens": 30},
]


@pytest.mark.parametrize("update", WAYS, ids=str)
def test_the_rows_of_the_record_keep_their_tokens(update: dict[str, Any]) -> None:
    """However a batch is shuffled and cut; expected from the function, row by row."""
    found = noted(**update)
    experience, advantages = batch()
    logp = measured(learner(builtin_model()).scorer, experience.inputs, "logp")
    expected = sides(logp, step_terms(experience, advantages, OBJECTIVE), OBJECTIVE)
    assert expected is not None and expected[SHOWN].any(), "some are clipped"
    assert found.sides is not None and found.sides.tolist() == expected[SHOWN].tolist()
    own = torch.where(advantages.mask, advantages.advantages, torch.nan)[SHOWN].numpy()
    assert np.array_equal(found.advantages, own.astype(np.float64), equal_nan=True)


def test_nothing_is_said_of_a_bound_where_there_is_none() -> None:
    assert noted(replace(OBJECTIVE, surrogate=importance_sampled)).sides is None


def test_it_is_the_last_epoch() -> None:
    """In the first the ratio is 1: nothing can be clipped."""

    def clipped_of(epochs: int) -> bool:
        experience, advantages = batch()
        one = learner(builtin_model(), UPDATE.model_copy(update={"epochs": epochs}), loss=bounded())
        old = measured(one.scorer, experience.inputs, "logp")
        everyone = Recorded(torch.arange(len(old)), len(old))
        one.update(replace(experience, logp_old=old, recorded=everyone), advantages, 0)
        found = one.taken()
        assert found is not None and found.sides is not None
        return bool(found.sides.any())

    assert not clipped_of(1)
    assert clipped_of(5)


def test_a_batch_without_recorded_rows_is_not_noted() -> None:
    one = learner(builtin_model(), loss=bounded())
    one.update(*batch(), 0)
    assert one.taken() is None


def test_old_groups_are_not_recorded_again() -> None:
    groups = tuple(Group(t, Prompt(t, "", ()), (answer(""), answer(""))) for t in range(3))
    found = recorded(Batch(groups, 0, frozenset({1})), 3, torch.device("cpu"))
    assert (found.slot.tolist(), found.count) == ([0, 1, 3, 3, 2, 3], 3)
    found = recorded(Batch(groups, 0, frozenset({0, 1})), 8, torch.device("cpu"))
    assert (found.slot.tolist(), found.count) == ([2, 2, 2, 2, 0, 1], 2)


def answer(text: str, *more: int) -> Sample:
    ids = np.array([*TOKENIZER("1+1=")["input_ids"], *TOKENIZER(text)["input_ids"], *more])
    asked = len(TOKENIZER("1+1=")["input_ids"])
    own = np.arange(len(ids)) >= asked
    return Sample(ids, own, np.zeros(len(ids), dtype=np.float32), asked)


def fields(
    sample: Sample, advantages: list[float], found: list[int] | None, text: str
) -> dict[str, Any]:
    given = np.array([*advantages, np.nan, np.nan])  # padding
    of_bound = None if found is None else np.array([*found, 0, 0])
    return token_fields(sample, text, given, of_bound, list(SIDES.values()), TOKENIZER)


def test_a_line_has_the_stretches_that_were_held_back() -> None:
    sample = answer("ab;2", STOP)
    ids = sample.tokens[sample.prompt_length :].tolist()
    found = fields(sample, [0.5] * 5, [0, HIGH, HIGH, 0, LOW], "ab;2")
    assert found == {
        "ids": ids,
        "advantages": 0.5,
        "clipped": [(1, 3, "high"), (4, 5, "low")],
        "widths": [1, 1, 1, 1, 0],
    }
    assert fields(sample, [0.5] * 5, [0] * 5, "ab;2") == {
        "ids": ids,
        "advantages": 0.5,
        "clipped": [],
    }
    assert fields(sample, [0.5] * 5, None, "ab;2") == {"ids": ids, "advantages": 0.5}


def test_a_line_has_the_advantage_of_each_token_where_they_differ() -> None:
    sample = answer("é1", STOP)  # two bytes, two tokens
    found = fields(sample, [1 / 3, -2.0, np.nan, 1e-7], None, "é1")
    assert found["advantages"] == [0.33333, -2.0, None, 1e-07]
    assert found["widths"] == [0, 1, 1, 0] and "clipped" not in found
    broken = answer("é")
    cut = replace(broken, tokens=np.append(broken.tokens[:-1], STOP))  # half a character
    assert fields(cut, [1.0, 2.0], None, "\ufffd")["widths"] == [0, 1]
    assert "widths" not in fields(sample, [1.0, 2.0, 3.0, 4.0], None, "é 1"), "rewritten text"


def test_an_answer_that_took_no_part_has_nothing() -> None:
    assert fields(answer("ab"), [np.nan, np.nan], [0, 0], "ab") == {}
