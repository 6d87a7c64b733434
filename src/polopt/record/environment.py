"""The environment of a run, so that it can be run again: versions, machine, git revision."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

PACKAGES = ("polopt", "torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy")
DIFF_LIMIT = 200_000  # characters; a longer difference is cut and says so


def environment() -> dict[str, Any]:
    """Versions, machine, and the state of the git repository of the working directory, if any."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "git": _git(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    revision = _run("rev-parse", "HEAD")
    if revision is None:
        return None
    diff = _run("diff", "HEAD") or ""
    cut = len(diff) > DIFF_LIMIT
    return {
        "revision": revision.strip(),
        "dirty": bool(diff.strip()),
        "diff": diff[:DIFF_LIMIT] + ("\n[cut]" if cut else ""),
    }


def _run(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
