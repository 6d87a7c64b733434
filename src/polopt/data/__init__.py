"""Sources of prompts, demonstrations and preferences: read, checked, divided, ordered, tokenised.

Files and the hub, and tasks, give the same ``Rows``::

    tokeniser = Tokeniser(tokenizer, max_prompt_tokens=200)
    rows = load_rows(recipe.data, 512, seed, check=tokeniser.check)  # or, for a task,
    rows = generated("task:chain_sum", task.row, 512)
    order = PromptStream(rows.size, seed)
    prompt = tokeniser.prompt(rows.train[order(position)], id=position)
"""

from polopt.data.fields import check_answer
from polopt.data.load import generated, load_rows, plain_rows
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
    "check_answer",
    "generated",
    "load_rows",
    "plain_rows",
]
