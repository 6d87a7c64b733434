"""Diagnostics: recipe, data, packages and machine, conformance, self-check, x-ray."""
