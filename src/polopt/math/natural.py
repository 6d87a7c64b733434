"""The natural-gradient step of TRPO (1502.05477, App. C): a quadratic model and a line search."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    b: Float[Tensor, "N"],
    iterations: int = 10,
    tolerance: float = 1e-10,
) -> Float[Tensor, "N"]:
    """``x ≈ F⁻¹b`` from products ``F·v`` alone (Hestenes & Stiefel 1952).

    Stops at ``‖r‖² < tolerance·min(1, ‖b‖²)``: a short b is solved as well as a long one. A
    direction without curvature ends it too.
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    square = residual @ residual
    enough = tolerance * square.clamp(max=1.0)
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


def gradient_of(function: Callable[[Tensor], Tensor], at: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """``∇f`` by autograd, detached."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(at), at)
    return gradient


def hessian_product(
    function: Callable[[Tensor], Tensor], at: Float[Tensor, "N"], damping: float = 0.0
) -> Callable[[Tensor], Tensor]:
    """``v ↦ ∇(∇f·v) + damping·v``; of the mean KL at θ_old this is the Fisher matrix times v."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(at), at, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (image,) = torch.autograd.grad(slope @ v, at, retain_graph=True)
        return image + damping * v

    return product


@dataclass(frozen=True)
class TrustRegionStep:
    """What a step did; a refused one leaves ``parameters`` where they were."""

    gradient: Tensor  # [N] of the surrogate
    direction: Tensor  # [N] x ≈ F⁻¹g
    scale: Tensor  # [] β = √(2δ/(xᵀFx)), the longest step the quadratic model allows
    accepted: bool
    backtracks: int
    parameters: Tensor  # [N]
    kl: Tensor  # [] KL(π_old‖π_new)
    surrogate: Tensor  # [] of the new parameters


def trust_region_step(
    surrogate: Callable[[Tensor], Tensor],
    kl: Callable[[Tensor], Tensor],
    parameters: Float[Tensor, "N"],
    *,
    delta: float,
    damping: float = 0.0,
    backtrack: float = 0.8,
    max_iterations: int = 10,
    cg_iterations: int = 10,
) -> TrustRegionStep:
    """``max L(θ)`` subject to ``KL(π_old‖π_θ) ≤ δ``.

    ``x ≈ F⁻¹g`` by conjugate gradients, ``β = √(2δ/(xᵀFx))``, then the first
    ``θ_old + backtrackʲ·β·x``, j = 0, 1, ..., with ``KL ≤ δ`` and ``L > L_old``; if there is none,
    or the gradient is shorter than 1e-10, θ_old.

    Args:
        surrogate: L, to be maximised.
        kl: From the old policy, 0 at ``parameters``.
        parameters: θ_old.
        delta: The bound.
        damping: Added to the diagonal of F.
        backtrack: Factor of the line search.
        max_iterations: Steps tried by the line search.
        cg_iterations: Of conjugate gradients.
    """
    start = parameters.detach()
    gradient = gradient_of(surrogate, start)
    before = surrogate(start).detach()
    product = hessian_product(kl, start, damping)
    still = torch.zeros_like(before)
    if gradient.norm() < 1e-10:
        nothing = torch.zeros_like(start)
        return TrustRegionStep(gradient, nothing, still, False, 0, start, still, before)
    direction = conjugate_gradient(product, gradient, cg_iterations)
    scale = (2.0 * delta / (direction @ product(direction))).sqrt()  # infinite if F is 0: refused
    for j in range(max_iterations):
        candidate = start + backtrack**j * scale * direction
        distance, value = kl(candidate).detach(), surrogate(candidate).detach()
        if distance <= delta and value > before:
            return TrustRegionStep(gradient, direction, scale, True, j, candidate, distance, value)
    return TrustRegionStep(gradient, direction, scale, False, max_iterations, start, still, before)
