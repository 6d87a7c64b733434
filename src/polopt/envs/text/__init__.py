"""Text tasks: sources of rows, each with a verifier that rewards completions."""

from polopt.envs.text.interface import Split, TextTask
from polopt.envs.text.registry import TASKS, load

__all__ = ["TASKS", "Split", "TextTask", "load"]
