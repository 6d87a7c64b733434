"""Checks of tokens: what is trained on is what was asked and drawn, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polopt.data import chat
from polopt.data.messages import TOOLS
from polopt.diagnose.selfcheck.found import Found, Measure, unneeded
from polopt.diagnose.selfcheck.subject import Subject
from polopt.types import Group, Sample

Differing = list[tuple[int, int | None, int | None]]
"""Position, and the tokens there both ways; None where there is none."""
ROWS = "tokens and mask of each row of the batch, and of the sample that it is"
WHAT = "tokens of the prompt: alone, in the row, and before an answer in the chat template"


def template_prefix(subject: Subject) -> Found:
    """Token in, token out; and the template of prompt and answer goes on from that of the prompt.

    The difference is a number of tokens.
    """
    if not subject.samples:
        return unneeded(WHAT, "actions are no text")
    rows = [_differing(g.prompt.tokens, s.tokens.tolist()) for g, s in subject.samples]
    found = [_measure("tokens of a row that are not its prompt's", rows, subject)]
    talked = [(row, g, s) for row, (g, s) in enumerate(subject.samples) if g.prompt.messages]
    talked = [one for one in talked if not one[1].prompt.columns.get(TOOLS)]
    if talked:
        apart = {row: _by_template(subject, group, sample) for row, group, sample in talked}
        every = [apart.get(row, []) for row in range(len(subject.samples))]
        found.append(_measure("tokens of the template that are not its prompt's", every, subject))
    return Found(WHAT, found)


def tokens_and_mask(subject: Subject) -> Found:
    """Each row holds its sample, and learns those tokens alone that the policy drew.

    The difference is a number of tokens.
    """
    rows, own = subject.experience.tokens, subject.experience
    if not subject.samples or rows is None:
        return unneeded(ROWS, "actions are no text")
    tokens, masks, drawn = list[Differing](), list[Differing](), list[Differing]()
    for row, (_, sample) in enumerate(subject.samples):
        start = sample.prompt_length
        read = rows.tokens[row][rows.attention[row]].tolist()
        tokens.append(_differing(sample.tokens.tolist(), read))
        learnt, given = own.mask[row].int().tolist(), sample.mask[start:].astype(int).tolist()
        masks.append(_differing(given + [0] * (len(learnt) - len(given)), learnt))
        spans = {place for span in sample.spans for place in range(span.start, span.end)}
        by_engine = [int(place in spans) for place in range(start, len(sample.tokens))]
        drawn.append(_differing(by_engine, given) if spans else [])
    found = [
        _measure("tokens of a row that are not its sample's", tokens, subject),
        _measure("tokens of a mask that are not its sample's", masks, subject),
    ]
    if subject.sampled:
        found.append(_measure("tokens of a mask that were not drawn", drawn, subject))
    return Found(ROWS, found)


def _differing(prompt: Sequence[int], row: Sequence[int]) -> Differing:
    """Where a row does not begin as it should."""
    return [
        (at, own, row[at] if at < len(row) else None)
        for at, own in enumerate(prompt)
        if at >= len(row) or row[at] != own
    ]


def _by_template(subject: Subject, group: Group, sample: Sample) -> Differing:
    """The same of the tokens of a conversation in which the answer stands."""
    tokenizer = _tokenizer(subject)
    answer = str(tokenizer.decode(sample.tokens[sample.prompt_length :], skip_special_tokens=True))
    turn = {"role": "assistant", "content": answer or "."}
    asked = chat.prompt_ids(tokenizer, group.prompt.messages)
    whole = chat.full_ids(tokenizer, (*group.prompt.messages, turn))
    return _differing(group.prompt.tokens, asked) or _differing(asked, whole)


def _tokenizer(subject: Subject) -> Any:  # noqa: ANN401 - of transformers
    role: Any = subject.parts[0].scorer
    return (getattr(role, "language_model", None) or role.scalar_model).tokenizer


def _measure(what: str, rows: Sequence[Differing], subject: Subject) -> Measure:
    most = max(range(len(rows)), key=lambda row: len(rows[row]))
    if not rows[most]:
        return Measure(what, 0.0, 0.0)
    least = min((row for row in range(len(rows)) if rows[row]), key=lambda row: len(rows[row]))
    position, own, other = rows[least][0]
    group, sample = subject.samples[least]
    example = {
        "prompt": group.ticket,
        "answer": [one is sample for one in group.samples].index(True),
        "rows": 1,
        "position": position,
        "numbers": [own, other],
    }
    return Measure(what, float(len(rows[most])), 0.0, example)
