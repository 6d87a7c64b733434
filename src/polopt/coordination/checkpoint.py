"""Checkpoints that are whole or not there.

Written to a temporary directory, every file synced, a manifest with sizes and hashes last (of what
was to be written, where the file is large), then renamed and read back. A reader trusts a
checkpoint only when its manifest verifies, so that a torn or damaged one is passed over for the one
before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from polopt.record.files import discarded, disk_errors, hashes, sync, write_json

MANIFEST = "MANIFEST.json"
STATE = "state.json"


def save(directory: Path, step: int, state: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Write ``step_<step>``, verify it, and point ``last`` at it.

    Args:
        directory: the ``checkpoints`` directory.
        step: consumed batches of the run.
        state: everything that is not a tensor.
        write: writes the tensors and the model into a directory.
    """
    final = directory / f"step_{step}"
    temporary = directory / f".tmp-{step}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    with disk_errors(final):
        try:
            temporary.mkdir()
            with hashes() as known:
                write(temporary)
            write_json(temporary / STATE, state)
            _write_manifest(temporary, known)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if final.exists():
            _remove(final)
        temporary.rename(final)
        sync(directory)
        if not verified(final):
            raise OSError(f"{final}: what was read back is not what was written")
        link(directory, "last", final)
    return final


def accompany(write: Callable[[Path], None]) -> None:
    """Take part in a save of another rank: sharded tensors are gathered by all, nothing is kept."""
    with tempfile.TemporaryDirectory(prefix="polopt-") as scratch, discarded():
        write(Path(scratch))


def newest(directory: Path) -> Path | None:
    """The checkpoint of the highest step whose manifest verifies, or None."""
    return next(_verified_newest_first(directory), None)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state that :func:`save` wrote."""
    return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))


def verified(checkpoint: Path) -> bool:
    """Whether every file exists with the size and hash in the manifest."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return all(
            (checkpoint / name).stat().st_size == entry["bytes"]
            and _sha256(checkpoint / name) == entry["sha256"]
            for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def link(directory: Path, name: str, target: Path) -> None:
    """Point the relative link ``name`` at a checkpoint, in one step."""
    temporary = directory / f".{name}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    temporary.replace(directory / name)
    sync(directory)


def prune(directory: Path, keep: int, pinned: Collection[str]) -> None:
    """Delete all but the newest ``keep`` and the pinned ones, and remains of interrupted saves."""
    steps = sorted(_steps(directory), key=step_of, reverse=True)
    for checkpoint in steps[keep:]:
        if checkpoint.name not in pinned:
            _remove(checkpoint)
    for left in (*directory.glob(".tmp-*"), *directory.glob(".trash-*")):
        shutil.rmtree(left, ignore_errors=True)


def _verified_newest_first(directory: Path) -> Iterator[Path]:
    for checkpoint in sorted(_steps(directory), key=step_of, reverse=True):
        if verified(checkpoint):
            yield checkpoint


def _steps(directory: Path) -> list[Path]:
    return [path for path in directory.glob("step_*") if is_step(path)]


def is_step(path: Path) -> bool:
    """Whether a path has the name of a checkpoint, ``step_N``."""
    return path.name.startswith("step_") and path.name.removeprefix("step_").isdecimal()


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint by its name; a link (``best``) has that of its target."""
    return int(checkpoint.resolve().name.removeprefix("step_"))


def _write_manifest(directory: Path, known: Mapping[Path, str]) -> None:
    """Of large files the hash is known, of what was to be written; the others are read."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    for path in files:
        sync(path)
    entries = {
        path.relative_to(directory).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": known.get(path) or _sha256(path),
        }
        for path in files
    }
    write_json(directory / MANIFEST, {"files": entries})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(checkpoint: Path) -> None:
    """Rename it in one step before deleting it file by file."""
    trash = checkpoint.with_name(f".trash-{checkpoint.name}-{os.getpid()}")
    shutil.rmtree(trash, ignore_errors=True)
    checkpoint.rename(trash)
    shutil.rmtree(trash)
