"""Terms beside the policy loss."""

import pytest
import torch

from polopt.math.auxiliary import negative_log_likelihood, regularised_reward

NAN = float("nan")


def test_pretraining_term_by_hand():
    logp = torch.tensor([[-2.0, -1.0], [-0.6, NAN]], dtype=torch.float64)
    assert negative_log_likelihood(logp, ~torch.isnan(logp)).item() == pytest.approx(1.2)
    # rewards 1, .2; log-ratios 2, .5; β = .02: mean(.96, .19)
    r, rl, sft = (
        torch.tensor(x, dtype=torch.float64) for x in ([1, 0.2], [-20, -15], [-22, -15.5])
    )
    assert regularised_reward(r, rl, sft, 0.02).item() == pytest.approx(0.575)
