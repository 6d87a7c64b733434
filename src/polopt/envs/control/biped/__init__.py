"""A robot that walks on two legs: dynamics, reward, stride, drawing, and its form for gymnasium."""

from polopt.envs.control.biped.dynamics import Biped

__all__ = ["Biped"]
