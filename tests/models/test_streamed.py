"""Files written one tensor at a time: the bytes of safetensors, and little beside the weights."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from polopt.models import LanguageModel, load, save
from polopt.models.adapter import attach
from polopt.models.streamed import Later, write
from polopt.recipe import Model
from polopt.record.files import hashed, hashes
from random_models import SHARED, STOP, TOKENIZER

KINDS = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
]


def tensors() -> dict[str, torch.Tensor]:
    """Of every kind; a scalar, an empty one, names in no order, one that is not English."""
    some = {f"{n % 3}.{kind}": torch.arange(6).view(2, 3).to(kind) for n, kind in enumerate(KINDS)}
    others = {"é": torch.tensor(2.5), "empty": torch.zeros(0, 4), "a": torch.ones(3)}
    return {**others, **some}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_the_bytes_are_those_of_safetensors(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    save_file(tensors(), tmp_path / "theirs", metadata)
    write(tmp_path / "ours", tensors(), metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_what_is_no_run_of_numbers_is_written_in_order(tmp_path: Path) -> None:
    turned = torch.arange(6.0).view(2, 3).T
    asked = list[str]()

    def make() -> torch.Tensor:
        asked.append("made")
        return torch.ones(2)

    write(tmp_path / "file", {"turned": turned, "later": Later((2,), torch.float32, make)})
    found = load_file(tmp_path / "file")
    assert torch.equal(found["turned"], turned) and torch.equal(found["later"], torch.ones(2))
    assert asked == ["made"]


def test_what_is_written_is_hashed(tmp_path: Path) -> None:
    with hashes() as known, hashed(tmp_path / "file") as put:
        put(b"ab")
        put(b"c")
    assert known == {tmp_path / "file": hashlib.sha256(b"abc").hexdigest()}


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lora", [None, 2])
def test_a_model_is_written_as_transformers_writes_it(
    tmp_path: Path, kind: str, tied: bool, lora: int | None
) -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = AutoConfig.for_model(kind, **SHARED, **experts, tie_word_embeddings=tied)
    made = LanguageModel(AutoModelForCausalLM.from_config(config).eval(), TOKENIZER, (STOP,))
    made.model.save_pretrained(tmp_path / "theirs")
    if lora is not None:
        attach(made.model, Model(path="builtin:tiny", lora=lora), seed=0)  # adds nothing yet
    save(made, tmp_path / "ours")
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    load(str(tmp_path / "ours"))


PEAK = """
import sys
import torch
from pathlib import Path
from transformers import AutoConfig, AutoModelForCausalLM
from polopt.models import LanguageModel, builtin, save
from polopt.models.adapter import attach
from polopt.recipe import Model

config = AutoConfig.for_model(
    "llama", vocab_size=300, hidden_size=768, num_hidden_layers=4, num_attention_heads=12,
    intermediate_size=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
model = AutoModelForCausalLM.from_config(config).eval()
attach(model, Model(path="builtin:tiny", lora=4), seed=0)
made = LanguageModel(model, builtin.tokenizer(), (2,))
save(made, Path(sys.argv[1]) / "first")  # what is loaded and cached by a first save

def kept(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = kept("VmRSS")
save(made, Path(sys.argv[1]) / "second")
print(sum(p.nbytes for p in model.parameters()), max(p.nbytes for p in model.parameters()),
      kept("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_a_save_with_an_adapter_holds_one_weight_beside_the_model(tmp_path: Path) -> None:
    """100 MB of weights, all linear ones with an adapter."""
    found = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},  # what is freed is given back
        capture_output=True,
        text=True,
        check=True,
    )
    weights, largest, more = map(int, found.stdout.split())
    assert weights > 100e6
    assert more < 2 * largest + 8e6  # B A, and the same by its factor, to which W is added
