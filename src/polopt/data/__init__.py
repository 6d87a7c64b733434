"""Sources of prompts and demonstrations: read, checked, divided, ordered, tokenised."""

from polopt.data.load import generated, load_rows
from polopt.data.rows import BadRowError, Report, Row, Rows
from polopt.data.stream import PromptStream
from polopt.data.tokenise import Demonstration, Tokeniser

__all__ = [
    "BadRowError",
    "Demonstration",
    "PromptStream",
    "Report",
    "Row",
    "Rows",
    "Tokeniser",
    "generated",
    "load_rows",
]
