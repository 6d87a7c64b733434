"""Turning losses into new weights."""

from polopt.update.minibatch import FirstOrder
from polopt.update.schedule import learning_rate

__all__ = ["FirstOrder", "learning_rate"]
