"""Loading models and tokenisers, and the small ones that need no hub."""

from polopt.models.builtin import BUILTIN
from polopt.models.load import LanguageModel, context_length, load, save

__all__ = ["BUILTIN", "LanguageModel", "context_length", "load", "save"]
