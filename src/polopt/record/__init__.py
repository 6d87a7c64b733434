"""The run directory: config.json, environment.json, summary.json, and lines of its steps."""

from polopt.record.directory import (
    BesideDirectory,
    RunDirectory,
    begun,
    create,
    next_free,
    open_existing,
)
from polopt.record.files import disk_errors, write_json
from polopt.record.headlines import HEADLINES, LESS_IS_BETTER, headline_of, words_of
from polopt.record.prompts import (
    NOTHING_KNOWN,
    Prompts,
    recorded_prompts,
    share_of_top,
)

__all__ = [
    "HEADLINES",
    "LESS_IS_BETTER",
    "NOTHING_KNOWN",
    "BesideDirectory",
    "Prompts",
    "RunDirectory",
    "begun",
    "create",
    "disk_errors",
    "headline_of",
    "next_free",
    "open_existing",
    "recorded_prompts",
    "share_of_top",
    "words_of",
    "write_json",
]
