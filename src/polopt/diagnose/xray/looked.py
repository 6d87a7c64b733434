"""Two models under the same prompts: what both answer, and what each makes of every token of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from polopt.diagnose.xray.breaks import breaks, loop
from polopt.diagnose.xray.change import change
from polopt.diagnose.xray.classes import classes
from polopt.diagnose.xray.diversity import diversity, passes
from polopt.diagnose.xray.estimators import estimators
from polopt.diagnose.xray.read import Answer, Marked
from polopt.diagnose.xray.scoring import Compared, Drawn, compared
from polopt.models import LanguageModel
from polopt.rollout.evaluation import Answers, Examination, figures
from polopt.rollout.groups import marks
from polopt.rollout.pieces import pieces
from polopt.types import Group, Prompt, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIDES = ("before", "after")
SAMPLED = (*SIDES, "recorded")  # with rewards, and under the settings of the sampler
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Side:
    """A model, and its scored answers to the prompts."""

    model: LanguageModel
    examination: Examination
    groups: Sequence[Group]


@dataclass(frozen=True)
class Given:
    """Answers that stand in the data or in the record of a run, by what they are called there."""

    name: str  # "given", "chosen", "rejected", "recorded"
    groups: Sequence[Group]
    # By prompt and number among its answers.
    marked: Mapping[tuple[int, int], Marked] = field(default_factory=dict[tuple[int, int], Marked])


def looked(
    before: Side, after: Side, given: Sequence[Given], count: int, done: Told
) -> dict[str, Any]:
    """All figures as JSON, and all answers with their tokens.

    Args:
        before: the base.
        after: the trained model.
        given: further answers that both read.
        count: K, answers to a prompt in training, for what certainty costs.
        done: told of every pass.
    """
    sides = dict(zip(SIDES, (before, after), strict=True))
    sets = {name: _pairs(side.groups) for name, side in sides.items()}
    sets |= {one.name: _pairs(one.groups) for one in given}
    marked = {one.name: one.marked for one in given}
    read = _read(before, after, sets, marked, done)
    tokens = {t for own in read.values() for one in own for t in _likeliest(one.numbers)}
    names = _names(after.model.tokenizer, tokens)
    told = {
        name: figures(side.examination, Answers(side.groups, ())) for name, side in sides.items()
    }
    return {
        "sets": [{"name": name, **change(own, names, count)} for name, own in read.items() if own],
        "figures": {
            name: {
                metric: {"value": value, "interval": one.intervals.get(metric)}
                for metric, value in one.metrics.items()
            }
            for name, one in told.items()
        },
        "breaks": {
            "before": breaks(read["before"], read["after"]),
            "after": breaks(read["after"], read["before"]),
        },
        "diversity": {name: diversity(_ids(side.groups)) for name, side in sides.items()},
        "pass": passes(
            *([marks(group.samples) for group in side.groups] for side in sides.values())
        ),
        "estimators": estimators(before.model, after.model, after.groups),
        "prompts": [_prompt(prompt) for prompt in _prompts(after, given)],
        "texts": [one.as_json(names) for own in read.values() for one in own],
    }


def _pairs(groups: Sequence[Group]) -> list[tuple[Group, int, Sample]]:
    """Every answer with a token, with its prompt and its number."""
    return [
        (group, draw, sample)
        for group in groups
        for draw, sample in enumerate(group.samples)
        if sample.mask.any()
    ]


def _read(
    before: Side,
    after: Side,
    sets: Mapping[str, list[tuple[Group, int, Sample]]],
    marked: Mapping[str, Mapping[tuple[int, int], Marked]],
    done: Told,
) -> dict[str, list[Answer]]:
    """The answers of all sets as both models read them, set by set."""
    sampling = after.examination.sampling
    passes = [(name, own, Drawn(sampling.temperature)) for name, own in sets.items() if own]
    found: dict[str, list[Answer]] = {name: [] for name in sets}
    count = sum(map(len, sets.values()))
    for name, own, drawn in passes:
        if name in SAMPLED:  # the sampler held the end back; who wrote what is given did not
            drawn = replace(drawn, min_new_tokens=sampling.min_new_tokens)

        def told(number: int, _: int, behind: int = sum(map(len, found.values()))) -> None:
            done(behind + number, count)

        samples = [sample for *_, sample in own]
        numbers = compared(before.model, after.model, samples, drawn, told)
        text = _texts(after.model)
        known = marked.get(name, {})
        found[name] = [
            _answer(name, *one, of, text, known.get((one[0].ticket, one[1])))
            for one, of in zip(own, numbers, strict=True)
        ]
    return found


Text = tuple[str, list[int], list[str], list[str]]


def _texts(model: LanguageModel) -> Callable[[Sample], Text]:
    """The text of an answer; and of what the policy wrote of it the tokens, texts and classes."""
    tokenizer = model.tokenizer
    special = {
        *model.stop_ids,
        *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special),
    }

    def text(sample: Sample) -> Text:
        prompt, ids = np.split(sample.tokens, [sample.prompt_length])
        found = pieces(tokenizer, prompt.tolist(), ids.tolist())
        kinds = classes(found, ids.tolist(), special)
        own = sample.mask[sample.prompt_length :]
        kept = own.nonzero()[0].tolist()
        whole = str(tokenizer.decode(ids, skip_special_tokens=True))
        return whole, ids[own].tolist(), [found[i] for i in kept], [kinds[i] for i in kept]

    return text


def _answer(
    name: str,
    group: Group,
    draw: int,
    sample: Sample,
    numbers: Compared,
    text: Callable[[Sample], Text],
    marked: Marked | None,
) -> Answer:
    completion, ids, found, kinds = text(sample)
    return Answer(
        of=name,
        prompt=group.ticket,
        draw=draw,
        completion=completion,
        reward=None if math.isnan(sample.reward) or name not in SAMPLED else sample.reward,
        outcome=sample.outcome.value,
        finish=sample.finish.value,
        loop=loop(ids),
        ids=ids,
        pieces=found,
        classes=kinds,
        numbers=numbers,
        marked=marked,
    )


def _prompts(after: Side, given: Sequence[Given]) -> list[Prompt]:
    """All prompts in the order of their numbers; what a run recorded has further ones."""
    asked = {group.ticket: group.prompt for one in given for group in one.groups}
    asked |= {group.ticket: group.prompt for group in after.groups}
    return [asked[number] for number in sorted(asked)]


def _ids(groups: Sequence[Group]) -> list[list[list[int]]]:
    return [[s.tokens[s.prompt_length :].tolist() for s in group.samples] for group in groups]


def _likeliest(numbers: Compared) -> set[int]:
    return {*numbers.top_before.tolist(), *numbers.top_after.tolist()}


def _names(tokenizer: PreTrainedTokenizerBase, tokens: set[int]) -> dict[int, str]:
    """The text of single tokens; of one that is no text, its name."""
    found = dict[int, str]()
    for token in tokens:
        text = str(tokenizer.decode([token]))
        found[token] = (
            text
            if text and "\ufffd" not in text
            else cast(str, tokenizer.convert_ids_to_tokens(token))
        )
    return found


def _prompt(prompt: Prompt) -> dict[str, Any]:
    messages = {"messages": list(prompt.messages)} if prompt.messages else {}
    return {"text": prompt.text, **messages}
