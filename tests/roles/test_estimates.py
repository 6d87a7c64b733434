"""Estimators of the KL on a sample: beside plain passes of both models, whatever the layout."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from test_score import rows_of, wider
from torch import Tensor

from polopt.math.divergence import ESTIMATORS
from polopt.models import LanguageModel
from polopt.models.adapter import attach
from polopt.recipe import Model
from polopt.roles import Actor, Computing, WithoutAdapter
from polopt.roles import estimates as module
from polopt.roles.estimates import EVERYWHERE, Estimates, estimates, gradient, is_known, most
from polopt.roles.policies import proven
from polopt.types import TokenRows
from random_models import STOP, VOCABULARY, absolute_positions, builtin_model

ROWS = rows_of([[5], [9, 8, 7, 6], [4, 4]], [[10, 11, 12], [13, 14], [15, 16, 17, 18, 19]])
MASK = ROWS.attention[:, ROWS.prompt_width :]
Pair = tuple[LanguageModel, LanguageModel]


def other(language_model: LanguageModel) -> LanguageModel:
    """The model with other weights, near to its own."""
    model = copy.deepcopy(language_model.model)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=draw))
    return replace(language_model, model=model)


@pytest.fixture(scope="module")
def pair() -> Pair:
    reference = builtin_model(seed=1)
    return other(reference), reference


def actors(pair: Pair) -> tuple[Actor, Actor]:
    policy, reference = (Actor(one) for one in pair)
    return policy, reference


def taken(pair: Pair, rows: TokenRows = ROWS, mask: Tensor = MASK) -> Estimates:
    return estimates(*actors(pair), rows, mask)


@torch.no_grad()
def plain(language_model: LanguageModel, row: int, rows: TokenRows = ROWS) -> Tensor:
    """log π [T, V] of a row alone, as transformers has it, in float64 from the logits on."""
    start, ids = int(rows.attention[row, : rows.prompt_width].sum()), rows.tokens[row]
    own = ids[rows.attention[row]][None]
    logits = language_model.model(input_ids=own).logits[0].double() / rows.temperature
    logits = logits[start - 1 : -1]
    if rows.min_new_tokens:
        logits[: rows.min_new_tokens, STOP] = -torch.inf
    return logits.log_softmax(-1)


def twin(pair: Pair, rows: TokenRows = ROWS, mask: Tensor = MASK) -> dict[str, float]:
    """Sums over tokens, one at a time; gradients by autograd of a loss in the logits."""
    found = dict[str, float]()

    def add(name: str, value: Tensor) -> None:
        found[name] = found.get(name, 0.0) + float(value.detach())

    for row in range(len(mask)):
        logs = [plain(one, row, rows) for one in pair]
        for t in mask[row].nonzero()[:, 0].tolist():
            log_p, log_q = (each[t] for each in logs)
            open_ = log_p > -torch.inf
            token = int(rows.tokens[row, rows.prompt_width + t])
            place = int(open_[:token].sum())  # among those that can be drawn
            log_p, log_q = log_p[open_], log_q[open_]
            z = log_p.clone().requires_grad_()
            kl = (z.softmax(-1) * (z.log_softmax(-1) - log_q)).sum()
            (exact,) = torch.autograd.grad(kl, z)
            add("kl", kl)
            add("exact", exact.square().sum())
            for name, estimator in ESTIMATORS.items():
                logp = z.log_softmax(-1)
                k, p = estimator(logp - log_q), log_p.exp()
                add(f"{name} taken", k[place])
                add(f"{name} average", (p * k).sum())
                rho = (logp - log_p).exp()
                for where, loss in (
                    ("loss", k), ("reward", k.detach() * logp), ("corrected loss", rho * k)
                ):  # fmt: skip
                    (g,) = torch.autograd.grad((p * loss).sum(), z, retain_graph=True)
                    add(f"{name} {where} square", g.square().sum())
                    add(f"{name} {where} along", g @ exact)
    return found


def sums(found: Estimates) -> dict[str, float]:
    """The same sums of what was found."""
    of = {"kl": found.kl.sum(), "exact": found.exact.sum()}
    of |= {f"{name} taken": value.sum() for name, value in found.taken.items()}
    of |= {f"{name} average": average.sum() for name, (average, *_) in found.of.items()}
    for (name, where), (square, along) in found.pulls.items():
        of |= {f"{name} {where} square": square.sum(), f"{name} {where} along": along.sum()}
    return {name: float(value) for name, value in of.items()}


def check(found: Estimates, wanted: dict[str, float]) -> None:
    assert sums(found) == {name: pytest.approx(v, rel=2e-3, abs=1e-6) for name, v in wanted.items()}


def test_every_sum_is_that_of_a_slow_twin(pair: Pair) -> None:
    found = taken(pair)
    check(found, twin(pair))
    assert list(found.pulls) == list(EVERYWHERE) and len(EVERYWHERE) == 9
    assert found.row.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
    columns = (found.kl, *found.taken.values(), *found.of.values())
    assert {column.dtype for column in columns} == {torch.float64}


@pytest.mark.parametrize("fields", [{"temperature": 0.7}, {"min_new_tokens": 2}])
def test_the_distribution_is_that_of_the_sampler(pair: Pair, fields: dict[str, float]) -> None:
    rows = replace(ROWS, **fields)
    check(taken(pair, rows), twin(pair, rows))


def test_a_few_tokens_at_a_time_change_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = sums(taken(pair))
    monkeypatch.setattr(module, "IN_CACHE", 2 * VOCABULARY)
    monkeypatch.setattr(module, "at_once", lambda *_: 3)
    check(taken(pair), wanted)


def test_padding_and_what_stands_there_change_nothing(pair: Pair) -> None:
    rows = wider(ROWS, 3, 4)
    rows.tokens[~rows.attention] = 77
    mask = rows.attention[:, rows.prompt_width :]
    check(taken(pair, rows, mask), sums(taken(pair)))


def test_only_what_the_policy_wrote_counts(pair: Pair) -> None:
    mask = MASK.clone()
    mask[2, 1:3] = False  # a turn of the user
    mask[1] = False
    found = taken(pair, mask=mask)
    assert found.row.tolist() == [0, 0, 0, 2, 2, 2]
    check(found, twin(pair, mask=mask))


@pytest.mark.parametrize("model", [builtin_model, absolute_positions])
def test_models_whose_head_is_more_than_a_matrix_and_rows_that_are_not_packed(
    model, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = model()
    two = other(reference), reference
    mask = MASK.clone()
    mask[2, 1:3] = False
    wanted = twin(two, mask=mask)
    check(taken(two, mask=mask), wanted)
    monkeypatch.setattr(module, "at_once", lambda *_: 2)
    for one in two:
        proven._known[one.model] = proven.Proven(None, "asked for by its own pass")
    check(taken(two, mask=mask), wanted)


def test_the_reference_of_an_adapter_is_the_model_without_it() -> None:
    base = builtin_model(seed=4)
    policy = replace(base, model=copy.deepcopy(base.model))
    attach(policy.model, Model(path="builtin:tiny", lora=4), seed=1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    actor = Actor(policy)
    found = estimates(actor, WithoutAdapter(actor), ROWS, MASK)
    assert is_known(found)
    check(found, sums(estimates(actor, Actor(base), ROWS, MASK)))
    proven._known[policy.model] = proven.Proven(None, "asked for by its own pass")
    check(estimates(actor, WithoutAdapter(actor), ROWS, MASK), sums(found))


def test_long_samples_are_thinned_evenly(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = taken(pair)
    monkeypatch.setattr(module, "MOST", 4)
    found = taken(pair)
    assert found.kl.tolist() == pytest.approx(whole.kl[::3].tolist())
    assert found.row.tolist() == [0, 1, 2, 2]


def test_fewer_tokens_where_they_would_take_long() -> None:
    assert (most(259, "cpu"), most(151_936, "cpu"), most(10**6, "cpu")) == (2048, 441, 256)
    assert most(151_936, "cuda") == 2048


def test_the_same_weights_are_exactly_nothing_and_have_no_direction(pair: Pair) -> None:
    found = taken((pair[0], pair[0]))
    assert found.kl.tolist() == [0.0] * 10 and not is_known(found)
    assert {x.abs().max().item() for x in (*found.taken.values(), *found.of.values())} == {0.0}
    assert [gradient(found, place) for place in EVERYWHERE] == [None] * 9


def test_no_token_at_all(pair: Pair) -> None:
    found = taken(pair, mask=torch.zeros_like(MASK))
    assert len(found.kl) == len(found.row) == 0 and not is_known(found)
    assert gradient(found, ("k3", "loss")) is None


def test_nothing_is_drawn_and_no_gradient_is_kept(pair: Pair) -> None:
    before = torch.get_rng_state()
    found = taken(pair)
    assert torch.equal(torch.get_rng_state(), before)
    assert not found.kl.requires_grad and not found.pulls["k3", "loss"].requires_grad
    assert all(parameter.grad is None for parameter in pair[0].model.parameters())


def test_products_in_bfloat16_are_near(pair: Pair) -> None:
    policy, reference = (Actor(one, Computing(autocast=True)) for one in pair)
    found = estimates(policy, reference, ROWS, MASK, ())
    assert float(found.kl.mean()) == pytest.approx(float(taken(pair).kl.mean()), rel=0.2)
    assert found.pulls == found.of == {}


def a_token(square: float, along: float, kl: float = 0.1) -> Estimates:
    """One token whose ‖∇KL‖ is 2."""
    one, row = (lambda *x: torch.tensor([[v] for v in x], dtype=torch.float64)), torch.zeros(1)
    pulls = {("k3", "loss"): one(square, along)}
    return Estimates(row.long(), one(kl)[0], one(4.0)[0], {}, {}, pulls)


@pytest.mark.parametrize(
    ("square", "along", "length", "angle"),
    [
        (4.0, 4.0, 1.0, 0.0),
        (1.0, 1.0, 0.5, 60.0),  # 1 / (1·2) is the cosine of 60 degrees
        (9.0, -6.0, 1.5, 180.0),
        (4.0, 4.0 + 1e-12, 1.0, 0.0),  # rounding beyond 1
        (0.0, 0.0, 0.0, None),
        (1e-30, 1e-16, 0.0, None),
    ],
)
def test_length_and_angle_by_hand(
    square: float, along: float, length: float, angle: float | None
) -> None:
    found = gradient(a_token(square, along), ("k3", "loss"))
    assert found is not None and found.length == pytest.approx(length)
    assert found.angle == (None if angle is None else pytest.approx(angle, abs=1e-4))


@pytest.mark.parametrize("kl", [1e-9, math.inf, math.nan])
def test_there_is_no_direction_to_compare_with(kl: float) -> None:
    assert gradient(a_token(1.0, 1.0, kl), ("k3", "loss")) is None
    assert gradient(a_token(math.inf, 1.0), ("k3", "loss")) is None
