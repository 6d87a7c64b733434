"""The formulas of activations against torch's memory tracker, architecture by architecture."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from polopt.memory.activations import (
    AUTOCAST,
    FLOAT32,
    Precision,
    backward_per_token,
    below_the_head,
    forward_per_token,
    kept_per_token,
)
from polopt.memory.shapes import Shape, shape_of

TOKENS = 1024
SIZES = {
    "vocab_size": 128,
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 768,
    "max_position_embeddings": 8192,
    "sliding_window": 8192,  # rows are shorter, as the engine demands
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OF_GPT2 = {
    "vocab_size": 128,
    "n_embd": 256,
    "n_head": 8,
    "n_positions": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **{f"{name}_pdrop": 0.0 for name in ("attn", "resid", "embd")},
}
EXPERTS = {
    "num_experts": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 384,
}


def config(kind: str, layers: int, **changes: Any) -> dict[str, Any]:
    sizes = OF_GPT2 if kind == "gpt2" else SIZES
    experts = EXPERTS if kind in ("mixtral", "qwen3_moe") else {}
    depth = {"n_layer" if kind == "gpt2" else "num_hidden_layers": layers}
    return {**sizes, **experts, **changes, **depth, "model_type": kind}


@dataclass(frozen=True)
class Case:
    kind: str
    at: Precision = FLOAT32
    changes: tuple[tuple[str, int], ...] = ()

    def asked(self, layers: int, **how: bool) -> dict[str, Any]:
        """Mixtures of experts count their tokens, which only real tensors have."""
        fake = self.kind not in ("mixtral", "qwen3_moe")
        shape = config(self.kind, layers, **dict(self.changes))
        mixed = self.at.is_mixed
        return {"config": shape, "tokens": TOKENS, "autocast": mixed, "fake": fake, **how}

    @property
    def shape(self) -> Shape:
        return shape_of(config(self.kind, 2, **dict(self.changes)))

    @property
    def copies(self) -> int:
        """Bytes of a layer's weights in bfloat16, which the graph keeps."""
        dense = sum(one.parameters - one.bias * one.outputs for one in self.shape.linears)
        return 2 * dense if self.at.is_mixed else 0


ALWAYS = (
    *(Case(kind) for kind in ("llama", "gemma2", "gpt2", "mixtral")),
    Case("qwen2", AUTOCAST),
)
OTHERS = (
    *(Case(kind) for kind in ("qwen2", "qwen3", "mistral", "granite", "gemma")),
    *(Case(kind) for kind in ("phi3", "gemma3_text", "qwen3_moe")),
    *(Case(kind, AUTOCAST) for kind in ("gemma2", "gpt2")),
    Case("qwen3", AUTOCAST, (("intermediate_size", 2048),)),
    Case("llama", FLOAT32, (("num_key_value_heads", 8),)),
)
HOW = ((2, {}), (4, {}), (4, {"checkpointing": True}), (4, {"gradient": False}))  # layers, how


@cache
def measured(cases: tuple[Case, ...]) -> dict[Case, Any]:
    """All in one process of their own: kept, recomputed and without a gradient, two depths."""
    asked = [one.asked(layers, **how) for one in cases for layers, how in HOW]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("tracked.py"), json.dumps(asked)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = iter(json.loads(done.stdout.splitlines()[-1]))
    return {one: [next(found) for _ in HOW] for one in cases}


def of(one: Case) -> list[Any]:
    return measured(ALWAYS if one in ALWAYS else OTHERS)[one]


def named(one: Case) -> str:
    changes = "".join(f" {name} {value}" for name, value in one.changes)
    return f"{one.kind} {'bfloat16' if one.at.is_mixed else 'float32'}{changes}"


every = pytest.mark.parametrize(
    "one", [*ALWAYS, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)], ids=named
)


@every
def test_what_a_layer_keeps(one: Case) -> None:
    shallow, deep, *_ = of(one)
    layer = (deep["left"] - shallow["left"]) / 2
    assert TOKENS * kept_per_token(one.shape, one.at, TOKENS) + one.copies == pytest.approx(
        layer, rel=0.06
    )


@every
def test_the_peak_with_all_layers_kept(one: Case) -> None:
    _, deep, *_ = of(one)
    kept = 4 * (TOKENS * kept_per_token(one.shape, one.at, TOKENS) + one.copies)
    assert kept + _at_the_end(one) == pytest.approx(deep["peak"], rel=0.1)


@every
def test_the_peak_with_layers_computed_again(one: Case) -> None:
    _, _, deep, _ = of(one)
    stream = TOKENS * 4 * one.shape.hidden * one.at.stream
    again = TOKENS * kept_per_token(one.shape, one.at, TOKENS) + one.copies
    assert stream + again + _at_the_end(one) == pytest.approx(deep["peak"], rel=0.15)


def _at_the_end(one: Case) -> int:
    """What stands above the layers where the backward pass begins."""
    gradient = 4 * max(linear.parameters for linear in one.shape.linears)
    backward = TOKENS * backward_per_token(one.shape, one.at, TOKENS) + gradient
    return max(backward, TOKENS * below_the_head(one.shape, one.at))


@every
def test_the_peak_without_a_gradient(one: Case) -> None:
    *_, deep = of(one)
    forward = TOKENS * forward_per_token(one.shape, one.at, TOKENS) + 4 * one.copies
    assert forward == pytest.approx(deep["peak"], rel=0.2)


def test_a_layer_of_llama_by_hand() -> None:
    """Hidden 256, queries 512, keys 256, feed-forward 768, 8 heads; float32.

    2 norms keep their input and what is normalised: 4 x 256. Their outputs: 2 x 256. q and the
    output of attention: 2 x 512, k and v: 2 x 256. gate, its silu, up and their product: 4 x 768.
    6 x 256 + 1024 + 512 + 3072 = 6144 numbers, and the logarithms of 8 softmaxes.
    """
    assert kept_per_token(shape_of(config("llama", 2)), FLOAT32, TOKENS) == 4 * (6144 + 8)


def test_soft_caps_keep_scores_of_all_tokens() -> None:
    """A tanh and a softmax of every head: 8 heads x 2 x 4 bytes for each of the tokens."""
    shape = shape_of(config("gemma2", 2))
    few, many = (kept_per_token(shape, FLOAT32, tokens) for tokens in (1000, 2000))
    assert many - few == 1000 * 8 * 2 * 4
