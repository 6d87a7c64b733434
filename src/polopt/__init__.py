"""polopt optimises policies: language models after pre-training, and control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "check",
    "compare",
    "evaluate",
    "load",
    "report",
    "resume",
    "selfcheck",
    "simulate",
    "train",
    "write_comparison",
    "write_evaluation",
    "write_xray",
    "xray",
]

if TYPE_CHECKING:
    from polopt.api import (
        check,
        compare,
        evaluate,
        load,
        report,
        resume,
        selfcheck,
        simulate,
        train,
        write_comparison,
        write_evaluation,
        write_xray,
        xray,
    )


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load the Python API on first use, so that ``import polopt.cli`` never imports torch."""
    if name in __all__:
        from polopt import api

        return getattr(api, name)
    raise AttributeError(f"module 'polopt' has no attribute {name!r}")
