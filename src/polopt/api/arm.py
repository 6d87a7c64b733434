"""One training of a comparison, in a process of its own: ``python -m polopt.api.arm RUN [STAGE]``.

So that its memory is its own, and what kills it does not kill the comparison. The last line on
stdout is JSON, which says why it failed; everything else goes to stderr. It ends, saved, with its
input, which is how it sees the end of a comparison that was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import redirect_stdout

from polopt import api
from polopt.coordination.stage import Event
from polopt.errors import ALARMED, RunDirectoryError, Stopped, UserError, with_hints


class _Begun(Exception):  # noqa: N818 - not an error: what was asked for is done
    """The stage before which a run is to end."""


def go_on(directory: str, before: str | None = None) -> dict[str, str]:
    """Train a run to its end, or to the beginning of a stage.

    Args:
        directory: of the run, which may be new.
        before: a stage that is not to begin: those before it have ended then, and no stage has
            trained on a prompt that any stage of the recipe holds out.

    Returns:
        Empty; ``failed``: why this training cannot be done; ``broken``: why none can.

    Raises:
        Stopped: by a signal, after saving.
    """

    def observe(event: Event) -> None:
        if event.kind == "stage" and event.values["name"] == before:
            raise _Begun

    try:
        api.resume(directory, observers=[observe])
    except _Begun:
        return {}
    except Stopped as stopped:
        if stopped.exit_code != ALARMED:
            raise
        return {"failed": str(stopped)}
    except RunDirectoryError as error:
        return {"broken": with_hints(error)}
    except UserError as error:
        return {"failed": with_hints(error)}
    return {}


def _end_with_input() -> None:
    """Ask this process to save and stop when nobody holds the other end of its input any more."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin, whose lock a waiting thread would keep
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str]) -> int:
    """Exit code: 0, or that of the signal that stopped it."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        with redirect_stdout(sys.stderr):
            found = go_on(*arguments)
    except Stopped as stopped:
        return stopped.exit_code
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
