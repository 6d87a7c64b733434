"""Seeds by place: stable for good, and never the same for two places."""

import itertools

import pytest

from polopt.seeding import derive


def test_a_seed_never_changes_between_versions() -> None:
    """A run that was saved by one version is resumed by the next: these numbers stand."""
    assert derive(1) == 3941715099434534770
    assert derive(1, "rl", "rollout") == 1619907373003085122
    assert derive(2**32 - 1, "minibatch", 7, 1) == 5290458946572542945


def test_every_place_has_a_seed_of_its_own() -> None:
    words = ("rl", "sft", "rollout", 0, 1, 2**31)
    places = [place for length in (0, 1, 2, 3) for place in itertools.product(words, repeat=length)]
    seeds = {derive(seed, *place) for seed in (0, 1, 2**32 - 1) for place in places}
    assert len(seeds) == 3 * len(places)
    assert min(seeds) >= 0 and max(seeds) < 2**63


def test_order_and_nesting_matter() -> None:
    assert derive(1, "a", "b") != derive(1, "b", "a")
    assert derive(1, "ab") != derive(1, "a", "b")
    assert derive(derive(1, "a"), "b") != derive(1, "a", "b")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError):
        derive(-1)
