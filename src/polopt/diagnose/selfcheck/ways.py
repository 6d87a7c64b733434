"""Ways to compute the outputs of a role and the gradient of a step, which must agree."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from polopt.roles import Computing, Scorer
from polopt.roles.policies.proven import plainly
from polopt.roles.policies.token import Outputs, Quantity
from polopt.types import Experience, TokenRows

LEFT, RIGHT = 3, 5  # columns of padding that are added to prompts and to responses


@dataclass(frozen=True)
class Laid:
    """A batch in another layout, and how its outputs go back to that of the batch itself."""

    experience: Experience
    back: Callable[[Tensor], Tensor]


def as_it_is(experience: Experience) -> Laid:
    """The layout of the batch itself."""
    return Laid(experience, lambda found: found)


@dataclass(frozen=True)
class Way:
    """One way to compute a batch: the role as it is asked, the layout, tokens of a pass."""

    scorer: Callable[[Scorer], Scorer] = lambda scorer: scorer
    laid: Callable[[Experience], Laid] = as_it_is
    tokens: int | None = None  # at most; None: all rows at once


def model_of(scorer: Scorer) -> Any:  # noqa: ANN401 - of transformers
    """The model of a role that reads text."""
    role = cast(Any, scorer)
    found = getattr(role, "language_model", None) or getattr(role, "scalar_model", None)
    return None if found is None else found.model


@dataclass(frozen=True)
class _Asked:
    """A role that is asked in a way of its own."""

    scorer: Scorer

    @property
    def how(self) -> Computing:
        """As the role itself."""
        return self.scorer.how

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """Those of the role."""
        return self.scorer.parameters


class Plainly(_Asked):
    """By its model's own forward pass: rows padded, masks by the model."""

    def score(self, rows: TokenRows, want: AbstractSet[Quantity]) -> Outputs:
        """The outputs of one forward pass of ``rows``; differentiable."""
        with plainly(model_of(self.scorer)):
            return self.scorer.score(rows, want)


class RowByRow(_Asked):
    """The same, each row alone and without padding: nothing can leak into it from anywhere."""

    def score(self, rows: TokenRows, want: AbstractSet[Quantity]) -> Outputs:
        """The outputs of a forward pass of each row; differentiable."""
        alone = [self._alone(rows, row, want) for row in range(rows.shape[0])]
        given = {
            field.name: torch.cat([_widened(one, rows.width) for one in found])
            for field in fields(Outputs)
            for found in [[getattr(one, field.name) for one in alone]]
            if all(one is not None for one in found)
        }
        return Outputs(**given)

    def _alone(self, rows: TokenRows, row: int, want: AbstractSet[Quantity]) -> Outputs:
        seen, width = rows.attention[row], rows.prompt_width
        prompt, response = rows.tokens[row, :width], rows.tokens[row, width:]
        # A response of no token has one column, which nobody reads.
        ids = torch.cat([prompt[seen[:width]], response[: max(1, int(seen[width:].sum()))]])
        real = torch.ones_like(ids, dtype=torch.bool)
        real[int(seen.sum()) :] = False
        own = replace(rows, tokens=ids[None], attention=real[None])
        own = replace(own, prompt_width=int(seen[:width].sum()))
        return Plainly(self.scorer).score(own, want)


def _widened(found: Tensor, width: int) -> Tensor:
    """Outputs of one row, [1, t, ...], with the columns of all rows; 0 behind its end."""
    if found.ndim < 2 or found.shape[1] == width:
        return found
    more = found.new_zeros(1, width - found.shape[1], *found.shape[2:])
    return torch.cat([found, more], dim=1)


def more_padding(experience: Experience) -> Laid:
    """Columns that nobody may look at, before the prompts and behind the responses.

    They hold a token of the row, for that of padding may be one that adds nothing; what is known
    of tokens is NaN there.
    """
    rows, mask = experience.tokens, experience.mask
    assert rows is not None, "rows of text"
    token = rows.tokens[:, rows.prompt_width - 1 :][:, :1]  # the last of the prompt
    tokens = torch.cat([token.expand(-1, LEFT), rows.tokens, token.expand(-1, RIGHT)], dim=1)
    attention = torch.nn.functional.pad(rows.attention, (LEFT, RIGHT), value=False)
    wider = replace(rows, tokens=tokens, attention=attention, prompt_width=rows.prompt_width + LEFT)
    changed: dict[str, Any] = {"tokens": wider}
    for field in fields(experience):
        value = getattr(experience, field.name)
        if isinstance(value, Tensor) and value.shape == mask.shape:
            fill = float("nan") if value.is_floating_point() else 0
            changed[field.name] = torch.nn.functional.pad(value, (0, RIGHT), value=fill)

    def back(found: Tensor) -> Tensor:
        return found[:, :-RIGHT] if found.ndim > 1 else found

    return Laid(replace(experience, **changed), back)


def reordered(groups_stay: bool) -> Callable[[Experience], Laid]:
    """The rows in another order; those of a group keep theirs where they are compared by it."""

    def laid(experience: Experience) -> Laid:
        group = experience.group
        if groups_stay:
            tickets = list(dict.fromkeys(group.tolist()))
            parts = [(group == ticket).nonzero()[:, 0] for ticket in reversed(tickets)]
            order = torch.cat(parts)
        else:
            generator = torch.Generator().manual_seed(1)
            order = torch.randperm(len(group), generator=generator).to(group.device)
        return Laid(experience.rows(order), lambda found: found[order.argsort()])

    return laid


@contextmanager
def moved(weights: Mapping[str, torch.nn.Parameter], by: float = 0.02) -> Generator[None]:
    """Inside, weights are what a step might make of them: by a share of their size, at random."""
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in weights.values():
            noise = torch.randn(weight.shape, generator=generator).to(weight.device, weight.dtype)
            size = weight.square().mean().sqrt()
            weight.add_(noise * by * torch.where(size > 0, size, torch.ones_like(size)))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])
