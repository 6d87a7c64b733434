"""Engines and rewards in actors of Ray, on one machine or on many.

The trainer is the process that was started: it owns the run directory, and whoever generates or
scores is an actor that may die. Ray is imported inside functions, and by modules that are imported
there.
"""
