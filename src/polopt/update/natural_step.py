"""The trust region: one natural-gradient step a batch, its length found by a line search.

    max L(θ) = E_old[ρ A]  subject to  mean over states of KL(π_old(· | s) ‖ π_θ(· | s)) ≤ δ

Schulman et al. 2015, arXiv:1502.05477, Eq. 14 and App. C. A state is one token or one step. The KL
is that of whole distributions, not of samples. The Fisher matrix is never built: its product with v
is the gradient of ∇KL·v, added up over micro-batches. Divisors are counted over the whole batch, so
its split, its padding and the order of its rows leave the step unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from polopt.errors import NonFiniteError
from polopt.math.divergence import kl_divergence_of_logs
from polopt.math.guards import read_together
from polopt.math.natural import TrustRegionStep, trust_region_step
from polopt.math.reduce import token_mean, weighted_sum
from polopt.roles import Scorer, measured, micro_batches
from polopt.roles.policies.token import Outputs, Quantity
from polopt.seeding import derive
from polopt.types import Advantages, Experience, Metrics, Noted, RowIndex, StepRows, TokenRows
from polopt.update.minibatch import Loss, Terms
from polopt.update.noted import Notes, begun

T = TypeVar("T", bound=Terms)
Rows = TokenRows | StepRows

Divergence = Callable[[Tensor, Tensor], Tensor]
"""``(old, new) -> KL(old‖new)[b, T]`` of the ``distribution`` of the role, [b, T, V]."""


@dataclass(frozen=True)
class Region:
    """The trust region and the budget of the search for a step."""

    delta: float  # largest mean KL(π_old‖π), in nats
    damping: float  # added to the diagonal of the Fisher matrix
    backtrack: float  # factor of the line search
    line_search_steps: int  # lengths tried before the step is refused
    cg_iterations: int
    fisher_share: float  # of the rows, for the Fisher matrix


class NaturalStep(Generic[T]):
    """TRPO on the trained weights of a role; its only state is a count of steps."""

    def __init__(
        self,
        scorer: Scorer,
        loss: Loss[T],
        settings: Region,
        *,
        micro_batch_tokens: int | None,
        seed: int,
        name: str,
        divergence: Divergence = kl_divergence_of_logs,
    ) -> None:
        self.scorer, self.loss, self.settings = scorer, loss, settings
        self.divergence = divergence
        self.micro_batch_tokens, self.seed, self.name = micro_batch_tokens, seed, name
        self.optimiser_steps = 0
        self._noted: Noted | None = None
        self._weights = list(scorer.parameters.values())

    def update(self, experience: Experience, advantages: Advantages, step: int) -> Metrics:
        """Update on one batch; ``step`` batches came before it.

        Returns:
            The metrics of the loss before the step; ``kl``, the mean KL(π_old‖π) of whole
            distributions in nats, ``surrogate_improvement`` and ``expected_improvement`` gᵀΔθ, all
            of the step taken and 0 where none was; ``accepted``, ``backtracks``, ``step_scale`` β,
            ``grad_norm`` ‖g‖, ``cg_residual`` ‖Fx - g‖/‖g‖.

        Raises:
            NonFiniteError: Surrogate, gradient or curvature; the weights are left as they are.
        """
        one, notes = self.settings, begun(experience, advantages)
        experience, terms, gradient, metrics = self._slope(experience, advantages)
        self._require_finite("gradient", gradient, step)
        states, chosen = self._states(experience, advantages), self._chosen(advantages, step)
        taken = trust_region_step(
            lambda theta: self._evaluate(theta, terms, states),
            self.fisher_product(experience.rows(chosen), advantages.rows(chosen)),
            gradient,
            _flat(self._weights).detach(),
            -metrics["loss"],
            delta=one.delta,
            backtrack=one.backtrack,
            max_iterations=one.line_search_steps,
            cg_iterations=one.cg_iterations,
        )
        self._require_finite("natural gradient", taken.direction, step)
        if taken.accepted:
            self._move(taken.parameters)
            self.optimiser_steps += 1
        found = metrics | _facts(taken, gradient, -metrics["loss"])
        return {f"{self.name}/{name}": value for name, value in self._read(found, notes).items()}

    def _read(self, found: Mapping[str, Tensor | int], notes: Notes | None) -> Metrics:
        """All figures, and the notes, on the host: it waits for the accelerator once."""
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        columns = [value.reshape(1) for value in tensors.values()]
        if notes is not None:
            columns.append(notes.whole(self.scorer.how.ranks))
        numbers = torch.cat(columns).tolist()
        if notes is not None:
            self._noted = notes.read(numbers[len(tensors) :])
        read = dict(zip(tensors, numbers[: len(tensors)], strict=True))
        return {name: read[name] if name in read else float(found[name]) for name in found}

    def taken(self) -> Noted | None:
        """What the update made of the recorded rows; None: there were none since the last call."""
        noted, self._noted = self._noted, None
        return noted

    def gradient(
        self, experience: Experience, advantages: Advantages, tokens: int | None
    ) -> dict[str, Tensor]:
        """The gradient of the loss on all rows, by weight; nothing is moved.

        Args:
            experience: the batch.
            advantages: of it.
            tokens: in one pass, at most; None: all at once.
        """
        own, self.micro_batch_tokens = self.micro_batch_tokens, tokens
        try:
            _, _, found, _ = self._slope(experience, advantages)
        finally:
            self.micro_batch_tokens = own
        return dict(zip(self.scorer.parameters, map(torch.neg, self._parts(found)), strict=True))

    def _slope(
        self, experience: Experience, advantages: Advantages
    ) -> tuple[Experience, T, Tensor, dict[str, Tensor]]:
        """The batch as the loss reads it, its terms, and what :meth:`_gradient` makes of them."""
        rows = experience.inputs
        if self.loss.needs_logp:
            experience = replace(experience, logp=measured(self.scorer, rows, "logp"))
        with read_together():
            terms = self.loss.terms(experience, advantages)
            return experience, terms, *self._gradient(rows, terms)

    def fisher_product(
        self, experience: Experience, advantages: Advantages
    ) -> Callable[[Tensor], Tensor]:
        """``v ↦ ∇(∇KL·v) + damping·v``, [N] to [N], at the current weights.

        There π_θ is π_old, ∇KL is 0, and the Hessian of the KL is the Fisher matrix.
        """
        states = self._states(experience, advantages)
        batches = self._micro_batches(states.rows)

        @lru_cache(maxsize=int(len(batches) == 1))  # one graph fits anyhow: all products share it
        def slope(place: int) -> Tensor:
            index = batches[place]
            new = self._distribution(states.rows.rows(index))
            return self._derivative(states.mean_kl(new.detach(), new, index), create_graph=True)

        def product(v: Tensor) -> Tensor:
            image = self.settings.damping * v
            for place in range(len(batches)):
                image = image + self._derivative(slope(place) @ v, retain_graph=True)
            return image

        return product

    def _gradient(self, rows: Rows, terms: T) -> tuple[Tensor, dict[str, Tensor]]:
        """``g = ∇L = -∇loss`` at the current weights, and the metrics of the loss."""
        gradient, totals = torch.zeros_like(_flat(self._weights).detach()), dict[str, Tensor]()
        for index in self._micro_batches(rows):
            outputs = self._score(rows.rows(index), self.loss.want)
            loss, metrics = self.loss.value(outputs, terms.rows(index))
            gradient = gradient - self._derivative(loss)
            for name, value in {"loss": loss.detach(), **metrics}.items():
                totals[name] = totals[name] + value if name in totals else value
        return gradient, totals

    @torch.no_grad()
    def _evaluate(self, theta: Tensor, terms: T, states: _States) -> tuple[Tensor, Tensor]:
        """``(L(θ), KL(π_old‖π_θ))`` over the whole batch; NaN where the loss at θ is not finite.

        The old distribution is computed again for each micro-batch: that of a batch would not fit.
        """
        surrogate = kl = theta.new_zeros(())
        for index in self._micro_batches(states.rows):
            rows = states.rows.rows(index)
            old = self._distribution(rows)
            with self._at(theta):
                outputs = self._score(rows, {*self.loss.want, "distribution"})
            try:
                loss, _ = self.loss.value(outputs, terms.rows(index))
            except NonFiniteError:  # a step too far, no error: the line search shortens it
                return theta.new_tensor(torch.nan), theta.new_tensor(torch.nan)
            surrogate = surrogate - loss
            kl = kl + states.mean_kl(old, _given(outputs.distribution), index)
        return surrogate, kl

    def _score(self, rows: Rows, want: AbstractSet[Quantity]) -> Outputs:
        """The outputs by the math kernel of attention, the only one with second derivatives."""
        with sdpa_kernel(SDPBackend.MATH):
            return self.scorer.score(rows, want)

    def _distribution(self, rows: Rows) -> Tensor:
        return _given(self._score(rows, {"distribution"}).distribution)

    def _derivative(
        self, value: Tensor, *, create_graph: bool = False, retain_graph: bool | None = None
    ) -> Tensor:
        """``∂value/∂θ``, [N]; 0 for weights that it does not depend on."""
        return _flat(
            torch.autograd.grad(
                value,
                self._weights,
                create_graph=create_graph,
                retain_graph=retain_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        )

    @contextmanager
    def _at(self, theta: Tensor) -> Generator[None]:
        """The role with other weights inside the block; its own are always restored."""
        own = [weight.data for weight in self._weights]
        try:
            for weight, part in zip(self._weights, self._parts(theta), strict=True):
                weight.data = part
            yield
        finally:
            for weight, data in zip(self._weights, own, strict=True):
                weight.data = data

    @torch.no_grad()
    def _move(self, theta: Tensor) -> None:
        for weight, part in zip(self._weights, self._parts(theta), strict=True):
            weight.copy_(part)

    def _parts(self, theta: Tensor) -> Sequence[Tensor]:
        """The vector as the weights that it consists of."""
        parts = theta.split([weight.numel() for weight in self._weights])
        return [
            part.view_as(weight).to(weight.dtype)
            for part, weight in zip(parts, self._weights, strict=True)
        ]

    def _states(self, experience: Experience, advantages: Advantages) -> _States:
        weights = token_mean(advantages.mask, experience.group, dtype=advantages.advantages.dtype)
        return _States(experience.inputs, advantages.mask, weights, self.divergence)

    def _chosen(self, advantages: Advantages, step: int) -> Tensor:
        """Rows for the Fisher matrix: a share of those in the loss, drawn for every step."""
        rows = advantages.mask.any(-1).nonzero()[:, 0]
        if self.settings.fisher_share == 1.0:
            return rows
        generator = torch.Generator().manual_seed(derive(self.seed, "fisher", step))
        count = ceil(self.settings.fisher_share * len(rows))
        some = torch.randperm(len(rows), generator=generator)[:count].sort().values
        return rows[some.to(rows.device, non_blocking=True)]  # every field is cut by them

    def _micro_batches(self, rows: Rows) -> Sequence[RowIndex]:
        """Row indices of each forward pass, at most ``micro_batch_tokens`` tokens."""
        return micro_batches(rows, self.scorer.how.room.within(self.micro_batch_tokens))

    def _require_finite(self, name: str, vector: Tensor, step: int) -> None:
        length = vector.norm()
        if not torch.isfinite(length):
            raise NonFiniteError(
                f"{self.name}: the norm of the {name} of step {step + 1} is {float(length)}; the "
                "weights were left as they are"
            )

    def save(self, directory: Path) -> dict[str, int]:
        """Return the count of steps: the rest is in the weights."""
        return {"optimiser_steps": self.optimiser_steps}

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        """Restore what :meth:`save` returned."""
        self.optimiser_steps = counters["optimiser_steps"]


@dataclass(frozen=True)
class _States:
    """The states (tokens or steps) over which the KL is averaged."""

    rows: Rows
    mask: Tensor  # [B, T] bool
    weights: Tensor  # [B, T] 1/tokens
    divergence: Divergence

    def mean_kl(self, old: Tensor, new: Tensor, index: RowIndex) -> Tensor:
        """The share of some rows in the mean of ``KL(old‖new)``, [b, T, V] both."""
        return weighted_sum(self.divergence(old, new), self.weights[index], self.mask[index])


def _facts(taken: TrustRegionStep, gradient: Tensor, before: Tensor) -> dict[str, Tensor | int]:
    return {
        "kl": taken.kl,
        "surrogate_improvement": taken.surrogate - before,
        "expected_improvement": taken.expected,
        "accepted": taken.accepted,
        "backtracks": taken.backtracks,
        "step_scale": taken.scale,
        "grad_norm": gradient.norm(),
        "cg_residual": taken.residual,
    }


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """All tensors as one vector [N]."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "asked for"
    return tensor
