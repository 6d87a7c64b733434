"""LoRA beside frozen weights: by hand, bit for bit where bits are promised, and as peft has it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from polopt.errors import ModelError
from polopt.models import ScalarModel, load, load_scalar, save
from polopt.models.adapter import (
    attach,
    has_adapter,
    load_adapter,
    merged,
    save_adapter,
    switched_off,
)
from polopt.recipe import Model
from polopt.types import Sampling
from random_models import SHARED, absolute_positions, generated, of_architecture, request

TOKENS = torch.arange(3, 23).reshape(2, 10)
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def settings(rank: int = 4, **more: object) -> Model:
    return Model(path="builtin:tiny", lora=rank, **more)  # pyright: ignore[reportArgumentType]


def plain() -> PreTrainedModel:
    return load("builtin:tiny", seed=1).model


def adapted(rank: int = 4, *, seed: int = 7, moved: bool = True, **more: object) -> PreTrainedModel:
    model = plain()
    attach(model, settings(rank, **more), seed)
    return move(model) if moved else model


def move(model: PreTrainedModel) -> PreTrainedModel:
    """As training would: B leaves 0."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def trained(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


# What it computes


def test_a_layer_by_hand() -> None:
    """r = 1, α = 3, A = (1, 2, 0, …), B = (1, 0, …)ᵀ: the first output gains 3 (x₁ + 2 x₂)."""
    model = adapted(1, lora_alpha=3, lora_targets=["layers.0.self_attn.q_proj"], moved=False)
    layer = model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        a, b = layer.lora_A["default"].weight.zero_(), layer.lora_B["default"].weight.zero_()
        a[0, 0], a[0, 1], b[0, 0] = 1.0, 2.0, 1.0
        x = torch.zeros(1, 32)
        x[0, 0], x[0, 1] = 5.0, 7.0
        gained = layer(x) - layer.base_layer(x)
    assert gained.tolist() == [[pytest.approx(57.0, abs=1e-4)] + [0.0] * 31]
    added = merged(model)["model.layers.0.self_attn.q_proj.weight"] - layer.base_layer.weight
    wanted = torch.zeros(32, 32)
    wanted[0, 0], wanted[0, 1] = 3.0, 6.0
    torch.testing.assert_close(added, wanted, atol=1e-6, rtol=0)


def test_a_new_adapter_changes_nothing() -> None:
    assert torch.equal(logits(adapted(moved=False)), logits(plain()))


def test_switched_off_it_is_the_model_it_was_bit_for_bit() -> None:
    model, before = adapted(), logits(plain())
    live = logits(model)
    assert not torch.allclose(live, before, atol=1e-3)
    with switched_off(model):
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), live)
    assert len(trained(model)) == 2 * 14  # A and B of seven layers in each of two blocks


def test_it_is_on_again_after_an_error() -> None:
    model = adapted()
    live = logits(model)
    with pytest.raises(KeyError), switched_off(model):
        raise KeyError
    assert torch.equal(logits(model), live) and trained(model)


def test_the_gradient_passes_a_reference_in_between() -> None:
    """A pass without the adapter between forward and backward takes no gradient away."""
    model = adapted()
    loss = model(input_ids=TOKENS).logits.square().mean()
    with switched_off(model):
        logits(model)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained(model).values())


# What is trained


def test_only_the_adapter_is_trained_and_the_base_keeps_its_bits() -> None:
    model = adapted(moved=False)
    assert has_adapter(model) and not has_adapter(plain())
    assert all("lora_" in name for name in trained(model))
    assert not any(module.training for module in model.modules())
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):  # after the first step B is not 0, and A gets a gradient
        optimiser.zero_grad()
        model(input_ids=TOKENS).logits.square().mean().backward()
        optimiser.step()
    original = plain().state_dict()
    for name, tensor in model.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(tensor, original[name.replace(".base_layer", "")]), name
    assert not torch.allclose(logits(model), logits(plain()))


def test_every_linear_layer_below_the_head_gets_one() -> None:
    names = {name.split(".lora_")[0] for name in trained(adapted())}
    assert {name.rpartition(".")[2] for name in names} == LINEAR and len(names) == 14


@pytest.mark.parametrize(
    ("targets", "count"),
    [(["q_proj"], 2), (["q_proj", "v_proj"], 4), (["layers.1.mlp.up_proj"], 1)],
)
def test_layers_are_named_by_the_end_of_their_name(targets: list[str], count: int) -> None:
    assert len(trained(adapted(lora_targets=targets))) == 2 * count


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "q", "proj", "norm", "self_attn"])
def test_a_layer_that_is_not_there_is_refused_by_name(target: str) -> None:
    with pytest.raises(ModelError, match=rf"^model.lora_targets: '{target}' is no linear layer"):
        adapted(lora_targets=["q_proj", target])


def test_more_than_full_rank_is_refused() -> None:
    assert trained(adapted(32))
    with pytest.raises(ModelError, match=r"^model.lora: 33 is not allowed; at most 32"):
        adapted(33)


# Random numbers


def test_the_seed_alone_decides_the_start() -> None:
    one = trained(adapted(seed=7, moved=False))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    two, other = trained(adapted(seed=7, moved=False)), trained(adapted(seed=8, moved=False))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if "lora_A" in name)
    assert all((one[name] == 0).all() for name in one if "lora_B" in name)


# Files


@pytest.mark.parametrize("rank", [1, 4, 32])
def test_the_merged_export_is_the_live_model(tmp_path: Path, rank: int) -> None:
    language_model = load("builtin:tiny", seed=1)
    attach(language_model.model, settings(rank), 7)
    live = logits(move(language_model.model))
    before = {name: t.clone() for name, t in language_model.model.state_dict().items()}
    save(language_model, tmp_path)

    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(exported) is type(plain())
    assert set(exported.state_dict()) == set(plain().state_dict())
    torch.testing.assert_close(logits(exported), live, atol=1e-5, rtol=0)
    assert exported.lm_head.weight is exported.model.embed_tokens.weight  # still tied
    after = language_model.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(language_model.model), live)
    torch.testing.assert_close(logits(load(str(tmp_path)).model), live, atol=1e-5, rtol=0)


def test_peft_loads_the_adapter_on_the_base(tmp_path: Path) -> None:
    from peft import PeftModel

    base, language_model = tmp_path / "base", load("builtin:tiny", seed=1)
    save(language_model, base)
    model = load(str(base)).model
    attach(model, settings(4, lora_alpha=6, lora_targets=["q_proj", "up_proj"]), 7)
    live = logits(move(model))
    save_adapter(model, tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}

    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter"
    )
    assert torch.equal(logits(loaded), live)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 6)
    assert config["base_model_name_or_path"] is None  # no directory of this machine
    assert config["target_modules"] == ["q_proj", "up_proj"]


def test_a_base_from_the_hub_is_named(tmp_path: Path) -> None:
    model = plain()
    model.name_or_path = "someone/model"
    attach(model, settings(4), 7)
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/model"


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = adapted()
    save_adapter(model, tmp_path)
    other = adapted(seed=8, moved=False)
    load_adapter(other, tmp_path)
    assert torch.equal(logits(other), logits(model))
    for name, tensor in trained(model).items():
        assert torch.equal(trained(other)[name], tensor)


def test_the_files_are_the_same_whatever_the_order_of_a_set(tmp_path: Path) -> None:
    layers = sorted(LINEAR)
    for name, targets in (("one", layers), ("two", layers[::-1])):
        save_adapter(adapted(lora_targets=targets), tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


# Other architectures, and the engine


def test_transposed_layers_are_merged_as_they_are_applied(tmp_path: Path) -> None:
    """GPT-2 stores W as [in, out]."""
    language_model = absolute_positions()
    before = logits(language_model.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(language_model.model, settings(4), 7)
    assert torch.equal(logits(language_model.model), before)
    live = logits(move(language_model.model))
    assert not torch.allclose(live, before, atol=1e-3)
    save(language_model, tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(exported), live, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_engine_samples_with_the_adapter_and_bits_do_not_depend_on_the_batch(rank: int) -> None:
    from polopt.roles import Actor
    from polopt.rollout.engines import LocalEngine
    from polopt.rollout.groups import experience
    from polopt.types import Batch

    language_model = of_architecture("qwen3", **SHARED, head_dim=8)
    attach(language_model.model, settings(rank), 7)
    move(language_model.model)
    engine = LocalEngine(language_model)
    requests = [request(i, 1 + 7 * i, 1 + i % 3, Sampling(max_new_tokens=12)) for i in range(9)]
    together = generated(engine, requests)
    for some in (requests[:1], requests[4:6], requests[::-1]):
        for ticket, group in generated(engine, some).items():
            for sample, expected in zip(group.samples, together[ticket].samples, strict=True):
                assert sample.tokens.tolist() == expected.tokens.tolist()
                assert sample.logp_rollout.tobytes() == expected.logp_rollout.tobytes()

    tensors = experience(Batch(tuple(together.values()), 0), pad_id=0, device=torch.device("cpu"))
    assert tensors.tokens is not None and tensors.logp_rollout is not None
    scored = Actor(language_model).log_probs(tensors.tokens)
    torch.testing.assert_close(
        scored[tensors.mask], tensors.logp_rollout[tensors.mask], atol=1e-4, rtol=0
    )
    with switched_off(language_model.model):
        base = Actor(language_model).log_probs(tensors.tokens)
    assert (base - scored)[tensors.mask].abs().mean() > 0.01


# A scalar head


def scalar() -> ScalarModel:
    found = load_scalar("builtin:tiny", seed=1)
    attach(found.model, settings(4), 7, head="score")
    move(found.model)
    with torch.no_grad():
        found.head.weight.copy_(torch.linspace(-1, 1, 32)[None])
    return found


def test_a_head_is_trained_whole_beside_the_adapter() -> None:
    model = scalar().model
    names = set(trained(model))
    assert "score.weight" in names and len(names) == 1 + 28
    assert all("lora_" in name for name in names - {"score.weight"})


def test_a_head_is_saved_with_the_adapter_and_merged(tmp_path: Path) -> None:
    from peft import PeftModel

    one = scalar()
    live = logits(one.model)
    save(one, tmp_path)
    merged_again = load_scalar(str(tmp_path))
    torch.testing.assert_close(logits(merged_again.model), live, atol=1e-5, rtol=0)

    other = load_scalar("builtin:tiny", seed=1)
    attach(other.model, settings(4), 8, head="score")
    load_adapter(other.model, tmp_path / "adapter")
    assert torch.equal(logits(other.model), live)

    base = load_scalar("builtin:tiny", seed=1)
    loaded = PeftModel.from_pretrained(base.model, tmp_path / "adapter")
    assert torch.equal(logits(loaded), live)
