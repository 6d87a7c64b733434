"""Optimiser steps: what may not change the gradient, when no step is taken, what a resume needs."""

import math
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kept_gradients import in_one, kept
from polopt.errors import NonFiniteError
from polopt.math.divergence import k3
from polopt.math.reduce import AGGREGATIONS, token_mean
from polopt.math.surrogates import clipped
from polopt.models import LanguageModel
from polopt.objective import TOKEN, KLTerm, PolicyObjective, idle_rows, policy_loss, step_terms
from polopt.recipe import Update
from polopt.roles import Actor, Computing
from polopt.roles.policies.token import Outputs
from polopt.types import Advantages, Experience, StepRows, TokenRows
from polopt.update import FirstOrder
from polopt.update.minibatch import Loss
from random_models import builtin_model

ROWS, PROMPT, RESPONSE = 6, 5, 8
UPDATE = Update(learning_rate=1e-3, max_grad_norm=1e9)
OBJECTIVE = PolicyObjective(
    TOKEN,
    partial(clipped, low=0.2, high=0.2),
    AGGREGATIONS["seq_mean_token_mean"],
    kl=KLTerm(k3, 0.1),
    entropy_coefficient=0.01,
)


def loss(objective: PolicyObjective = OBJECTIVE, factor: float = 1.0) -> Loss:
    def value(scores, terms):
        total, metrics = policy_loss(scores.logp, scores.entropy, terms, objective)
        return factor * total, metrics

    return Loss({"logp", "entropy"}, lambda e, c: step_terms(e, c, objective), value)


def learner(language_model: LanguageModel, update: Update = UPDATE, **changed) -> FirstOrder:
    settings = {"loss": loss(), "steps": 10, "seed": 7, "name": "policy"} | changed
    return FirstOrder(Actor(language_model), settings.pop("loss"), update, **settings)


def batch(seed: int = 0) -> tuple[Experience, Advantages]:
    """Rows of different lengths with random tokens, advantages and log-probs."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, RESPONSE + 1, (ROWS,), generator=generator)
    prompts = torch.randint(1, PROMPT + 1, (ROWS,), generator=generator)
    tokens = torch.randint(3, 259, (ROWS, PROMPT + RESPONSE), generator=generator)
    columns = torch.arange(PROMPT + RESPONSE)
    attention = (columns >= PROMPT - prompts[:, None]) & (columns < PROMPT + lengths[:, None])
    mask = attention[:, PROMPT:]

    def noise() -> Tensor:
        near = torch.randn(ROWS, RESPONSE, generator=generator) * 0.3 - 5.5
        return torch.where(mask, near, torch.nan)

    experience = Experience(
        mask=mask,
        group=torch.arange(ROWS) // 2,
        rewards=torch.zeros(ROWS),
        logp_old=noise(),
        logp_ref=noise(),
        tokens=TokenRows(tokens * attention, attention, PROMPT),
    )
    advantages = torch.randn(ROWS, 1, generator=generator) * mask
    return experience, Advantages(advantages, mask, mask.any(-1))


def gradient(
    experience: Experience, advantages: Advantages, update: Update = UPDATE, **kw
) -> Tensor:
    return of_update(learner(builtin_model(), update, **kw), experience, advantages)


def of_update(one: FirstOrder, experience: Experience, advantages: Advantages) -> Tensor:
    """The gradient of an update, which the learner frees after it."""
    with kept(one) as gradients:
        one.update(experience, advantages, 0)
    return in_one(gradients)


def assert_same_gradient(one: Tensor, other: Tensor) -> None:
    assert one.norm() > 0
    assert (one - other).norm() / one.norm() <= 1e-6


def weights(language_model: LanguageModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in language_model.model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_the_split_into_micro_batches_changes_nothing(aggregation: str, rows: int) -> None:
    objective = replace(OBJECTIVE, aggregate=AGGREGATIONS[aggregation], aggregation_length=RESPONSE)
    split = UPDATE.model_copy(update={"micro_batch_tokens": rows * (PROMPT + RESPONSE)})
    whole = gradient(*batch(), loss=loss(objective))
    assert_same_gradient(whole, gradient(*batch(), split, loss=loss(objective)))


def test_micro_batches_keep_within_their_budget() -> None:
    sizes = list[int]()
    plain = loss()

    def value(scores, terms):
        sizes.append(scores.logp.shape[0])
        return plain.value(scores, terms)

    budget = 2 * (PROMPT + RESPONSE) + 5  # two rows and a bit
    seen = replace(plain, value=value)
    gradient(*batch(), UPDATE.model_copy(update={"micro_batch_tokens": budget}), loss=seen)
    assert sum(sizes) == ROWS and max(sizes) > 1 and len(sizes) > 1
    sizes.clear()
    gradient(*batch(), UPDATE.model_copy(update={"micro_batch_tokens": 1}), loss=seen)
    assert sizes == [1] * ROWS  # less than a row is a row


def test_metrics_do_not_depend_on_the_split() -> None:
    split = UPDATE.model_copy(update={"micro_batch_tokens": 1})
    one = learner(builtin_model()).update(*batch(), 0)
    other = learner(builtin_model(), split).update(*batch(), 0)
    assert one.keys() == other.keys() >= {"policy/loss", "policy/entropy", "policy/grad_norm"}
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize(("left", "right"), [(0, 5), (7, 0), (30, 40)])
def test_the_amount_of_padding_changes_nothing(left: int, right: int) -> None:
    experience, advantages = batch()
    assert experience.tokens is not None
    pad = torch.nn.functional.pad

    def wider(x: Tensor) -> Tensor:
        return pad(x, (0, right), value=float("nan"))

    padded = replace(
        experience,
        mask=pad(experience.mask, (0, right)),
        logp_old=wider(experience.logp_old),
        logp_ref=wider(experience.logp_ref),
        tokens=TokenRows(
            pad(experience.tokens.tokens, (left, right)),
            pad(experience.tokens.attention, (left, right)),
            PROMPT + left,
        ),
    )
    credited_padded = replace(
        advantages,
        advantages=pad(advantages.advantages, (0, right)),
        mask=pad(advantages.mask, (0, right)),
    )
    assert_same_gradient(gradient(experience, advantages), gradient(padded, credited_padded))


def test_the_order_of_rows_changes_nothing() -> None:
    experience, advantages = batch()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = gradient(experience.rows(order), advantages.rows(order))
    assert_same_gradient(gradient(experience, advantages), shuffled)


def test_no_signal_leaves_the_weights_as_they_are() -> None:
    """Neither momentum nor weight decay may move them: bit-equal."""
    language_model = builtin_model()
    decaying = UPDATE.model_copy(update={"weight_decay": 0.1})
    policy = learner(
        language_model, decaying, loss=loss(replace(OBJECTIVE, kl=None, entropy_coefficient=0.0))
    )
    start = weights(language_model)
    experience, advantages = batch()
    policy.update(experience, advantages, 0)
    moved = weights(language_model)
    assert not same(start, moved)
    assert policy.optimiser_steps == 1
    silent = replace(advantages, advantages=torch.zeros_like(advantages.advantages))
    metrics = policy.update(experience, silent, 1)
    assert same(moved, weights(language_model))
    assert policy.optimiser_steps == 1
    assert metrics["policy/grad_norm"] == 0.0
    nobody = replace(advantages, mask=torch.zeros_like(advantages.mask))  # every row left the loss
    policy.update(experience, nobody, 2)
    assert same(moved, weights(language_model))


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e39])
def test_no_step_is_taken_on_a_gradient_that_is_not_finite(factor: float, tmp_path: Path) -> None:
    language_model = builtin_model()
    policy = learner(language_model)
    policy.update(*batch(), 0)
    before, counters = weights(language_model), policy.save(tmp_path)
    bytes_before = (tmp_path / "optimizer.safetensors").read_bytes()
    policy.loss = loss(factor=factor)
    with pytest.raises(NonFiniteError, match=r"policy: the gradient norm of step 4 is (nan|inf)"):
        policy.update(*batch(1), 3)
    assert same(before, weights(language_model))
    assert policy.save(tmp_path) == counters
    assert (tmp_path / "optimizer.safetensors").read_bytes() == bytes_before


def test_gradients_are_clipped_by_their_global_norm() -> None:
    experience, advantages = batch()
    free = gradient(experience, advantages)
    clipped_ = gradient(experience, advantages, UPDATE.model_copy(update={"max_grad_norm": 0.01}))
    assert clipped_.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(clipped_ / clipped_.norm(), free / free.norm(), atol=1e-6)


class OneWeight:
    """A role with one weight w, which says w times what was seen."""

    how = Computing()

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.parameters = {"weight": self.weight}

    def score(self, rows: StepRows, want: object) -> Outputs:
        return Outputs(values=self.weight * rows.observations[..., 0])


def path(*gradients: float, **settings: float) -> list[float]:
    """Where one weight is after each of these gradients, from 0 on."""
    role, places = OneWeight(), list[float]()
    plain = Loss({"values"}, lambda _, advantages: advantages, lambda s, _: (s.values.sum(), {}))
    update = Update(learning_rate=0.1, **settings)
    policy = FirstOrder(role, plain, update, steps=9, seed=7, name="policy")
    yes, one = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1)
    for step, gradient in enumerate(gradients):
        rows = StepRows(torch.full((1, 1, 1), gradient), torch.zeros(1, 1))
        experience = Experience(yes, one.long(), one, steps=rows)
        told = policy.update(experience, Advantages(one[None], yes, yes[0]), step)
        assert told["policy/grad_norm"] == abs(gradient)  # told as it was before any clip
        places.append(role.weight.item())
    return places


def test_two_steps_of_adam_by_hand() -> None:
    """Gradients 1 and 3, β₁ = ½, β₂ = ¾: m = ½, 7/4 and v = ¼, 39/16.

    In the second step m̂ = (7/4)/(1 - ¼) = 7/3 and v̂ = (39/16)/(1 - 9/16) = 39/7.
    """
    first, second = path(1.0, 3.0, beta1=0.5, beta2=0.75, max_grad_norm=9.0)
    assert first == pytest.approx(-0.1)
    assert second == pytest.approx(-0.1 - 0.1 * (7 / 3) / math.sqrt(39 / 7))


def test_adam_sees_the_gradient_after_its_clip() -> None:
    """A first step hides its size. Clipped to 1, gradients 1 and 9 are 1 and 1: -η, then -2η."""
    assert path(1.0, 9.0, max_grad_norm=1.0) == pytest.approx([-0.1, -0.2])
    assert path(1.0, 1.0, max_grad_norm=1.0) == pytest.approx([-0.1, -0.2])
    assert path(1.0, 9.0, max_grad_norm=99.0)[1] > -0.19  # momentum lags behind what grows


def test_the_first_step_of_adam_has_the_size_of_the_learning_rate() -> None:
    """m̂ / √v̂ is the sign of the gradient in the first step (Kingma & Ba 2015)."""
    language_model = builtin_model()
    before = weights(language_model)
    learner(language_model).update(*batch(), 0)
    moved = torch.cat(
        [(p - before[name]).flatten() for name, p in language_model.model.named_parameters()]
    ).abs()
    assert moved.max().item() == pytest.approx(1e-3, rel=1e-2)


def test_weight_decay_is_for_matrices_alone() -> None:
    """Adam's part is cancelled by beta1 = 0 and a learning rate that only the decay feels."""
    plain, decayed = builtin_model(), builtin_model()
    learner(plain).update(*batch(), 0)
    learner(decayed, UPDATE.model_copy(update={"weight_decay": 5.0})).update(*batch(), 0)
    start = weights(builtin_model())
    for name, one in weights(plain).items():
        other = weights(decayed)[name]
        if one.ndim > 1:
            shrunk = one - 1e-3 * 5.0 * start[name]  # η w θ
            assert torch.allclose(other, shrunk, atol=1e-7), name
        else:
            assert torch.equal(one, other), name


def test_state_saved_and_loaded_takes_the_same_next_step(tmp_path: Path) -> None:
    settings = UPDATE.model_copy(update={"weight_decay": 0.01, "epochs": 2, "minibatches": 2})
    undisturbed = builtin_model()
    policy = learner(undisturbed, settings)
    for step in range(3):
        policy.update(*batch(step), step)
    counters = policy.save(tmp_path)
    assert counters == {"optimiser_steps": 12}
    resumed = builtin_model(seed=9)
    resumed.model.load_state_dict(undisturbed.model.state_dict())
    successor = learner(resumed, settings)
    successor.load(tmp_path, counters)
    for step in range(3, 6):
        one = policy.update(*batch(step), step)
        other = successor.update(*batch(step), step)
        assert one == other
        assert same(weights(undisturbed), weights(resumed))
    assert successor.optimiser_steps == policy.optimiser_steps == 24


def test_a_fresh_optimiser_can_be_saved_and_loaded(tmp_path: Path) -> None:
    policy = learner(builtin_model())
    counters = policy.save(tmp_path)
    learner(builtin_model()).load(tmp_path, counters)
    assert counters == {"optimiser_steps": 0}


def minibatches(seed: int, step: int, epochs: int = 2, count: int = 3) -> list[list[int]]:
    """The rows of each optimiser step, as the loss sees them."""
    seen = list[list[int]]()
    plain = loss()

    def terms(experience: Experience, advantages: Advantages):
        seen.append(experience.group.tolist())
        return plain.terms(experience, advantages)

    settings = UPDATE.model_copy(update={"epochs": epochs, "minibatches": count})
    policy = learner(builtin_model(), settings, loss=replace(plain, terms=terms), seed=seed)
    experience, advantages = batch()
    policy.update(replace(experience, group=torch.arange(ROWS)), advantages, step)
    return seen


def test_every_epoch_visits_every_row_once_in_an_order_of_its_own() -> None:
    found = minibatches(seed=1, step=4)
    first, second = list(chain(*found[:3])), list(chain(*found[3:]))
    assert [len(rows) for rows in found] == [2] * 6
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second


def test_the_order_is_a_function_of_seed_and_step() -> None:
    base = minibatches(seed=1, step=4)
    torch.manual_seed(3)
    assert minibatches(seed=1, step=4) == base
    assert minibatches(seed=2, step=4) != base
    assert minibatches(seed=1, step=5) != base


def test_one_minibatch_is_the_batch_as_it_stands() -> None:
    assert minibatches(seed=1, step=0, epochs=2, count=1) == [list(range(ROWS))] * 2


def test_minibatches_that_do_not_divide_the_batch() -> None:
    sizes = [len(rows) for rows in minibatches(seed=1, step=0, epochs=1, count=4)]
    assert sizes == [2, 2, 1, 1]


def test_more_minibatches_than_rows() -> None:
    found = minibatches(seed=1, step=0, epochs=1, count=8)
    assert sorted(found) == [[row] for row in range(ROWS)]


def test_a_companion_is_asked_once_an_optimiser_step_and_never_twice_for_the_same() -> None:
    """Two passes of two minibatches a batch: places 0 to 3, then 4 to 7, of the stream of texts."""
    language_model, asked = builtin_model(), list[int]()

    def companion(place: int) -> tuple[Tensor, dict[str, Tensor]]:
        asked.append(place)
        nothing = sum(p.sum() * 0.0 for p in language_model.model.parameters())
        return nothing, {}

    update = UPDATE.model_copy(update={"epochs": 2, "minibatches": 2})
    one = learner(language_model, update, companions=(companion,))
    for step in range(2):
        one.update(*batch(step), step)
    assert asked == [0, 1, 2, 3, 4, 5, 6, 7]


def counted(scorer: Actor, sizes: list[int]) -> Actor:
    """The same, which notes how many rows each pass has."""
    score = scorer.score

    def counting(rows, want):
        sizes.append(len(rows.tokens))
        return score(rows, want)

    object.__setattr__(scorer, "score", counting)
    return scorer


def test_rows_that_add_nothing_are_not_computed() -> None:
    objective = PolicyObjective(TOKEN, OBJECTIVE.surrogate, token_mean, vanishes=True)
    experience, advantages = batch()
    silent = torch.tensor([0, 1, 4])  # two of them are a group
    advantages.advantages[silent] = 0.0
    whole = gradient(experience, advantages, loss=loss(objective))
    sizes = list[int]()
    one = learner(builtin_model(), loss=replace(loss(objective), idle=idle_rows))
    counted(one.scorer, sizes)
    assert_same_gradient(whole, of_update(one, experience, advantages))
    assert sizes == [3]


def test_a_batch_without_advantages_is_no_step() -> None:
    objective = PolicyObjective(TOKEN, OBJECTIVE.surrogate, token_mean, vanishes=True)
    experience, advantages = batch()
    language_model = builtin_model()
    before, sizes = weights(language_model), list[int]()
    one = learner(language_model, loss=replace(loss(objective), idle=idle_rows))
    counted(one.scorer, sizes)
    nothing = replace(advantages, advantages=torch.zeros_like(advantages.advantages))
    metrics = one.update(experience, nothing, 0)
    assert not sizes and same(before, weights(language_model)) and one.optimiser_steps == 0
    assert metrics["policy/loss"] == metrics["policy/grad_norm"] == 0.0
    assert "policy/entropy" not in metrics  # nobody measured it


@pytest.mark.parametrize("tokens", [None, 1])
def test_the_log_probs_of_the_pass_with_gradient_are_watched(tokens: int | None) -> None:
    seen = list[Experience]()

    def watch(experience: Experience) -> dict[str, float]:
        seen.append(experience)
        return {"watched": float(len(experience.mask))}

    experience, advantages = batch()
    update = UPDATE.model_copy(update={"micro_batch_tokens": tokens})
    language_model = builtin_model()
    expected = Actor(language_model).log_probs(experience.tokens)
    one = learner(language_model, update, loss=replace(loss(), watch=watch))
    assert one.update(experience, advantages, 0)["watched"] == ROWS
    (given,) = seen
    assert len(given.mask) == ROWS
    tokens_of = {row.numpy().tobytes(): i for i, row in enumerate(experience.tokens.tokens)}
    rows = [tokens_of[row.numpy().tobytes()] for row in given.tokens.tokens]
    for place, row in enumerate(rows):
        mask = experience.mask[row]
        torch.testing.assert_close(
            given.logp_old[place][mask], expected[row][mask], rtol=1e-5, atol=1e-5
        )


def test_gradients_do_not_stay() -> None:
    """They would stand beside the keys and values of the next rollout."""
    language_model = builtin_model()
    learner(language_model).update(*batch(), 0)
    assert all(p.grad is None for p in language_model.model.parameters())
