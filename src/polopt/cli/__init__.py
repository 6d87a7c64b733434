"""The command line: parses, hands over, prints. Nothing here imports torch at the top."""

from polopt.cli.main import main

__all__ = ["main"]
