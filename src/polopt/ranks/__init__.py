"""Processes that train one policy together: every one runs the same program on the same batch.

Each holds all of the batch, computes credit from all of it, and makes the same decisions. What is
divided among them are forward and backward passes, responses and rewards. So a group of processes
is a number of its own (``rank``), the count of all, and a few ways to say something to the others.
Tensors and JSON are what they say: nothing here unpickles.
"""

from polopt.ranks.group import ALONE, Ranks
from polopt.ranks.joining import Place, joined, met, place, told_of_peers

__all__ = ["ALONE", "Place", "Ranks", "joined", "met", "place", "told_of_peers"]
