"""Checks of layout: how rows are split, padded, ordered, packed, and share their prompts."""

from __future__ import annotations

from dataclasses import replace

from polopt.diagnose.selfcheck.compare import Pair, compared, first_rows, prompts
from polopt.diagnose.selfcheck.found import Found, Measure, unneeded
from polopt.diagnose.selfcheck.subject import Subject
from polopt.diagnose.selfcheck.ways import (
    Plainly,
    RowByRow,
    Way,
    model_of,
    more_padding,
    reordered,
)
from polopt.roles import micro_batches
from polopt.roles.policies.packed import cost, sizes
from polopt.roles.policies.proven import proven
from polopt.types import TokenRows

OF_TEXT = "rows of steps have neither padding nor prompts"


def micro_batch_splits(subject: Subject) -> Found:
    """All rows in one pass, and in several: whoever divides has counted over all of them."""
    rows = subject.experience.inputs
    most = _tokens(rows) if isinstance(rows, TokenRows) else max(1, rows.shape[1])
    what = "all rows in one pass, and in several"
    parts = len(micro_batches(rows, most))
    if parts == 1 and not any(part.learner.loss.whole_groups for part in subject.parts):
        return unneeded(what, "the batch is a single row")
    pair = Pair(Way(tokens=most), Way())
    return Found(f"all rows in one pass, and in {parts}", compared(subject, pair))


def _tokens(rows: TokenRows) -> int:
    """Tokens of a pass that holds the rows of one prompt, or one row where there is one prompt."""
    of = sizes(rows)
    groups = dict[int, list[int]]()
    for row, prompt in enumerate(of.prompt.tolist()):
        groups.setdefault(prompt, []).append(row)
    if len(groups) == 1:
        return max(cost(of, [row]) for row in groups[0])
    return max(cost(of, group) for group in groups.values())


def padding(subject: Subject) -> Found:
    """The batch, and the same with more padding left of prompts and right of responses."""
    what = "the batch, and the same with 3 more columns of padding left and 5 right"
    if subject.experience.tokens is None:
        return unneeded(what, OF_TEXT)
    found = compared(subject, Pair(Way(laid=more_padding), Way(), again=True))
    # Packed rows have no padding; what is padded is read by the masks of the model.
    plain = Pair(Way(Plainly, more_padding), Way(Plainly), gradients=False)
    named = [_named(one, "padded rows: ") for one in compared(subject, plain)]
    return Found(what, [*found, *named])


def _named(one: Measure, before: str) -> Measure:
    return Measure(before + one.what, one.difference, one.tolerance, one.example)


def row_order(subject: Subject) -> Found:
    """The batch, and its rows in another order: no number may depend on a neighbour."""
    found = list[Measure]()
    for part in subject.parts:
        # Of rows that are chosen by their reward, the first of equal ones is.
        laid = reordered(part.learner.loss.whole_groups or part.selects)
        alone = replace(subject, parts=[part])
        found += compared(alone, Pair(Way(laid=laid), Way(), again=True))
    return Found("the batch, and its rows in another order", found)


def packed_and_dense(subject: Subject) -> Found:
    """Rows packed into one, and each alone by the plain forward pass of the model."""
    what = "rows packed into one, and each alone by the model's own pass"
    if reason := _unpacked(subject):
        return unneeded(what, reason)
    rows = first_rows(subject)
    if len(rows) == 1:
        return unneeded(what, "the batch has one prompt, which its rows share")
    whole = not any(part.learner.loss.whole_groups for part in subject.parts)
    return Found(what, compared(subject, Pair(Way(), Way(RowByRow), rows, gradients=whole)))


def shared_prefix(subject: Subject) -> Found:
    """Equal prompts once for all of their rows, and in each row."""
    what = "equal prompts computed once, and in each row"
    if reason := _unpacked(subject):
        return unneeded(what, reason)
    if len(first_rows(subject)) == len(list(prompts(subject.experience))):
        return unneeded(what, "every prompt of the batch has one row")
    return Found(what, compared(subject, Pair(Way(), Way(RowByRow))))


def _unpacked(subject: Subject) -> str:
    """Why rows are not packed; empty where they are."""
    if subject.experience.tokens is None:
        return OF_TEXT
    reasons = (proven(model_of(part.scorer)).unpacked for part in subject.parts)
    return next((f"rows are padded: {reason}" for reason in reasons if reason), "")
