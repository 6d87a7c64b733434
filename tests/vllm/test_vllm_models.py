"""Other models than the built-in one: a head of its own, norms of keys, an adapter."""

from __future__ import annotations

import pytest
import torch
from serving_models import TOLERANCE, farthest, request
from transformers import AutoModelForCausalLM, Qwen3Config

from polopt.models import LanguageModel
from polopt.models import weights as served
from polopt.models.adapter import attach, merged
from polopt.recipe import Model
from polopt.rollout.engines import answered
from polopt.rollout.engines.vllm import VllmEngine
from random_models import TOKENIZER

pytestmark = pytest.mark.vllm


def qwen3() -> LanguageModel:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(TOKENIZER),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        eos_token_id=TOKENIZER.eos_token_id,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    return LanguageModel(model, TOKENIZER, (int(TOKENIZER.eos_token_id),))


def test_an_adapter_is_served_merged_before_and_after_an_update() -> None:
    model = qwen3()
    attach(model.model, Model(path="qwen3", lora=4), seed=0)

    @torch.no_grad()
    def learn(size: float) -> None:
        for parameter in model.model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn_like(parameter))

    learn(0.2)
    engine = VllmEngine(model)
    try:
        asked = [request(i, max_new_tokens=16) for i in range(3)]
        assert farthest(model, answered(engine, asked)) < TOLERANCE
        learn(0.2)
        assert farthest(model, answered(engine, asked)) > 0.01
        assert not any("lora" in name for name in served(model)) and merged(model.model)
        engine.publish(lambda: served(model), 1)
        assert farthest(model, answered(engine, asked)) < TOLERANCE
    finally:
        engine.close()
