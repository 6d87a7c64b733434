"""Updates: optimiser steps on losses, adaptive numbers, lagged copies, running statistics."""

from polopt.update.adaptive import AdaptiveNumber
from polopt.update.lagged import Lagged
from polopt.update.minibatch import FirstOrder
from polopt.update.schedule import learning_rate

__all__ = ["AdaptiveNumber", "FirstOrder", "Lagged", "learning_rate"]
