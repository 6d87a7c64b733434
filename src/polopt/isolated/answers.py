"""The answer in what a model wrote."""

from __future__ import annotations

import re

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


def extracted(completion: str) -> str:
    """What stands in the last ``<answer>`` tags; all of it where there are none."""
    tagged = _TAGGED.findall(completion)
    return (tagged[-1] if tagged else completion).strip()
