"""Engines that generate responses, behind one interface."""

from polopt.rollout.engines.interface import Engine, Request, answered
from polopt.rollout.engines.local import LocalEngine

__all__ = ["Engine", "LocalEngine", "Request", "answered"]
