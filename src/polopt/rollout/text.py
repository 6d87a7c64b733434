"""Text for a stage: prompts, demonstrations and rankings by place, held-out ones, a verifier.

Here tasks, data and the tokeniser meet; none of them knows the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polopt.algorithms import row
from polopt.choices.domain import TEXT
from polopt.data import (
    BadRowError,
    Demonstration,
    PromptStream,
    Ranking,
    Report,
    Row,
    Rows,
    Tokeniser,
    Wanted,
    check_answer,
    evaluation_rows,
    generated,
    load_rows,
    question,
    whole,
)
from polopt.envs.text import TextTask
from polopt.envs.text import load as load_task
from polopt.envs.text.interface import Split
from polopt.models import Reader, read
from polopt.recipe import StageRecipe
from polopt.seeding import derive
from polopt.types import Prompt


@dataclass(frozen=True)
class TextSource:
    """The data of a stage; each item is a pure function of the seed and its place."""

    rows: Rows
    order: PromptStream
    tokeniser: Tokeniser
    evaluation: tuple[Prompt, ...]
    task: TextTask | None  # the verifier and the metrics of a task
    unseen: tuple[Ranking, ...] = ()  # held-out preferences, in stages that learn from preferences
    demonstrations: tuple[Demonstration, ...] = ()  # held-out ones, in stages that learn from them

    @property
    def has_messages(self) -> bool:
        """Whether the prompts are chat messages, all of them; rows of a task are alike."""
        places = range(self.rows.size or 1)
        return not any(isinstance(self.rows.train[place].prompt, str) for place in places)

    def prompt(self, place: int) -> Prompt:
        """The prompt at a place of the endless stream."""
        return self.tokeniser.prompt(self.rows.train[self.order(place)], place)

    def demonstration(self, place: int) -> Demonstration:
        """The demonstration at a place of the endless stream."""
        return self.tokeniser.demonstration(self.rows.train[self.order(place)], place)

    def ranking(self, place: int) -> Ranking:
        """The pair or the ranking at a place of the endless stream."""
        return self.tokeniser.ranking(self.rows.train[self.order(place)], place)

    def describe(self, completion: str, columns: Mapping[str, Any]) -> Mapping[str, float | None]:
        """The task's own metrics of one answer; none for other data."""
        return {} if self.task is None else self.task.describe(completion, columns)

    def extract(self, completion: str) -> str:
        """The answer of a completion: what the task compares, of other data all of it."""
        return completion.strip() if self.task is None else self.task.extract(completion)


def text_source(
    stage: StageRecipe,
    reader: Reader,
    *,
    wanted: Wanted = "prompts",
    avoid: Collection[str] = (),
) -> TextSource:
    """The text of a resolved stage.

    Stages read different places of the same data; all of them are evaluated on the same prompts.

    Args:
        stage: resolved.
        reader: the tokeniser of its model, and what it can hold.
        wanted: what every row must hold.
        avoid: keys of the prompts that other stages are evaluated on; they are not trained on.

    Raises:
        DataError: a row that cannot be used.
        RecipeError: a task or a parameter that does not exist.
    """
    tokeniser = tokeniser_of(stage, reader)
    seed, own_seed = stage.run.seed, derive(stage.run.seed, stage.name, "data")
    count, source = stage.evaluation.prompts, stage.data.source
    task = None
    if stage.data.parsed.of.has_verifier:  # a task that makes rows
        task = load_task(source, stage.data.parameters, seed)
        row = _rows_of(task, load_task(source, stage.data.parameters, own_seed))
        rows = generated(source, row, count, wanted=wanted, avoid=avoid)
    else:
        check = check_of(stage, tokeniser)
        rows = load_rows(stage.data, count, seed, wanted=wanted, check=check, avoid=avoid)
    held_out = list(enumerate(rows.evaluation))
    return TextSource(
        rows,
        PromptStream(rows.size, own_seed),
        tokeniser,
        evaluation=tuple(tokeniser.prompt(row, i) for i, row in held_out),
        task=task,
        unseen=tuple(tokeniser.ranking(row, i) for i, row in held_out if row.ranked),
        demonstrations=tuple(
            tokeniser.demonstration(row, i) for i, row in held_out if row.completion is not None
        ),
    )


def whole_source(
    stage: StageRecipe, reader: Reader, source: str, *, wanted: Wanted = "prompts"
) -> TextSource:
    """Every row of another source to evaluate on, for what a stage has trained.

    The rows are judged by the verifier of the stage's task, if it has one.

    Raises:
        DataError: a row that cannot be used.
    """
    tokeniser, data = tokeniser_of(stage, reader), stage.data
    other, task = data.model_copy(update={"source": source}), None
    if data.parsed.of.has_verifier:
        task = load_task(data.source, data.parameters, stage.run.seed)
    check = check_of(stage, tokeniser)

    def judged(row: Row) -> tuple[str, ...]:
        for name in () if task is None else task.reads:
            if name not in row.columns:
                detail = f"is missing; the verifier of {data.source} reads it"
                raise BadRowError(row.where, "missing field", detail, name)
        return check(row)

    rows, skipped = whole(other, "--data", wanted=wanted, check=judged)
    read = len(rows) + sum(skipped.values())
    return TextSource(
        Rows((), 0, rows, Report(source, read=read, skipped=skipped, evaluation=len(rows))),
        PromptStream(1, stage.run.seed),
        tokeniser,
        evaluation=tuple(tokeniser.prompt(row, i) for i, row in enumerate(rows)),
        task=task,
        unseen=tuple(tokeniser.ranking(row, i) for i, row in enumerate(rows) if row.ranked),
        demonstrations=tuple(
            tokeniser.demonstration(row, i)
            for i, row in enumerate(rows)
            if row.completion is not None
        ),
    )


def tokeniser_of(stage: StageRecipe, reader: Reader) -> Tokeniser:
    """The tokeniser of a stage, which refuses what its model cannot hold."""
    longest = stage.data.max_prompt_tokens or reader.context - stage.rollout.max_new_tokens
    return Tokeniser(reader.tokenizer, longest, reader.context, reader.stop_ids)


def wanted_by(stage: StageRecipe) -> Wanted:
    """What every row of a stage must hold, by its algorithm."""
    requires = row(stage.algorithm).requires
    kinds: tuple[Wanted, ...] = ("demonstrations", "pairs", "prompts")
    return next(kind for kind in kinds if kind in requires or kind == "prompts")


def reserved(stages: Sequence[StageRecipe]) -> Mapping[str, tuple[str, ...]]:
    """All prompts that any stage of a run is evaluated on, by their keys: none may train on them.

    None where a run has one stage with text, or tasks alone, whose own split sees to it.

    Raises:
        DataError: a row that cannot be used.
    """
    of_text = [stage for stage in stages if stage.domain == TEXT.name]
    if len(of_text) < 2 or all(stage.data.parsed.of.has_verifier for stage in of_text):
        return {}
    rows = (row for stage in of_text for row in _evaluated_on(stage))
    return {key: question(row.prompt) for row in rows for key in row.keys}


def _evaluated_on(stage: StageRecipe) -> Sequence[Row]:
    """The rows that a stage is evaluated on."""
    data, seed, count = stage.data, stage.run.seed, stage.evaluation.prompts
    if data.parsed.of.has_verifier:
        task = load_task(data.source, data.parameters, seed)
        return generated(data.source, task.row, count).evaluation
    tokeniser = tokeniser_of(stage, read(stage.model.path, revision=stage.model.revision))
    check = check_of(stage, tokeniser)
    return evaluation_rows(data, count, seed, wanted=wanted_by(stage), check=check)


def check_of(stage: StageRecipe, tokeniser: Tokeniser) -> Callable[[Row], tuple[str, ...]]:
    """The keys of a row that fits the tokeniser and can be judged."""
    answers = [reward.compared_with for reward in stage.rewards if reward.compared_with]

    def check(row: Row) -> tuple[str, ...]:
        for name in answers:
            check_answer(row.where, row.columns, name)
        return tokeniser.check(row)

    return check


def _rows_of(task: TextTask, own: TextTask) -> Callable[[Split, int], Mapping[str, Any]]:
    """Evaluation rows of the run, training rows of the stage."""
    return lambda split, index: (task if split == "evaluation" else own).row(split, index)
