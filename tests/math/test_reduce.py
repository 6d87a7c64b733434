"""Aggregation: numbers by hand, and what must never change it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polopt.math.reduce import (
    AGGREGATIONS,
    group_is_constant,
    group_size,
    group_sum,
    last_token,
    masked,
    row_mean,
    seq_mean_token_mean,
    seq_mean_token_sum,
    seq_mean_token_sum_const,
    token_mean,
    weighted_sum,
)

NAN = float("nan")
# three rows of 2, 2 and 1 tokens; what stands outside the mask must not be read
LOSS = torch.tensor([[1, 3, NAN], [2, 4, NAN], [8, NAN, NAN]], dtype=torch.float64)
MASK = ~torch.isnan(LOSS)
GROUP = torch.tensor([0, 0, 7])


def total(name, loss=LOSS, mask=MASK, group=GROUP, length=4):
    weights = AGGREGATIONS[name](mask, group, length, torch.float64)
    return weighted_sum(loss, weights, mask)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_mean", 18 / 5),  # (1+3+2+4+8)/5
        ("seq_mean_token_mean", 13 / 3),  # (2 + 3 + 8)/3
        ("seq_mean_token_sum", 6.0),  # (4 + 6 + 8)/3
        ("seq_mean_token_sum_const", 1.5),  # 18/(3·4)
        ("prompt_mean", 5.25),  # ((1+3+2+4)/4 + 8)/2
    ],
)
def test_worked_numbers(name, expected):
    assert total(name).item() == pytest.approx(expected, abs=1e-12)


def test_a_fully_masked_row_is_not_counted():
    more = torch.cat([LOSS, torch.full((1, 3), NAN, dtype=torch.float64)])
    mask, group = torch.cat([MASK, torch.zeros(1, 3, dtype=torch.bool)]), torch.tensor([0, 0, 7, 9])
    for name in AGGREGATIONS:
        assert total(name, more, mask, group).item() == total(name).item()


@pytest.mark.parametrize("name", sorted(AGGREGATIONS))
def test_an_empty_mask_gives_zero_loss_and_zero_gradient(name):
    loss = torch.full((2, 3), NAN, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    value = total(name, loss, nothing, torch.tensor([0, 1]))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(loss.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("name", sorted(AGGREGATIONS))
def test_a_batch_without_rows_gives_zero(name):
    empty = torch.zeros(0, 3)
    assert total(name, empty, empty.bool(), torch.zeros(0, dtype=torch.int64)).item() == 0.0


def test_the_window_is_divided_once_not_per_micro_batch():
    # 100 tokens at 2.0 and 900 at 0.5: (200 + 450)/1000, where a mean of means would say 1.25
    loss = torch.zeros(2, 900, dtype=torch.float64)
    loss[0, :100], loss[1] = 2.0, 0.5
    mask = torch.zeros(2, 900, dtype=torch.bool)
    mask[0, :100], mask[1] = True, True
    weights = token_mean(mask, torch.tensor([0, 1]), None, torch.float64)
    parts = [weighted_sum(loss[i : i + 1], weights[i : i + 1], mask[i : i + 1]) for i in (0, 1)]
    assert sum(parts).item() == pytest.approx(0.65, abs=1e-12)


def test_dr_grpo_needs_its_length():
    with pytest.raises(ValueError, match="length"):
        seq_mean_token_sum_const(MASK, GROUP, None, torch.float64)


@st.composite
def batches(draw):
    b, t = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    cells = draw(st.lists(st.booleans(), min_size=b * t, max_size=b * t))
    group = draw(st.lists(st.integers(0, 3), min_size=b, max_size=b))
    mask = torch.tensor(cells).view(b, t)
    loss = torch.linspace(-1.0, 2.0, b * t, dtype=torch.float64).view(b, t)
    return torch.where(mask, loss, NAN), mask, torch.tensor(group), draw(st.randoms())


@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from(sorted(AGGREGATIONS)))
def test_splitting_padding_and_order_change_nothing(batch, name):
    loss, mask, group, random = batch
    b, t = mask.shape
    weights = AGGREGATIONS[name](mask, group, 4, torch.float64)
    whole = weighted_sum(loss, weights, mask)

    cut = random.randrange(b + 1)
    parts = [(loss[s], weights[s], mask[s]) for s in (slice(cut), slice(cut, b))]
    assert sum(weighted_sum(*p) for p in parts).item() == pytest.approx(whole.item(), abs=1e-12)

    wide = torch.full((b, t + 2), NAN, dtype=torch.float64)
    wide[:, :t] = loss
    wider = torch.zeros(b, t + 2, dtype=torch.bool)
    wider[:, :t] = mask
    assert total(name, wide, wider, group).item() == pytest.approx(whole.item(), abs=1e-12)

    order = torch.tensor(random.sample(range(b), b))
    turned = total(name, loss[order], mask[order], group[order])
    assert turned.item() == pytest.approx(whole.item(), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(batches())
def test_weights_against_loops(batch):
    _, mask, group, _ = batch
    rows = [i for i in range(len(mask)) if mask[i].any()]
    tokens = sum(int(mask[i].sum()) for i in rows)
    prompts = {int(group[i]) for i in rows}
    for i, t in mask.nonzero().tolist():
        mine = [j for j in rows if group[j] == group[i]]
        n, inside = int(mask[i].sum()), sum(int(mask[j].sum()) for j in mine)
        expected = {
            "token_mean": 1 / tokens,
            "seq_mean_token_mean": 1 / (len(rows) * n),
            "seq_mean_token_sum": 1 / len(rows),
            "seq_mean_token_sum_const": 1 / (len(rows) * 4),
            "prompt_mean": 1 / (len(prompts) * inside),
        }
        for name, weight in expected.items():
            got = AGGREGATIONS[name](mask, group, 4, torch.float64)[i, t].item()
            assert got == pytest.approx(weight, rel=1e-12), name


def test_relations_between_aggregations():
    mask = torch.tensor([[1, 1], [1, 1]], dtype=torch.bool)  # equal lengths: the means agree
    group = torch.tensor([0, 1])
    first = token_mean(mask, group, None, torch.float64)
    assert torch.equal(first, seq_mean_token_mean(mask, group, None, torch.float64))
    summed = seq_mean_token_sum(mask, group, None, torch.float64)
    assert torch.equal(2 * first, summed)
    assert torch.equal(first, seq_mean_token_sum_const(mask, group, 2, torch.float64))


def test_masked_stops_nan_in_values_and_gradients():
    x = torch.tensor([1.0, NAN, float("inf")], requires_grad=True)
    kept = masked(x, torch.tensor([True, False, False]))
    (kept.exp() * kept).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad[1:].tolist() == [0.0, 0.0]


def test_precision_is_kept_or_widened():
    mask = torch.ones(2, dtype=torch.bool)
    assert masked(torch.ones(2, dtype=torch.bfloat16), mask).dtype == torch.float32
    assert masked(torch.ones(2, dtype=torch.float16), mask).dtype == torch.float32
    assert masked(torch.ones(2, dtype=torch.float64), mask).dtype == torch.float64


def test_last_token_is_the_last_valid_one():
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert last_token(mask).nonzero().tolist() == [[0, 1], [1, 2], [3, 3]]


def test_row_mean_of_an_empty_row_is_zero():
    assert row_mean(LOSS, torch.zeros_like(MASK)).tolist() == [0.0, 0.0, 0.0]


def test_groups_need_not_be_adjacent():
    group = torch.tensor([5, -2, 5, -2, 9])
    x = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    valid = torch.tensor([True, True, True, False, True])
    assert group_sum(x, group).tolist() == [5.0, 10.0, 5.0, 10.0, 16.0]
    assert group_size(valid, group).tolist() == [2.0, 1.0, 2.0, 1.0, 1.0]
    assert group_is_constant(x, group, valid).tolist() == [False, True, False, True, True]


@pytest.mark.parametrize("beside", [-5.0, 5.0, float("nan")])
def test_a_row_that_left_does_not_make_a_group_vary(beside):
    x = torch.tensor([0.1, 0.1, beside, 0.2])
    valid = torch.tensor([True, True, False, True])
    assert group_is_constant(x, torch.tensor([4, 4, 4, 4]), valid).tolist() == [False] * 4
    assert group_is_constant(x, torch.tensor([4, 4, 4, 9]), valid).tolist() == [True] * 4
