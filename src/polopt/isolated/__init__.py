"""What judges text that a model wrote, in processes of their own with a time limit that holds.

Packages that judge mathematics and puzzles read text as Python or hand it to computer algebra: an
answer such as ``9**9**9**9`` hangs them, inside C code that no thread and no signal handler of
Python can end. So they run in processes that are killed, and so do the reward functions of a user,
which may crash, change the working directory or draw random numbers. Nothing here imports torch.
"""

from polopt.isolated.processes import CONCURRENT, LIMIT, DiedError, Pool, close, pool

__all__ = ["CONCURRENT", "LIMIT", "DiedError", "Pool", "close", "pool"]
