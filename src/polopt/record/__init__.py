"""The run directory: config.json, environment.json, summary.json, and lines of its steps."""

from polopt.record.directory import (
    RunDirectory,
    begun,
    create,
    next_free,
    open_existing,
)
from polopt.record.files import disk_errors, write_json
from polopt.record.prompts import Prompts, recorded_prompts

__all__ = [
    "Prompts",
    "RunDirectory",
    "begun",
    "create",
    "disk_errors",
    "next_free",
    "open_existing",
    "recorded_prompts",
    "write_json",
]
