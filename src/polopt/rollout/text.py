"""Text for a stage: prompts, demonstrations and rankings by place, held-out ones, a verifier.

Here tasks, data and the tokeniser meet; none of them knows the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from polopt.data import (
    Demonstration,
    PromptStream,
    Ranking,
    Row,
    Rows,
    Tokeniser,
    check_answer,
    generated,
    load_rows,
)
from polopt.envs.text import TextTask
from polopt.envs.text import load as load_task
from polopt.envs.text.interface import Split
from polopt.models import LanguageModel, ScalarModel, context_length
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


def text_source(
    stage: StageRecipe,
    language_model: LanguageModel | ScalarModel,
    *,
    demonstrations: bool = False,
    preferences: bool = False,
) -> TextSource:
    """The text of a resolved stage.

    Stages read different places of the same data; all of them are evaluated on the same prompts.

    Raises:
        DataError: a row that cannot be used.
        RecipeError: a task or a parameter that does not exist.
    """
    context = context_length(language_model)
    longest = stage.data.max_prompt_tokens or context - stage.rollout.max_new_tokens
    tokeniser = Tokeniser(language_model.tokenizer, longest, context, language_model.stop_ids)
    seed, own_seed = stage.run.seed, derive(stage.run.seed, stage.name, "data")
    count, source = stage.evaluation.prompts, stage.data.source
    task = None
    if stage.data.parsed.of.has_verifier:  # a task that makes rows
        task = load_task(source, stage.data.parameters, seed)
        row = _rows_of(task, load_task(source, stage.data.parameters, own_seed))
        rows = generated(source, row, count, demonstrations=demonstrations, preferences=preferences)
    else:
        rows = load_rows(
            stage.data,
            count,
            seed,
            demonstrations=demonstrations,
            preferences=preferences,
            check=_check(stage, tokeniser),
        )
    held_out = list(enumerate(rows.evaluation))
    return TextSource(
        rows,
        PromptStream(rows.size, own_seed),
        tokeniser,
        evaluation=tuple(tokeniser.prompt(row, i) for i, row in held_out),
        task=task,
        unseen=tuple(tokeniser.ranking(row, i) for i, row in held_out if row.ranked),
    )


def _check(stage: StageRecipe, tokeniser: Tokeniser) -> Callable[[Row], None]:
    """What a row must be beyond its own form: it fits the tokeniser, and can be judged."""
    answers = [reward.compared_with for reward in stage.rewards if reward.compared_with]

    def check(row: Row) -> None:
        tokeniser.check(row)
        for name in answers:
            check_answer(row.where, row.columns, name)

    return check


def _rows_of(task: TextTask, own: TextTask) -> Callable[[Split, int], Mapping[str, Any]]:
    """Evaluation rows of the run, training rows of the stage."""
    return lambda split, index: (task if split == "evaluation" else own).row(split, index)
