"""A conversation on a terminal or through a pipe, turn by turn."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from polopt.cli.output import plain
from polopt.errors import UserError, with_hints

if TYPE_CHECKING:
    from polopt.api.conversation import Conversation

HELP = "Ctrl-C stops an answer, /clear begins a new conversation, Ctrl-D or /exit ends"
NEW = (
    "note: the policy was trained on plain text, and conversations are new to it; polopt generate "
    "asks as in training"
)


def talk(conversation: Conversation) -> None:
    """Answer each line of stdin until it ends.

    Raises:
        UserError: a turn that cannot be answered; on a terminal it is told, and the next may come.
    """
    if not conversation.as_trained:
        sys.stderr.write(f"{NEW}\n")
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if interactive:
        sys.stderr.write(f"{HELP}\n")
        with suppress(ImportError):  # not everywhere; it edits the line
            import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]
    answer = _answer_or_tell if interactive else _answer
    while (turn := _turn(interactive)) is not None:
        match turn.strip():
            case "":
                continue
            case "/exit":
                return
            case "/clear":
                conversation.clear()
            case text:
                answer(conversation, text)


def _turn(interactive: bool) -> str | None:
    """The next line; None at the end."""
    if not interactive:
        return sys.stdin.readline() or None
    try:
        return input("> ")
    except EOFError:
        sys.stdout.write("\n")
        return None
    except KeyboardInterrupt:  # the line is dropped
        sys.stdout.write("\n")
        return ""


def _answer(conversation: Conversation, turn: str) -> None:
    conversation.say(turn, _show)
    _show("\n")


def _answer_or_tell(conversation: Conversation, turn: str) -> None:
    try:
        _answer(conversation, turn)
    except KeyboardInterrupt:
        _show("\n")
    except UserError as error:
        sys.stderr.write(f"error: {with_hints(error)}\n")


def _show(piece: str) -> None:
    sys.stdout.write(plain(piece))
    sys.stdout.flush()
