"""Loading and saving models and tokenisers, and small built-in models that need no download."""

from polopt.models.builtin import BUILTIN
from polopt.models.load import (
    LanguageModel,
    Reader,
    ScalarModel,
    context_length,
    load,
    load_scalar,
    read,
    reader_of,
    save,
    weights,
)

__all__ = [
    "BUILTIN",
    "LanguageModel",
    "Reader",
    "ScalarModel",
    "context_length",
    "load",
    "load_scalar",
    "read",
    "reader_of",
    "save",
    "weights",
]
