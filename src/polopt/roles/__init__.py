"""Who takes part in a run: actor and reference."""

from polopt.roles.actor import Actor
from polopt.roles.reference import frozen

__all__ = ["Actor", "frozen"]
