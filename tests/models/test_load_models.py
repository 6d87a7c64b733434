"""Model directories: what was saved comes back, and nothing that is broken or hostile gets in."""

import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from polopt.errors import ModelError
from polopt.models import load, save


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "whole"
    save(load("builtin:tiny", seed=1), directory)
    return directory


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refused(path: Path | str) -> str:
    """The message, which is one line that names the field."""
    with pytest.raises(ModelError) as caught:
        load(str(path))
    message = str(caught.value)
    assert message.startswith("model.path: ") and str(path) in message
    assert "\n" not in message and len(message) < 400
    return message


def test_what_is_saved_comes_back(whole: Path) -> None:
    before, after = load("builtin:tiny", seed=1), load(str(whole))
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name])
    assert after.stop_ids == before.stop_ids
    text = "3+8= é\n"
    assert after.tokenizer(text)["input_ids"] == before.tokenizer(text)["input_ids"]
    assert after.tokenizer.chat_template == before.tokenizer.chat_template


def test_transformers_loads_it_without_conversion(whole: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(whole)
    tokens = AutoTokenizer.from_pretrained(whole)
    assert torch.equal(
        model.get_input_embeddings().weight,
        load("builtin:tiny", seed=1).model.get_input_embeddings().weight,
    )
    assert tokens.decode(tokens("a b")["input_ids"]) == "a b"


def test_saved_files_hold_no_pickle(whole: Path) -> None:
    assert {path.suffix for path in whole.iterdir()} == {".json", ".jinja", ".safetensors"}


def test_a_sharded_model_loads_and_a_missing_shard_is_named(whole: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    original = load(str(whole))
    original.model.save_pretrained(sharded, max_shard_size="40KB")
    original.tokenizer.save_pretrained(sharded)
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 1
    assert torch.equal(load(str(sharded)).model.lm_head.weight, original.model.lm_head.weight)
    shards[-1].unlink()
    assert shards[-1].name in refused(sharded)


def test_a_missing_directory(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="'nowhere' does not exist"):
        load("./nowhere")  # a path, never a hub id


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file; a directory" in refused(tmp_path / "file")


def test_no_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    assert "has no config.json" in refused(copy)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"model_type": "no-such-kind"}', "{}"])
def test_a_config_that_names_no_model(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    refused(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "many"},
        {"hidden_size": -4},
        {"hidden_size": 64},
        {"num_attention_heads": 0},
        {"num_hidden_layers": 3},
        {"hidden_act": "no-such"},
        {"dtype": "float99"},
        {"quantization_config": {"quant_method": "gptq"}},
        {"_attn_implementation": "flash_attention_2"},
    ],
    ids=str,
)
def test_a_config_that_does_not_fit(copy: Path, change: dict[str, object]) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    refused(copy)


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "has no *.safetensors weights" in refused(copy)


def test_no_tokenizer(copy: Path) -> None:
    for file in (*copy.glob("tokenizer*"), *copy.glob("special*")):
        file.unlink()
    refused(copy)


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.pkl"])
def test_pickles_are_refused_and_not_opened(copy: Path, tmp_path: Path, name: str) -> None:
    (copy / "model.safetensors").unlink()
    canary = tmp_path / "canary"
    (copy / name).write_bytes(pickle.dumps(Canary(canary)))
    assert f"only pickled weights ({name})" in refused(copy)
    assert not canary.exists()
    pickle.loads((copy / name).read_bytes())
    assert canary.exists(), "the trap works"


def test_a_pickle_by_the_name_of_safetensors(copy: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (copy / "model.safetensors").write_bytes(pickle.dumps(Canary(canary)))
    assert "damaged or half-written" in refused(copy)
    assert not canary.exists()


def test_pickles_beside_safetensors_are_left_alone(copy: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (copy / name).write_bytes(pickle.dumps(Canary(canary)))
    load(str(copy))
    assert not canary.exists()


def test_pickles_do_not_stand_in_for_safetensors_of_another_name(
    copy: Path, tmp_path: Path
) -> None:
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    torch.save(load_file(copy / "other.safetensors"), copy / "pytorch_model.bin")
    assert "no file named model.safetensors" in refused(copy)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_half_written_weights(copy: Path, share: float) -> None:
    file = copy / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert "model.safetensors is damaged or half-written" in refused(copy)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**63),  # a header of exabytes
        struct.pack("<Q", 90_000_000) + b"{",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[9999999],"data_offsets":[0,4]}}',
        struct.pack("<Q", 50) + b"[" * 50,
    ],
    ids=["huge", "long", "list", "shape", "nested"],
)
def test_hostile_headers(copy: Path, header: bytes) -> None:
    (copy / "model.safetensors").write_bytes(header + b"\0" * 64)
    assert "damaged or half-written" in refused(copy)


def test_weights_that_lack_a_layer_are_not_made_up(copy: Path) -> None:
    file = copy / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    assert "lack model.layers.1.mlp.up_proj.weight" in refused(copy)


def test_weights_of_another_shape(copy: Path) -> None:
    file = copy / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, file, metadata={"format": "pt"})
    assert "lack model.norm.weight" in refused(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(copy: Path, value: float) -> None:
    file = copy / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, file, metadata={"format": "pt"})
    assert "model.layers.0.mlp.up_proj.weight in" in refused(copy)


EVIL = "from pathlib import Path\nPath({canary!r}).touch()\nclass Evil: pass\n"


@pytest.mark.parametrize("kind", ["llama", "evil"])
def test_code_in_a_model_directory_is_not_run(copy: Path, tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    for name in ("modeling_evil", "configuration_evil", "tokenization_evil", "__init__"):
        (copy / f"{name}.py").write_text(EVIL.format(canary=str(canary)))
    config = json.loads((copy / "config.json").read_text())
    config["model_type"] = kind
    config["auto_map"] = {
        "AutoConfig": "configuration_evil.Evil",
        "AutoModelForCausalLM": "modeling_evil.Evil",
    }
    (copy / "config.json").write_text(json.dumps(config))
    tokens = json.loads((copy / "tokenizer_config.json").read_text())
    tokens["auto_map"] = {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]}
    (copy / "tokenizer_config.json").write_text(json.dumps(tokens))
    if kind == "evil":
        refused(copy)
    else:
        load(str(copy))
    assert not canary.exists()
    exec((copy / "modeling_evil.py").read_text())
    assert canary.exists(), "the trap works"


def test_padding_is_made_up_where_the_tokeniser_has_none(copy: Path) -> None:
    tokens = json.loads((copy / "tokenizer_config.json").read_text())
    del tokens["pad_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(tokens))
    found = load(str(copy))
    assert found.tokenizer.pad_token_id == found.tokenizer.eos_token_id


def test_every_named_end_of_sequence_ends_a_response(copy: Path) -> None:
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 5]}))
    assert load(str(copy)).stop_ids == (2, 5, 7)
