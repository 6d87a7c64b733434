"""Models whose layers are divided among the ranks of a group, by FSDP2 (``fully_shard``).

Each rank keeps a share of every weight of the decoder layers, of its gradient and of its moments. A
layer is gathered when a pass comes to it, and gradients are summed where they are made. Embeddings,
the last norm and heads stay whole on every rank: the head reads its weights without a forward pass
of the module that owns them, and their gradients are summed with those of other whole weights.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from polopt.errors import RecipeError
from polopt.ranks import Ranks


def shard(model: torch.nn.Module, ranks: Ranks, device: torch.device) -> None:
    """Divide the layers of a model of transformers among the ranks, in place.

    Args:
        model: with the same weights on every rank.
        ranks: all of which call this; nothing is done where there is one.
        device: of the model.

    Raises:
        RecipeError: an architecture that does not say what its layers are.
    """
    if ranks.alone:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    trunk = cast(torch.nn.Module, model.base_model)
    layers = [layer for layer in trunk.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise RecipeError(
            f"update.shard: true is not allowed with {type(model).__name__}, whose layers are not "
            "marked as such; false"
        )
    mesh = init_device_mesh(device.type, (ranks.size,))
    inside = {id(weight) for layer in layers for weight in layer.parameters()}
    around = {weight for weight in trunk.parameters() if id(weight) not in inside}
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(trunk, mesh=mesh, ignored_params=around)
    for one in cast(list[Any], [*layers, trunk]):
        one.set_gradient_divide_factor(1.0)  # a sum: divisors are those of the whole step
        if hasattr(one, "set_reduce_scatter_unused_params"):  # torch 2.13
            one.set_reduce_scatter_unused_params(True)  # experts to which a rank sent no token
        one.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def is_sharded(tensor: Tensor) -> bool:
    """Whether a rank has a share of a tensor only (a ``DTensor``, which is not loaded for this)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from the ranks where it is sharded; then all of them call this."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def share(of: Tensor, like: Tensor) -> Tensor:
    """The share of a whole tensor that a rank holds of another one; nothing is sent."""
    if not is_sharded(like):
        return of
    from torch.distributed.tensor import distribute_tensor

    layout = cast(Any, like)
    return distribute_tensor(of, layout.device_mesh, layout.placements, src_data_rank=None)
