"""What one forward pass says of a batch: log-probs and entropies of known distributions."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from polopt.models import LanguageModel, load
from polopt.roles import Actor, Computing, frozen, measured
from polopt.roles.policies.token import score
from polopt.types import TokenRows
from random_models import (
    STOP,
    TOKENIZER,
    VOCABULARY,
    absolute_positions,
    always,
    builtin_model,
    peaked,
)

A, B, C = (TOKENIZER(text)["input_ids"][0] for text in "abc")


def rows_of(prompts: list[list[int]], responses: list[list[int]], **fields) -> TokenRows:
    """Prompts padded left, responses padded right."""
    left, right = max(map(len, prompts)), max(map(len, responses))
    tokens = torch.zeros(len(prompts), left + right, dtype=torch.long)
    attention = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        place = slice(left - len(prompt), left + len(response))
        tokens[row, place] = torch.tensor(prompt + response)
        attention[row, place] = True
    return TokenRows(tokens, attention, left, **fields)


def wider(rows: TokenRows, left: int, right: int) -> TokenRows:
    """The same with more padding."""
    return replace(
        rows,
        tokens=torch.nn.functional.pad(rows.tokens, (left, right)),
        attention=torch.nn.functional.pad(rows.attention, (left, right)),
        prompt_width=rows.prompt_width + left,
    )


def of(language_model: LanguageModel, rows: TokenRows, *want: str):
    return score(language_model.model, rows, set(want), stop_ids=language_model.stop_ids)


SOME = rows_of([[5], [9, 8, 7, 6], [4, 4]], [[10, 11, 12], [13, 14], [15, 16, 17, 18, 19]])
SOME_MASK = SOME.attention[:, SOME.prompt_width :]


def test_two_equally_likely_tokens() -> None:
    scores = of(always(A, B), rows_of([[A]], [[A, B, B]]), "logp", "entropy")
    assert scores.logp[0].tolist() == pytest.approx([math.log(0.5)] * 3, abs=1e-5)
    assert scores.entropy[0].tolist() == pytest.approx([math.log(2.0)] * 3, abs=1e-5)


def test_a_certain_token_has_no_entropy() -> None:
    scores = of(always(A), rows_of([[A]], [[A]]), "logp", "entropy")
    assert scores.logp.item() == pytest.approx(0.0, abs=1e-5)
    assert scores.entropy.item() == pytest.approx(0.0, abs=1e-5)


def test_no_preference_is_the_logarithm_of_the_vocabulary() -> None:
    scores = of(always(), rows_of([[A]], [[A, STOP]]), "logp", "entropy")
    assert scores.entropy[0].tolist() == pytest.approx([math.log(VOCABULARY)] * 2)
    assert scores.logp[0].tolist() == pytest.approx([-math.log(VOCABULARY)] * 2)


def test_a_log_prob_is_that_of_the_token_given_those_before_it() -> None:
    """Logits at place t - 1 of a row alone, as transformers has them, at the token of place t."""
    language_model = builtin_model()
    scores = of(language_model, SOME, "logp", "entropy")
    for row in range(3):
        alone = SOME.tokens[row][SOME.attention[row]]
        first = int(SOME.attention[row, : SOME.prompt_width].sum())
        with torch.no_grad():
            logits = language_model.model(input_ids=alone[None]).logits[0]
        for place in range(first, len(alone)):
            p = logits[place - 1].double().softmax(-1)
            logp, entropy = p[alone[place]].log(), -(p * p.log()).sum()
            assert scores.logp[row, place - first].item() == pytest.approx(logp.item(), abs=1e-4)
            found = scores.entropy[row, place - first].item()
            assert found == pytest.approx(entropy.item(), abs=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    language_model = always(A)
    language_model.model.lm_head.weight.data[A] = math.log(9.0) / 32  # logit log 9 beside 0s
    rows = rows_of([[A]], [[A]], temperature=temperature)
    others = VOCABULARY - 1
    power = 9.0 ** (1 / temperature)
    found = of(language_model, rows, "logp").logp.exp().item()
    assert found == pytest.approx(power / (power + others), rel=1e-4)


def test_the_end_is_impossible_before_the_minimum() -> None:
    language_model = always(A, STOP)
    rows = rows_of([[A]], [[A, A, A]], min_new_tokens=2)
    scores = of(language_model, rows, "logp", "entropy")
    assert scores.logp[0].exp().tolist() == pytest.approx([1.0, 1.0, 0.5], abs=1e-5)
    assert scores.entropy[0].tolist() == pytest.approx([0.0, 0.0, math.log(2)], abs=1e-5)


def test_impossible_tokens_leave_gradients_finite() -> None:
    language_model = builtin_model()
    scores = of(language_model, replace(SOME, min_new_tokens=2), "logp", "entropy")
    (scores.logp[SOME_MASK].sum() + scores.entropy[SOME_MASK].sum()).backward()
    for parameter in language_model.model.parameters():
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize(("left", "right"), [(0, 3), (5, 0), (64, 1)])
@pytest.mark.parametrize("make", [builtin_model, absolute_positions])
def test_padding_changes_nothing(make, left: int, right: int) -> None:
    language_model = make()
    narrow = of(language_model, SOME, "logp", "entropy")
    wide = of(language_model, wider(SOME, left, right), "logp", "entropy")
    columns = SOME_MASK.shape[1]
    for one, other in ((narrow.logp, wide.logp), (narrow.entropy, wide.entropy)):
        assert (one - other[:, :columns])[SOME_MASK].abs().max() <= 1e-5


def test_each_row_alone_says_the_same() -> None:
    language_model = builtin_model()
    together = of(language_model, SOME, "logp").logp
    for row in range(3):
        alone = of(language_model, SOME.rows(torch.tensor([row])), "logp").logp
        assert (alone - together[row])[0, SOME_MASK[row]].abs().max() <= 1e-5


def test_a_later_token_says_nothing_of_an_earlier_one() -> None:
    language_model = builtin_model()
    changed = replace(SOME, tokens=SOME.tokens.clone())
    changed.tokens[2, -1] = 200
    one = of(language_model, SOME, "logp").logp[2]
    other = of(language_model, changed, "logp").logp[2]
    assert torch.equal(one[:-1], other[:-1])
    assert one[-1] != other[-1]


def test_only_what_is_wanted_is_computed() -> None:
    assert of(builtin_model(), SOME, "logp").entropy is None
    assert of(builtin_model(), SOME, "entropy").logp is None


def test_an_entropy_that_is_only_told_has_no_gradient() -> None:
    language_model = builtin_model()
    told, paid = (of(language_model, SOME, name).entropy for name in ("entropy_told", "entropy"))
    assert torch.equal(told, paid)
    assert paid.requires_grad and not told.requires_grad


def test_responses_of_no_tokens() -> None:
    nothing = TokenRows(torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.bool), 2)
    assert of(builtin_model(), nothing, "logp").logp.shape == (1, 0)


def test_log_probs_in_parts_are_those_of_the_whole() -> None:
    actor = Actor(builtin_model())
    whole = actor.score(SOME, {"logp"}).logp
    for size in (1, 20, 1000):
        parts = measured(replace(actor, how=Computing(tokens=size)), SOME, "logp")
        assert not parts.requires_grad
        assert (parts - whole)[SOME_MASK].abs().max() <= 1e-5


def test_bfloat16_compute_is_near_and_its_log_softmax_is_in_float32() -> None:
    language_model = load("builtin:tiny")
    full = Actor(language_model).log_probs(SOME)
    half = Actor(language_model, Computing(autocast=True)).log_probs(SOME)
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    assert (full - half)[SOME_MASK].abs().max() < 0.05


def test_the_reference_takes_no_gradient_and_does_not_follow() -> None:
    policy, reference = builtin_model(seed=1), frozen(builtin_model(seed=1))
    before: Tensor = reference.log_probs(SOME)
    assert torch.equal(before, Actor(policy).log_probs(SOME))
    assert not any(p.requires_grad for p in reference.language_model.model.parameters())
    assert not reference.score(SOME, {"logp"}).logp.requires_grad
    peaked(policy.model, 0.5)
    assert torch.equal(before, reference.log_probs(SOME))
