"""Turning losses into new weights."""

from polopt.update.lagged import Lagged
from polopt.update.minibatch import FirstOrder
from polopt.update.moving import Moving
from polopt.update.schedule import learning_rate

__all__ = ["FirstOrder", "Lagged", "Moving", "learning_rate"]
