"""Entry point: exit codes, and one line on stderr for errors that the user can put right."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

import click

from polopt.cli.commands import polopt
from polopt.errors import Stopped, UserError, with_hints
from polopt.ranks import met, place

DONE, FIXABLE, INTERRUPTED = 0, 2, 130  # a command returns 1 itself where a check failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; bugs raise as they are."""
    code = _done(arguments)
    if arguments is None and met():
        _end(code)
    return code


def _end(code: int) -> NoReturn:
    """End a program that trained with others, and leave the interpreter as it is.

    Threads of gloo hold the last tensors for a moment. Where the interpreter is taken apart before
    they let go, the process aborts after a run that was done (PyTorch #179291).
    """
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _done(arguments: Sequence[str] | None) -> int:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        _tolerate(stream)
    try:
        code = polopt.main(arguments, prog_name="polopt", standalone_mode=False)
    except UserError as error:
        return _fail(with_hints(error))
    except Stopped as stopped:
        if not place().rank:  # one of several ranks says it
            sys.stderr.write(f"{stopped}\n")
        return stopped.exit_code
    except click.ClickException as error:
        return _fail(error.format_message())
    except click.Abort:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return code if isinstance(code, int) else DONE


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return FIXABLE


def _tolerate(stream: TextIO) -> None:
    """Replace characters that a terminal cannot encode, or did not send as UTF-8, by ``?``."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
