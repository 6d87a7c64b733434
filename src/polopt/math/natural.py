"""The natural-gradient step of TRPO (1502.05477, App. C): a quadratic model and a line search."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    b: Float[Tensor, "N"],
    iterations: int = 10,
) -> Float[Tensor, "N"]:
    """``x ≈ F⁻¹b`` from products ``F·v`` alone (Hestenes & Stiefel 1952).

    Stops at ``‖r‖² < 1e-10·min(1, ‖b‖²)``: a short b is solved as well as a long one. A
    direction without curvature ends it too.
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    square = residual @ residual
    enough = 1e-10 * square.clamp(max=1.0)
    for _ in range(iterations):
        image = product(direction)
        curvature = direction @ image
        if square <= enough or curvature <= 0:
            break
        step = square / curvature
        x = x + step * direction
        residual = residual - step * image
        square, before = residual @ residual, square
        direction = residual + (square / before) * direction
    return x


@dataclass(frozen=True)
class TrustRegionStep:
    """The result of a step; a refused one leaves ``parameters`` where they were."""

    direction: Tensor  # [N] x ≈ F⁻¹g
    residual: Tensor  # [] ‖Fx - g‖/‖g‖, what conjugate gradients left over
    scale: Tensor  # [] β = √(2δ/(xᵀFx)), the longest step the quadratic model allows
    accepted: bool
    backtracks: int
    parameters: Tensor  # [N]
    kl: Tensor  # [] KL(π_old‖π_new)
    surrogate: Tensor  # [] of the new parameters
    expected: Tensor  # [] gᵀ(θ_new - θ_old), the improvement that the linear model expects


def trust_region_step(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    product: Callable[[Tensor], Tensor],
    gradient: Float[Tensor, "N"],
    start: Float[Tensor, "N"],
    surrogate: Float[Tensor, ""],
    *,
    delta: float,
    backtrack: float = 0.8,
    max_iterations: int = 10,
    cg_iterations: int = 10,
) -> TrustRegionStep:
    """``max L(θ)`` subject to ``KL(π_old‖π_θ) ≤ δ`` (TRPO 1502.05477, App. C).

    ``x ≈ F⁻¹g`` by conjugate gradients, ``β = √(2δ/(xᵀFx))``, then the first
    ``θ_old + backtrackʲ·β·x``, j = 0, 1, ..., with ``KL ≤ δ`` and ``L > L_old``; if there is none,
    or the gradient is shorter than 1e-10, θ_old.

    Args:
        evaluate: θ to ``(L(θ), KL(π_old‖π_θ))``, both without gradient; a NaN is refused.
        product: v to Fv, with F the Hessian of the KL at θ_old, damped or not.
        gradient: g = ∇L(θ_old).
        start: θ_old.
        surrogate: L(θ_old).
        delta: The bound.
        backtrack: Factor of the line search.
        max_iterations: Steps tried by the line search.
        cg_iterations: Of conjugate gradients.
    """
    still, length = torch.zeros_like(surrogate), gradient.norm()
    nothing = TrustRegionStep(
        torch.zeros_like(start), still, still, False, 0, start, still, surrogate, still
    )
    if length < 1e-10:
        return nothing
    direction = conjugate_gradient(product, gradient, cg_iterations)
    image = product(direction)
    curvature = direction @ image
    refused = replace(nothing, direction=direction, residual=(image - gradient).norm() / length)
    if curvature <= 0:  # flat: the quadratic model allows any length
        return refused
    scale = (2.0 * delta / curvature).sqrt()
    for j in range(max_iterations):
        step = backtrack**j * scale
        candidate = start + step * direction
        value, kl = evaluate(candidate)
        if kl <= delta and value > surrogate:
            return TrustRegionStep(
                direction=direction,
                residual=refused.residual,
                scale=scale,
                accepted=True,
                backtracks=j,
                parameters=candidate,
                kl=kl,
                surrogate=value,
                expected=step * (gradient @ direction),
            )
    return replace(refused, scale=scale, backtracks=max_iterations)
