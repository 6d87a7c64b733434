"""``polopt conformance``: the shipped functions are held to golden numbers."""

from polopt.diagnose.conformance.runner import SERVED, Report, run

__all__ = ["SERVED", "Report", "run"]
