"""Weights on their way to an actor: none in the skeleton, every bit of them on arrival."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

pytest.importorskip("ray")

from polopt.cluster.weights import _arrays, checksum, copied, filled
from polopt.models import load
from polopt.models.skeleton import skeleton

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_skeleton_is_filled_with_the_bits_that_were_sent() -> None:
    trained = load("builtin:tiny", seed=3)
    own = dict(trained.model.named_parameters())
    assert trained.model.lm_head.weight is trained.model.get_input_embeddings().weight  # tied
    empty = skeleton(trained)
    assert {weight.device.type for weight in empty.model.parameters()} == {"meta"}
    assert {weight.device.type for weight in own.values()} == {"cpu"}
    there: Mapping[str, Any] = filled(empty.model)
    copied(_arrays({name: weight.detach() for name, weight in own.items()}), there)
    assert list(there) == list(own)
    assert all(torch.equal(there[name], own[name]) for name in own)
    assert checksum(there) == checksum(own)
    assert empty.model.lm_head.weight is empty.model.get_input_embeddings().weight
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(empty.model(tokens).logits, trained.model(tokens).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_other_bit_is_another_checksum(dtype: torch.dtype) -> None:
    weights = {"a": torch.tensor([1.0, 2.0, 3.0], dtype=dtype), "b": torch.tensor(4.0, dtype=dtype)}
    before = checksum(weights)
    assert checksum({name: weight.clone() for name, weight in weights.items()}) == before
    changed = torch.nextafter(weights["b"].float(), torch.tensor(9.0))
    other = changed if dtype == torch.float32 else torch.tensor(4.03125, dtype=dtype)
    assert checksum({**weights, "b": other}) != before
    swapped = {"a": weights["a"], "b": weights["a"][0].clone()}
    assert checksum(swapped) != before
    arrived = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    copied(_arrays(weights), arrived)
    assert all(torch.equal(arrived[name], weights[name]) for name in weights)
