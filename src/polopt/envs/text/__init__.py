"""Text tasks: a source of rows and the verifier that scores completions of them."""

from polopt.envs.text.interface import Split, TextTask
from polopt.envs.text.registry import TASKS, load

__all__ = ["TASKS", "Split", "TextTask", "load"]
