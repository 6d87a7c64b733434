"""Collecting responses: groups from an engine, demonstrations from data, answers to examine."""
