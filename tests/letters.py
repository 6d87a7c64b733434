"""Rewards by the letters of an answer. Worker processes import this file, so it imports nothing."""


def variety(completions: list[str]) -> list[float]:
    """Differs between almost any two answers, so that every step learns."""
    return [len(set(text)) / 8 for text in completions]


def even(completions: list[str]) -> list[bool]:
    """The same for what learns from right and wrong: about half of the answers are right."""
    return [len(set(text)) % 2 == 0 for text in completions]


def even_start(completions: list[str]) -> list[bool]:
    """Right is what starts with a letter of even code: about half, and whole groups of neither."""
    return [bool(text) and ord(text[0]) % 2 == 0 for text in completions]
