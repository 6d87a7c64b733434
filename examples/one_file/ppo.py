"""PPO on one page: a language model, a critic, and what lets both learn from what is sampled.

A small model with random weights first imitates demonstrations of a reversal, ``cabbed=debbac``,
by a careless teacher: of the letters every sixth is any. Imitation copies the slips. Then right
answers are rewarded, one number for a whole response. A critic learns what to expect of each
beginning of one, the policy takes clipped steps towards what came out better than expected, and the
KL divergence to the imitation costs a little reward on every token.

    python examples/one_file/ppo.py
    python examples/one_file/ppo.py cartpole

The second line balances a pole on a cart by the same functions: whether a step is a token or a push
of the cart, they never ask. The row ``ppo`` of polopt takes the same steps, bit for bit, for policy
and critic (tests/examples_one_file). Here the method can be read at once; in the library it can be
changed, measured and resumed.

Schulman et al. 2017, arXiv:1707.06347, Eq. 7; GAE: Schulman et al. 2016, arXiv:1506.02438, Eq. 16;
for language models: Ziegler et al. 2019, arXiv:1909.08593.
"""

from __future__ import annotations

import copy
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification


@dataclass(frozen=True)
class Config:
    """Change a number and run again."""

    seed: int = 1
    # the task
    letters: int = 6  # to reverse
    alphabet: int = 8
    slips: float = 0.17  # share of the letters of a demonstration that are drawn blindly
    response: int = 8  # tokens of the longest response; the answer and its end are 7
    # the models
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    # imitation
    warm_steps: int = 2000  # at most
    warm_batch: int = 64
    warm_rate: float = 1e-3
    warm_until: float = 0.95  # accuracy of the most likely answers
    # policy optimisation
    steps: int = 60
    batch: int = 128  # responses in a step
    epochs: int = 4  # passes over a batch
    minibatches: int = 2  # optimiser steps in a pass
    rate: float = 2e-4
    critic_rate: float = 3e-4
    gamma: float = 1.0
    lam: float = 0.95  # of GAE
    clip: float = 0.2  # of the ratio
    value_clip: float = 0.2  # of the change of a value
    kl: float = 0.02
    max_grad_norm: float = 1.0


# The task: its verifier is one line ---------------------------------------------------------------

END, CHARACTERS = 0, "=abcdefghijklmnopqrstuvwxyz"  # token 0 ends a response and fills up


class Problem(NamedTuple):
    """One string: ``Problem("cab=", "bac", "bbc")``."""

    prompt: str
    answer: str
    demonstration: str


def problems(config: Config, split: str) -> Iterator[Problem]:
    """An endless stream for ``training`` or ``evaluation``; no prompt is in both."""
    source, alphabet = random.Random(f"{config.seed}/{split}"), CHARACTERS[1 : 1 + config.alphabet]
    while True:
        text = "".join(source.choices(alphabet, k=config.letters))
        slips = [source.random() < config.slips for _ in text]
        careless = [source.choice(alphabet) if s else c for s, c in zip(slips, text, strict=True)]
        if (zlib.crc32(text.encode()) % 4 == 0) == (split == "evaluation"):
            yield Problem(text + "=", text[::-1], "".join(reversed(careless)))


def reward(completion: str, answer: str) -> float:
    """1 for the answer and nothing else, else 0."""
    return float(completion == answer)


def encode(texts: Iterable[str], width: int = 0) -> Tensor:
    """Texts as rows of tokens, filled up to ``width``; one token a character."""
    rows = [[1 + CHARACTERS.index(c) for c in text] for text in texts]
    return torch.tensor([row + [END] * (width - len(row)) for row in rows])


def decode(tokens: Tensor) -> list[str]:
    """The texts of responses, up to the end of each."""
    rows = [row[: [*row, END].index(END)] for row in tokens.tolist()]
    return ["".join(CHARACTERS[token - 1] for token in row) for row in rows]


# Policy and critic --------------------------------------------------------------------------------


def new_policy(config: Config) -> LlamaForCausalLM:
    """A Llama with random weights. No dropout: the ratio is 1 until the weights have moved."""
    torch.manual_seed(config.seed)
    size = LlamaConfig(
        vocab_size=1 + len(CHARACTERS),
        hidden_size=config.hidden,
        intermediate_size=4 * config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
    )
    return LlamaForCausalLM(size).eval()


def new_critic(policy: LlamaForCausalLM) -> LlamaForSequenceClassification:
    """The trunk of the policy, copied, under one output that says 0 of everything.

    A model of its own: its error is another loss, and would pull at the policy's features.
    """
    size = copy.deepcopy(policy.config)
    size.num_labels = 1
    critic = LlamaForSequenceClassification(size).eval()
    critic.model.load_state_dict(policy.model.state_dict())
    torch.nn.init.zeros_(critic.score.weight)
    return critic


def sampled_mask(responses: Tensor) -> Tensor:
    """``[B, T]`` True where the policy chose the token: up to the first end, which it chose too."""
    ends = (responses == END).long()
    return ends.cumsum(1) - ends == 0


@torch.no_grad()
def sample(
    policy: LlamaForCausalLM, prompts: Tensor, config: Config, dice: torch.Generator | None
) -> Tensor:
    """``[B, P + T]`` prompts (all of one width) and what the policy says to them.

    At temperature 1 and from all tokens: training needs the probability of what was drawn. Without
    dice the most likely token each time.
    """
    tokens, seen, cache = prompts, prompts, None
    done = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(config.response):
        out = policy(seen, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        chances = out.logits[:, -1].softmax(-1)
        if dice is None:
            drawn = chances.argmax(-1, keepdim=True)
        else:
            drawn = torch.multinomial(chances, 1, generator=dice)
        seen = torch.where(done[:, None], END, drawn)
        tokens = torch.cat([tokens, seen], dim=1)
        done |= seen[:, 0] == END
    return tokens


def attention(tokens: Tensor, mask: Tensor) -> Tensor:
    """Prompt and response, not what fills up."""
    return torch.cat([torch.ones_like(tokens[:, : -mask.shape[1]]), mask.long()], dim=1)


def log_probs(policy: LlamaForCausalLM, tokens: Tensor, mask: Tensor) -> Tensor:
    """``log π(yₜ | x, y_<t)`` of every token of the responses, ``[B, T]``."""
    width = mask.shape[1]
    # The column before the response predicts its first token, the last column predicts nothing.
    out = policy(tokens, attention_mask=attention(tokens, mask), logits_to_keep=width + 1)
    return out.logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, -width:, None])[..., 0]


def values(critic: LlamaForSequenceClassification, tokens: Tensor, mask: Tensor) -> Tensor:
    """``V(sₜ)`` of the state before every token of the responses, ``[B, T]``."""
    states = critic.model(tokens, attention_mask=attention(tokens, mask)).last_hidden_state
    return critic.score(states[:, -mask.shape[1] - 1 : -1])[..., 0]


# PPO: functions of tensors [B, T], whatever a step is ---------------------------------------------


def gae(
    rewards: Tensor, values: Tensor, next_values: Tensor, discount: Tensor, trace: Tensor
) -> Tensor:
    """``Aₜ = δₜ + discountₜ traceₜ Aₜ₊₁``, ``δₜ = rₜ + discountₜ V(sₜ₊₁) - V(sₜ)``.

    The end of an episode is a discount of 0, a cut before its end a trace of 0. trace 1 is the
    return less the value (no bias, much variance), trace 0 one step and the critic's word for the
    rest (much bias, little variance).
    """
    deltas = rewards + discount * next_values - values
    advantages, later = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        later = deltas[:, t] + discount[:, t] * trace[:, t] * later
        advantages[:, t] = later
    return advantages


def normalised(advantages: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the steps of the batch that count."""
    centred = torch.where(mask, advantages - advantages.sum() / mask.sum(), 0.0)
    return centred / (centred.square().sum() / (mask.sum() - 1) + 1e-8).sqrt()


def policy_loss(
    logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """``max(-ρA, -clip(ρ, 1-ε, 1+ε)A)``, mean over the steps that count.

    The larger of the two losses: the clip takes an incentive away, it never adds one.
    """
    # Padding first: 0 in every difference, so that nothing there can overflow on its way to a sum.
    ratio = (torch.where(mask, logp, 0.0) - torch.where(mask, logp_old, 0.0)).exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    return torch.where(mask, loss, 0.0).sum() / mask.sum()


def value_loss(
    values: Tensor, values_old: Tensor, targets: Tensor, mask: Tensor, clip: float | None
) -> Tensor:
    """``½ max((V-R)², (V_old + clip(V-V_old, -ε, ε) - R)²)``, mean over the steps that count."""
    values, values_old = (torch.where(mask, x, 0.0) for x in (values, values_old))
    loss = (values - targets).square() / 2
    if clip is not None:
        near = values_old + (values - values_old).clamp(-clip, clip)
        loss = torch.maximum(loss, (near - targets).square() / 2)
    return torch.where(mask, loss, 0.0).sum() / mask.sum()


def update(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[Tensor], Tensor],
    minibatches: Iterable[Tensor],
    max_grad_norm: float,
) -> None:
    """An optimiser step on ``loss(rows)`` of each minibatch."""
    for rows in minibatches:
        optimiser.zero_grad()
        loss(rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimiser.step()


def shuffled(rows: int, epochs: int, minibatches: int, dice: torch.Generator) -> Iterator[Tensor]:
    """The minibatches of a batch: every epoch in a new order."""
    for _ in range(epochs):
        yield from torch.randperm(rows, generator=dice).tensor_split(minibatches)


# PPO of a language model: a step is a token -------------------------------------------------------


class Batch(NamedTuple):
    """What one step of PPO learns from. All of it is fixed while policy and critic move."""

    tokens: Tensor  # [B, P + T]
    mask: Tensor  # [B, T]
    logp_old: Tensor  # [B, T] of the policy that sampled: the anchor of the ratio
    values_old: Tensor  # [B, T] of the critic before the update
    advantages: Tensor  # [B, T] normalised: what the policy learns from
    targets: Tensor  # [B, T] not normalised: what the critic learns


def token_rewards(
    scores: Tensor, logp_old: Tensor, logp_ref: Tensor, mask: Tensor, kl: float
) -> Tensor:
    """``-β (log π_old - log π_ref)`` on every token, and the score on the last one.

    In the reward, and so fixed during the update: of each token the divergence of what comes after
    it is a consequence too, and the return holds it against that token.
    """
    penalty = -kl * (torch.where(mask, logp_old, 0.0) - torch.where(mask, logp_ref, 0.0))
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    return penalty + torch.where(last, scores[:, None], 0.0)


def credited(
    tokens: Tensor,
    mask: Tensor,
    scores: Tensor,
    models: tuple[LlamaForCausalLM, LlamaForSequenceClassification, LlamaForCausalLM],
    config: Config,
) -> Batch:
    """Which token is praised or blamed, by policy, critic and reference before the update."""
    policy, critic, reference = models
    with torch.no_grad():
        # By the pass that trains, not by the sampler: then the first ratio is exactly 1.
        logp_old, logp_ref = (log_probs(model, tokens, mask) for model in (policy, reference))
        old = torch.where(mask, values(critic, tokens, mask), 0.0)
    rewards = token_rewards(scores, logp_old, logp_ref, mask, config.kl)
    # After the last token comes nothing, also where the response was cut: that is a failure here.
    after = torch.cat([old[:, 1:], torch.zeros_like(old[:, :1])], dim=1)
    discount, trace = (torch.full_like(old, x) for x in (config.gamma, config.lam))
    advantages = gae(rewards, old, after, discount, trace)
    return Batch(tokens, mask, logp_old, old, normalised(advantages, mask), advantages + old)


def learn(
    models: tuple[LlamaForCausalLM, LlamaForSequenceClassification],
    optimisers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    batch: Batch,
    minibatches: tuple[Iterable[Tensor], Iterable[Tensor]],
    config: Config,
) -> None:
    """Epochs of the critic, then of the policy, on one batch."""
    policy, critic = models

    def of_critic(rows: Tensor) -> Tensor:
        part = Batch(*(x[rows] for x in batch))
        said = values(critic, part.tokens, part.mask)
        return value_loss(said, part.values_old, part.targets, part.mask, config.value_clip)

    def of_policy(rows: Tensor) -> Tensor:
        part = Batch(*(x[rows] for x in batch))
        logp = log_probs(policy, part.tokens, part.mask)
        return policy_loss(logp, part.logp_old, part.advantages, part.mask, config.clip)

    update(critic, optimisers[1], of_critic, minibatches[1], config.max_grad_norm)
    update(policy, optimisers[0], of_policy, minibatches[0], config.max_grad_norm)


def rollout(
    policy: LlamaForCausalLM, stream: Iterator[Problem], config: Config, dice: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and score of one response to each of the next prompts."""
    asked = [next(stream) for _ in range(config.batch)]
    prompts = encode(problem.prompt for problem in asked)
    tokens = sample(policy, prompts, config, dice)
    responses = tokens[:, prompts.shape[1] :]
    texts = zip(decode(responses), asked, strict=True)
    scores = torch.tensor([reward(text, problem.answer) for text, problem in texts])
    return tokens, sampled_mask(responses), scores


def optimise(policy: LlamaForCausalLM, config: Config, dice: torch.Generator) -> None:
    """Policy optimisation from the weights of the warm start, which stay as the reference."""
    critic, reference = new_critic(policy), copy.deepcopy(policy)
    optimisers = adamw(policy, config.rate), adamw(critic, config.critic_rate)
    stream = problems(config, "training")
    print("\nPPO    reward      kl  explained  accuracy on unseen prompts")
    for step in range(1, config.steps + 1):
        tokens, mask, scores = rollout(policy, stream, config, dice)
        batch = credited(tokens, mask, scores, (policy, critic, reference), config)
        orders = [shuffled(config.batch, config.epochs, config.minibatches, dice) for _ in range(2)]
        learn((policy, critic), optimisers, batch, (orders[0], orders[1]), config)
        if step % 5 == 0:
            with torch.no_grad():
                apart = (batch.logp_old - log_probs(reference, tokens, mask)) * mask
            told = f"{scores.mean():6.3f}  {apart.sum(1).mean():6.3f}  {explained(batch):9.3f}"
            print(f"{step:4}   {told}  {evaluate(policy, config)[0]:.3f}")


def explained(batch: Batch) -> float:
    """``1 - Var(R - V)/Var(R)``: how much of the returns the critic knew. 0: nothing."""
    left = (batch.targets - batch.values_old)[batch.mask]
    return float(1 - left.var() / batch.targets[batch.mask].var())


# PPO in control: a step is a step -----------------------------------------------------------------


@dataclass(frozen=True)
class Cart:
    """The numbers of the pole on a cart."""

    seed: int = 1
    environments: int = 32
    horizon: int = 32  # steps of each in a batch
    steps: int = 50  # batches
    epochs: int = 10
    minibatches: int = 4
    rate: float = 2.5e-3  # of policy and critic; it falls to 0
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    max_grad_norm: float = 0.5
    hidden: int = 64
    limit: int = 500  # steps after which an episode is cut


class Played(NamedTuple):
    """T steps in each of N environments, one after the other also where an episode ends."""

    seen: Tensor  # [N, T, 4]
    after: Tensor  # [N, T, 4] what followed, not the start of the next episode
    actions: Tensor  # [N, T] 0: to the left, 1: to the right
    rewards: Tensor  # [N, T]
    fallen: Tensor  # [N, T] bool: nothing follows
    cut: Tensor  # [N, T] bool: the time was up, and what would have followed has its value


class Carts:
    """N of them, as gymnasium's CartPole-v1: x, ẋ, θ, θ̇, pushed every 20 ms."""

    def __init__(self, count: int, config: Cart, dice: torch.Generator) -> None:
        self.config, self.dice = config, dice
        self.state, self.age = self.start(count), torch.zeros(count)

    def start(self, count: int) -> Tensor:
        """All four near 0."""
        return torch.rand(count, 4, generator=self.dice, dtype=torch.float64) / 10 - 0.05

    def push(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What followed, where it fell and where time was up; there the next episode begins."""
        _, speed, angle, turn = self.state.T
        force = torch.where(actions == 1, 10.0, -10.0)
        bent = (force + 0.05 * turn**2 * angle.sin()) / 1.1
        down = 9.8 * angle.sin() - angle.cos() * bent
        bend = down / (0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1))
        pull = bent - 0.05 * bend * angle.cos() / 1.1
        rates = torch.stack([speed, pull, turn, bend], dim=1)
        after = self.state + 0.02 * rates
        fallen = (after[:, 0].abs() > 2.4) | (after[:, 2].abs() > 12 * torch.pi / 180)
        self.age += 1
        cut = self.age >= self.config.limit
        over = fallen | cut
        self.state = torch.where(over[:, None], self.start(len(over)), after)
        self.age[over] = 0
        return after.float(), fallen, cut


def network(outputs: int, last: float, config: Cart) -> torch.nn.Sequential:
    """Two hidden layers; orthogonal weights, small ones at the end: at first all is as likely."""
    sizes, parts = [4, config.hidden, config.hidden, outputs], list[torch.nn.Module]()
    for place, gain in enumerate([2**0.5, 2**0.5, last]):
        layer = torch.nn.Linear(sizes[place], sizes[place + 1])
        torch.nn.init.orthogonal_(layer.weight, gain)
        torch.nn.init.zeros_(layer.bias)
        parts += [layer, torch.nn.Tanh()]
    return torch.nn.Sequential(*parts[:-1])


def chances(policy: torch.nn.Module, seen: Tensor, actions: Tensor) -> Tensor:
    """``log π(aₜ | sₜ)``."""
    return policy(seen).log_softmax(-1).gather(-1, actions[..., None])[..., 0]


@torch.no_grad()
def play(policy: torch.nn.Module, carts: Carts, config: Cart) -> Played:
    """Act in all environments."""
    columns = list[tuple[Tensor, ...]]()
    for _ in range(config.horizon):
        seen = carts.state.float()
        actions = torch.multinomial(policy(seen).softmax(-1), 1, generator=carts.dice)[:, 0]
        after, fallen, cut = carts.push(actions)
        columns.append((seen, after, actions, torch.ones(len(seen)), fallen, cut))
    return Played(*(torch.stack(column, dim=1) for column in zip(*columns, strict=True)))


def weighed(
    played: Played, policy: torch.nn.Module, critic: torch.nn.Module, config: Cart
) -> Batch:
    """Which push is praised or blamed. One row a step, and no padding: every step counts."""
    with torch.no_grad():
        logp = chances(policy, played.seen, played.actions)
        old, after = critic(played.seen)[..., 0], critic(played.after)[..., 0]
    discount = torch.where(played.fallen, 0.0, torch.full_like(old, config.gamma))
    trace = torch.where(played.cut, 0.0, torch.full_like(old, config.lam))
    advantages = gae(played.rewards, old, after, discount, trace)
    mask = torch.ones_like(played.fallen)
    fixed = (mask, logp, old, normalised(advantages, mask), advantages + old)
    return Batch(torch.arange(mask.numel()), *(x.flatten() for x in fixed))


def steer(
    models: tuple[torch.nn.Module, torch.nn.Module],
    optimisers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    played: Played,
    minibatches: tuple[Iterable[Tensor], Iterable[Tensor]],
    config: Cart,
) -> None:
    """Epochs of the critic, then of the policy, on one batch."""
    policy, critic = models
    batch = weighed(played, policy, critic, config)
    seen, actions = played.seen.flatten(0, 1), played.actions.flatten()

    def of_critic(rows: Tensor) -> Tensor:
        part = Batch(*(x[rows] for x in batch))
        said = critic(seen[rows])[..., 0]
        return value_loss(said, part.values_old, part.targets, part.mask, None)

    def of_policy(rows: Tensor) -> Tensor:
        part = Batch(*(x[rows] for x in batch))
        logp = chances(policy, seen[rows], actions[rows])
        return policy_loss(logp, part.logp_old, part.advantages, part.mask, config.clip)

    update(critic, optimisers[1], of_critic, minibatches[1], config.max_grad_norm)
    update(policy, optimisers[0], of_policy, minibatches[0], config.max_grad_norm)


@torch.no_grad()
def balanced(policy: torch.nn.Module, config: Cart, count: int = 100) -> float:
    """Mean length of episodes in which the likelier push is taken; 500 is all there is."""
    carts = Carts(count, config, torch.Generator().manual_seed(10_000))
    standing, total = torch.ones(count, dtype=torch.bool), torch.zeros(count)
    while standing.any():
        total += standing
        _, fallen, cut = carts.push(policy(carts.state.float()).argmax(-1))
        standing &= ~(fallen | cut)
    return float(total.mean())


def balance(config: Cart) -> torch.nn.Sequential:
    """Play, credit, learn, again and again."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    start, dice = time.perf_counter(), torch.Generator().manual_seed(config.seed)
    models = network(2, 0.01, config), network(1, 1.0, config)
    optimisers = adamw(models[0], config.rate), adamw(models[1], config.rate)
    carts, rows = Carts(config.environments, config, dice), config.environments * config.horizon
    print("PPO   pushes  episode without noise")
    for step in range(1, config.steps + 1):
        for optimiser in optimisers:
            optimiser.param_groups[0]["lr"] = config.rate * (1 - (step - 1) / config.steps)
        orders = [shuffled(rows, config.epochs, config.minibatches, dice) for _ in range(2)]
        steer(models, optimisers, play(models[0], carts, config), (orders[0], orders[1]), config)
        if step % 5 == 0:
            print(f"{step:4}  {step * rows:6}  {balanced(models[0], config):21.1f}")
    print(f"\n{time.perf_counter() - start:.0f} seconds")
    return models[0]


# What comes before, and what comes out ------------------------------------------------------------


def adamw(model: torch.nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW; fused is one kernel instead of a dozen for each weight."""
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)


def imitate(policy: LlamaForCausalLM, config: Config) -> None:
    """Supervised warm start, until the most likely answers are right.

    It ends on that criterion and not after a count of steps, which differs between seeds.
    """
    optimiser = adamw(policy, config.warm_rate)
    stream = problems(config, "training")
    print("imitation  nll    accuracy  most likely answer")
    for step in range(1, config.warm_steps + 1):
        shown = [next(stream) for _ in range(config.warm_batch)]
        responses = encode((problem.demonstration for problem in shown), config.response)
        mask = sampled_mask(responses)
        tokens = torch.cat([encode(problem.prompt for problem in shown), responses], dim=1)
        optimiser.zero_grad()
        nll = -(log_probs(policy, tokens, mask) * mask).sum() / mask.sum()
        nll.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimiser.step()
        if step % 25 == 0:
            accuracy, most_likely = evaluate(policy, config)
            print(f"{step:6}   {nll.item():6.3f}  {accuracy:8.3f}  {most_likely:18.3f}")
            if most_likely >= config.warm_until:
                break


def evaluate(policy: LlamaForCausalLM, config: Config, count: int = 256) -> tuple[float, float]:
    """Accuracy on unseen prompts: of sampled answers, and of the most likely ones."""
    stream = problems(config, "evaluation")  # the same prompts and the same dice every time
    asked = [next(stream) for _ in range(count)]
    prompts = encode(problem.prompt for problem in asked)
    right = list[float]()
    for dice in (torch.Generator().manual_seed(config.seed), None):
        texts = decode(sample(policy, prompts, config, dice)[:, prompts.shape[1] :])
        marks = [reward(text, problem.answer) for text, problem in zip(texts, asked, strict=True)]
        right.append(sum(marks) / count)
    return right[0], right[1]


def main(config: Config) -> LlamaForCausalLM:
    """Imitate, then optimise."""
    torch.set_num_threads(1)  # a model this small is faster on one
    start = time.perf_counter()
    policy = new_policy(config)
    imitate(policy, config)
    optimise(policy, config, torch.Generator().manual_seed(config.seed))
    print(f"\n{time.perf_counter() - start:.0f} seconds")
    return policy


if __name__ == "__main__":
    if sys.argv[1:] == ["cartpole"]:
        balance(Cart())
    else:
        main(Config())
