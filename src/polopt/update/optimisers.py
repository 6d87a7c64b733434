"""The optimisers of first-order updates: AdamW, and AdamW whose moments take a byte each.

    m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²
    w ← w - η λ w - η (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)

Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101, Algorithm 2. With
8 bits, m and v are rounded after each step to 256 values and a scale for every 256 weights
(Dettmers et al. 2022, arXiv:2110.02861, Section 2); the step itself is in float32. Weights of fewer
than 4,096 numbers, or of a number that 256 does not divide, keep moments in float32.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from polopt.errors import RecipeError, missing_extra, one_line
from polopt.models.sharded import is_sharded
from polopt.recipe import Update

SETTING = 'update.optimiser: "adamw_8bit"'
PARTS = ("codes", "scale", "qmap")
"""Of a moment of 8 bits: a byte for each weight, a scale for every 256, what the bytes mean."""


def adamw(settings: Update, weights: Sequence[Tensor]) -> Optimizer:
    """AdamW as the recipe asks for it, on some weights; its learning rate is set before a step."""
    groups = _by_decay(weights, settings.weight_decay)
    options: dict[str, Any] = {"lr": 0.0, "betas": (settings.beta1, settings.beta2)}
    if settings.optimiser == "adamw_8bit":
        return eight_bit()(groups, **options)
    return AdamW(groups, fused=True, **options)


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of all weights; where it is compiled into a step, it is a tensor."""
    for group in optimiser.param_groups:
        group["lr"] = torch.tensor(rate) if isinstance(group["lr"], Tensor) else rate


def eight_bit() -> type[Any]:
    """AdamW with 8 bits, of torchao.

    Raises:
        MissingExtraError: it is not installed, or cannot be imported.
    """
    try:
        with _quiet():
            from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise missing_extra(SETTING, "torchao", "8bit", error) from error
    return AdamW8bit


def parts_of(moment: Tensor) -> dict[str, Tensor]:
    """The tensors of a moment of 8 bits by their names; none where it is a tensor itself."""
    return {name: getattr(moment, name) for name in PARTS if hasattr(moment, name)}


def from_parts(parts: Mapping[str, Tensor]) -> Tensor:
    """The moment of 8 bits that :func:`parts_of` took apart."""
    eight_bit()
    from torchao.optim.subclass_8bit import (  # pyright: ignore[reportMissingImports]
        OptimState8bit,
    )

    codes, scale, qmap = (parts[name] for name in PARTS)
    return OptimState8bit(codes, scale, qmap, signed=bool(qmap[0] < 0))


def prove_eight_bit(device: torch.device) -> None:
    """Take a step with 8 bits on a small weight: torchao compiles it, for which much is needed.

    Raises:
        MissingExtraError: torchao is not installed.
        RecipeError: no compiler, or one that does not work.
    """
    weight = torch.nn.Parameter(torch.zeros(64, 64, device=device))
    weight.grad = torch.ones_like(weight)
    optimiser = eight_bit()([weight], lr=1.0, weight_decay=0.0)
    try:
        with _quiet():
            optimiser.step()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers fail in ways of their own
        reason = one_line(str(error).partition("\n")[0])
        needs = "a C++ compiler such as g++" if device.type == "cpu" else "a C compiler and triton"
        raise RecipeError(
            f"{SETTING} is not allowed here: its step is compiled, which needs {needs} on "
            f"{device.type} ({reason}); adamw needs neither"
        ) from error


def _by_decay(weights: Sequence[Tensor], decay: float) -> list[dict[str, Any]]:
    """Parameter groups: norms and biases without decay; if none decay, one, for fewer kernels.

    Sharded weights are in groups of their own: one kernel does not take both.
    """
    shares = [weight for weight in weights if is_sharded(weight)]
    if shares:
        held = [weight for weight in weights if not is_sharded(weight)]
        return [group for kind in (held, shares) if kind for group in _of_kind(kind, decay)]
    return _of_kind(weights, decay)


def _of_kind(weights: Sequence[Tensor], decay: float) -> list[dict[str, Any]]:
    if not decay:
        return [{"params": weights, "weight_decay": 0.0}]
    matrices = [weight for weight in weights if weight.ndim > 1]
    others = [weight for weight in weights if weight.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]


@contextmanager
def _quiet() -> Generator[None]:
    """Silence torchao about kernels that it was not built with, and torch about torchao."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
