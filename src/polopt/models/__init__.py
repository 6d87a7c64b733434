"""Loading models and tokenisers, and the small ones that need no hub."""

from polopt.models.builtin import BUILTIN
from polopt.models.load import (
    LanguageModel,
    ScalarModel,
    context_length,
    load,
    load_scalar,
    save,
)

__all__ = [
    "BUILTIN",
    "LanguageModel",
    "ScalarModel",
    "context_length",
    "load",
    "load_scalar",
    "save",
]
