"""The reward of the walking robot."""

import pytest
import torch

from polopt.envs.control.biped.reward import BIPED_PRESETS, biped_terms


def test_the_walking_reward_by_hand():
    # .4 - 3·.01 - 50·.0004 + 25·.025/10 - .02·(.25+.25+1+1+.04) = .3617
    state = [torch.tensor([x], dtype=torch.float64) for x in (0.4, 0.1, 0.02)]
    torques = torch.tensor([[0.5, -0.5, 1.0, -1.0, 0.0, 0.2]], dtype=torch.float64)
    got = sum(biped_terms(*state, torques, 0.025, 10.0, **BIPED_PRESETS["toolbox"]).values())
    assert got.item() == pytest.approx(0.3617)
    # 3-D model: .4 - 1.5·.01 - 25·.0004 + .0625 - .03·2.54
    got = sum(biped_terms(*state, torques, 0.025, 10.0, **BIPED_PRESETS["github3d"]).values())
    assert got.item() == pytest.approx(0.3613)
