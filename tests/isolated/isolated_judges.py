"""What the processes of tests/isolated/test_isolated_processes.py are asked."""

import os
import re
import sys
from pathlib import Path


def prepare(word=""):
    print("noise", word)

    def judge(what, value=None):
        print("noise", what)
        return {
            "echo": lambda: [word, value],
            "process": os.getpid,
            "torch": lambda: "torch" in sys.modules,
            "hang": lambda: hang(value),
            "fill": lambda: len(bytearray(5 * 2**30)),
            "die": lambda: os._exit(1),
            "raise": lambda: [][value],
        }[what]()

    return judge


def missing():
    import no_such_package  # noqa: F401


def hang(sign=None):
    """In C code that holds the lock of the interpreter; a file says that it begins."""
    if sign is not None:
        Path(sign).touch()
    re.match("(a+)+b", "a" * 99)
