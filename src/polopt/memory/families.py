"""Architectures: how the layers of each are built, as far as the sizes of its weights tell.

``tests/memory/test_shapes.py`` counts the weights of each against ``transformers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Biased = bool | str  # whether there is a bias, or the key of config.json that says so


@dataclass(frozen=True)
class Family:
    """The facts that architectures of one kind share; the default is that of Llama."""

    norms: int = 2  # of hidden width in a layer
    norm_bias: bool = False
    biased_inputs: Biased = "attention_bias"  # of queries, keys and values
    biased_output: Biased = "attention_bias"
    biased_mlp: Biased = "mlp_bias"
    gated: bool = True  # the feed-forward has three matrices, otherwise two
    norms_heads: bool = False  # queries and keys are normalised in each head
    learned_positions: bool = False
    fused: bool = False  # queries, keys and values are one matrix, so are gate and up
    experts: str = ""  # key of their number; empty: a dense feed-forward
    expert_width: str = "intermediate_size"  # key
    sparse_only: bool = True  # every layer has experts
    eager: bool = False  # attention with soft caps, for which there is no fused kernel
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of its configuration


LLAMA = Family()
_TIED = {"tie_word_embeddings": True}
FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,
    "smollm3": Family(defaults=_TIED),
    "mistral": Family(biased_inputs=False, biased_output=False, biased_mlp=False),
    "phi3": Family(biased_inputs=False, biased_output=False, biased_mlp=False, fused=True),
    "granite": Family(),
    "qwen2": Family(biased_inputs=True, biased_output=False, biased_mlp=False),
    "qwen3": Family(norms_heads=True, biased_mlp=False, defaults={"head_dim": 128}),
    "gemma": Family(biased_mlp=False, defaults={**_TIED, "head_dim": 256}),
    "gemma2": Family(norms=4, biased_mlp=False, eager=True, defaults={**_TIED, "head_dim": 256}),
    "gemma3_text": Family(
        norms=4, norms_heads=True, biased_mlp=False, defaults={**_TIED, "head_dim": 256}
    ),
    "gpt2": Family(
        norm_bias=True,
        biased_inputs=True,
        biased_output=True,
        biased_mlp=True,
        gated=False,
        learned_positions=True,
        fused=True,
        defaults=_TIED,
    ),
    "mixtral": Family(
        biased_inputs=False, biased_output=False, biased_mlp=False, experts="num_local_experts"
    ),
    "qwen3_moe": Family(
        norms_heads=True,
        biased_mlp=False,
        experts="num_experts",
        expert_width="moe_intermediate_size",
        sparse_only=False,
        defaults={"decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
}
# The keys of config.json by the names that most architectures use.
OTHER_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
