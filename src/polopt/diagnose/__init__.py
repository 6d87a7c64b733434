"""Diagnostics: recipe, data, packages and machine, and conformance with golden numbers."""
