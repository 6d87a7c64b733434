"""Small models with random, peaked distributions, and prompts of random tokens."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from polopt.models import LanguageModel, builtin
from polopt.roles.policies import proven
from polopt.rollout.engines import LocalEngine, Request, answered
from polopt.types import Group, Prompt, Sampling

TOKENIZER = builtin.tokenizer()
STOP = TOKENIZER.eos_token_id
VOCABULARY = len(TOKENIZER)
SHARED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def peaked(model: torch.nn.Module, factor: float = 3.0) -> torch.nn.Module:
    """Larger weights: a random model that is sure of itself, as a trained one is."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    return model.eval()


def builtin_model(name: str = "tiny", seed: int = 0) -> LanguageModel:
    return LanguageModel(peaked(builtin.model(builtin.BUILTIN[name], seed)), TOKENIZER, (STOP,))


def always(*tokens: int) -> LanguageModel:
    """A model that says one of these tokens, whatever came before, with equal probability."""
    model = builtin.model(builtin.BUILTIN["tiny"], 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
        # The final norm turns any state into its own weight: a constant.
        model.model.embed_tokens.weight = torch.nn.Parameter(
            torch.ones_like(model.model.embed_tokens.weight)
        )
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight[list(tokens)] = 50.0 / model.config.hidden_size
    return LanguageModel(model.eval(), TOKENIZER, (STOP,))


def of_architecture(kind: str, **settings: object) -> LanguageModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **settings)
    return LanguageModel(peaked(AutoModelForCausalLM.from_config(config)), TOKENIZER, (STOP,))


SEED = 5  # of every request


def prompt(id: int, length: int) -> Prompt:
    tokens = np.random.default_rng(id).integers(3, VOCABULARY, length)
    return Prompt(id, "", tuple(int(token) for token in tokens))


def request(id: int, length: int, count: int = 1, sampling: Sampling | None = None) -> Request:
    return Request(id, prompt(id, length), count, sampling or Sampling(max_new_tokens=24), SEED)


def generated(engine: LocalEngine, requests: list[Request]) -> dict[int, Group]:
    """Every group by its ticket."""
    groups = answered(engine, requests)
    assert engine.poll() == []
    found = {group.ticket: group for group in groups}
    assert len(found) == len(groups)
    return found


def assert_same(one: Sample, other: Sample) -> None:
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.logp_rollout.tobytes() == other.logp_rollout.tobytes()
    assert one.finish == other.finish


def assert_same_groups(some: dict[int, Group], all_: dict[int, Group]) -> None:
    for ticket, group in some.items():
        for sample, expected in zip(group.samples, all_[ticket].samples, strict=False):
            assert_same(sample, expected)


def absolute_positions() -> LanguageModel:
    """GPT-2: a token's place in the row is an input, so padding must not move it."""
    return of_architecture(
        "gpt2",
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=256,
        bos_token_id=1,
        eos_token_id=2,
    )


def plainly(*models: torch.nn.Module) -> None:
    """Models are computed on padded rows, and make their logits themselves, as a twin does it."""
    for model in models:
        proven._known[model] = proven.Proven(None, "computed as its twin is")
