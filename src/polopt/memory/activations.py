"""Bytes that one token of a packed sequence takes on its way through a layer.

The formulas count the tensors that the layers of ``transformers`` make with SDPA attention and no
mask. ``tests/memory`` holds them to torch's memory tracker, architecture by architecture.
"""

from __future__ import annotations

from dataclasses import dataclass

from polopt.memory.shapes import Shape

_WIDE = 4  # bytes of a float32: of norms, and of a residual stream that autocast leaves alone
_EAGER_FORWARD, _EAGER_BACKWARD = 9, 5  # bytes of a head, a token and a token it sees: measured


@dataclass(frozen=True)
class Precision:
    """Bytes of a number: of matrix products, of the residual stream, of weights that are frozen."""

    compute: int
    stream: int
    frozen: int

    @property
    def is_mixed(self) -> bool:
        """Whether products run narrower than the weights, on copies of them."""
        return self.compute < _WIDE


FLOAT32 = Precision(compute=4, stream=4, frozen=4)
AUTOCAST = Precision(compute=2, stream=4, frozen=2)  # bfloat16 products on float32 weights
BFLOAT16 = Precision(compute=2, stream=2, frozen=2)  # of a frozen model, all of it


def kept_per_token(shape: Shape, at: Precision, tokens: int) -> int:
    """What one layer keeps of a token for its backward pass, in bytes.

    Each norm its input and its normalised input, each linear layer its input (autocast: a copy for
    each), attention q, k, v and its output, a gated feed-forward 4 tensors of its width.

    Args:
        shape: of the model.
        at: what is computed in.
        tokens: of the pass, which matter where attention has no fused kernel.
    """
    keys = shape.queries if shape.family.eager else shape.keys  # repeated for every query
    attention = at.compute * 2 * (shape.queries + keys) + _WIDE * shape.heads
    if shape.family.fused and shape.family.gated:  # parts of one tensor, all of which stays
        attention += at.compute * (2 * shape.queries + shape.keys)
    if shape.family.norms_heads:
        both = shape.queries + shape.keys
        attention += both * (2 * _WIDE if at.compute == _WIDE else _WIDE + at.compute)
    before_attention, before_feed_forward = (1, 1) if shape.family.fused else (3, 2)
    norms = shape.family.norms * (1 if shape.family.norm_bias else 2) * shape.hidden * _WIDE
    inputs = _inputs(shape, before_attention, at) + _inputs(shape, before_feed_forward, at)
    attention += _scores(shape, tokens, at)
    return norms + inputs + attention + _of_feed_forward(shape, at)


def backward_per_token(shape: Shape, at: Precision, tokens: int) -> int:
    """What the backward pass of a layer needs beside it: two gradients of the widest width.

    And two of the residual stream; sines and cosines.
    """
    rest = _EAGER_BACKWARD * shape.heads * tokens if shape.family.eager else 0
    rest += 2 * shape.hidden * at.stream + 2 * shape.head_dim * _WIDE
    return 2 * max(_width(shape), shape.queries) * at.compute + rest


def forward_per_token(shape: Shape, at: Precision, tokens: int) -> int:
    """The most that a layer holds of a token at once where nothing is kept for a backward pass.

    Either queries and keys while they are rotated, or three tensors of the feed-forward.
    """
    queries, keys = shape.queries, shape.keys
    if at.compute == at.stream:
        rotated = at.compute * max(4 * queries + 2 * keys, 2 * queries + 5 * keys)
    else:  # the angles are float32, so that what is rotated is, too
        rotated = max(12 * queries + 4 * keys, 6 * queries + 14 * keys)
    tables = 2 * shape.head_dim * _WIDE  # sines and cosines
    stream = 4 * shape.hidden * _WIDE  # what came in, the residual, its norm, what is added
    wide = (3 if shape.family.gated else 5) * _width(shape) * at.compute
    wide += 4 * shape.experts_per_token * shape.hidden * _WIDE  # what is sent to experts
    of_scores = _EAGER_FORWARD * shape.heads * tokens if shape.family.eager else 0
    return stream + tables + max(rotated, wide) + of_scores


def below_the_head(shape: Shape, at: Precision) -> int:
    """What stands between layers and head: the last norm and its output, and their gradients."""
    return 5 * shape.hidden * at.stream


def _scores(shape: Shape, tokens: int, at: Precision) -> int:
    """What attention without a fused kernel keeps of a token beside all others of its pass.

    The tanh of a soft cap, and the softmax, in float32 and as it is used.
    """
    if not shape.family.eager:
        return 0
    return shape.heads * tokens * (at.compute + _WIDE + (at.compute if at.is_mixed else 0))


def _inputs(shape: Shape, consumers: int, at: Precision) -> int:
    """The input of linear layers that share it; autocast makes a copy for each of them."""
    shared = at.compute == at.stream
    return shape.hidden * at.compute * (1 if shared else consumers)


def _width(shape: Shape) -> int:
    """Width of the feed-forward that a token passes: with experts, of all that it is sent to."""
    of_experts = shape.experts_per_token * shape.expert_width
    return max(of_experts, shape.feed_forward if shape.sparse_layers < shape.layers else 0)


def _of_feed_forward(shape: Shape, at: Precision) -> int:
    if not shape.sparse_layers:
        return (4 if shape.family.gated else 5) * shape.feed_forward * at.compute
    routed = shape.experts_per_token * (3 * shape.hidden * at.compute + _WIDE)
    return routed + 4 * _width(shape) * at.compute
