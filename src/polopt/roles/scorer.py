"""The interface of every role with weights: outputs of a forward pass on a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, TypeVar, cast

import torch

from polopt.roles.policies.packed import cost, cuts, sizes
from polopt.roles.policies.token import Outputs, Quantity
from polopt.roles.policies.trunk import Computing
from polopt.types import RowIndex, StepRows, TokenRows

Result = TypeVar("Result")
AT_ONCE = 128  # rows of steps in a forward pass without gradient


class Scorer(Protocol):
    """A role: actor, critic, reward model."""

    def score(self, rows: Any, want: AbstractSet[Quantity]) -> Outputs:  # noqa: ANN401
        """The outputs of one forward pass of ``rows``, tokens or steps; differentiable."""
        ...

    @property
    def how(self) -> Computing:
        """How its passes are computed; those of steps are so small that there is one way."""
        ...

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights by name."""
        ...


def measured(scorer: Scorer, rows: TokenRows | StepRows, quantity: Quantity) -> torch.Tensor:
    """One output for every row, [B, ...], without gradient."""
    (found,) = together(scorer, rows, [quantity])
    return found


@torch.no_grad()
def together(
    scorer: Scorer, rows: TokenRows | StepRows, quantities: Sequence[Quantity]
) -> list[torch.Tensor]:
    """Several outputs of every row, [B, ...] each, without gradient, in the order of the names.

    Passes are divided among the ranks, and each of them has the outputs of all rows at the end.
    """
    ranks = scorer.how.ranks

    def measure(tokens: int | None) -> list[torch.Tensor]:
        parts = _passes(rows, tokens, ranks.size)
        turns = ranks.turns(len(parts))
        outputs = [scorer.score(rows.rows(parts[at]), frozenset(quantities)) for at, _ in turns]
        if not ranks.alone:
            own = [
                (parts[at], one) for (at, counts), one in zip(turns, outputs, strict=True) if counts
            ]
            found = [_placed(rows, own, getattr(outputs[0], name), name) for name in quantities]
            ranks.sum(found)
            return found
        found = [torch.cat([getattr(one, name) for one in outputs]) for name in quantities]
        if len(parts) == 1:
            return found
        back = cast(torch.Tensor, joined(parts)).argsort()
        return [x[back] for x in found]

    return halved_once(measure, rows, scorer.how.tokens, scorer.how)


def _placed(
    rows: TokenRows | StepRows,
    own: Sequence[tuple[RowIndex, Outputs]],
    like: torch.Tensor,
    name: Quantity,
) -> torch.Tensor:
    """An output of some rows among all of them, [B, ...]; 0 elsewhere, so that a sum is exact."""
    whole = like.new_zeros(rows.shape[0], *like.shape[1:])
    for part, one in own:
        whole[part] = getattr(one, name)
    return whole


def halved_once(
    compute: Callable[[int | None], Result],
    rows: TokenRows | StepRows,
    tokens: int | None,
    how: Computing,
) -> Result:
    """Compute with so many tokens a pass; out of memory, once more with half of them.

    From then on every pass of the role has no more than that (``how.room``). Sums over passes do
    not depend on their size, so that the numbers stay the same up to rounding. One of several
    ranks does not halve: the others go by the same passes.

    Raises:
        OutOfMemoryError: half is too much, too.
    """
    tokens = how.room.within(tokens)
    if not how.ranks.alone:
        return compute(tokens)
    try:
        return compute(tokens)
    except torch.OutOfMemoryError:
        half = max(1, (tokens or rows.shape[0] * rows.shape[1]) // 2)
    # Out of the handler, whose traceback held what was computed.
    how.tell(f"out of memory in a pass of {tokens or 'all'} tokens; going on with at most {half}")
    found = compute(half)
    how.room.tokens = half
    return found


def joined(parts: Sequence[RowIndex]) -> RowIndex:
    """The rows of several passes, in the order in which they were computed."""
    return parts[0] if len(parts) == 1 else torch.cat([cast(torch.Tensor, part) for part in parts])


def _passes(rows: TokenRows | StepRows, tokens: int | None, least: int) -> Sequence[RowIndex]:
    if isinstance(rows, StepRows):
        return torch.arange(rows.shape[0]).split(AT_ONCE)
    return micro_batches(rows, tokens, least=least)


def micro_batches(
    rows: TokenRows | StepRows,
    tokens: int | None,
    groups: torch.Tensor | None = None,
    *,
    least: int = 1,
) -> Sequence[RowIndex]:
    """The rows of each forward pass, at most ``tokens`` of them or one row.

    Args:
        rows: tokens, of which padding does not count, and an equal prompt counts once; or steps.
        tokens: None: all rows at once.
        groups: [B], groups that must not be split; None: there are none.
        least: passes, as far as there are rows: every rank should have one.
    """
    count, width = rows.shape
    most = count * width if tokens is None else tokens
    if most >= count * width and least == 1:
        return [slice(None)]
    if isinstance(rows, StepRows):
        return torch.arange(count).split(max(1, most // width))
    of = sizes(rows)
    most = min(most, max(1, cost(of, range(count)) // least))
    found = cuts(of, most, None if groups is None else groups.cpu().numpy())
    # Every field of a batch is cut by them, and would copy an index of the host once more.
    return [part.to(rows.tokens.device, non_blocking=True) for part in found]


def trainable(model: torch.nn.Module, prefix: str = "") -> dict[str, torch.nn.Parameter]:
    """The parameters of a module that take a gradient."""
    return {prefix + name: p for name, p in model.named_parameters() if p.requires_grad}
