"""Which responses are kept."""

import torch

from polopt.math.selection import at_least, best_of_group, has_contrast

NAN = float("nan")
REWARDS = torch.tensor([0.1, 0.9, 0.9, NAN, 0.2, 0.2, NAN])
GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 2])


def test_the_first_of_the_best():
    assert best_of_group(REWARDS, GROUP).nonzero()[:, 0].tolist() == [1, 4]


def test_a_threshold_is_inclusive_and_nan_never_passes():
    assert at_least(REWARDS, GROUP, threshold=0.9).nonzero()[:, 0].tolist() == [1, 2]


def test_only_groups_with_contrast_teach():
    assert has_contrast(REWARDS, GROUP).nonzero()[:, 0].tolist() == [0, 1, 2]


def test_equal_rewards_have_no_contrast_whatever_they_are():
    rewards = torch.full((8,), 0.1)
    assert not has_contrast(rewards, torch.zeros(8, dtype=torch.int64)).any()
