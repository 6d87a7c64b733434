"""The ring of steps: what is kept, what is drawn, what is in the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polopt.envs.control.interface import Transition
from polopt.errors import RecipeError
from polopt.rollout.replay import Replay


def put(replay: Replay, *numbers: int, valid: list[bool] | None = None, over: bool = False) -> None:
    """One step of each environment; number n: s = n, a = n/100, s′ = n + ½, r = 10 n."""
    n = np.array(numbers, dtype=np.float32)[:, None]
    ends, keep = np.full(len(n), over), np.array(valid or [True] * len(n))
    step = Transition(n, n + 0.5, 10.0 * n[:, 0].astype(np.float64), ends, ~ends, keep)
    replay.add(n, n / 100, step, keep)


def stored(replay: Replay) -> set[float]:
    drawn = replay.draw(500, np.random.default_rng(0))
    return set(drawn.observations[:, 0].tolist())


def test_a_step_comes_back_as_it_was() -> None:
    replay = Replay(10, 1, 1)
    put(replay, 7, over=True)
    drawn = replay.draw(3, np.random.default_rng(0))
    assert drawn.observations.tolist() == [[7.0]] * 3
    assert drawn.actions.tolist() == pytest.approx(np.array([[0.07]] * 3))
    assert drawn.successors.tolist() == [[7.5]] * 3
    assert drawn.rewards.tolist() == [70.0] * 3
    assert drawn.terminated.tolist() == [True] * 3


def test_a_time_limit_is_not_stored_as_an_end() -> None:
    replay = Replay(10, 1, 1)
    put(replay, 1, over=False)  # truncated
    assert not replay.draw(1, np.random.default_rng(0)).terminated.any()


def test_the_newest_take_the_place_of_the_oldest() -> None:
    replay = Replay(5, 1, 1)
    for first in range(0, 8, 2):
        put(replay, first, first + 1)
    assert replay.filled == 5
    assert stored(replay) == {3.0, 4.0, 5.0, 6.0, 7.0}


def test_a_step_that_only_began_an_episode_is_not_stored() -> None:
    replay = Replay(5, 1, 1)
    put(replay, 1, 2, valid=[True, False])
    assert stored(replay) == {1.0}


def test_every_step_is_as_likely() -> None:
    replay = Replay(8, 1, 1)
    put(replay, *range(4))
    drawn = replay.draw(40_000, np.random.default_rng(1)).observations[:, 0].numpy()
    assert np.bincount(drawn.astype(int)) / 40_000 == pytest.approx([0.25] * 4, abs=0.01)


def test_a_saved_ring_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def filled() -> Replay:
        replay = Replay(5, 1, 1)
        put(replay, *range(5))
        put(replay, 5, 6)
        return replay

    one, other = filled(), Replay(5, 1, 1)
    other.load(tmp_path, one.save(tmp_path))
    for replay in (one, other):
        put(replay, 7)
    draws: list[Any] = [r.draw(20, np.random.default_rng(3)).table.tolist() for r in (one, other)]
    assert draws[0] == draws[1]
    assert stored(other) == {3.0, 4.0, 5.0, 6.0, 7.0}


def test_what_does_not_fit_into_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "zeros", full)
    with pytest.raises(RecipeError, match=r"replay.size: 1000000000 .* 37 GiB"):
        Replay(10**9, 3, 2)
