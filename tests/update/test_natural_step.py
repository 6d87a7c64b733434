"""TRPO's step: golden bandits, an explicit Fisher matrix, refused steps, what may not change it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polopt.diagnose.conformance.softmax import kl_divergence
from polopt.errors import NonFiniteError
from polopt.math.reduce import token_mean
from polopt.math.surrogates import importance_sampled
from polopt.models import LanguageModel
from polopt.objective import TOKEN, PolicyObjective, policy_loss, step_terms
from polopt.roles import Actor, Computing
from polopt.roles.policies import gaussian
from polopt.roles.policies.token import Outputs
from polopt.types import Advantages, Experience, StepRows, TokenRows
from polopt.update.minibatch import Loss
from polopt.update.natural_step import NaturalStep, Region
from random_models import builtin_model, of_architecture

OBJECTIVE = PolicyObjective(TOKEN, importance_sampled, token_mean)


def region(**settings: Any) -> Region:
    defaults = {
        "delta": 0.01,
        "damping": 0.1,
        "backtrack": 0.8,
        "line_search_steps": 10,
        "cg_iterations": 10,
        "fisher_share": 1.0,
    }
    return Region(**defaults | settings)


UNDAMPED = region(damping=0.0)
ROWS, PROMPT, RESPONSE, VOCABULARY = 6, 3, 4, 11


def loss(factor: float = 1.0) -> Loss[Any]:
    def value(scores: Outputs, terms: Any) -> tuple[Tensor, dict[str, Tensor]]:
        total, metrics = policy_loss(scores.logp, scores.entropy, terms, OBJECTIVE)
        return factor * total, metrics

    return Loss({"logp", "entropy"}, lambda e, c: step_terms(e, c, OBJECTIVE), value)


def learner(scorer: Any, settings: Region = UNDAMPED, **changed: Any) -> NaturalStep[Any]:
    more = {"micro_batch_tokens": None, "seed": 7, "name": "policy"} | changed
    return NaturalStep(scorer, more.pop("loss", loss()), settings, **more)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# The bandit: one state, three actions, two parameters


class Bandit:
    """π = softmax(θ, 0) in every state."""

    how = Computing()

    def __init__(self, theta: list[float]) -> None:
        self.theta = torch.nn.Parameter(vector(*theta))

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        return {"theta": self.theta}

    def score(self, rows: TokenRows, want: Any) -> Outputs:
        logp = torch.cat([self.theta, vector(0)]).log_softmax(-1)
        taken = rows.tokens[:, rows.prompt_width :]
        whole = logp.expand(*taken.shape, 3)
        return Outputs(
            logp=logp[taken] if "logp" in want else None,
            distribution=whole if "distribution" in want else None,
        )


def golden(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    document = json.loads(
        (files("polopt.diagnose.conformance") / "golden.json").read_text(encoding="utf-8")
    )
    (case,) = [case for case in document["cases"] if case["name"] == name]
    return case["inputs"], case["expected"]


def every_action(bandit: Bandit, advantages: list[float]) -> tuple[Experience, Advantages]:
    """One row for each action; its advantage weighs it as π_old does: the mean is exact."""
    rows = TokenRows(torch.tensor([[0, 0], [0, 1], [0, 2]]), torch.ones(3, 2, dtype=torch.bool), 1)
    logp = bandit.score(rows, {"logp"}).logp.detach()
    mask = torch.ones(3, 1, dtype=torch.bool)
    weighed = 3 * logp.exp() * vector(*advantages)[:, None]
    experience = Experience(mask, torch.arange(3), vector(0, 0, 0), logp_old=logp, tokens=rows)
    return experience, Advantages(weighed, mask, mask.any(-1))


@pytest.mark.parametrize("name", ["trpo/softmax_bandit_2param", "trpo/backtracks"])
@pytest.mark.parametrize("budget", [None, 1])
def test_the_golden_bandits(name: str, budget: int | None) -> None:
    inputs, expected = golden(name)
    bandit = Bandit(inputs["theta"])
    settings = region(delta=inputs["delta"], damping=0.0)
    policy = learner(bandit, settings, micro_batch_tokens=budget)
    found = policy.update(*every_action(bandit, inputs["adv"]), 0)
    close = partial(pytest.approx, rel=1e-6, abs=1e-6)
    assert bandit.theta.tolist() == close(expected["theta_new"])
    assert found["policy/kl"] == close(expected["kl"])
    assert found["policy/step_scale"] == close(expected["beta"])
    assert found["policy/backtracks"] == expected["backtracks"]
    assert found["policy/accepted"] == expected["accepted"]
    assert found["policy/loss"] == close(-expected["surrogate_old"])
    gained = expected["surrogate_new"] - expected["surrogate_old"]
    assert found["policy/surrogate_improvement"] == close(gained)
    assert found["policy/grad_norm"] == close(vector(*expected["g"]).norm().item())
    moved = vector(*expected["theta_new"]) - vector(*inputs["theta"])
    assert found["policy/expected_improvement"] == close(float(vector(*expected["g"]) @ moved))
    assert found["policy/cg_residual"] < 1e-9


@pytest.mark.parametrize("name", ["trpo/softmax_bandit_2param", "trpo/backtracks"])
def test_the_fisher_matrix_of_the_golden_bandits(name: str) -> None:
    inputs, expected = golden(name)
    bandit = Bandit(inputs["theta"])
    product = learner(bandit).fisher_product(*every_action(bandit, inputs["adv"]))
    columns = torch.stack([product(v) for v in torch.eye(2, dtype=torch.float64)])
    torch.testing.assert_close(columns, torch.tensor(expected["fisher"], dtype=torch.float64))
    damped = learner(bandit, region(damping=0.1))
    product = damped.fisher_product(*every_action(bandit, inputs["adv"]))
    assert product(vector(1, 0))[0].item() == pytest.approx(expected["fisher"][0][0] + 0.1)


class Step:
    """N(μ, σ) in every state, of one action."""

    how = Computing()

    def __init__(self, mean: float, log_std: float) -> None:
        self.theta = torch.nn.Parameter(vector(mean, log_std))

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        return {"theta": self.theta}

    def score(self, rows: StepRows, want: Any) -> Outputs:
        parameters = self.theta.expand(*rows.shape, 2)
        return Outputs(
            logp=gaussian.log_prob(parameters, rows.actions) if "logp" in want else None,
            distribution=gaussian.distribution(parameters) if "distribution" in want else None,
        )


@pytest.mark.parametrize("budget", [None, 2])
def test_steps_of_a_gaussian(budget: int | None) -> None:
    """Its Fisher matrix is diag(1/σ², 2), and a step has the KL that was allowed."""
    body, sigma = Step(0.3, -0.5), math.exp(-0.5)
    actions = torch.tensor([[[0.1]], [[0.9]], [[-1.0]], [[0.4]]], dtype=torch.float64)
    rows = StepRows(torch.zeros(4, 1, 1), actions)
    logp, mask = body.score(rows, {"logp"}).logp.detach(), torch.ones(4, 1, dtype=torch.bool)
    experience = Experience(mask, torch.arange(4), torch.zeros(4), logp_old=logp, steps=rows)
    advantages = Advantages(vector(1, -1, 0.5, 2)[:, None], mask, mask.any(-1))
    policy = learner(body, micro_batch_tokens=budget, divergence=gaussian.divergence)
    product = policy.fisher_product(experience, advantages)
    found = torch.stack([product(v) for v in torch.eye(2, dtype=torch.float64)])
    torch.testing.assert_close(found, torch.diag(vector(1 / sigma**2, 2)))
    start = body.theta.detach().clone()
    told = policy.update(experience, advantages, 0)
    assert told["policy/accepted"] == 1.0
    old, new = (torch.distributions.Normal(x[0], x[1].exp()) for x in (start, body.theta.detach()))
    kl = torch.distributions.kl_divergence(old, new).item()
    assert told["policy/kl"] == pytest.approx(kl)
    assert 0.003 < kl <= 0.01


def test_a_line_search_that_fails_leaves_the_bits() -> None:
    inputs, expected = golden("trpo/backtracks")
    assert expected["backtracks"] == 2
    bandit = Bandit(inputs["theta"])
    settings = region(delta=inputs["delta"], damping=0.0, line_search_steps=2)
    policy = learner(bandit, settings)
    found = policy.update(*every_action(bandit, inputs["adv"]), 0)
    assert torch.equal(bandit.theta.data, vector(*inputs["theta"]))
    assert policy.optimiser_steps == 0
    assert found["policy/accepted"] == 0.0
    assert found["policy/backtracks"] == 2
    for name in ("kl", "surrogate_improvement", "expected_improvement"):
        assert found[f"policy/{name}"] == 0.0


# Language models: float64, so that only the mathematics differs


def gpt2(**settings: Any) -> LanguageModel:
    """LayerNorm, unlike RMSNorm, computes in the precision of its input."""
    sizes = {"n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 16, "n_inner": 4}
    made = of_architecture("gpt2", vocab_size=VOCABULARY, **sizes | settings)
    return replace(made, model=made.model.double())


def batch(seed: int = 0, vocabulary: int = VOCABULARY) -> tuple[Experience, Advantages]:
    """Rows of different lengths with random tokens and advantages; NaN outside the mask."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, RESPONSE + 1, (ROWS,), generator=generator)
    prompts = torch.randint(1, PROMPT + 1, (ROWS,), generator=generator)
    tokens = torch.randint(3, vocabulary, (ROWS, PROMPT + RESPONSE), generator=generator)
    columns = torch.arange(PROMPT + RESPONSE)
    attention = (columns >= PROMPT - prompts[:, None]) & (columns < PROMPT + lengths[:, None])
    mask = attention[:, PROMPT:]
    rows = TokenRows(tokens * attention, attention, PROMPT)
    advantages = torch.randn(ROWS, RESPONSE, generator=generator, dtype=torch.float64)
    experience = Experience(mask, torch.arange(ROWS) // 2, torch.zeros(ROWS), tokens=rows)
    return experience, Advantages(torch.where(mask, advantages, torch.nan), mask, mask.any(-1))


def with_old(language_model: LanguageModel, experience: Experience) -> Experience:
    logp = Actor(language_model).log_probs(experience.tokens)
    return replace(experience, logp_old=torch.where(experience.mask, logp, torch.nan))


def weights(language_model: LanguageModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in language_model.model.named_parameters()}


def flat(language_model: LanguageModel) -> Tensor:
    return torch.cat([p.flatten() for p in weights(language_model).values()])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def fisher_of(language_model: LanguageModel, experience: Experience) -> Tensor:
    """``mean over tokens of Σ_a π(a) ∇log π(a) ∇log π(a)ᵀ``, written out."""
    parameters = list(language_model.model.parameters())
    size = sum(p.numel() for p in parameters)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    logs = Actor(language_model).score(experience.tokens, {"distribution"}).distribution
    for row, column in experience.mask.nonzero().tolist():
        for logp in logs[row, column]:
            if logp.item() == -torch.inf:
                continue
            slope = torch.autograd.grad(logp, parameters, retain_graph=True, allow_unused=True)
            slope = [
                torch.zeros_like(p) if g is None else g
                for g, p in zip(slope, parameters, strict=True)
            ]
            score = torch.cat([g.flatten() for g in slope])
            matrix += logp.exp().detach() * torch.outer(score, score)
    return matrix / experience.mask.sum()


@pytest.mark.parametrize("budget", [None, 2 * (PROMPT + RESPONSE)])
@pytest.mark.parametrize("forbidden", [0, 2])
def test_products_are_those_of_the_explicit_fisher_matrix(
    budget: int | None, forbidden: int
) -> None:
    language_model = replace(gpt2(), stop_ids=(2,))
    experience, advantages = batch()
    tokens = replace(experience.tokens, min_new_tokens=forbidden, temperature=0.7)
    experience = with_old(language_model, replace(experience, tokens=tokens))
    policy = learner(Actor(language_model), micro_batch_tokens=budget)
    product = policy.fisher_product(experience, advantages)
    matrix = fisher_of(language_model, experience)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        v = torch.randn(len(matrix), generator=generator, dtype=torch.float64)
        torch.testing.assert_close(product(v), matrix @ v, rtol=1e-9, atol=1e-12)
    assert (matrix @ v).norm() > 1e-3


def test_products_are_those_of_the_hessian_of_the_divergence() -> None:
    """By differences of the gradient of the KL, which never derives it twice."""
    language_model = gpt2()
    experience, advantages = batch()
    product = learner(Actor(language_model)).fisher_product(experience, advantages)
    logs = Actor(language_model).score(experience.tokens, {"distribution"}).distribution.detach()

    def slope(moved: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(moved, language_model.model.parameters())
        new = Actor(language_model).score(experience.tokens, {"distribution"}).distribution
        kl = kl_divergence(logs.exp(), new.exp())[experience.mask].mean()
        grads = torch.autograd.grad(kl, list(language_model.model.parameters()), allow_unused=True)
        return torch.cat([g.flatten() for g in grads])

    start, size = flat(language_model), 1e-5
    v = torch.randn(len(start), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    image = product(v)
    found = (slope(start + size * v) - slope(start - size * v)) / (2 * size)
    torch.testing.assert_close(image, found, rtol=1e-5, atol=1e-7)


def test_a_step_stays_inside_the_region_and_improves() -> None:
    """Both measured without the learner, by another kernel of attention."""
    language_model = gpt2()
    experience, advantages = batch()
    experience = with_old(language_model, experience)
    actor, mask = Actor(language_model), experience.mask
    before = actor.score(experience.tokens, {"distribution", "logp"})
    found = learner(actor, region(delta=0.02)).update(experience, advantages, 0)
    after = actor.score(experience.tokens, {"distribution", "logp"})
    kl = kl_divergence(before.distribution.exp(), after.distribution.exp())[mask].mean().item()
    assert found["policy/accepted"] == 1.0
    assert 0.001 < kl <= 0.02
    assert found["policy/kl"] == pytest.approx(kl, rel=1e-9)
    gained = ((after.logp - before.logp).exp() - 1)[mask] * advantages.advantages[mask]
    assert found["policy/surrogate_improvement"] == pytest.approx(gained.mean().item(), rel=1e-9)
    assert gained.mean() > 0


def moved(
    experience: Experience, advantages: Advantages, settings: Region = UNDAMPED, **kw: Any
) -> Tensor:
    """What one step adds to the weights."""
    language_model = gpt2()
    experience = with_old(language_model, experience)
    start = flat(language_model)
    found = learner(Actor(language_model), settings, **kw).update(experience, advantages, 0)
    assert found["policy/accepted"] == 1.0
    return flat(language_model) - start


# Without damping, and more iterations than the matrix has eigenvalues: any difference would show.
EXACT = region(damping=0.1, cg_iterations=30)


def assert_same_step(one: Tensor, other: Tensor) -> None:
    assert one.norm() > 1e-3
    assert (one - other).norm() / one.norm() <= 1e-6


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_the_split_into_micro_batches_changes_nothing(rows: int) -> None:
    split = moved(*batch(), EXACT, micro_batch_tokens=rows * (PROMPT + RESPONSE))
    assert_same_step(moved(*batch(), EXACT), split)


def test_the_order_of_rows_changes_nothing() -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    experience, advantages = batch()
    assert_same_step(
        moved(experience, advantages, EXACT),
        moved(experience.rows(order), advantages.rows(order), EXACT),
    )


@pytest.mark.parametrize(("left", "right"), [(0, 3), (2, 0), (3, 4)])
def test_the_amount_of_padding_changes_nothing(left: int, right: int) -> None:
    experience, advantages = batch()
    pad = torch.nn.functional.pad
    padded = replace(
        experience,
        mask=pad(experience.mask, (0, right)),
        tokens=TokenRows(
            pad(experience.tokens.tokens, (left, right)),
            pad(experience.tokens.attention, (left, right)),
            PROMPT + left,
        ),
    )
    wider = replace(
        advantages,
        advantages=pad(advantages.advantages, (0, right), value=torch.nan),
        mask=pad(advantages.mask, (0, right)),
    )
    assert_same_step(moved(experience, advantages, EXACT), moved(padded, wider, EXACT))


def test_rows_outside_the_loss_are_in_no_mean() -> None:
    experience, advantages = batch()
    some = torch.tensor([0, 2, 3, 5])
    left_out = torch.ones(ROWS, dtype=torch.bool).index_fill(0, some, value=False)
    mask = advantages.mask & ~left_out[:, None]
    fewer = replace(advantages, mask=mask, valid=mask.any(-1))
    assert_same_step(
        moved(experience, fewer, EXACT), moved(experience.rows(some), advantages.rows(some), EXACT)
    )


def test_no_signal_leaves_the_bits() -> None:
    language_model = gpt2()
    experience, advantages = batch()
    experience = with_old(language_model, experience)
    policy, start = learner(Actor(language_model)), weights(language_model)
    silent = replace(advantages, advantages=torch.zeros_like(advantages.advantages))
    found = policy.update(experience, silent, 0)
    assert same(start, weights(language_model))
    assert found["policy/grad_norm"] == found["policy/accepted"] == found["policy/backtracks"] == 0
    nobody = replace(advantages, mask=torch.zeros_like(advantages.mask))
    policy.update(experience, nobody, 1)
    assert same(start, weights(language_model))
    assert policy.optimiser_steps == 0
    policy.update(experience, advantages, 2)
    assert not same(start, weights(language_model))
    assert policy.optimiser_steps == 1


def test_a_refused_step_of_a_language_model_leaves_the_bits() -> None:
    language_model = builtin_model()  # float32
    experience, advantages = batch(vocabulary=259)
    experience, start = with_old(language_model, experience), weights(language_model)
    places = [p.data_ptr() for p in language_model.model.parameters()]
    plain, calls = loss(), list[int]()

    def worse_each_time(scores: Outputs, terms: Any) -> tuple[Tensor, dict[str, Tensor]]:
        total, metrics = plain.value(scores, terms)
        calls.append(len(calls))
        return total + len(calls), metrics

    policy = learner(Actor(language_model), loss=replace(plain, value=worse_each_time))
    found = policy.update(experience, advantages, 0)
    assert found["policy/accepted"] == 0.0
    assert found["policy/backtracks"] == 10
    assert len(calls) == 11
    assert same(start, weights(language_model))
    assert [p.data_ptr() for p in language_model.model.parameters()] == places


def test_a_step_to_where_nothing_is_finite_is_refused() -> None:
    """Weights that overflow are outside of every region; the line search comes back."""
    language_model = builtin_model()
    experience, advantages = batch(vocabulary=259)
    experience, start = with_old(language_model, experience), weights(language_model)
    far = region(delta=1e76, line_search_steps=2)
    found = learner(Actor(language_model), far).update(experience, advantages, 0)
    assert found["policy/accepted"] == 0.0
    assert same(start, weights(language_model))


class Breaks(Actor):
    """Fails in the middle of the line search."""

    def score(self, rows: TokenRows, want: Any) -> Outputs:
        if {"distribution", "logp"} <= set(want):
            raise RuntimeError("out of memory")
        return super().score(rows, want)


def test_whatever_happens_in_a_line_search_the_weights_come_back() -> None:
    language_model = gpt2()
    experience, advantages = batch()
    experience, start = with_old(language_model, experience), weights(language_model)
    with pytest.raises(RuntimeError, match="out of memory"):
        learner(Breaks(language_model)).update(experience, advantages, 0)
    assert same(start, weights(language_model))


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_no_step_is_taken_on_a_gradient_that_is_not_finite(factor: float) -> None:
    language_model = gpt2()
    experience, advantages = batch()
    experience, start = with_old(language_model, experience), weights(language_model)
    policy = learner(Actor(language_model), loss=loss(factor))
    with pytest.raises(NonFiniteError, match="policy: the norm of the gradient of step 4 is nan"):
        policy.update(experience, advantages, 3)
    assert same(start, weights(language_model))


def test_a_number_inside_the_mask_that_is_not_finite_is_refused() -> None:
    language_model = gpt2()
    experience, advantages = batch()
    experience = with_old(language_model, experience)
    experience.logp_old[1, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="logp_old is nan at row 1, token 0"):
        learner(Actor(language_model)).update(experience, advantages, 0)


def test_weights_that_are_not_trained_stay_and_are_in_no_vector() -> None:
    language_model = gpt2()
    for name, p in language_model.model.named_parameters():
        p.requires_grad_("c_attn" in name)
    experience, advantages = batch()
    experience, start = with_old(language_model, experience), weights(language_model)
    policy = learner(Actor(language_model))
    size = 4 * 12 + 12  # from 4 to 3 · 4, and the bias
    assert policy.fisher_product(experience, advantages)(torch.ones(size).double()).shape == (size,)
    assert policy.update(experience, advantages, 0)["policy/accepted"] == 1.0
    after = weights(language_model)
    changed = {name for name in start if not torch.equal(start[name], after[name])}
    assert {"c_attn" in name for name in changed} == {True}


class Counting(Actor):
    """Remembers how many rows each forward pass for the Fisher matrix has."""

    def score(self, rows: TokenRows, want: Any) -> Outputs:
        if set(want) == {"distribution"} and torch.is_grad_enabled():
            SEEN.append(rows.tokens.tolist())
        return super().score(rows, want)


SEEN = list[list[list[int]]]()


def fisher_rows(share: float, seed: int, step: int) -> list[list[int]]:
    SEEN.clear()
    language_model = gpt2()
    experience, advantages = batch()
    experience = with_old(language_model, experience)
    settings = region(fisher_share=share, cg_iterations=1)
    learner(Counting(language_model), settings, seed=seed).update(experience, advantages, step)
    assert all(rows == SEEN[0] for rows in SEEN)  # the matrix stays the same within a step
    return SEEN[0]


def test_the_fisher_matrix_is_measured_on_a_share_of_the_rows() -> None:
    everything = batch()[0].tokens.tokens.tolist()
    assert fisher_rows(1.0, seed=1, step=0) == everything
    found = fisher_rows(0.5, seed=1, step=0)
    assert len(found) == 3
    assert all(row in everything for row in found)
    assert len(fisher_rows(0.1, seed=1, step=0)) == 1  # never none
    torch.manual_seed(3)
    assert fisher_rows(0.5, seed=1, step=0) == found
    others = [fisher_rows(0.5, seed=1, step=step) for step in range(1, 5)]
    assert any(other != found for other in others)
    assert any(fisher_rows(0.5, seed=seed, step=0) != found for seed in range(2, 6))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_models_are_derived_twice_whatever_their_attention(kind: str, attention: str) -> None:
    shared = {"vocab_size": 64, "attn_implementation": attention}
    sizes = (
        {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
        if kind == "gpt2"
        else {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 8,
            "max_position_embeddings": 16,
        }
    )
    language_model = of_architecture(kind, **shared, **sizes)
    assert language_model.model.config._attn_implementation == attention
    experience, advantages = batch(vocabulary=64)
    experience = with_old(language_model, experience)
    found = learner(Actor(language_model), region()).update(experience, advantages, 0)
    assert found["policy/accepted"] == 1.0


def test_state_saved_and_loaded_takes_the_same_next_step(tmp_path: Path) -> None:
    undisturbed = gpt2()
    settings = region(fisher_share=0.5)
    policy = learner(Actor(undisturbed), settings)
    for step in range(2):
        experience, advantages = batch(step)
        policy.update(with_old(undisturbed, experience), advantages, step)
    counters = policy.save(tmp_path)
    assert counters == {"optimiser_steps": 2}
    resumed = gpt2()
    resumed.model.load_state_dict(undisturbed.model.state_dict())
    successor = learner(Actor(resumed), settings)
    successor.load(tmp_path, counters)
    for step in range(2, 4):
        experience, advantages = batch(step)
        experience = with_old(undisturbed, experience)
        assert policy.update(experience, advantages, step) == successor.update(
            experience, advantages, step
        )
        assert same(weights(undisturbed), weights(resumed))
    assert successor.optimiser_steps == policy.optimiser_steps == 4
