"""The weights that a config.json describes, counted against those that transformers makes."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from polopt.errors import ModelError
from polopt.memory.shapes import BUILTIN, Linear, shape_at, shape_of
from polopt.models import builtin

SHAPES = Path(__file__).parents[1] / "shapes"
SIZES = {
    "vocab_size": 131,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
SMALL_GPT2 = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 131}
CASES = {
    "llama": {**SIZES},
    "llama tied with biases": {**SIZES, "tie_word_embeddings": True, "attention_bias": True},
    "llama with biases in the feed-forward": {**SIZES, "mlp_bias": True},
    "smollm3": {**SIZES},
    "mistral": {**SIZES},
    "phi3": {**SIZES},
    "granite": {**SIZES, "attention_bias": True},
    "qwen2": {**SIZES},
    "qwen3": {**SIZES},
    "qwen3 tied": {**SIZES, "tie_word_embeddings": True},
    "gemma": {**SIZES},
    "gemma2": {**SIZES},
    "gemma3_text": {**SIZES},
    "gpt2": SMALL_GPT2,
    "gpt2 with a width": {**SMALL_GPT2, "n_inner": 100},
    "mixtral": {**SIZES, "num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen3_moe": {
        **SIZES,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    },
    "qwen3_moe with dense layers": {
        **SIZES,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": [0],
    },
}


def made(config: AutoConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", CASES)
def test_every_weight_is_counted(name: str) -> None:
    kind = name.partition(" ")[0]
    config = AutoConfig.for_model(kind, **CASES[name])
    model = made(config)

    shape = shape_of({"model_type": kind, **CASES[name]})

    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.known
    largest = max(p.numel() for p in model.parameters())
    assert shape.largest >= largest
    body = sum(p.numel() for p in model.base_model.parameters())
    assert shape.backbone == body


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "qwen3_moe"])
def test_an_adapter_stands_beside_every_linear_layer(name: str) -> None:
    from polopt.models.adapter import attach
    from polopt.recipe import Model

    kind = name.partition(" ")[0]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **CASES[name]))
    attach(model, Model(path="builtin:tiny", lora=3), seed=0)

    shape = shape_of({"model_type": kind, **CASES[name]})

    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.adapter(3) == trained


def test_an_adapter_for_some_layers() -> None:
    shape = shape_of({"model_type": "llama", **SIZES})
    # q_proj takes 48 numbers and gives 64, v_proj gives 32; 3 layers, rank 2.
    assert shape.adapter(2, ("q_proj", "v_proj")) == 3 * 2 * ((48 + 64) + (48 + 32))


@pytest.mark.parametrize("directory", sorted(SHAPES.iterdir()), ids=lambda d: d.name)
def test_the_shapes_of_public_models(directory: Path) -> None:
    """By their config.json alone; the numbers of weights are those that their pages state."""
    known = {
        "llama-3.2-1b": 1_235_814_400,
        "qwen2.5-7b": 7_615_616_512,
        "qwen3-0.6b": 596_049_920,
        "qwen3-1.7b": 1_720_574_976,
        "qwen3-4b": 4_022_468_096,
        "qwen3-8b": 8_190_735_360,
        "qwen3-14b": 14_768_307_200,
    }
    model = made(AutoConfig.from_pretrained(directory))
    shape = shape_at(str(directory))

    assert shape.parameters == known[directory.name]
    assert shape.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", builtin.BUILTIN)
def test_the_built_in_models(name: str) -> None:
    model = builtin.model(builtin.BUILTIN[name], 0)
    assert shape_at(f"builtin:{name}").parameters == sum(p.numel() for p in model.parameters())
    assert BUILTIN[name]["vocab_size"] == len(builtin.TOKENS)


def test_an_unknown_architecture_counts_as_llama() -> None:
    shape = shape_of({"model_type": "brandnew", **SIZES})
    assert not shape.known
    assert shape.parameters == shape_of({"model_type": "llama", **SIZES}).parameters


def test_a_model_that_sees_images_counts_its_text() -> None:
    shape = shape_of({"model_type": "seeing", "text_config": {"model_type": "llama", **SIZES}})
    assert shape.kind == "llama"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": None}, "config.json of llama has no vocab_size, a positive integer"),
        ({"hidden_size": "wide"}, "config.json of llama has 'wide' for hidden_size"),
    ],
)
def test_a_size_that_is_missing_is_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        shape_of({"model_type": "llama", **SIZES, **changes})


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"^model\.path: .*config\.json' cannot be read"):
        shape_at(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ModelError, match="is no table"):
        shape_at(str(tmp_path))


def test_a_linear_layer_counts_its_bias() -> None:
    assert Linear("q_proj", 3, 4, True).parameters == 3 * 4 + 4
