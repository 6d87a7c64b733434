"""First-order updates: epochs of minibatches, each split into micro-batches that fit.

Divisors are counted over the whole minibatch before it is split (``terms``), so the split, the
padding and the order of rows leave the gradient unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, Self, SupportsFloat, TypeVar

import torch
from torch import Tensor

from polopt.errors import NonFiniteError
from polopt.math.guards import read_together
from polopt.recipe import Update
from polopt.roles import Scorer, halved_once, joined, measured, micro_batches
from polopt.roles.policies.token import Outputs, Quantity
from polopt.seeding import derive
from polopt.types import Advantages, Experience, Metrics, Noted, RowIndex
from polopt.update import gradients
from polopt.update.noted import Notes, begun
from polopt.update.optimisers import adamw, set_rate
from polopt.update.optimizer_state import (
    load_optimiser,
    load_weights,
    only,
    save_optimiser,
    save_weights,
)
from polopt.update.schedule import learning_rate


class Terms(Protocol):
    """The inputs of a loss beside the outputs of the forward pass, divisors included, by rows."""

    def rows(self, index: RowIndex) -> Self:
        """The same for some of the rows."""
        ...


T = TypeVar("T", bound=Terms)


@dataclass(frozen=True)
class Loss(Generic[T]):
    """A loss that adds up over micro-batches: the outputs it needs, its terms, its value."""

    want: AbstractSet[Quantity]
    terms: Callable[[Experience, Advantages], T]  # once a minibatch, over all of its rows
    value: Callable[[Outputs, T], tuple[Tensor, dict[str, Tensor]]]  # once a micro-batch
    needs_logp: bool = False  # terms read experience.logp: one more forward pass per minibatch
    whole_groups: bool = False  # rows of a group are compared: groups are not split
    idle: Callable[[T], Tensor] | None = None  # rows [B] that add nothing, if there are any
    # Before the first optimiser step on a batch, of its rows with their logp as logp_old.
    watch: Callable[[Experience], Metrics] | None = None
    # What a bound makes of each token [b, T], for the record; None: nothing is bounded.
    sides: Callable[[Outputs, T], Tensor | None] = lambda outputs, terms: None


Companion = Callable[[int], tuple[Tensor, dict[str, Tensor]]]
"""``optimiser steps so far -> (loss, metrics)``: a loss on other data, added to each step."""


class FirstOrder(Generic[T]):
    """AdamW on the weights of a role, gradients clipped by norm."""

    def __init__(
        self,
        scorer: Scorer,
        loss: Loss[T],
        settings: Update,
        *,
        steps: int,
        seed: int,
        name: str,
        companions: Sequence[Companion] = (),
        keeps: Sequence[str] = (),
        peak: SupportsFloat | None = None,
    ) -> None:
        self.scorer, self.loss, self.settings = scorer, loss, settings
        self.steps, self.seed, self.name = steps, seed, name
        self.companions = companions
        self.keeps = keeps  # weights that are in no other file of the checkpoint
        self.peak = peak  # learning rate, read at each batch; None: that of the settings
        self.optimiser_steps = 0
        self._watched = Metrics()
        self._notes: Notes | None = None  # in the last epoch on a batch
        self._noted: Noted | None = None
        self._tokens = settings.micro_batch_tokens
        self._named = dict(scorer.parameters)
        self._weights = list(self._named.values())
        self._optimiser = adamw(settings, self._weights)

    def update(self, experience: Experience, advantages: Advantages, step: int) -> Metrics:
        """Update on one batch; ``step`` batches came before it.

        Of rows that are ``recorded`` it keeps what the last epoch made of them, for :meth:`taken`.
        """
        rate = learning_rate(self.settings, step, self.steps, self.peak)
        set_rate(self._optimiser, rate)
        if self.settings.reset_optimiser:
            self._optimiser.state.clear()
        totals: Metrics = {}
        self._watched = Metrics()
        epochs = list(self._epochs(experience, step))
        count = left = sum(map(len, epochs))
        for parts in epochs:
            if parts is epochs[-1]:
                self._notes = begun(experience, advantages)
            for one, its in _cut(experience, advantages, parts):
                left -= 1
                for name, value in self._optimise(one, its, step, last=not left).items():
                    totals[name] = totals.get(name, 0.0) + value / count
        self._notes = None
        totals["learning_rate"] = rate
        return {f"{self.name}/{name}": value for name, value in totals.items()} | self._watched

    def taken(self) -> Noted | None:
        """What the update made of the recorded rows; None: there were none since the last call."""
        noted, self._noted = self._noted, None
        return noted

    def _epochs(self, experience: Experience, step: int) -> Iterator[Sequence[Tensor]]:
        """Row indices of the minibatches of each epoch, shuffled by epoch."""
        rows = experience.mask.shape[0]
        units = self._groups(experience) if self.loss.whole_groups else None
        most = rows if units is None else len(units)
        count = min(self.settings.minibatches or 1, most)  # none is empty
        for epoch in range(self.settings.epochs or 1):
            if count == 1:
                yield [torch.arange(rows)]
                continue
            generator = torch.Generator().manual_seed(derive(self.seed, "minibatch", step, epoch))
            parts = torch.randperm(most, generator=generator).tensor_split(count)
            if units is not None:
                parts = [torch.cat([units[i] for i in part.tolist()]) for part in parts]
            yield parts

    def _groups(self, experience: Experience) -> Sequence[Tensor]:
        """Rows of each group, in the order of the batch."""
        groups = experience.group.cpu()
        return [(groups == group).nonzero()[:, 0] for group in dict.fromkeys(groups.tolist())]

    def gradient(
        self, experience: Experience, advantages: Advantages, tokens: int | None
    ) -> dict[str, Tensor]:
        """The gradient of one optimiser step on all rows, by weight; nothing is moved.

        Args:
            experience: the batch.
            advantages: of it.
            tokens: in one pass, at most; None: all at once.
        """
        own, self._tokens = self._tokens, tokens
        try:
            self._accumulate(experience, advantages)
            named = self._named.items()
            return {name: w.grad.detach().clone() for name, w in named if w.grad is not None}
        finally:
            self._tokens = own
            self._free()

    def _optimise(
        self, experience: Experience, advantages: Advantages, step: int, *, last: bool
    ) -> Metrics:
        """One optimiser step on all of the rows; the ``last`` one on a batch reads the notes."""
        totals, watched = self._accumulate(experience, advantages)
        totals["grad_norm"] = gradients.norm(self._weights)
        values = dict(zip(totals, self._numbers([*totals.values()], last=last), strict=True))
        if self.loss.watch is not None and watched is not None and not self._watched:
            self._watched = self.loss.watch(watched)
        self._move(values["grad_norm"], totals["grad_norm"], step)
        return {"loss": 0.0} | values

    def _numbers(self, totals: Sequence[Tensor], *, last: bool) -> list[float]:
        """The totals on the host. One read for all: each one waits for the accelerator."""
        stacked = torch.stack(list(totals))
        if self._notes is None or not last:
            return stacked.tolist()
        notes = self._notes.whole(self.scorer.how.ranks)
        found = torch.cat([stacked, notes.to(stacked.dtype)]).tolist()
        self._noted = self._notes.read(found[len(totals) :])
        return found[: len(totals)]

    def _accumulate(
        self, experience: Experience, advantages: Advantages
    ) -> tuple[dict[str, Tensor], Experience | None]:
        """Add up the gradient of one optimiser step in the weights; see :meth:`_gradient`."""
        if self.loss.needs_logp:
            logp = measured(self.scorer, experience.inputs, "logp")
            experience = replace(experience, logp=logp)
        with read_together():
            experience, terms = self._busy(experience, self.loss.terms(experience, advantages))
            found = halved_once(
                lambda tokens: self._gradient(experience, terms, tokens),
                experience.inputs,
                self._tokens,
                self.scorer.how,
            )
        return found

    def _gradient(
        self, experience: Experience, terms: T, tokens: int | None
    ) -> tuple[dict[str, Tensor], Experience | None]:
        """Add up the gradient, in passes of so many tokens that are divided among the ranks.

        Returns:
            Sums of the metrics, and the rows as they were computed with their log-probs.
        """
        self._free()
        totals, logp = dict[str, Tensor](), dict[int, Tensor]()
        bounded = dict[int, Tensor | None]()
        parts, ranks = self._micro_batches(experience, tokens), self.scorer.how.ranks

        def of_rows(place: int) -> tuple[Tensor, dict[str, Tensor]]:
            outputs = self.scorer.score(experience.inputs.rows(parts[place]), self.loss.want)
            if outputs.logp is not None:
                logp[place] = outputs.logp.detach()
            its = terms.rows(parts[place])
            if self._notes is not None:
                bounded[place] = self.loss.sides(outputs, its)
            return self.loss.value(outputs, its)

        work = [partial(of_rows, place) for place in range(len(parts))]
        work += [partial(companion, self.optimiser_steps) for companion in self.companions]
        for place, counts in ranks.turns(len(work)):
            if counts:
                _backward(*work[place](), totals)
            else:  # every rank has as many passes
                (0.0 * work[place]()[0]).backward()
                logp.pop(place, None)
                bounded.pop(place, None)
        if self._notes is not None and experience.recorded is not None:
            for place, sides in bounded.items():
                self._notes.add(experience.recorded.rows(parts[place]), sides)
        gradients.summed(ranks, self._weights, totals)
        if self.loss.watch is None or not parts or "logp" not in self.loss.want:
            return totals, None
        found = self._log_probs(experience, parts, logp)
        return totals, replace(experience.rows(joined(parts)), logp_old=found)

    def _log_probs(
        self, experience: Experience, parts: Sequence[RowIndex], own: dict[int, Tensor]
    ) -> Tensor:
        """Log-probs of all passes, in their order; of other ranks they are 0 until the sum."""
        dtype = torch.promote_types(self._weights[0].dtype, torch.float32)
        found = [
            own[place] if place in own else torch.zeros_like(experience.mask[part], dtype=dtype)
            for place, part in enumerate(parts)
        ]
        whole = torch.cat(found)
        self.scorer.how.ranks.sum([whole])
        return whole

    def _busy(self, experience: Experience, terms: T) -> tuple[Experience, T]:
        """The rows that add something to the loss, and their terms."""
        if self.loss.idle is None:
            return experience, terms
        idle = self.loss.idle(terms)
        rows = (~idle).nonzero()[:, 0]
        if len(rows) == len(idle):
            return experience, terms
        return experience.rows(rows), terms.rows(rows)

    def _move(self, norm: float, total: Tensor, step: int) -> None:
        """One optimiser step on the gradients, clipped to the largest norm allowed."""
        most = self.settings.max_grad_norm
        if not math.isfinite(norm):
            raise NonFiniteError(
                f"{self.name}: the gradient norm of step {step + 1} is {norm}; the weights "
                "were left as they are (lower update.learning_rate or update.max_grad_norm)"
            )
        if norm > most:
            gradients.clip(self._weights, most, total)
        if norm > 0:  # no signal, no step: momentum and weight decay would move the weights
            self._optimiser.step()
            self.optimiser_steps += 1
        self._free()

    def _free(self) -> None:
        """Give back the memory of the gradients, or it would stand beside the next rollout."""
        for weight in self._weights:
            weight.grad = None

    def _micro_batches(self, experience: Experience, tokens: int | None) -> Sequence[RowIndex]:
        """Row indices of each forward pass, at most so many tokens."""
        if not len(experience.mask):
            return []
        groups = experience.group if self.loss.whole_groups else None
        least = self.scorer.how.ranks.size
        return micro_batches(experience.inputs, tokens, groups, least=least)

    def save(self, directory: Path) -> dict[str, int]:
        """Write the optimiser's tensors; return its counters.

        Raises:
            RankError: the weights of a rank have become others than those of the first.
        """
        gradients.agree(self.scorer.how.ranks, f"the weights of {self.name}", self._weights)
        save_optimiser(directory, self._optimiser, self._named)
        if self.keeps:
            save_weights(directory, only(self._named, self.keeps))
        return {"optimiser_steps": self.optimiser_steps}

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        """Restore what :meth:`save` wrote."""
        load_optimiser(directory, self._optimiser, self._named)
        self.optimiser_steps = counters["optimiser_steps"]
        if self.keeps:
            load_weights(directory, self._named)


def _cut(
    experience: Experience, advantages: Advantages, parts: Sequence[Tensor]
) -> Iterator[tuple[Experience, Advantages]]:
    """The rows of each part of a batch. They are copied once for all: slices are free."""
    if len(parts) == 1:
        yield experience, advantages
        return
    # Every field is cut by the order, and would copy one of the host once more.
    order = torch.cat(list(parts)).to(experience.mask.device, non_blocking=True)
    end = 0
    experience, advantages = experience.rows(order), advantages.rows(order)
    for size in map(len, parts):
        part, end = slice(end, end + size), end + size
        yield experience.rows(part), advantages.rows(part)


def _backward(loss: Tensor, metrics: dict[str, Tensor], totals: dict[str, Tensor]) -> None:
    """Add this part's gradient, and its shares of loss and metrics."""
    loss.backward()
    for name, value in {"loss": loss.detach(), **metrics}.items():
        totals[name] = totals[name] + value if name in totals else value
