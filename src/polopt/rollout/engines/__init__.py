"""Engines that generate responses, behind one interface."""

from polopt.rollout.engines.interface import Engine, Hear, Request, Weights, answered
from polopt.rollout.engines.local import LocalEngine

__all__ = ["Engine", "Hear", "LocalEngine", "Request", "Weights", "answered"]
