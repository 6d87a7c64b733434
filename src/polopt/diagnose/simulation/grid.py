"""Every combination of what was asked for, and which of them to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from polopt.assembly.source import order, threads_of
from polopt.diagnose.simulation.distributions import Draws
from polopt.diagnose.simulation.engine import Costs
from polopt.diagnose.simulation.events import Setting, Simulated, simulate
from polopt.errors import UserError
from polopt.recipe import StageRecipe
from polopt.resolution import settings

MOST = 256  # combinations
RESPONSES = 20_000  # that are simulated of each, about
DEAR = 1.1  # device-seconds a batch, relative to the least, that throughput may cost
SAME = 0.97  # of the best throughput: as good


@dataclass(frozen=True)
class Grid:
    """What is varied; empty: by the recipe."""

    staleness: Sequence[int] = ()
    window: Sequence[int] = ()
    engines: Sequence[int] = ()
    trainers: Sequence[int] = ()


@dataclass(frozen=True)
class Point:
    """One combination."""

    setting: Setting
    found: Simulated

    @property
    def lag_bound(self) -> int:
        """The largest lag that the setting allows."""
        bound, age = self.found.lag_bound, self.setting.max_age
        return bound if age is None else min(bound, age)

    @property
    def entry(self) -> dict[str, Any]:
        """As JSON."""
        one = self.setting
        figures = asdict(self.found) | {"lag_bound": self.lag_bound}
        return {
            "turns": "alternate" if one.shared else "beside",
            "staleness": one.staleness,
            "window": one.window,
            "engines": one.engines,
            "trainers": one.trainers,
            "devices": one.devices,
            **figures,
            "lags": {str(lag): share for lag, share in self.found.lags.items()},
        }


def own_setting(stage: StageRecipe) -> Setting:
    """The setting of the stage itself."""
    asked, values = stage.coordination, settings(stage)
    return _with_threads(
        Setting(
            stage.rollout.prompts_per_step,
            asked.staleness,
            asked.window,
            engines=asked.engines,
            trainers=values.get("coordination.trainers") or 1,
            shared=asked.mode == "alternate",
            engine_devices=values.get("coordination.engine_devices") or 1,
            key=order(asked),
            max_age=asked.max_age,
        )
    )


def combinations(own: Setting, grid: Grid) -> list[Setting]:
    """The settings to simulate; the recipe's own where generation and training alternate first.

    Raises:
        UserError: too many.
    """
    lists = (
        grid.staleness or sorted({0, 1, 2, 4, own.staleness}),
        grid.window or sorted({own.window, own.prompts}),
        grid.engines or [own.engines * times for times in (1, 2, 4)],
        grid.trainers or [own.trainers],
    )
    found = list(dict.fromkeys(_varied(own, lists)))
    if len(found) > MOST:
        raise UserError(
            f"--staleness, --window, --engines, --trainers: {len(found)} combinations; at most "
            f"{MOST}"
        )
    return [own, *found] if own.shared else found


def _varied(own: Setting, lists: Sequence[Sequence[int]]) -> Iterator[Setting]:
    for s, w, engines, trainers in product(*lists):
        window = w if s else min(lists[1])  # without staleness all that is live is one batch
        one = replace(
            own, staleness=s, window=window, engines=engines, trainers=trainers, shared=False
        )
        yield _with_threads(one)


def _with_threads(one: Setting) -> Setting:
    return replace(one, threads=threads_of(one.prompts * (one.staleness + 1), one.staleness))


def measured(setting: Setting, costs: Costs, draws: Draws) -> Point:
    """Simulate as many steps as say enough of a setting."""
    responses = setting.prompts * len(draws(0).lengths)
    steps = max(12, min(100, RESPONSES // responses))
    warm = 2 * (setting.staleness + 1)
    return Point(setting, simulate(setting, costs, draws, steps=steps, warm=warm))


def recommended(points: Sequence[Point], max_lag: int | None) -> tuple[Point | None, str]:
    """The setting to take, and why, in one sentence.

    Of those whose lag is bounded as asked, the device-seconds a batch may be a tenth above the
    least; of these it is the highest throughput, and of what is as fast the least lag.
    """
    within = [one for one in points if max_lag is None or one.lag_bound <= max_lag]
    if not within:
        least = min(one.lag_bound for one in points)
        return None, f"none of these bounds the lag by {max_lag}; the least bound is {least}"
    least = min(one.found.device_seconds_per_step for one in within)
    cheap = [one for one in within if one.found.device_seconds_per_step <= DEAR * least]
    fastest = max(one.found.tokens_per_second for one in cheap)
    as_fast = [one for one in cheap if one.found.tokens_per_second >= SAME * fastest]
    best = min(as_fast, key=lambda one: (one.found.lag_mean, one.setting.devices))
    return best, _reason(best, least, fastest, max_lag)


def _reason(best: Point, least: float, fastest: float, max_lag: int | None) -> str:
    one, found = best.setting, best.found
    named = (
        "generating and training in turn on the same devices"
        if one.shared
        else f"staleness {one.staleness}, window {one.window}, {_many(one.engines, 'engine')}, "
        f"{_many(one.trainers, 'trainer')}"
    )
    asked = "" if max_lag is None else f" of a lag of at most {max_lag}"
    most = "the most" if found.tokens_per_second == fastest else "about the most, with less lag,"
    cost = f"{figure(found.device_seconds_per_step)} and {figure(least)} device-seconds a batch"
    return (
        f"{named}: {figure(found.tokens_per_second)} tokens a second, {most} among settings"
        f"{asked} that cost at most a tenth above the least ({cost}); a lag of "
        f"{found.lag_mean:.2g} on average, the trainer waits {found.trainer_idle:.0%} of the "
        f"time, the engines {found.engine_idle:.0%}"
    )


def figure(value: float) -> str:
    """Three digits, and whole numbers from a thousand on."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
