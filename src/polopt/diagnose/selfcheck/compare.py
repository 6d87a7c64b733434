"""Two ways to compute one batch, side by side; where they differ, the smallest example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from polopt.diagnose.selfcheck.found import Measure
from polopt.diagnose.selfcheck.subject import Part, Subject
from polopt.diagnose.selfcheck.ways import Way
from polopt.roles import Scorer, together
from polopt.roles.policies.token import Quantity
from polopt.types import Experience, TokenRows

GRADIENT = {False: 1e-5, True: 5e-2}  # |g - g'| / |g'|: in float32, with products in bfloat16
OUTPUT = {False: 1e-4, True: 0.1}  # max |x - x'| / max(1, |x'|) of log-probs and values
WORDS: Mapping[str, str] = {"logp": "log-probs", "values": "values", "last_values": "scores"}
LEAST = 1e-12  # a gradient below it is none


@dataclass(frozen=True)
class Pair:
    """Two ways, and which rows of the batch are computed by them."""

    one: Way
    other: Way
    rows: Sequence[int] | None = None  # of the batch; None: all of them
    again: bool = False  # credit is computed in each layout, and not once for the batch
    gradients: bool = True


def compared(subject: Subject, pair: Pair) -> list[Measure]:
    """Outputs and gradients of every learner both ways.

    Log-probs and values: ``max |x - x'| / max(1, |x'|)`` over response tokens. Gradients:
    ``|g - g'| / |g'|`` over all weights.
    """
    found = list[Measure]()
    for part in subject.parts:
        found += [_output(subject, part, pair, quantity) for quantity in part.quantities]
        if pair.gradients:
            found.append(_gradient(subject, part, pair))
    return found


def _output(subject: Subject, part: Part, pair: Pair, quantity: Quantity) -> Measure:
    tolerance, every = OUTPUT[part.scorer.how.autocast], _rows(subject, pair)

    def both(index: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        own = subject.experience.rows(torch.tensor(index))
        one, other = (outputs(part.scorer, way, own, quantity) for way in (pair.one, pair.other))
        return one, other, apart(one, other, own.mask)

    one, other, off = both(every)
    largest = float(off.max()) if off.numel() else 0.0
    what, example = f"{WORDS[quantity]} of {part.name}", None
    if not largest <= tolerance:
        units = [[row] for row in every]
        index = smallest(units, lambda rows: not float(both(rows)[2].max()) <= tolerance)
        one, other, off = both(index)
        example = at_cell(subject, index, one, other, off)
    return Measure(what, largest, tolerance, example)


def outputs(scorer: Scorer, way: Way, experience: Experience, quantity: Quantity) -> Tensor:
    """An output of a role [B, T] or [B] by one of the ways, in the layout of the batch."""
    laid, asked = way.laid(experience), way.scorer(scorer)
    if way.tokens is not None:
        asked = with_tokens(asked, way.tokens)
    (found,) = together(asked, laid.experience.inputs, [quantity])
    return laid.back(found)


def with_tokens(scorer: Scorer, tokens: int) -> Scorer:
    """The role with at most so many tokens in a pass."""
    role = cast(Any, scorer)
    return replace(role, how=replace(scorer.how, tokens=tokens))


def apart(one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """``|x - x'| / max(1, |x'|)`` of responses, 0 elsewhere; infinite where one is no number."""
    off = (one - other).abs() / other.abs().clamp(min=1)
    off = torch.where(off.isfinite(), off, torch.full_like(off, float("inf")))
    inside = mask if off.ndim > 1 else torch.ones_like(off, dtype=torch.bool)
    return torch.where(inside, off, torch.zeros_like(off))


def _gradient(subject: Subject, part: Part, pair: Pair) -> Measure:
    tolerance, every = GRADIENT[part.scorer.how.autocast], _rows(subject, pair)

    def both(index: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        one, other = (
            gradient(subject, part, way, index, pair.again) for way in (pair.one, pair.other)
        )
        return one, other

    largest, example = distance(*both(every)), None
    if not largest <= tolerance:
        index = smallest(
            _units(subject, part, every), lambda rows: not distance(*both(rows)) <= tolerance
        )
        example = of_gradients(subject, index, *both(index))
    return Measure(f"gradient of {part.name}", largest, tolerance, example)


def gradient(
    subject: Subject, part: Part, way: Way, index: Sequence[int], again: bool = False
) -> dict[str, Tensor]:
    """The gradient of a step on some of the rows by one of the ways."""
    rows, own = torch.tensor(index), subject.experience
    credit, every = subject.stage.credit, len(index) == len(own.mask)
    if again:
        own = way.laid(own if every else own.rows(rows)).experience
        advantages = credit(own)
    else:
        advantages = credit(own)
        if not every:
            own, advantages = own.rows(rows), advantages.rows(rows)
    return part.gradient(own, advantages, way.scorer(part.scorer), way.tokens)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """``|g - g'| / |g'|`` over all weights; infinite where one lacks a weight."""
    if one.keys() != other.keys():
        return float("inf")
    off = sum(float((one[name] - g).double().square().sum()) for name, g in other.items())
    size = sum(float(g.double().square().sum()) for g in other.values())
    return (off**0.5) / max(size**0.5, LEAST)


def _rows(subject: Subject, pair: Pair) -> Sequence[int]:
    return range(len(subject.experience.mask)) if pair.rows is None else pair.rows


def _units(subject: Subject, part: Part, every: Sequence[int]) -> list[list[int]]:
    """What may be left out of a batch: a row, or a group where its rows are compared."""
    if not part.learner.loss.whole_groups:
        return [[row] for row in every]
    units = dict[int, list[int]]()
    groups = subject.experience.group.tolist()
    for row in every:
        units.setdefault(groups[row], []).append(row)
    return list(units.values())


def smallest(units: list[list[int]], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """The fewest rows, by halves and then one by one, that still show what all of them show."""

    def shown(some: Sequence[Sequence[int]]) -> bool:
        return fails([row for unit in some for row in unit])

    while len(units) > 1:
        half = len(units) // 2
        left = next((part for part in (units[:half], units[half:]) if shown(part)), None)
        if left is None:
            break
        units = left
    for unit in list(units):
        rest = [one for one in units if one is not unit]
        if rest and shown(rest):
            units = rest
    return [row for unit in units for row in unit]


def at_cell(
    subject: Subject, index: Sequence[int], one: Tensor, other: Tensor, off: Tensor
) -> dict[str, Any]:
    """The place of the largest difference: its prompt, its position, both numbers."""
    place = int(off.argmax())
    row, column = divmod(place, off.shape[1]) if off.ndim > 1 else (place, None)
    numbers = [float(x.flatten()[place]) for x in (one, other)]
    return {
        **_row(subject, index[row]),
        "rows": len(index),
        "position": column,
        **_token(subject, index[row], column),
        "numbers": [x if abs(x) < float("inf") else None for x in numbers],
    }


def of_gradients(
    subject: Subject, index: Sequence[int], one: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The rows whose gradients differ, and the norms both ways of the weight that differs most."""
    alone = sorted(one.keys() ^ other.keys())
    names = one.keys() & other.keys()
    weight = alone[0] if alone else max(names, key=lambda n: float((one[n] - other[n]).norm()))
    numbers = [float(of[weight].norm()) if weight in of else None for of in (one, other)]
    return {
        **_row(subject, index[0]),
        "rows": len(index),
        "of": [_row(subject, row) for row in index],
        "weight": weight,
        "numbers": numbers,
    }


def _row(subject: Subject, row: int) -> dict[str, Any]:
    """The prompt of a row, and which one of the answers to it this is."""
    groups = subject.experience.group.tolist()
    return {"prompt": groups[row], "answer": groups[:row].count(groups[row])}


def _token(subject: Subject, row: int, column: int | None) -> dict[str, Any]:
    """The token at a position of a response."""
    rows = subject.experience.tokens
    if rows is None or column is None:
        return {}
    token = int(rows.tokens[row, rows.prompt_width + column])
    actor = subject.actor
    return {"token": token} | (
        {} if actor is None else {"text": str(actor.language_model.tokenizer.decode([token]))}
    )


def first_rows(subject: Subject) -> list[int]:
    """One row of each prompt, so that no prompt is shared."""
    seen = dict[tuple[int, ...], int]()
    for row, prompt in enumerate(prompts(subject.experience)):
        seen.setdefault(prompt, row)
    return list(seen.values())


def prompts(experience: Experience) -> Iterator[tuple[int, ...]]:
    """The tokens of the prompt of each row, without padding."""
    rows = experience.tokens
    assert isinstance(rows, TokenRows)
    for tokens, seen in zip(rows.tokens, rows.attention, strict=True):
        width = rows.prompt_width
        yield tuple(tokens[:width][seen[:width]].tolist())
