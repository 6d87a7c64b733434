"""The critic's loss through the one reducer."""

import pytest
import torch

from polopt.errors import NonFiniteError
from polopt.math.reduce import AGGREGATIONS
from polopt.objective import ValueObjective, value_loss, value_terms
from polopt.types import Advantages, Experience

NAN = float("nan")


def batch(lengths=(12, 7, 3, 11, 5, 9, 2, 6), seed=0):
    gen = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    def noise():
        x = torch.randn(mask.shape, generator=gen, dtype=torch.float64)
        return torch.where(mask, x, NAN)

    experience = Experience(
        mask=mask,
        group=torch.arange(len(lengths)) // 2,
        rewards=torch.zeros(len(lengths)),
        values=noise(),
    )
    advantages = Advantages(torch.zeros(mask.shape), mask, mask.any(-1), value_targets=noise())
    return experience, advantages, noise()


@pytest.mark.parametrize("name", sorted(AGGREGATIONS))
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_micro_batches_add_up(name, size):
    experience, advantages, values = batch()
    objective = ValueObjective(0.5, AGGREGATIONS[name], 10)
    terms = value_terms(experience, advantages, objective)
    whole, metrics = value_loss(values, terms, objective)
    shares = [value_loss(values[i], terms.rows(i), objective) for i in torch.arange(8).split(size)]
    assert sum(loss for loss, _ in shares).item() == pytest.approx(whole.item(), abs=1e-12)
    clipped = sum(m["value_clip_fraction"] for _, m in shares).item()
    assert clipped == pytest.approx(metrics["value_clip_fraction"].item(), abs=1e-12)


def test_the_constant_length_scales_the_loss():
    experience, advantages, values = batch()
    losses = []
    for length in (5, 10):
        objective = ValueObjective(None, AGGREGATIONS["seq_mean_token_sum_const"], length)
        losses.append(
            value_loss(values, value_terms(experience, advantages, objective), objective)[0]
        )
    assert losses[0].item() == pytest.approx(2 * losses[1].item())


def test_by_hand():
    # ½·(.5² + 1² )/2 over two tokens
    experience, advantages, _ = batch((2,))
    terms = value_terms(experience, advantages, ValueObjective())
    values = advantages.value_targets + torch.tensor([[0.5, -1.0]])
    loss, _ = value_loss(values, terms, ValueObjective())
    assert loss.item() == pytest.approx(0.3125)


def test_the_clip_is_around_the_values_of_the_rollout():
    # V moved by .9 from its rollout value and counts as moved by .2; the target is 1 above: ½(.8)²
    experience, advantages, _ = batch((1,))
    advantages = Advantages(
        advantages.advantages,
        advantages.mask,
        advantages.valid,
        value_targets=experience.values + 1.0,
    )
    terms = value_terms(experience, advantages, ValueObjective(0.2))
    loss, metrics = value_loss(experience.values + 0.9, terms, ValueObjective(0.2))
    assert loss.item() == pytest.approx(0.32)
    assert metrics["value_clip_fraction"].item() == 1.0


def test_bad_numbers_and_missing_tensors():
    experience, advantages, values = batch((2, 2))
    terms = value_terms(experience, advantages, ValueObjective())
    values[1, 0] = NAN
    with pytest.raises(NonFiniteError, match="value loss: values is nan at row 1, token 0"):
        value_loss(values, terms, ValueObjective())
    with pytest.raises(ValueError, match="value_targets"):
        value_terms(
            experience,
            Advantages(advantages.advantages, advantages.mask, advantages.valid),
            ValueObjective(),
        )
