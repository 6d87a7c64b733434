"""Evaluation of a model outside of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch

from polopt import isolated
from polopt.algorithms import row
from polopt.api.device import device_of, use
from polopt.api.domains import IN_DOMAIN
from polopt.assembly import StageInputs, control
from polopt.assembly.chosen import named
from polopt.assembly.context import context_of, examination
from polopt.assembly.fits import check_fits, shape, shape_of_policy
from polopt.assembly.preference import on_pairs
from polopt.choices.domain import TEXT
from polopt.coordination import memory
from polopt.coordination.progress import progress
from polopt.data import BadRowError, Wanted
from polopt.errors import RecipeError
from polopt.models import Reader, reader_of
from polopt.models.network import load_policy
from polopt.recipe import StageRecipe
from polopt.recipe.schema import Coordination
from polopt.record import Prompts
from polopt.record.prompts import Seen
from polopt.rewards.arguments import check_columns
from polopt.roles import Critic
from polopt.roles.control import StepActor
from polopt.rollout.evaluation import (
    Answers,
    Evaluation,
    Examination,
    answers,
    figures,
    sample_line,
)
from polopt.rollout.rewarding import RewardFunction
from polopt.rollout.text import TextSource, text_source, wanted_by, whole_source
from polopt.types import Metrics

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What an evaluation outside of a run is asked for."""

    answers: int = 1  # to each prompt
    sources: Sequence[str] = ()  # every row of them; none: the prompts that the stage holds out
    prompts: Prompts | None = None  # what the run of the weights held out and trained on
    reward: RewardFunction | None = None  # from Python, in the place of the recipe's rewards
    wanted: Wanted = "prompts"  # what the rows of the run's last stage hold


@dataclass(frozen=True)
class Examined:
    """The figures of a policy on one data set, or of that part of it that training saw or did not.

    Example: ``Examined("test.jsonl", "held out", 200, {"accuracy": 0.9}, ...)``
    """

    data: str
    seen: Seen | None  # None where nothing is kept of it: in control
    count: int  # of prompts, of pairs of a reward model, of episodes in control
    metrics: Metrics
    intervals: Mapping[str, tuple[float, float]]  # 95 % confidence, by the same names
    answers: Sequence[dict[str, Any]] = ()  # every one of them, as in samples.jsonl

    @property
    def entry(self) -> dict[str, Any]:
        """The figures as JSON: ``data``, ``seen``, ``n``, and ``figures`` with intervals."""
        figures = {
            name: {"value": value, "interval": list(self.intervals.get(name, ())) or None}
            for name, value in self.metrics.items()
        }
        return {"data": self.data, "seen": self.seen, "n": self.count, "figures": figures}


def as_trained(asked: Asked, stage: StageRecipe) -> Asked:
    """The same of rows that hold what those of a stage did."""
    return asked if stage.domain != TEXT.name else replace(asked, wanted=wanted_by(stage))


def examine(stage: StageRecipe, weights: str, asked: Asked) -> list[Examined]:
    """Evaluate weights by a resolved stage: a policy of text by its answers, sampled and greedy.

    A reward model is evaluated on pairs, a policy in control on episodes.

    Raises:
        RecipeError: no reward or verifier; several answers, or data, where they have no meaning.
    """
    if stage.run.threads is not None:
        torch.set_num_threads(stage.run.threads)
    device = use(device_of(stage.run.device))
    stage = stage.model_copy(update={"coordination": Coordination()})  # nothing trains beside it
    with progress() as observe, closing(isolated):
        inputs = StageInputs(
            stage, weights, weights, device, observe, is_last=True, reward=asked.reward
        )
        found: Iterator[Examined] = named(IN_DOMAIN[stage.domain].examiner)(inputs, asked)
        with closing(inputs.serving):
            return list(found)


def of_text(inputs: StageInputs, asked: Asked) -> Iterator[Examined]:
    """Evaluate a language model on prompts, or a reward model on pairs."""
    if row(inputs.recipe.algorithm).trains == "actor":
        return _of_answers(inputs, asked)
    return _of_pairs(inputs, asked)


def _of_answers(inputs: StageInputs, asked: Asked) -> Iterator[Examined]:
    """One entry for the prompts of each source that were held out, trained on, or are unknown."""
    with memory.told("loading", memory.ON_PROCESSOR):
        model = inputs.policy()
    for text in _texts(inputs, reader_of(model), asked):
        with memory.told("loading", memory.ON_PROCESSOR):  # reward models, and an engine
            of = context_of(inputs, model, text)
            found = examination(of, asked.answers)
        if found is None:
            raise RecipeError("reward: nothing says which answers are right; name a reward")
        for spec in of.rewards:  # before anything is sampled
            check_columns(spec.name, spec.declared, (one.columns for one in text.evaluation))
        with memory.told("evaluation", "a smaller --rollout.rows takes less"):
            given = answers(found, greedy=True)
        for seen in get_args(Seen):
            part = given.to(lambda prompt, seen=seen: _seen(asked, prompt.keys) == seen)
            if part.sampled:
                name, count = text.rows.report.source, len(part.sampled)
                lines = list(_lines(found, part, name, seen))
                told = figures(found, part)
                yield Examined(name, seen, count, told.metrics, told.intervals, lines)


def _lines(found: Examination, part: Answers, source: str, seen: Seen) -> Iterator[dict[str, Any]]:
    """Every answer as a line of JSON, prompt by prompt: those sampled, then the greedy one."""
    greedy = part.greedy or [None] * len(part.sampled)
    for group, best in zip(part.sampled, greedy, strict=True):
        for one in (group, best):
            for sample in () if one is None else one.samples:
                line = {"data": source, "seen": seen, "greedy": one is best}
                yield line | sample_line(group, sample, found.text)


def _of_pairs(inputs: StageInputs, asked: Asked) -> Iterator[Examined]:
    """The same for a reward model and pairs.

    Raises:
        RecipeError: several answers, or a reward.
    """
    if asked.answers > 1:
        raise RecipeError(
            f"--k: {asked.answers} is not allowed of a reward model, which compares the responses "
            "of the data; 1"
        )
    if inputs.reward is not None:
        raise RecipeError("reward: a function has no effect on a reward model; remove it")
    with memory.told("loading", memory.ON_PROCESSOR):
        role = Critic(inputs.reward_model(), inputs.computing)
    accuracy = on_pairs(inputs, role)
    for text in _texts(inputs, reader_of(role.scalar_model), replace(asked, wanted="pairs")):
        for seen in get_args(Seen):
            pairs = [one for one in text.unseen if _seen(asked, one.prompt.keys) == seen]
            if pairs:
                with memory.told("evaluation", "a smaller --update.micro_batch_tokens takes less"):
                    told = accuracy(pairs)
                name = text.rows.report.source
                yield Examined(name, seen, len(pairs), told.metrics, told.intervals)


def _texts(inputs: StageInputs, reader: Reader, asked: Asked) -> Iterator[TextSource]:
    """The prompts of the stage as it held them out, or every row of each source."""
    if not asked.sources:
        yield text_source(inputs.recipe, reader, wanted=asked.wanted)
    for source in asked.sources:
        text = _whole(inputs.recipe, reader, source, asked.wanted)
        for line in text.rows.report.lines()[1:]:  # bad rows that were skipped
            inputs.tell(line)
        yield text


def _whole(stage: StageRecipe, reader: Reader, source: str, trained: Wanted) -> TextSource:
    """The rows of a source by their prompts, or in the form of those that were trained on."""
    if trained == "pairs" and row(stage.algorithm).trains != "actor":
        return whole_source(stage, reader, source, wanted="pairs")
    try:
        return whole_source(stage, reader, source)
    except BadRowError:
        if trained == "prompts":
            raise
        with suppress(BadRowError):  # then what is wrong with the prompts is the line to read
            return whole_source(stage, reader, source, wanted=trained)
        raise


def _seen(asked: Asked, keys: tuple[str, ...]) -> Seen:
    return "unknown" if asked.prompts is None else asked.prompts.seen(keys)


def of_control(inputs: StageInputs, asked: Asked) -> Iterator[Examined]:
    """Evaluate a policy in control on episodes.

    Raises:
        RecipeError: the policy does not fit the environment; several answers, or other data.
    """
    stage = inputs.recipe
    if asked.answers > 1:
        raise RecipeError(
            f"--k: {asked.answers} is not allowed in control, where the likeliest actions alone "
            "are taken; 1, and evaluation.episodes for more episodes"
        )
    if asked.sources:
        raise RecipeError(
            f"--data: {asked.sources[0]} is not allowed in control; data.source = control:NAME"
        )
    network = load_policy(Path(inputs.weights))
    trained, here = shape_of_policy(network.made_of), shape(control.made(stage, 1))
    check_fits(trained, here, stage.data.source, inputs.weights)
    evaluate: Callable[[bool], Evaluation] = control.examiner(stage, StepActor(network))
    told, count = evaluate(False), stage.evaluation.episodes
    yield Examined(stage.data.source, None, count, told.metrics, told.intervals)
