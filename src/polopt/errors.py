"""What the user can fix. Everything else that goes wrong is our bug and raises as it is.

UserError                    one clear line, exit code 2
├── RecipeError              a field of the recipe: names field, value and what is allowed
├── DataError                a row of data: names file, line and field
├── ModelError               a model directory or hub id that cannot be loaded
├── EngineError              an engine that generates: does not start, died, or hangs
├── RankError                a process that trains with others: one of them is gone, or differs
├── RewardError              a reward function that broke its contract: names function and row
├── NonFiniteError           NaN or infinity inside the mask: names site, step and row
├── MissingExtraError        an optional dependency: names the extra to install
└── RunDirectoryError        a run directory: exists, missing, owned by another process, disk full
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can put right; the message is one line that says how.

    A note (``add_note``) is a hint that the command line puts behind it.
    """


class RecipeError(UserError, ValueError):
    """A recipe that cannot be run as it stands."""


class DataError(UserError, ValueError):
    """A row of data that cannot be used as it stands."""


class ModelError(UserError, ValueError):
    """A model that cannot be loaded."""


class EngineError(UserError, RuntimeError):
    """An engine that does not start, died, hangs, or refuses."""


class RankError(UserError, RuntimeError):
    """One of several processes that train together is gone, or holds something else."""


class SilentRankError(RankError):
    """Another process is gone or says nothing, and this one cannot tell which."""


class StalledError(UserError, TimeoutError):
    """Nobody generated for too long."""


class RewardError(UserError, RuntimeError):
    """A reward function that broke its contract."""


class DeviceMemoryError(UserError, MemoryError):
    """A device that has no room for a phase of a run."""


class NonFiniteError(UserError, ArithmeticError):
    """NaN or infinity where the mathematics needs a number."""


class MissingExtraError(UserError, ImportError):
    """An optional dependency that is not installed."""


class RunDirectoryError(UserError, OSError):
    """A run directory that cannot be used as asked."""


ALARMED = 3  # exit code of a run that an alarm stopped: whoever restarts after 143 must not go on


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked, and the run has saved
    """The run was asked to stop, by a signal or by an alarm, and has saved its state."""

    def __init__(self, directory: str, step: int, signal_number: int = 0, alarm: str = "") -> None:
        by = f" by the alarm {alarm}" if alarm else ""
        super().__init__(
            f"stopped{by} and saved at step {step}; go on with: polopt resume {directory}"
        )
        # 143 for SIGTERM, as shells have it
        self.exit_code = 128 + signal_number if signal_number else ALARMED


def missing_extra(setting: str, package: str, extra: str, error: ImportError) -> MissingExtraError:
    """What is said of a package that cannot be imported: what is not installed, by its own name.

    Args:
        setting: field and value that need it.
        package: of the extra.
        extra: of polopt.
        error: of the import; an installed package may lack a dependency of its own.
    """
    absent = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError):
        reason = f"which cannot be imported: {one_line(error)}"
        return MissingExtraError(f"{setting} needs the package {package}, {reason}")
    if absent in ("", package.replace("-", "_")):
        return MissingExtraError(
            f'{setting} needs the package {package}: pip install "polopt[{extra}]"'
        )
    return MissingExtraError(
        f"{setting} needs the module {absent}, which {package} imports: pip install {absent}"
    )


def one_line(text: object, length: int = 200) -> str:
    """What others wrote, fit for a message: one line, no control characters, not too long."""
    words = " ".join(str(text).split())
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    return "".join(escaped)[:length]


def with_hints(error: UserError) -> str:
    """The message of an error and its notes, in one line."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


def counted(number: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def near(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Those of the known names that a person may have meant, the nearest first."""
    return get_close_matches(name, list(known), count, cutoff)


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "", *, as_: str = "{}") -> str:
    """``did you mean grpo?``, or what to say instead where no name is near.

    Args:
        name: that nobody knows.
        known: those that there are.
        otherwise: such as the list of them.
        as_: how the nearest one is written, such as ``task:{}``.
    """
    found = near(name, known)
    return f"did you mean {as_.format(found[0])}?" if found else otherwise
