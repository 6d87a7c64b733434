"""How values are written on the page: numbers, durations, and text of models and users."""

from __future__ import annotations

import json

_NARROW = "\u202f"  # between a number and its unit; never breaks

# Characters that are invisible, or change how the text around them is shown.
_HIDDEN = [
    *(code for code in range(0xA0) if chr(code) not in "\n\t" and not 0x20 <= code < 0x7F),
    *(0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF),  # zero width, marks, separators
    *range(0x202A, 0x202F),  # direction overrides
    *range(0x2066, 0x206A),  # direction isolates
    *range(0xD800, 0xE000),  # lone surrogates, which UTF-8 cannot hold
]
_VISIBLE = {code: f"‹U+{code:04X}›" for code in _HIDDEN}


def visible(text: str) -> str:
    """``text`` with hidden characters shown as their code; line ends and tabs stay."""
    return text.translate(_VISIBLE)


def number(value: float) -> str:
    """Four significant digits: 0.01234, 12.35, 1.5e-07."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def percent(share: float) -> str:
    """A share as per cent with one decimal: 0.4863 is 48.6 %."""
    return f"{100 * share:.1f}{_NARROW}%"


def duration(seconds: float) -> str:
    """Seconds for people: 21 ms, 6.1 s, 1 min 38 s, 2 h 5 min."""
    if 0 < seconds < 0.0005:
        return f"under 1{_NARROW}ms"
    if 0 < seconds < 0.0995:  # what would be written as 0.0 s beside a share that is not 0
        return f"{1000 * seconds:.0f}{_NARROW}ms"
    if seconds < 59.95:  # what would be written as 60.0 s is a minute
        return f"{seconds:.1f}{_NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_NARROW}min {rest}{_NARROW}s"
    return f"{minutes // 60}{_NARROW}h {minutes % 60}{_NARROW}min"


def with_unit(value: float, unit: str) -> str:
    """A value of a plot in its unit: number, share or seconds."""
    if unit == "share":
        return percent(value)
    return f"{number(value)}{_NARROW}s" if unit == "seconds" else number(value)


def setting(value: object) -> str:
    """A value of the recipe as it would be written there."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
