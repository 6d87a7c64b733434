"""The run directory: config.json, environment.json, summary.json, and lines of its steps."""

from polopt.record.directory import (
    RunDirectory,
    begun,
    create,
    next_free,
    open_existing,
)
from polopt.record.files import disk_errors, write_json
from polopt.record.headlines import HEADLINES, headline_of, words_of
from polopt.record.prompts import Prompts, recorded_prompts

__all__ = [
    "HEADLINES",
    "Prompts",
    "RunDirectory",
    "begun",
    "create",
    "disk_errors",
    "headline_of",
    "next_free",
    "open_existing",
    "recorded_prompts",
    "words_of",
    "write_json",
]
