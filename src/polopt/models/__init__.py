"""Loading and saving models and tokenisers, and small built-in models that need no download."""

import logging

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

# transformers imports torchao where it is installed, which warns of kernels that nobody asked for.
for name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)

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
