"""The run directory: config.json, environment.json, metrics.jsonl, samples.jsonl, summary.json."""

from polopt.record.directory import (
    RunDirectory,
    begun,
    create,
    next_free,
    open_existing,
)
from polopt.record.files import disk_errors, write_json

__all__ = [
    "RunDirectory",
    "begun",
    "create",
    "disk_errors",
    "next_free",
    "open_existing",
    "write_json",
]
