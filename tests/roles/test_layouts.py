"""Packed rows, shared prompts, logits in parts, layers computed twice: each gives the same numbers.

The authority is the model's own forward pass of each row alone, without padding, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from polopt.memory import logits
from polopt.models.packing import NAME
from polopt.roles import Actor, Computing, Critic, micro_batches
from polopt.roles.policies.proven import packs, proven
from polopt.roles.policies.token import Outputs
from polopt.roles.policies.trunk import States, padded_states
from polopt.types import TokenRows
from random_models import SHARED, STOP, TOKENIZER, VOCABULARY, LanguageModel, peaked

GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
MIXTURE = {**SHARED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {**SHARED, "tie_word_embeddings": True},
    "qwen2": SHARED,
    "qwen3": {**SHARED, "head_dim": 16},
    "mistral": {**SHARED, "sliding_window": None},
    "gemma": {**SHARED, "head_dim": 16},
    "gemma2": {
        **SHARED,
        "head_dim": 16,
        "sliding_window": 64,
        "final_logit_softcapping": 5.0,  # far enough from straight to be seen
        "attn_logit_softcapping": 2.0,
    },
    "granite": {**SHARED, "logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "cohere": {**SHARED, "logit_scale": 0.25},
    "gpt2": {**GPT2, "bos_token_id": 1, "eos_token_id": 2},
    "qwen3_moe": MIXTURE,
}
SHARED_PROMPT = [9, 8, 7, 6]
PROMPTS = [SHARED_PROMPT, [5, 4, 3], SHARED_PROMPT, SHARED_PROMPT, [11, 12, 13, 14, 15, 16]]
RESPONSES = [[20, 21, 22], [30, 31, 32, 33, 34, 35, 36], [40], [50, 51, 52, 53, STOP], [60, STOP]]


def of_architecture(kind: str) -> LanguageModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **ARCHITECTURES[kind])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return LanguageModel(peaked(model, 2.0), TOKENIZER, (STOP,))


@pytest.fixture(params=list(ARCHITECTURES))
def language_model(request: pytest.FixtureRequest) -> LanguageModel:
    return of_architecture(request.param)


def rows(**fields: Any) -> TokenRows:
    left, right = max(map(len, PROMPTS)), max(map(len, RESPONSES))
    tokens = torch.full((len(PROMPTS), left + right), 99)
    attention = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        place = slice(left - len(prompt), left + len(response))
        tokens[row, place] = torch.tensor(prompt + response)
        attention[row, place] = True
    return TokenRows(tokens, attention, left, **fields)


def alone(
    language_model: LanguageModel, temperature: float = 1.0, least: int = 0
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of each row by itself, [B, T], with gradient."""
    width = max(map(len, RESPONSES))
    logp, entropy = [], []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        out = language_model.model(torch.tensor([prompt + response]), use_cache=False)
        logits = out.logits[0, len(prompt) - 1 : -1] / temperature
        closed = torch.zeros_like(logits, dtype=torch.bool)
        closed[:least, STOP] = True
        every = torch.log_softmax(logits.masked_fill(closed, -torch.inf), dim=-1)
        taken = every[torch.arange(len(response)), torch.tensor(response)]
        spread = -(every.exp() * every.masked_fill(closed, 0.0)).sum(-1)
        room = (0, width - len(response))
        logp.append(torch.nn.functional.pad(taken, room))
        entropy.append(torch.nn.functional.pad(spread, room))
    return torch.stack(logp), torch.stack(entropy)


MASK = rows().attention[:, rows().prompt_width :]
WEIGHTS = torch.randn(MASK.shape, generator=torch.Generator().manual_seed(1)) * MASK
OTHER = torch.randn(MASK.shape, generator=torch.Generator().manual_seed(2)) * MASK
# A response that stops before it may has probability 0.
MAY_STOP = MASK & ~((torch.arange(MASK.shape[1]) < 2) & (rows().tokens[:, 6:] == STOP))


def gradient(language_model: LanguageModel, loss: Callable[[], Tensor]) -> Tensor:
    """The gradient of a loss, all weights in one vector."""
    language_model.model.zero_grad(set_to_none=True)
    loss().backward()
    weights = language_model.model.parameters()
    return torch.cat([(w.grad if w.grad is not None else 0 * w).flatten() for w in weights])


def of(outputs: Outputs, mask: Tensor = MASK) -> Tensor:
    """A loss of both outputs; padding is not read."""
    assert outputs.logp is not None and outputs.entropy is not None
    return (torch.where(mask, outputs.logp, 0) * WEIGHTS + outputs.entropy * OTHER).sum()


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert (ours - theirs).norm() <= tolerance * theirs.norm()


def by_hand(language_model: LanguageModel, **settings: Any) -> Callable[[], Tensor]:
    """The loss of :func:`of` from rows alone."""
    mask = MAY_STOP if settings.get("least") else MASK

    def loss() -> Tensor:
        logp, entropy = alone(language_model, **settings)
        return (torch.where(mask, logp, 0) * WEIGHTS + entropy * OTHER).sum()

    return loss


BOTH = frozenset({"logp", "entropy"})


def test_every_architecture_is_packed_and_has_a_head(language_model: LanguageModel) -> None:
    known = proven(language_model.model)
    assert known.unpacked is None and known.head is not None


def test_all_together(language_model: LanguageModel) -> None:
    """Packed, shared, in parts, layers twice, several micro-batches, as the sampler samples."""
    given = rows(temperature=0.7, min_new_tokens=2)
    actor = Actor(language_model, Computing(checkpointing=True, tokens=12))
    theirs = gradient(language_model, by_hand(language_model, temperature=0.7, least=2))
    parts = micro_batches(given, actor.how.tokens)
    assert len(parts) > 2

    def loss() -> Tensor:
        total = torch.zeros(())
        for part in parts:
            outputs = actor.score(given.rows(part), BOTH)
            assert outputs.logp is not None and outputs.entropy is not None
            logp = torch.where(MAY_STOP[part], outputs.logp, 0) * WEIGHTS[part]
            total = total + (logp + outputs.entropy * OTHER[part]).sum()
        return total

    close(gradient(language_model, loss), theirs)


def test_log_probs_and_entropies_are_those_of_rows_alone(language_model: LanguageModel) -> None:
    found = Actor(language_model).score(rows(), BOTH | {"likeliest"})
    logp, entropy = alone(language_model)
    torch.testing.assert_close(found.logp[MASK], logp[MASK], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy[MASK], entropy[MASK], rtol=1e-5, atol=1e-5)
    whole = Actor(language_model).score(rows(), {"distribution"}).distribution
    assert torch.equal(found.likeliest[MASK], whole.argmax(-1)[MASK])


def test_packed_rows_alone(language_model: LanguageModel) -> None:
    """The distribution takes all logits at once, so that only the layout is ours."""
    actor = Actor(language_model)
    taken = rows().tokens[:, rows().prompt_width :, None]

    def loss() -> Tensor:
        whole = actor.score(rows(), {"distribution"}).distribution
        assert whole is not None
        return (whole.gather(-1, taken)[..., 0] * WEIGHTS).sum()

    def theirs() -> Tensor:
        return (alone(language_model)[0] * WEIGHTS).sum()

    close(gradient(language_model, loss), gradient(language_model, theirs))


def test_a_head_in_parts_alone(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits, "STATES", 1)
    monkeypatch.setattr(logits, "IN_CACHE", 3 * VOCABULARY)  # three states at once
    actor, theirs = Actor(language_model), gradient(language_model, by_hand(language_model))
    for kept in (2**28, 0):  # probabilities kept, made again
        monkeypatch.setattr(logits, "KEPT_BYTES", kept)
        close(gradient(language_model, lambda: of(actor.score(rows(), BOTH))), theirs)


def test_layers_computed_twice_alone(language_model: LanguageModel) -> None:
    once, twice = Actor(language_model), Actor(language_model, Computing(checkpointing=True))
    plain = gradient(language_model, lambda: of(once.score(rows(), BOTH)))
    again = gradient(language_model, lambda: of(twice.score(rows(), BOTH)))
    assert torch.equal(plain, again)


def test_padded_rows_are_the_same(language_model: LanguageModel) -> None:
    states: States = padded_states(language_model.model, rows(), Computing(), ends=True)
    critic_head = torch.nn.Linear(states.before.shape[1], 1, bias=False)
    shared = Actor(language_model, value_head=critic_head)
    found = shared.score(rows(), {"values", "values_after", "last_values"})
    own = states.cells.spread(critic_head(states.before)[:, 0])
    torch.testing.assert_close(found.values[MASK], own[MASK], rtol=1e-4, atol=1e-5)
    after = states.cells.spread(critic_head(states.after)[:, 0])
    torch.testing.assert_close(found.values_after[MASK], after[MASK], rtol=1e-4, atol=1e-5)
    last = critic_head(states.last)[:, 0]
    torch.testing.assert_close(found.last_values, last, rtol=1e-4, atol=1e-5)


def test_nothing_of_the_model_is_changed(language_model: LanguageModel) -> None:
    model = language_model.model
    before = model.config._attn_implementation, [m.training for m in model.modules()]
    actor = Actor(language_model, Computing(checkpointing=True))
    of(actor.score(rows(), BOTH)).backward()
    assert (model.config._attn_implementation, [m.training for m in model.modules()]) == before
    assert before[0] != NAME
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())


def test_nan_in_padding_is_not_read() -> None:
    language_model = of_architecture("qwen2")  # whose head is not the embedding
    assert proven(language_model.model).unpacked is None
    with torch.no_grad():
        language_model.model.model.embed_tokens.weight[99] = torch.nan  # what rows are filled with
    found = Actor(language_model).score(rows(), BOTH)
    assert found.logp.isfinite().all() and found.entropy.isfinite().all()


def test_a_window_that_rows_outgrow_is_left_to_the_model() -> None:
    """Attention of packed rows sees all that is before; this model looks back four tokens."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("mistral", **SHARED, sliding_window=4)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    language_model = LanguageModel(peaked(model, 2.0), TOKENIZER, (STOP,))
    assert not packs(model, rows())
    theirs = gradient(language_model, by_hand(language_model))
    actor = Actor(language_model)
    close(gradient(language_model, lambda: of(actor.score(rows(), BOTH))), theirs)


@pytest.mark.parametrize("kind", ["mamba", "bloom"])
def test_what_cannot_be_packed_is_left_to_the_model(kind: str) -> None:
    """A state that runs through the row, and an attention with a bias by position."""
    sizes = {"mamba": {"num_hidden_layers": 2, "hidden_size": 32, "state_size": 4}}
    settings = {"bloom": {"n_layer": 2, "n_head": 4, "hidden_size": 32}}
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, **{**sizes, **settings}[kind], pad_token_id=0
    )
    language_model = LanguageModel(
        peaked(AutoModelForCausalLM.from_config(config)), TOKENIZER, (STOP,)
    )
    assert proven(language_model.model).unpacked is not None


def test_a_critic_shares_prompts_and_its_values_are_those_of_rows_alone() -> None:
    from polopt.models import load_scalar

    scalar = load_scalar("builtin:tiny", outputs=1, seed=3)
    torch.nn.init.normal_(scalar.head.weight, generator=torch.Generator().manual_seed(0))
    assert proven(scalar.model).unpacked is None
    found = Critic(scalar, Computing(tokens=14)).score(rows(), {"values", "last_values"})
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        states = scalar.backbone(torch.tensor([prompt + response])).last_hidden_state[0]
        own = scalar.head(states)[:, 0]
        start, count = len(prompt), len(response)
        torch.testing.assert_close(found.values[row, :count], own[start - 1 : -1])
        torch.testing.assert_close(found.last_values[row], own[-1])
