"""A report on the first batch of rewards, so that a wrong reward is seen at the start of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from polopt.rewards.score import Scored


def first_batch_report(scored: Sequence[Scored], names: Sequence[str]) -> list[str]:
    """Lines of text: count, range and mean of the reward and of its parts, and suspicious findings.

    Args:
        scored: the first batch.
        names: of the rewards of the recipe, in order.
    """
    rewards = [one.reward for one in scored if math.isfinite(one.reward)]
    lines = [f"rewards of the first batch: {len(rewards)} of {len(scored)} scored{_range(rewards)}"]
    if len(names) > 1:
        for name in names:
            parts = [
                one.parts[name] for one in scored if math.isfinite(one.parts.get(name, math.nan))
            ]
            lines.append(f"  {name}: applies to {len(parts)} of {len(scored)}{_range(parts)}")
    missing = Counter(one.outcome for one in scored if not math.isfinite(one.reward))
    if missing:
        reasons = ", ".join(f"{outcome} {count}" for outcome, count in missing.most_common())
        lines.append(f"not scored, so not trained on: {reasons}")
    if not rewards:
        lines.append("no reward at all: nothing can be learned from this batch")
    elif len(rewards) > 1 and min(rewards) == max(rewards):
        lines.append(f"all {len(rewards)} rewards are equal: no gradient will flow")
    return lines


def _range(numbers: Sequence[float]) -> str:
    if not numbers:
        return ""
    mean = math.fsum(numbers) / len(numbers)
    return f", from {min(numbers):g} to {max(numbers):g}, mean {mean:g}"
