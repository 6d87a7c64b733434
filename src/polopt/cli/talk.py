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
    turn = _turn
    if sys.stdin.isatty() and sys.stdout.isatty():
        sys.stderr.write(f"{HELP}\n")
        with suppress(ImportError):  # not everywhere; it edits the line
            import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]
        turn = _turn_on_screen
    while turn(conversation):
        pass
    if turn is _turn_on_screen:
        _show("\n")  # after Ctrl-D


def _turn_on_screen(conversation: Conversation) -> bool:
    """The same as ``_turn``; an interrupt drops the line or stops the answer, an error is told."""
    try:
        return _turn(conversation, "> ")
    except KeyboardInterrupt:
        _show("\n")
    except UserError as error:
        sys.stderr.write(f"error: {with_hints(error)}\n")
    return True


def _turn(conversation: Conversation, prompt: str = "") -> bool:
    """Read a turn and answer it; False where the conversation ends."""
    try:
        line = input(prompt).strip()
    except EOFError:
        return False
    match line:
        case "":
            pass
        case "/exit":
            return False
        case "/clear":
            conversation.clear()
        case _:
            conversation.say(line, _show)
            _show("\n")
    return True


def _show(piece: str) -> None:
    sys.stdout.write(plain(piece))
    sys.stdout.flush()
