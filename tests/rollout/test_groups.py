"""Groups as tensors, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from polopt.data import Demonstration
from polopt.rollout.dataset import demonstrated
from polopt.rollout.groups import BEGINNING, experience, introduced, lag_metrics, rollout_metrics
from polopt.types import Batch, Finish, Group, Outcome, Prompt, Sample, Sampling, Span

CPU = torch.device("cpu")
NAN = float("nan")


def sample(tokens: list[int], prompt_length: int, reward: float = 0.0, **fields) -> Sample:
    response = np.arange(len(tokens)) >= prompt_length
    logp = np.where(response, -0.5 * np.arange(len(tokens)), np.nan).astype(np.float32)
    return Sample(
        tokens=np.array(tokens),
        mask=response,
        logp_rollout=logp,
        prompt_length=prompt_length,
        spans=(Span(3, prompt_length, len(tokens)),),
        sampling=Sampling(0.7, min_new_tokens=1),
        reward=reward,
        **fields,
    )


def group(ticket: int, *samples: Sample) -> Group:
    return Group(ticket, Prompt(ticket, "p", (5,)), samples)


BATCH = Batch(
    (
        group(4, sample([5, 11, 12, 2], 1, 1.0, outcome=Outcome.OK)),
        group(
            6,
            sample([6, 7, 8, 13, 2], 3, 0.0, outcome=Outcome.WRONG, finish=Finish.LENGTH),
            sample([6, 7, 8, 14], 3, NAN, outcome=Outcome.TIMEOUT),
        ),
    ),
    taken_at=5,
)


def test_prompts_stand_on_the_left_and_responses_on_the_right() -> None:
    tensors = experience(BATCH, pad_id=9, device=CPU)
    assert tensors.tokens.tokens.tolist() == [
        [9, 9, 5, 11, 12, 2],
        [6, 7, 8, 13, 2, 9],
        [6, 7, 8, 14, 9, 9],
    ]
    assert tensors.tokens.attention.int().tolist() == [
        [0, 0, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0, 0],
    ]
    assert tensors.tokens.prompt_width == 3
    assert tensors.mask.int().tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert tensors.group.tolist() == [4, 6, 6]
    assert tensors.truncated.tolist() == [False, True, False]
    assert (tensors.tokens.temperature, tensors.tokens.min_new_tokens) == (0.7, 1)


def test_log_probs_of_the_sampler_are_those_of_the_responses() -> None:
    logp = experience(BATCH, pad_id=9, device=CPU).logp_rollout
    expected = [[-0.5, -1.0, -1.5], [-1.5, -2.0, NAN], [-1.5, NAN, NAN]]
    assert torch.allclose(logp, torch.tensor(expected), equal_nan=True)


@pytest.mark.parametrize("finish", [Finish.ABORTED, Finish.ERROR])
def test_what_did_not_end_by_itself_has_no_score(finish: Finish) -> None:
    cut = replace(BATCH.groups[0].samples[0], finish=finish)
    scores = experience(Batch((group(0, cut),), 0), pad_id=0, device=CPU).rewards
    assert torch.isnan(scores).tolist() == [True]
    assert experience(BATCH, pad_id=9, device=CPU).rewards[:2].tolist() == [1.0, 0.0]


def test_rows_of_tensors_are_those_rows() -> None:
    tensors = experience(BATCH, pad_id=9, device=CPU)
    some = tensors.rows(torch.tensor([2, 0]))
    assert some.group.tolist() == [6, 4]
    assert some.tokens.tokens.tolist() == [[6, 7, 8, 14, 9, 9], [9, 9, 5, 11, 12, 2]]
    assert some.tokens.prompt_width == 3


def test_metrics_by_hand() -> None:
    metrics = rollout_metrics(BATCH)
    assert metrics == pytest.approx(
        {
            "response/length": (3 + 2 + 1) / 3,
            "response/truncated": 1 / 3,
            "lag/min": 2.0,
            "lag/mean": 2.0,
            "lag/max": 2.0,
            "tokens": 6.0,
            "reward/mean": 0.5,  # of the two that could be scored
            "reward/std": 0.5,
            "accuracy": 0.5,
        }
    )


def test_each_reward_has_a_mean_and_a_deviation() -> None:
    """Of what it adds: nothing where it does not apply. The last answer could not be scored."""
    parts = (
        {"rank": 0.0, "format": 1.0, "even": 1.0},
        {"rank": 0.5, "format": 1.0, "even": 1.0},
        {"rank": 1.0, "even": 1.0},
        {},
    )
    rows = [replace(sample([6, 7, n], 2), parts=own) for n, own in enumerate(parts, start=1)]
    rows[-1] = replace(rows[-1], reward=NAN)
    metrics = rollout_metrics(Batch((group(1, *rows),), taken_at=1))
    means, spreads = (
        {name: metrics[f"{family}/{name}"] for name in ("rank", "format", "even")}
        for family in ("reward", "reward_std")
    )
    assert means == {"rank": 0.5, "format": 1.0, "even": 1.0}
    third = (2 / 9) ** 0.5  # of 1, 1, 0
    assert spreads == pytest.approx({"rank": (1 / 6) ** 0.5, "format": third, "even": 0.0})


def test_lag_by_hand() -> None:
    """Version 5 trains on 2 tokens of version 3 and 1 of 5, and on 1 of version 4 or of -7."""
    changed = replace(sample([6, 7, 8, 14], 1), spans=(Span(3, 1, 3), Span(5, 3, 4)))
    for version, lag, last in ((4, 1, 1), (-7, 12, 8)):
        other = replace(sample([6, 2], 1), spans=(Span(version, 1, 2),))
        batch = Batch((group(1, changed, other),), taken_at=5)
        assert experience(batch, pad_id=9, device=CPU).lag.tolist() == [[2, 2, 0], [lag, 0, 0]]
        metrics = rollout_metrics(batch)
        assert [metrics[f"lag/{name}"] for name in ("min", "mean", "max")] == [
            0.0,
            (4 + lag) / 4,
            max(2.0, lag),
        ]
        assert lag_metrics(batch, 3) == {
            "lag/steps_mean": 3 * (4 + lag) / 4,
            "lag/steps_max": 3 * max(2.0, lag),
            "lag/spans": 1.5,
            "lag/0/tokens": 1.0,
            "lag/2/tokens": 2.0,
            f"lag/{last}/tokens": 1.0,
        }


def test_metrics_of_rewards_by_name() -> None:
    one = sample([5, 2], 1, 1.0, parts={"style": 0.5, "length": 2.0})
    other = sample([5, 2], 1, 1.0, parts={"style": 1.0})
    metrics = rollout_metrics(Batch((group(0, one, other),), 3))
    assert metrics["reward/style"] == 0.75
    assert metrics["reward/length"] == 2.0
    assert "accuracy" not in metrics  # nobody judged


def test_nothing_scored_is_no_reward_of_zero() -> None:
    metrics = rollout_metrics(Batch((group(0, sample([5, 2], 1, NAN)),), 3))
    assert not any(name.startswith("reward") for name in metrics)


def test_a_demonstration_is_a_group_of_one_without_a_sampler() -> None:
    mask = np.array([False, True, True])
    prompt = Prompt(8, "p", (5,))
    given = Demonstration(prompt, np.array([5, 6, 2]), mask, 1)
    found = demonstrated(8, given)
    assert found.ticket == 8
    assert found.prompt is prompt
    (one,) = found.samples
    assert one.mask is mask
    assert one.spans == ()
    assert math.isnan(one.reward) and np.isnan(one.logp_rollout).all()
    tensors = experience(Batch((found,), 0), pad_id=0, device=CPU)
    assert tensors.mask.tolist() == [[True, True]]


def test_a_greedy_response_is_a_number_for_the_others() -> None:
    """It is in no row, in no count and in no mean but its own."""
    aborted = sample([5, 3], 1, 1.0, finish=Finish.ABORTED)
    best = (sample([5, 11, 2], 1, 0.5, outcome=Outcome.OK), aborted)
    groups = [replace(g, greedy=one) for g, one in zip(BATCH.groups, best, strict=True)]
    batch = replace(BATCH, groups=tuple(groups))
    tensors, plain = (experience(b, pad_id=9, device=CPU) for b in (batch, BATCH))
    assert tensors.greedy_rewards.isnan().tolist() == [False, True, True]
    assert tensors.greedy_rewards[0] == 0.5
    assert plain.greedy_rewards is None
    assert tensors.tokens.tokens.equal(plain.tokens.tokens)
    metrics = rollout_metrics(batch)
    assert metrics.pop("reward/greedy") == 0.75
    assert metrics.pop("greedy_tokens") == 3
    assert metrics == rollout_metrics(BATCH)


def test_right_is_what_the_outcome_says() -> None:
    """Right, wrong, and a timeout that says nothing; what was aborted says nothing either."""
    assert experience(BATCH, pad_id=9, device=CPU).right.nan_to_num(-1).tolist() == [1, 0, -1]
    aborted = sample([5, 3], 1, 1.0, finish=Finish.ABORTED, outcome=Outcome.OK)
    tensors = experience(Batch((group(1, aborted),), 0), pad_id=9, device=CPU)
    assert tensors.right.isnan().all()


def test_prompts_are_introduced_where_they_will_be_asked_again() -> None:
    """In the first pass over the rows, each with its first key; endless rows never are."""
    turns = ({"role": "system", "content": "Briefly."}, {"role": "user", "content": "1+1?"})
    prompts = (
        Prompt(0, "x" * 500, (5,), keys=("a", "a2")),
        Prompt(1, "<rendered>", (5,), keys=("b",), messages=turns),
        Prompt(2, "unscored", (5,), keys=("c",)),
        Prompt(3, "again", (5,), keys=("a",)),
    )
    rewards = (1.0, 0.0, NAN, 1.0)
    groups = tuple(
        Group(ticket, prompt, (sample([5, 6], 1, reward),))
        for ticket, (prompt, reward) in enumerate(zip(prompts, rewards, strict=True))
    )
    assert introduced(Batch(groups, 0), 3) == {"a": "x" * BEGINNING, "b": "1+1?"}
    assert introduced(Batch(groups, 0, frozenset({0})), 3) == {"b": "1+1?"}
    assert introduced(Batch(groups, 0), None) == {}
