"""Weights cast once are those that autocast casts at each token."""

import pytest
import torch

from polopt.models import adapter
from polopt.recipe import Model
from polopt.rollout.engines.lowered import Lowered
from random_models import absolute_positions, builtin_model


def with_adapter():
    language_model = builtin_model()
    adapter.attach(language_model.model, Model(path="builtin:tiny", lora=2), seed=1)
    for name, weight in language_model.model.named_parameters():
        if "lora_B" in name:  # zeros at first
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    return language_model


@pytest.mark.parametrize("make", [builtin_model, absolute_positions, with_adapter])
def test_the_numbers_are_those_of_autocast_to_the_bit(make) -> None:
    model = make().model
    tokens = torch.arange(3, 23).view(2, 10)
    own = {name: (id(weight), weight.clone()) for name, weight in model.named_parameters()}
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(tokens).logits
        with Lowered(model):
            kinds = {weight.dtype for weight in model.parameters()}
            found = model(tokens).logits
    assert kinds == {torch.float32, torch.bfloat16}  # embeddings and norms stay as they are
    assert torch.equal(found, expected)
    for name, weight in model.named_parameters():
        assert id(weight) == own[name][0] and torch.equal(weight, own[name][1])


def test_the_weights_come_back_after_an_error() -> None:
    model = builtin_model().model
    with pytest.raises(KeyboardInterrupt), Lowered(model):
        raise KeyboardInterrupt
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
