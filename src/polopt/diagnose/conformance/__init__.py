"""``polopt conformance``: compares the shipped functions with golden numbers."""

from polopt.diagnose.conformance.runner import SERVED, Report, run

__all__ = ["SERVED", "Report", "run"]
