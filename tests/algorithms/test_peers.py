"""Our rows with the overrides of docs/peers.toml give what the peers' own functions gave.

The numbers come from running functions of TRL, OpenRLHF and verl (versions in that file) on small
fixtures. The overrides are read from the file, so that what a page documents is what is held.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polopt.algorithms import ROWS, row
from polopt.assembly.critic import critic_loss
from polopt.assembly.objective import objective_of
from polopt.assembly.supervised import maximum_likelihood
from polopt.assembly.text import credit_of
from polopt.credit import Credit, assign, earned, step_gae
from polopt.objective import policy_loss, step_terms
from polopt.recipe import StageRecipe, load
from polopt.resolution import resolve, settings
from polopt.roles.policies.token import Outputs
from polopt.types import Advantages, Experience

FILE = Path(__file__).parents[2] / "docs" / "peers.toml"
PRESETS: list[dict[str, Any]] = tomllib.loads(FILE.read_text(encoding="utf-8"))["preset"]
BASE = {"model": {"path": "builtin:tiny"}, "data": {"source": "task:reverse"}}
CONTROL = {"model": {"path": "builtin:mlp"}, "data": {"source": "control:pendulum"}}
NAN = float("nan")


def stage(method: str, flags: dict[str, Any], *, in_control: bool = False) -> StageRecipe:
    base = CONTROL if in_control or row(method).domains == ("control",) else BASE
    return resolve(load({**base, "algorithm": method}, flags)).stages[0]


def preset(method: str, peer: str, **more: Any) -> StageRecipe:
    """The row as a peer has it; ``more`` are the numbers of a fixture, such as ``clip_low``."""
    (found,) = (p for p in PRESETS if p["method"] == method and p["peer"] == peer)
    changes = {k.replace("__", "."): v for k, v in more.items()}
    return stage(method, {**found["recipe"], **changes}, in_control="in_control" in found)


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# What the file says can be done


@pytest.mark.parametrize("one", PRESETS, ids=lambda p: f"{p['method']} of {p['peer'] or 'none'}")
def test_every_override_is_accepted_and_changes_the_row(one: dict[str, Any]) -> None:
    changed = settings(stage(one["method"], one["recipe"], in_control="in_control" in one))
    own = settings(stage(one["method"], {}, in_control="in_control" in one))
    for field, value in one["recipe"].items():
        assert changed[field] == value
        assert own.get(field) != value, f"{field} is the row's own"


def test_every_method_is_there() -> None:
    assert {one["method"] for one in PRESETS} == set(ROWS)


# Advantages


def advantages(
    one: StageRecipe,
    scores: list[float],
    group: list[int] | None = None,
    mask: Tensor | None = None,
    **fields: Tensor,
) -> Tensor:
    mask = torch.ones(len(scores), 1, dtype=torch.bool) if mask is None else mask
    experience = Experience(
        mask=mask,
        group=torch.tensor(group or [0] * len(scores)),
        rewards=tensor(*scores),
        logp_old=torch.zeros(mask.shape, dtype=torch.float64),
        **{"logp_ref": torch.zeros(mask.shape, dtype=torch.float64), **fields},
    )
    return assign(experience, credit_of(one)).advantages


def near(found: Tensor, *expected: float, digits: float = 1e-6) -> None:
    torch.testing.assert_close(found, tensor(*expected), atol=digits, rtol=0)


def test_grpo_of_trl_divides_by_the_spread_and_1e4() -> None:
    one = preset("grpo", "TRL")
    a, b = 1.4997, -0.4999
    near(advantages(one, [1, 0, 0, 0])[:, 0], a, b, b, b, digits=5e-5)
    near(advantages(one, [1, 1, 0, 0])[:, 0], 0.866, 0.866, -0.866, -0.866, digits=5e-4)


def test_a_constant_group_of_openrlhf_is_noise_and_here_nothing() -> None:
    """Its function gives 119 for eight rewards of 0.97 beside another prompt."""
    group = [0] * 8 + [1] * 8
    scores = [0.97] * 8 + [1.0, 0.0] * 4
    found = advantages(preset("grpo", "OpenRLHF"), scores, group)
    assert found[:8].abs().max() == 0
    assert found[8:].abs().min() > 0.9


def test_a_group_of_one_of_verl_keeps_its_reward_and_here_leaves() -> None:
    found = advantages(preset("grpo", "verl"), [5.0, 1.0, 0.0], [0, 1, 1])
    assert found[0] == 0


R = [1.0, 0.0, 0.0]
SUMS = -tensor([1.0, 1.0], [0.0, 0.0], [0.5, 0.5])  # log π_ref, so that the KL sums are 2, 0, 1


@pytest.mark.parametrize("peer", ["TRL", "verl"])
def test_rloo_takes_the_baseline_after_the_kl(peer: str) -> None:
    mask = torch.ones(3, 2, dtype=torch.bool)
    one = preset("rloo", peer, kl__coefficient=0.1)
    near(advantages(one, R, mask=mask, logp_ref=SUMS)[:, 0], 0.85, -0.35, -0.5)


def test_rloo_of_openrlhf_agrees_without_kl_only() -> None:
    """Its 0.80, -0.50, -0.60 are those of no setting here, as the file says."""
    mask = torch.ones(3, 2, dtype=torch.bool)
    one = preset("rloo", "OpenRLHF", kl__coefficient=0.1)
    near(advantages(one, R, mask=mask, logp_ref=SUMS)[:, 0], 0.85, -0.35, -0.5)
    free = preset("rloo", "OpenRLHF", kl__coefficient=0.0)
    near(advantages(free, R, mask=mask)[:, 0], 1.0, -0.5, -0.5)


@pytest.mark.parametrize(("peer", "outer"), [("OpenRLHF", 1.3416), ("verl", 1.1619)])
def test_reinforce_pp_whitens_by_one_variance_or_the_other(peer: str, outer: float) -> None:
    found = advantages(preset("reinforce_pp", peer), [1, 2, 3, 4], [0, 1, 2, 3])[:, 0]
    near(found, -outer, -outer / 3, outer / 3, outer, digits=5e-5)


@pytest.mark.parametrize(("peer", "outer"), [("OpenRLHF", 1.414214), ("verl", 1.322876)])
def test_reinforce_pp_baseline_whitens_by_one_variance_or_the_other(
    peer: str, outer: float
) -> None:
    mask = torch.ones(4, 2, dtype=torch.bool)
    one = preset("reinforce_pp_baseline", peer)
    found = advantages(one, [1, 0, 1, 1], [0, 0, 1, 1], mask)[:, 0]
    near(found, outer, -outer, 0.0, 0.0)


def test_the_return_skips_the_tokens_of_a_tool() -> None:
    """γ = ½: one half over two tokens of a tool, as verl has it; OpenRLHF has one eighth."""
    mask = torch.tensor([[True, False, False, True]])
    flags = {"credit.gamma": 0.5, "credit.normalisation": "none", "rollout.group_size": 1}
    near(advantages(stage("reinforce_pp", flags), [1.0], mask=mask)[0], 0.5, 0.0, 0.0, 1.0)
    mask = torch.tensor([[True, True, False, False, True]])
    near(advantages(stage("reinforce_pp", flags), [2.0], mask=mask)[0], 0.5, 1.0, 0.0, 0.0, 2.0)


def test_opo_of_verl_weighs_the_baseline_by_length() -> None:
    mask = torch.arange(3) < torch.tensor([[2], [1], [3]])
    found = advantages(preset("opo", "verl"), R, mask=mask)[:, 0]
    near(found, 2 / 3, -1 / 3, -1 / 3)


@pytest.mark.parametrize("ended", ["cut", "terminated"])
def test_gae_of_stable_baselines3_where_an_episode_is_cut_and_where_it_ends(ended: str) -> None:
    """By its RolloutBuffer, given γ V(s') in the reward of a step that was cut, as it is there."""
    steps = Experience(
        mask=torch.ones(1, 4, dtype=torch.bool),
        group=torch.zeros(1, dtype=torch.int64),
        rewards=tensor(0.0),
        step_rewards=tensor([1.0, 2.0, 3.0, 4.0]),
        values=tensor([0.5, 0.4, 0.3, 0.2]),
        next_values=tensor([0.4, 0.7, 0.2, 0.6]),  # 0.7 is that of the last state of the episode
        **{
            name: torch.tensor([[False, name == ended, False, False]])
            for name in ("cut", "terminated")
        },
    )
    found = assign(steps, Credit(shapers=(earned,), returns=step_gae(0.9, 0.8)))
    first = {"cut": (2.4656, 2.23), "terminated": (2.012, 1.6)}[ended]
    near(found.advantages[0], *first, 6.0048, 4.34, digits=1e-5)
    assert found.value_targets is not None
    near(found.value_targets[0, 2:], 6.3048, 4.54, digits=1e-5)


V = tensor([0.5, 0.6, 0.7])
PLAIN = {"credit__normalisation": "none", "kl__coefficient": 0.0}


@pytest.mark.parametrize(
    ("peer", "whitened"),
    [
        ("TRL", (0.992025, 0.015760, -1.007786)),
        ("verl", (0.992025, 0.015760, -1.007786)),
        # by the population: √(3/2) times as large
        ("OpenRLHF", (0.992025 * 1.5**0.5, 0.015760 * 1.5**0.5, -1.007786 * 1.5**0.5)),
    ],
)
def test_whitened_gae(peer: str, whitened: tuple[float, ...]) -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    more = {"credit__gamma": 0.99, "credit__lambda": 0.95, "kl__coefficient": 0.0}
    found = advantages(preset("ppo", peer, **more), [1.0], mask=mask, values=V)[0]
    near(found, *whitened, digits=5e-6)


def test_gae_before_its_whitening() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    one = preset("ppo", "TRL", credit__gamma=0.99, **PLAIN)
    near(advantages(one, [1.0], mask=mask, values=V)[0], 0.446829, 0.375150, 0.3)


@pytest.mark.parametrize(
    ("gamma", "lam", "first", "second"),
    [(1.0, 1.0, 0.9, 0.8), (1.0, 0.95, 0.8315, 0.77), (0.99, 0.95, 0.813062, 0.7603)],
)
def test_gae_of_verl_does_as_if_the_text_of_a_tool_were_not_there(
    gamma: float, lam: float, first: float, second: float
) -> None:
    """OpenRLHF has 0.7417, 0.6754, 0.6 for the second line: it bootstraps from 0 at the gap."""
    mask = torch.tensor([[True, True, False, False, True]])
    values = tensor([0.1, 0.2, 9.0, 9.0, 0.4])
    one = preset("ppo", "verl", credit__gamma=gamma, credit__lambda=lam, **PLAIN)
    near(advantages(one, [1.0], mask=mask, values=values)[0], first, second, 0.0, 0.0, 0.6)


@pytest.mark.parametrize(("peer", "expected"), [("TRL", 0.32), ("verl", 0.125)])
def test_the_value_loss_clips_at_another_distance(peer: str, expected: float) -> None:
    """V = 0.9, before the update 0, the return 1."""
    mask = torch.ones(1, 1, dtype=torch.bool)
    group = torch.zeros(1, dtype=torch.int64)
    experience = Experience(mask, group, tensor(1.0), values=tensor([0.0]))
    credited = Advantages(tensor([1.0]), mask, mask.any(-1), value_targets=tensor([1.0]))
    loss = critic_loss(preset("ppo", peer))
    value, _ = loss.value(Outputs(values=tensor([0.9])), loss.terms(experience, credited))
    assert float(value) == pytest.approx(expected)


def test_gpg_of_verl_is_a_multiple_of_a_recipe() -> None:
    """Its advantages of 1, 0, 0, 0 are 3 and -1."""
    found = advantages(stage("pg", {"credit.baseline": "group_mean"}), [1, 0, 0, 0])[:, 0]
    near(4 * found, 3.0, -1.0, -1.0, -1.0)


# Losses: two responses of three and two tokens with advantages 2 and -1.5

OLD = tensor([-1.0, -0.7, -0.2], [-0.5, -1.2, NAN])
NEW = tensor([-0.8, -0.9, -0.1], [-0.9, -1.0, NAN])
MASK = ~torch.isnan(OLD)
ADVANTAGES = torch.where(MASK, tensor([2.0], [-1.5]), 0.0)
POLICY_ALONE = {"kl__coefficient": 0.0}


def loss_of(
    one: StageRecipe,
    logp: Tensor = NEW,
    logp_old: Tensor = OLD,
    advantages: Tensor = ADVANTAGES,
) -> tuple[float, Tensor]:
    """Loss of the policy, and its gradient with respect to log π."""
    mask = ~torch.isnan(logp_old)
    experience = Experience(
        mask=mask,
        group=torch.arange(len(mask)),
        rewards=torch.zeros(len(mask), dtype=torch.float64),
        logp=logp,
        logp_old=logp_old,
    )
    objective, live = objective_of(one), logp.clone().requires_grad_()
    credited = Advantages(advantages, mask, mask.any(-1))
    terms = step_terms(experience, credited, objective, logp)
    loss, _ = policy_loss(live, None, terms, objective)
    (gradient,) = torch.autograd.grad(loss, live)
    return float(loss.detach()), gradient


BOTH = {"objective__clip_low": 0.2, "objective__clip_high": 0.2}  # of the fixture


@pytest.mark.parametrize(
    ("method", "peer", "more", "expected"),
    [
        ("grpo", "TRL", POLICY_ALONE, -0.283275),
        ("grpo", "OpenRLHF", POLICY_ALONE, -0.643140),
        ("grpo", "verl", POLICY_ALONE, -0.643140),
        ("dr_grpo", "TRL", {"objective__aggregation_length": 4}, -0.401962),
        ("dr_grpo", "verl", {"objective__aggregation_length": 4}, -0.401962),
        ("dr_grpo", "OpenRLHF", {}, -0.643140),
        ("dapo", "TRL", {}, -0.643140),
        ("gspo", "TRL, OpenRLHF, verl", BOTH, -0.355267),
        ("gspo", "TRL as LUSPO", BOTH, -1.744429),
        ("gmpo", "verl", BOTH, -0.283895),
        ("sapo", "TRL", {}, -0.659452),
        ("sapo", "verl", {}, -0.659452),
        ("sapo", "verl", {"objective__aggregation": "token_mean"}, -1.346868),  # what verl ignores
        ("cispo", "verl", {}, 0.146950),
        ("cispo", "TRL with epsilon_high = 5", {}, 0.182392),
    ],
)
def test_losses(method: str, peer: str, more: dict[str, Any], expected: float) -> None:
    loss, _ = loss_of(preset(method, peer, **more))
    assert loss == pytest.approx(expected, abs=1e-6)


def test_cispo_of_trl_by_default_has_a_fifth_of_the_gradient_or_less() -> None:
    """All ratios of the fixture are above 0.2, so that every weight is 0.2."""
    _, small = loss_of(preset("cispo", "TRL by default"))
    _, whole = loss_of(preset("cispo", "TRL with epsilon_high = 5"))
    times = (whole[MASK] / small[MASK]).tolist()
    assert min(times) == pytest.approx(3.4, abs=0.06)
    assert max(times) == pytest.approx(6.1, abs=0.06)


RATIOS = (0.5, 0.9, 1.0, 1.1, 1.5, 5.0)


@pytest.mark.parametrize(
    ("peer", "advantage", "losses", "gradients"),
    [
        ("TRL", 1, (-0.5, -0.9, -1, -1.1, -1.2, -1.2), (-0.5, -0.9, -1, -1.1, 0, 0)),
        ("TRL", -1, (0.8, 0.9, 1, 1.1, 1.5, 5), (0, 0.9, 1, 1.1, 1.5, 5)),
        ("OpenRLHF", -1, (0.8, 0.9, 1, 1.1, 1.5, 5), (0, 0.9, 1, 1.1, 1.5, 5)),
        ("verl", -1, (0.8, 0.9, 1, 1.1, 1.5, 3), (0, 0.9, 1, 1.1, 1.5, 0)),
    ],
)
def test_the_clip_of_one_token(
    peer: str, advantage: int, losses: tuple[float, ...], gradients: tuple[float, ...]
) -> None:
    one = preset("grpo", peer, **POLICY_ALONE)
    for ratio, wanted, slope in zip(RATIOS, losses, gradients, strict=True):
        loss, gradient = loss_of(
            one, tensor([ratio]).log(), tensor([0.0]), tensor([float(advantage)])
        )
        assert (loss, gradient.item()) == pytest.approx((wanted, slope))


def test_rloo_of_trl_clips_the_product_of_the_ratios_once() -> None:
    """ρ = 1.1² = 1.21 is clipped to 1.2 where A > 0; token by token nothing is."""
    logp, old = tensor([1.1, 1.1]).log(), tensor([0.0, 0.0])
    loss, gradient = loss_of(preset("rloo", "TRL", **POLICY_ALONE), logp, old, tensor([1.0, 1.0]))
    assert loss == pytest.approx(-1.2)
    assert not gradient.any()
    loss, gradient = loss_of(
        preset("rloo", "OpenRLHF", **POLICY_ALONE), logp, old, tensor([1.0, 1.0])
    )
    assert loss == pytest.approx(-1.1)
    assert gradient.all()


@pytest.mark.parametrize(("advantage", "drift", "kept"), [(1, 2.0, 1), (-1, 0.5, 1), (-1, 2.0, 0)])
def test_the_mask_of_trl_drops_bad_and_stale_responses(
    advantage: int, drift: float, kept: int
) -> None:
    settings = {"objective__drift": 1.0, "objective__clip_low": 0.99}
    one = preset("dsv32_grpo", "TRL", **POLICY_ALONE, **settings)
    old = tensor([0.0, 0.0])
    _, gradient = loss_of(one, old - drift, old, tensor([float(advantage)] * 2))
    assert bool(gradient.any()) == bool(kept)


def kl_of(one: StageRecipe, x: float) -> tuple[float, float]:
    """Loss and gradient of one token without a reward, log π - log π_ref = x."""
    objective, live = objective_of(one), tensor([x]).requires_grad_()
    experience = Experience(
        mask=torch.ones(1, 1, dtype=torch.bool),
        group=torch.zeros(1, dtype=torch.int64),
        rewards=tensor(0.0),
        logp_old=tensor([x]),
        logp_ref=tensor([0.0]),
    )
    credited = Advantages(tensor([0.0]), experience.mask, experience.mask.any(-1))
    loss, _ = policy_loss(live, None, step_terms(experience, credited, objective), objective)
    (gradient,) = torch.autograd.grad(loss, live)
    return float(loss.detach()), gradient.item()


def test_k3_of_verl_has_the_gradient_of_k2() -> None:
    _, gradient = kl_of(preset("dsv32_grpo", "verl", kl__coefficient=1.0), 0.5)
    assert gradient == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("x", "estimator", "value", "slope"),
    [
        (-0.5, "k1", -0.5, 1.0),
        (-0.5, "k2", 0.125, -0.5),
        (-0.5, "k3", 0.148721, -0.648721),
        (0.5, "k3", 0.106531, 0.393469),
        (2.0, "k3", 1.135335, 0.864665),
        (-2.61, "k3", 9.989051, -12.599051),  # verl and OpenRLHF still have it here
        (-2.62, "k3", 10.115724, -12.735724),  # and no longer here: they cut at 10
    ],
)
def test_estimators_in_the_loss(x: float, estimator: str, value: float, slope: float) -> None:
    one = stage("grpo", {"kl.coefficient": 1.0, "kl.estimator": estimator})
    assert kl_of(one, x) == pytest.approx((value, slope), abs=1e-6)


def test_the_tokens_of_a_whole_step_are_counted() -> None:
    """100 tokens at 2.0 and 900 at 0.5: 0.65, split into micro-batches or not."""
    mask = torch.arange(900) < torch.tensor([[100], [900]])
    experience = Experience(
        mask=mask, group=torch.arange(2), rewards=torch.zeros(2, dtype=torch.float64)
    )
    credited = Advantages(mask.double(), mask, mask.any(-1))
    loss = maximum_likelihood(preset("sft", "TRL"))
    terms = loss.terms(experience, credited)
    logp = torch.where(mask, -tensor([2.0], [0.5]), NAN)
    parts = [
        loss.value(Outputs(logp=logp[row]), terms.rows(row))[0]
        for row in (torch.tensor([0]), torch.tensor([1]))
    ]
    assert float(sum(parts)) == pytest.approx(0.65, abs=1e-6)
    assert row("sft").defaults()["objective.aggregation"] == "token_mean"
