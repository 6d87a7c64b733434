"""SAC on one page: swing a pendulum up, learning after every step from all steps so far.

A torque that is too weak to lift the pole at once has to swing it. The policy is a Gaussian behind
a tanh. Two critics learn what an action is worth, entropy included; the policy follows the gradient
of the smaller of the two through its own actions; and a temperature sets what entropy is worth, so
that the policy stays as undecided as it is told to.

    python examples/one_file/sac.py

The row ``sac`` of polopt takes the same steps, bit for bit, for policy, critics, targets and
temperature (tests/examples_one_file). Here the method can be read at once; in the library it can be
changed, measured and resumed.

Haarnoja et al. 2018, arXiv:1812.05905, Eq. 5, 9 and 18.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


@dataclass(frozen=True)
class Config:
    """Change a number and run again."""

    seed: int = 1
    steps: int = 10_000  # of the environment
    random_steps: int = 1000  # before anything is learned
    batch: int = 128  # stored steps for one update
    hidden: int = 64
    rate: float = 1e-3  # of policy, critics and temperature, down to 0 at the end
    gamma: float = 0.99
    tau: float = 0.005  # share of the way that the targets go
    alpha: float = 1.0  # the temperature at first
    target_entropy: float = -1.0  # minus the numbers of an action


# The task: gymnasium's Pendulum-v1 ----------------------------------------------------------------

OBSERVED, NUMBERS, STRONGEST, LIMIT = 3, 1, 2.0, 200  # an episode is cut after so many steps


class State(NamedTuple):
    """Angle, 0 is up, and speed."""

    angle: float
    speed: float


def start(dice: torch.Generator) -> State:
    """Any angle, a speed up to 1."""
    angle, speed = (2 * torch.rand(2, generator=dice, dtype=torch.float64) - 1).tolist()
    return State(math.pi * angle, speed)


def observe(state: State) -> Tensor:
    """The angle as a point on the circle, and the speed."""
    return torch.tensor([math.cos(state.angle), math.sin(state.angle), state.speed])


def move(state: State, action: float) -> tuple[State, float]:
    """What an action between -1 and 1 leads to, and its reward: upright, slow, at rest."""
    torque = STRONGEST * action
    lean = (state.angle + math.pi) % (2 * math.pi) - math.pi
    reward = -(lean**2 + 0.1 * state.speed**2 + 0.001 * torque**2)
    speed = state.speed + (15.0 * math.sin(state.angle) + 3.0 * torque) * 0.05
    speed = min(max(speed, -8.0), 8.0)
    return State(state.angle + 0.05 * speed, speed), reward


# Networks -----------------------------------------------------------------------------------------


def linear(before: int, after: int, dice: torch.Generator) -> nn.Linear:
    """Weights and biases uniform within 1/√before."""
    layer, bound = nn.Linear(before, after), 1 / math.sqrt(before)
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -bound, bound, generator=dice)
    return layer


def new_policy(config: Config, dice: torch.Generator) -> nn.Sequential:
    """From an observation to mean and log standard deviation of each number of an action."""
    wide = config.hidden
    return nn.Sequential(
        linear(OBSERVED, wide, dice),
        nn.ReLU(),
        linear(wide, wide, dice),
        nn.ReLU(),
        linear(wide, 2 * NUMBERS, dice),
    )


class Critics(nn.Module):
    """Q₁ and Q₂ side by side, ``[2, B]``: one product of matrices for both."""

    def __init__(self, config: Config, dice: torch.Generator) -> None:
        super().__init__()
        sizes = [OBSERVED + NUMBERS, config.hidden, config.hidden, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise(sizes):
            each = [linear(before, after, dice) for _ in range(2)]
            weights, biases = [one.weight.T for one in each], [one.bias[None] for one in each]
            self.weights.append(nn.Parameter(torch.stack(weights).detach()))
            self.biases.append(nn.Parameter(torch.stack(biases).detach()))

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Of observations ``[B, O]`` and actions ``[B, D]``."""
        pairs = torch.cat([observations, actions], -1)
        out = pairs.expand(2, *pairs.shape)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            out = torch.baddbmm(bias, out, weight).relu()
        return torch.baddbmm(self.biases[-1], out, self.weights[-1])[..., 0]


def draw(policy: nn.Module, seen: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """``a = tanh(μ + σ n)`` ``[B, D]`` and ``log π(a)`` ``[B]``; the gradient goes through both."""
    mean, log_std = policy(seen).chunk(2, -1)
    log_std = log_std.clamp(-20.0, 2.0)
    u = mean + log_std.exp() * torch.randn(mean.shape, generator=dice)
    z = (u - mean) * (-log_std).exp()
    gaussian = -0.5 * z.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    return u.tanh(), (gaussian - log_slope(u)).sum(-1)


def log_slope(u: Tensor) -> Tensor:
    """``log(1 - tanh²u)`` in a form that does not vanish for large u."""
    return 2.0 * (math.log(2.0) - u - softplus(-2.0 * u))


# SAC ----------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Steps from anywhere in the past."""

    observations: Tensor  # [B, O]
    actions: Tensor  # [B, D]
    successors: Tensor  # [B, O] the true ones, also where an episode was cut
    rewards: Tensor  # [B]
    terminated: Tensor  # [B] where nothing follows; a time limit is no end


class Learner:
    """Everything with weights, and the three optimisers."""

    def __init__(self, config: Config, dice: torch.Generator) -> None:
        self.config = config
        self.policy, self.critics = new_policy(config, dice), Critics(config, dice)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(config.alpha).log())
        self.optimisers = [
            adam(self.policy.parameters(), config.rate),
            adam(self.critics.parameters(), config.rate),
            adam([self.log_alpha], config.rate),
        ]

    def learn(self, batch: Batch, dice: tuple[torch.Generator, torch.Generator]) -> None:
        """One step of the critics, then of policy and temperature; then the targets follow."""
        of_policy, of_critics, of_alpha = self.optimisers
        descend(of_critics, self.critic_loss(batch, dice[0]))
        actions, logp = draw(self.policy, batch.observations, dice[1])
        # The critics are asked and stay: what this leaves in their gradients is thrown away.
        q = self.critics(batch.observations, actions)
        alpha = self.log_alpha.detach().exp()
        descend(of_policy, (alpha * logp - torch.minimum(q[0], q[1])).mean())
        above = (logp + self.config.target_entropy).detach()  # the target less the entropy
        descend(of_alpha, -(self.log_alpha * above).mean())
        with torch.no_grad():
            for lagged, one in zip(
                self.targets.parameters(), self.critics.parameters(), strict=True
            ):
                lagged.copy_(torch.lerp(lagged, one, self.config.tau))

    def critic_loss(self, batch: Batch, dice: torch.Generator) -> Tensor:
        """``Σₖ E[(Qₖ - y)²]``, ``y = r + γ(1 - terminated)[min Q′(s′, a′) - α log π(a′|s′)]``."""
        with torch.no_grad():
            actions, logp = draw(self.policy, batch.successors, dice)  # of the policy of now
            q = self.targets(batch.successors, actions)
            soft = torch.minimum(q[0], q[1]) - self.log_alpha.exp() * logp
            y = batch.rewards + self.config.gamma * torch.where(batch.terminated, 0.0, soft)
        q = self.critics(batch.observations, batch.actions)
        return (q - y).square().mean(-1).sum()


def adam(weights: object, rate: float) -> torch.optim.Optimizer:
    """Adam; fused is one kernel instead of a dozen for each weight."""
    return torch.optim.AdamW(weights, lr=rate, weight_decay=0.0, fused=True)  # type: ignore[arg-type]


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step against the gradient."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


# Acting and learning in turns ---------------------------------------------------------------------


@torch.no_grad()
def evaluate(policy: nn.Module, episodes: int = 50) -> float:
    """Mean return of the actions without noise, from starts of their own."""
    dice, total = torch.Generator().manual_seed(12345), 0.0
    states = [start(dice) for _ in range(episodes)]
    for _ in range(LIMIT):
        mean, _ = policy(torch.stack([observe(state) for state in states])).chunk(2, -1)
        moved = [move(s, a) for s, a in zip(states, mean.tanh()[:, 0].tolist(), strict=True)]
        states = [state for state, _ in moved]
        total += sum(reward for _, reward in moved)
    return total / episodes


def main(config: Config) -> None:
    """Learn, and tell of it every thousand steps."""
    began = time.perf_counter()
    torch.manual_seed(config.seed)
    dice = torch.Generator().manual_seed(config.seed)
    learner = Learner(config, dice)
    table = torch.zeros(config.steps, 2 * OBSERVED + NUMBERS + 1)  # all steps; no ring is needed
    state, age = start(dice), 0
    print(" steps   alpha  return without noise")
    for step in range(config.steps):
        seen = observe(state)
        action = 2 * torch.rand(NUMBERS, generator=dice) - 1
        if step >= config.random_steps:
            action = draw(learner.policy, seen[None], dice)[0][0].detach()
        state, reward = move(state, float(action))
        table[step] = torch.cat([seen, action, observe(state), torch.tensor([reward])])
        age += 1
        if age == LIMIT:  # cut, not over: what was stored keeps its successor
            state, age = start(dice), 0
        if step >= config.random_steps:
            for optimiser in learner.optimisers:
                optimiser.param_groups[0]["lr"] = config.rate * (1 - step / config.steps)
            rows = table[torch.randint(step + 1, (config.batch,), generator=dice)]
            parts = rows.split([OBSERVED, NUMBERS, OBSERVED, 1], dim=1)
            ends = torch.zeros(config.batch, dtype=torch.bool)  # a pendulum never ends
            learner.learn(Batch(*parts[:3], parts[3][:, 0], ends), (dice, dice))
        if (step + 1) % 1000 == 0:
            alpha = float(learner.log_alpha.detach().exp())
            print(f"{step + 1:6}  {alpha:6.3f}  {evaluate(learner.policy):8.1f}")
    print(f"\n{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    main(Config())
