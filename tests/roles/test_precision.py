"""What is kept in half precision where a device computes in it, and what never is."""

from __future__ import annotations

import pytest
import torch

from polopt.assembly.inputs import by_device, halve
from polopt.models import load
from polopt.models.adapter import attach, merged
from polopt.recipe import Model
from polopt.roles import Actor, Computing
from polopt.roles.reward import padded

GPU, CPU = torch.device("cuda"), torch.device("cpu")
HALF = Computing(autocast=True)
ROWS = padded([[3, 4, 5], [3, 4, 5], [9]], [[6, 7], [8], [10, 11, 12]], pad_id=0, device=CPU)
MASK = ROWS.attention[:, ROWS.prompt_width :]


def test_what_a_device_computes_in() -> None:
    assert by_device(GPU) == "bfloat16" and by_device(CPU) == "float32"


@pytest.mark.parametrize(("device", "how"), [(CPU, HALF), (GPU, Computing())])
def test_nothing_is_halved_elsewhere(device: torch.device, how: Computing) -> None:
    model = load("builtin:tiny").model.requires_grad_(False)
    halve(model, device, how)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_what_is_trained_is_never_halved() -> None:
    model = load("builtin:tiny").model
    attach(model, Model(path="builtin:tiny", lora=2), seed=1)
    halve(model, GPU, HALF)
    dtypes = {(w.requires_grad, w.dtype) for w in model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}


def test_a_halved_model_says_what_it_said_under_autocast() -> None:
    whole, half = load("builtin:tiny", seed=1), load("builtin:tiny", seed=1)
    half.model.requires_grad_(False)
    halve(half.model, GPU, HALF)
    said, same = (Actor(model, HALF).log_probs(ROWS)[MASK] for model in (half, whole))
    exact = Actor(whole).log_probs(ROWS)[MASK]
    assert said.dtype == torch.float32
    assert (said - exact).abs().max() < 0.05 and (said - same).abs().max() < 0.05
    assert not torch.equal(said, exact)


def test_a_small_adapter_is_not_lost_when_it_is_merged() -> None:
    """A change of a thousandth of a weight is below what bfloat16 can hold."""
    model = load("builtin:tiny").model
    attach(model, Model(path="builtin:tiny", lora=2), seed=1)
    halve(model, GPU, HALF)
    name, b = next((n, w) for n, w in model.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        b.fill_(1e-4)
    layer = name.split(".lora_B")[0]
    base = model.get_parameter(f"{layer}.base_layer.weight")
    whole = merged(model)[f"{layer}.weight"]
    assert whole.dtype == torch.float32
    changed = (whole - base.float()).abs()
    assert 0 < changed.max() < 1e-3
