"""Sources of prompts, demonstrations and preferences: read, checked, split, ordered, tokenised.

Files, the hub, and tasks give the same ``Rows``::

    tokeniser = Tokeniser(tokenizer, max_prompt_tokens=200)
    rows = load_rows(recipe.data, 512, seed, check=tokeniser.check)  # or, for a task,
    rows = generated("task:chain_sum", task.row, 512)
    order = PromptStream(rows.size, seed)
    prompt = tokeniser.prompt(rows.train[order(position)], id=position)
"""

from polopt.data.fields import check_answer
from polopt.data.identity import holding, question
from polopt.data.load import (
    Wanted,
    evaluation_rows,
    generated,
    load_rows,
    plain_rows,
    read_source,
    whole,
)
from polopt.data.rows import BadRowError, Report, Row, Rows
from polopt.data.stream import PromptStream
from polopt.data.tokenise import Demonstration, Ranking, Tokeniser

__all__ = [
    "BadRowError",
    "Demonstration",
    "PromptStream",
    "Ranking",
    "Report",
    "Row",
    "Rows",
    "Tokeniser",
    "Wanted",
    "check_answer",
    "evaluation_rows",
    "generated",
    "holding",
    "load_rows",
    "plain_rows",
    "question",
    "read_source",
    "whole",
]
