"""The shape of a language model, by its ``config.json``: what its weights weigh, without them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from polopt.errors import ModelError
from polopt.memory.families import FAMILIES, LLAMA, OTHER_NAMES, Family
from polopt.places import BUILT_IN


class Linear(NamedTuple):
    """A linear layer: ``Linear("q_proj", 1024, 2048, False)``."""

    name: str
    inputs: int
    outputs: int
    bias: bool

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return (self.inputs + self.bias) * self.outputs


@dataclass(frozen=True)
class Shape:
    """The sizes of a causal language model with one kind of attention, dense or with experts.

    Example: Qwen3-0.6B is ``Shape("qwen3", layers=28, hidden=1024, heads=16, kv_heads=8,
    head_dim=128, feed_forward=3072, vocabulary=151936, ...)``, which has 596,049,920 parameters.
    """

    kind: str  # model_type of config.json
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int  # width, in a dense layer
    vocabulary: int
    tied: bool  # one matrix is input and output embedding
    context: int  # tokens that it can attend to at once
    linears: tuple[Linear, ...]  # of one dense layer
    norms: int  # weights of all norms in a layer
    last_norm: int  # weights of the norm below the head
    positions: int = 0  # learned positions
    experts: int = 0  # in a sparse layer
    experts_per_token: int = 0
    expert_width: int = 0
    sparse_layers: int = 0
    attention: tuple[Linear, ...] = ()  # those of ``linears`` outside of the feed-forward
    family: Family = LLAMA
    known: bool = True  # False: counted as Llama is

    @property
    def embedding(self) -> int:
        """Weights of the input embedding, and so of the output embedding."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights; tied embeddings count once."""
        tables = (1 if self.tied else 2) * self.embedding + self.positions * self.hidden
        return tables + self.in_layers + self.last_norm

    @property
    def in_layers(self) -> int:
        """The weights of all layers: neither embeddings nor the last norm."""
        dense, sparse = self.layers - self.sparse_layers, self.sparse_layers
        return self.layers * self.norms + dense * _sum(self.linears) + sparse * self._sparse

    @property
    def backbone(self) -> int:
        """The weights of a critic or a reward model without its head: no output embedding."""
        return self.parameters - (0 if self.tied else self.embedding)

    @property
    def _sparse(self) -> int:
        """The matrices of a layer with experts, and its router."""
        expert = (3 if self.family.gated else 2) * self.hidden * self.expert_width
        return _sum(self.attention) + self.experts * (expert + self.hidden)

    @property
    def largest(self) -> int:
        """Weights of the largest matrix, which is copied or accumulated as one."""
        sparse = 2 * self.experts * self.expert_width * self.hidden if self.sparse_layers else 0
        return max(self.embedding, sparse, *(one.parameters for one in self.linears))

    @property
    def queries(self) -> int:
        """Width of the queries of a token in a layer."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of the keys of a token in a layer, and of the values."""
        return self.kv_heads * self.head_dim

    def adapter(self, rank: int, targets: tuple[str, ...] = ()) -> int:
        """Trained weights of a LoRA adapter: ``rank (inputs + outputs)`` of every linear layer.

        The matrices of experts are no linear layers to peft, and get none.
        """
        dense, sparse = self.layers - self.sparse_layers, self.sparse_layers
        both = ((dense, self.linears), (sparse, self.attention))
        return sum(
            count * rank * (one.inputs + one.outputs)
            for count, linears in both
            for one in linears
            if not targets or one.name in targets
        )


def _sum(linears: tuple[Linear, ...]) -> int:
    return sum(one.parameters for one in linears)


BUILTIN: Mapping[str, Mapping[str, Any]] = {  # the built-in models, as config.json would have them
    name: {
        "model_type": "llama",
        "vocab_size": 259,  # 256 bytes, padding, beginning and end
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": feed_forward,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
    }
    for name, hidden, heads, feed_forward, context in (
        ("tiny", 32, 2, 64, 256),  # tests
        ("small", 128, 4, 512, 1024),  # quickstart
    )
}


def shape_at(path: str, field: str = "model.path") -> Shape:
    """The shape of a built-in model, or of the ``config.json`` in a directory.

    Raises:
        ModelError: it cannot be read, or is no causal language model's; names the field.
    """
    if path.startswith(BUILT_IN):
        name = path.removeprefix(BUILT_IN)
        if name not in BUILTIN:
            known = ", ".join(BUILT_IN + one for one in BUILTIN)
            raise ModelError(f"{field}: {path!r} is no built-in language model; {known}")
        return shape_of(BUILTIN[name], field)
    file = Path(path).expanduser() / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{field}: {str(file)!r} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{field}: {str(file)!r} is no table")
    return shape_of(cast(dict[str, Any], config), field)


def shape_of(config: Mapping[str, Any], field: str = "model.path") -> Shape:
    """The shape that a ``config.json`` describes; an unknown architecture counts as Llama.

    Args:
        config: as parsed; of a model that sees images, the part of text counts.
        field: for messages.

    Raises:
        ModelError: a size is missing or is no positive number; names it.
    """
    config = config.get("text_config") or config
    kind = str(config.get("model_type", ""))
    family = FAMILIES.get(kind, LLAMA)
    read = _Config(kind, {**family.defaults, **config}, field)
    hidden, heads, layers = (
        read.size(f"{name}") for name in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    kv_heads = read.size("num_key_value_heads", heads)
    head_dim = read.size("head_dim", hidden // heads)
    width = read.size("intermediate_size", None if family.gated else 4 * hidden)
    attention = tuple(_attention(read, family, hidden, heads * head_dim, kv_heads * head_dim))
    sparse = _sparse_layers(read, family, layers)
    of_heads = 2 * head_dim if family.norms_heads else 0
    one_norm = hidden * (2 if family.norm_bias else 1)
    return Shape(
        kind=kind,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        feed_forward=width,
        vocabulary=read.size("vocab_size"),
        tied=read.flag("tie_word_embeddings"),
        context=read.size("max_position_embeddings", 1 << 30),
        linears=(*attention, *_feed_forward(read, family, hidden, width)),
        norms=family.norms * one_norm + of_heads,
        last_norm=one_norm,
        positions=read.size("max_position_embeddings") if family.learned_positions else 0,
        experts=read.size(family.experts) if sparse else 0,
        experts_per_token=read.size("num_experts_per_tok") if sparse else 0,
        expert_width=read.size(family.expert_width) if sparse else 0,
        sparse_layers=sparse,
        attention=attention,
        family=family,
        known=kind in FAMILIES,
    )


@dataclass(frozen=True)
class _Config:
    """The values of a config.json, by the names that most architectures use."""

    kind: str
    values: Mapping[str, Any]
    field: str

    def size(self, name: str, otherwise: int | None = None) -> int:
        """A positive number; ``otherwise`` where the file has none."""
        found = self.values.get(name)
        if found is None and name in OTHER_NAMES:
            found = self.values.get(OTHER_NAMES[name])
        if found is None:
            found = otherwise
        if not isinstance(found, int) or found < 1:
            told = "has no" if found is None else f"has {found!r} for"
            raise ModelError(
                f"{self.field}: config.json of {self.kind or 'an unnamed architecture'} {told} "
                f"{name}, a positive integer"
            )
        return found

    def flag(self, name: str | bool) -> bool:
        """Whether something is so: by the architecture, or by the file."""
        return name if isinstance(name, bool) else bool(self.values.get(name, False))


def _attention(
    read: _Config, family: Family, hidden: int, queries: int, keys: int
) -> Iterator[Linear]:
    of_inputs, of_output = read.flag(family.biased_inputs), read.flag(family.biased_output)
    if family.fused:
        name = "c_attn" if family.learned_positions else "qkv_proj"
        yield Linear(name, hidden, queries + 2 * keys, of_inputs)
    else:
        yield Linear("q_proj", hidden, queries, of_inputs)
        yield Linear("k_proj", hidden, keys, of_inputs)
        yield Linear("v_proj", hidden, keys, of_inputs)
    yield Linear("c_proj" if family.learned_positions else "o_proj", queries, hidden, of_output)


def _feed_forward(read: _Config, family: Family, hidden: int, width: int) -> Iterator[Linear]:
    bias = read.flag(family.biased_mlp)
    if not family.gated:
        yield Linear("c_fc", hidden, width, bias)
        yield Linear("c_proj", width, hidden, bias)
        return
    if family.fused:
        yield Linear("gate_up_proj", hidden, 2 * width, bias)
    else:
        yield Linear("gate_proj", hidden, width, bias)
        yield Linear("up_proj", hidden, width, bias)
    yield Linear("down_proj", width, hidden, bias)


def _sparse_layers(read: _Config, family: Family, layers: int) -> int:
    """How many layers have experts."""
    if not family.experts or family.sparse_only:
        return layers if family.experts else 0
    step, dense = read.size("decoder_sparse_step"), list[int](read.values["mlp_only_layers"] or ())
    return sum(1 for i in range(layers) if i not in dense and (i + 1) % step == 0)
