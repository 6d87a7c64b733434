"""Alarms: whether a run goes wrong, by the metrics that it writes anyway. No torch."""

from polopt.diagnose.alarms.ringing import Alarms, Rung, replayed, standing, thresholds

__all__ = ["Alarms", "Rung", "replayed", "standing", "thresholds"]
