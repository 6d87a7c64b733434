"""GRPO on one page: all that a language model needs to learn by policy optimisation.

A small model with random weights first imitates demonstrations of chained sums. Most of them answer
``3+1-4+2=`` at once by ``>2``, some work it out: ``3+1=4;4-4=0;0+2=2>2`` (modulo 5). Imitation
copies the mixture. Then right answers are rewarded, and the policy finds out by itself which of the
two ways earns more.

    python examples/one_file/grpo.py

The row ``grpo`` of polopt takes the same steps, bit for bit (tests/examples_one_file). Here the
method can be read at once; in the library it can be changed, measured and resumed.

Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, Eq. 3 and 4.
"""

from __future__ import annotations

import copy
import random
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class Config:
    """Change a number and run again."""

    seed: int = 1
    # the task
    terms: int = 4
    modulus: int = 5  # of every result
    direct_share: float = 0.6  # of the demonstrations: no working
    response: int = 20  # tokens of the longest response; working, answer and end are 20
    # the model
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    # imitation
    warm_steps: int = 1500  # at most
    warm_batch: int = 64
    warm_rate: float = 3e-3
    warm_until: float = 0.95  # share of what is worked out that is right
    # policy optimisation
    steps: int = 40
    prompts: int = 16
    group: int = 8  # responses to a prompt
    epochs: int = 2  # passes over a batch
    minibatches: int = 2  # optimiser steps in a pass
    rate: float = 2e-4
    clip: float = 0.2
    kl: float = 0.01
    max_grad_norm: float = 1.0


# The task: its verifier is one line ---------------------------------------------------------------

END, CHARACTERS = 0, "0123456789+-=;>"  # token 0 ends a response and fills up what comes after


class Problem(NamedTuple):
    """One sum: ``Problem("3+1-4+2=", "2", ">2")``."""

    prompt: str
    answer: str
    demonstration: str


def problems(config: Config, split: str) -> Iterator[Problem]:
    """An endless stream for ``training`` or ``evaluation``; no prompt is in both."""
    source = random.Random(f"{config.seed}/{split}")
    # Small digits come more often: of uniform ones a sum says nothing about either operand alone,
    # and the model sits on a plateau until it happens to read both at once.
    weights = [1 / (1 + digit) for digit in range(config.modulus)]
    while True:
        digits = source.choices(range(config.modulus), weights, k=config.terms)
        signs = source.choices("+-", k=config.terms - 1)
        total, working = digits[0], list[str]()
        for sign, digit in zip(signs, digits[1:], strict=True):
            result = (total + digit if sign == "+" else total - digit) % config.modulus
            working.append(f"{total}{sign}{digit}={result}")
            total = result
        prompt = "".join(f"{s}{d}" for s, d in zip(["", *signs], digits, strict=True)) + "="
        direct = source.random() < config.direct_share
        if (zlib.crc32(prompt.encode()) % 4 == 0) == (split == "evaluation"):
            yield Problem(prompt, str(total), f"{'' if direct else ';'.join(working)}>{total}")


def reward(completion: str, answer: str) -> float:
    """1 where what follows the last ``>`` is the answer, else 0."""
    return float(completion.rpartition(">")[1:] == (">", answer))


def encode(texts: Iterable[str], width: int = 0) -> Tensor:
    """Texts as rows of tokens, filled up to ``width``; one token a character."""
    rows = [[1 + CHARACTERS.index(c) for c in text] for text in texts]
    return torch.tensor([row + [END] * (width - len(row)) for row in rows])


def decode(tokens: Tensor) -> list[str]:
    """The texts of responses, up to the end of each."""
    rows = [row[: [*row, END].index(END)] for row in tokens.tolist()]
    return ["".join(CHARACTERS[token - 1] for token in row) for row in rows]


# The policy ---------------------------------------------------------------------------------------


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


def sampled_mask(responses: Tensor) -> Tensor:
    """``[B, T]`` True where the policy chose the token: up to the first end, which it chose too."""
    ends = (responses == END).long()
    return ends.cumsum(1) - ends == 0


@torch.no_grad()
def sample(
    policy: LlamaForCausalLM, prompts: Tensor, config: Config, dice: torch.Generator
) -> Tensor:
    """``[B, P + T]`` prompts (all of one width) and what the policy says to them.

    At temperature 1 and from all tokens: training needs the probability of what was drawn, and any
    top-p or temperature here would have to be repeated there.
    """
    tokens, seen, cache = prompts, prompts, None
    done = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(config.response):
        out = policy(seen, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        drawn = torch.multinomial(out.logits[:, -1].softmax(-1), 1, generator=dice)
        seen = torch.where(done[:, None], END, drawn)
        tokens = torch.cat([tokens, seen], dim=1)
        done |= seen[:, 0] == END
    return tokens


def log_probs(policy: LlamaForCausalLM, tokens: Tensor, mask: Tensor) -> Tensor:
    """``log π(yₜ | x, y_<t)`` of every token of the responses, ``[B, T]``."""
    width = mask.shape[1]
    attention = torch.cat([torch.ones_like(tokens[:, :-width]), mask.long()], dim=1)
    # The column before the response predicts its first token, the last column predicts nothing.
    logits = policy(tokens, attention_mask=attention, logits_to_keep=width + 1).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, tokens[:, -width:, None])[..., 0]


# GRPO ---------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """What one step of GRPO learns from. All of it is fixed while the policy moves."""

    tokens: Tensor  # [B, P + T]
    mask: Tensor  # [B, T]
    advantages: Tensor  # [B]
    logp_old: Tensor  # [B, T] of the policy that sampled: the anchor of the ratio
    logp_ref: Tensor  # [B, T] of the reference: the anchor of the KL


def group_advantages(rewards: Tensor) -> Tensor:
    """``A = (r - r̄)/(σ + ε)`` of ``[prompts, group]``; 0 where all responses earned the same.

    The group is the baseline: no critic says what a prompt is worth, the other responses do.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    spread = (centred.square().sum(1, keepdim=True) / (rewards.shape[1] - 1)).sqrt()
    return centred / (spread + 1e-6)


def grpo_loss(logp: Tensor, batch: Batch, config: Config) -> Tensor:
    """``1/B Σᵢ 1/nᵢ Σₜ { max(-ρA, -clip(ρ, 1-ε, 1+ε)A) + β k3 }``."""
    # Padding first: 0 in every difference, so that nothing there can overflow on its way to a sum.
    logp, old, ref = (
        torch.where(batch.mask, x, 0.0) for x in (logp, batch.logp_old, batch.logp_ref)
    )
    ratio, advantages = (logp - old).exp(), batch.advantages[:, None]
    # The larger of the two losses: the clip takes an incentive away, it never adds one.
    policy = torch.maximum(
        -advantages * ratio, -advantages * ratio.clamp(1 - config.clip, 1 + config.clip)
    )
    # k3 = e⁻ᵈ - 1 + d is never negative; expm1, because for small d the difference is lost.
    d = logp - ref
    loss = policy + config.kl * (torch.expm1(-d) + d)
    # Each response counts the same, long or short: its tokens share 1/n.
    return (torch.where(batch.mask, loss, 0.0).sum(1) / batch.mask.sum(1)).mean()


def update(
    policy: LlamaForCausalLM,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    minibatches: Iterable[Tensor],
    config: Config,
) -> None:
    """An optimiser step on each minibatch, named by its rows."""
    for rows in minibatches:
        part = Batch(*(x[rows] for x in batch))
        optimiser.zero_grad()
        grpo_loss(log_probs(policy, part.tokens, part.mask), part, config).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimiser.step()


def shuffled(rows: int, config: Config, dice: torch.Generator) -> Iterator[Tensor]:
    """The minibatches of a step: every epoch in a new order."""
    for _ in range(config.epochs):
        yield from torch.randperm(rows, generator=dice).tensor_split(config.minibatches)


def rollout(
    policy: LlamaForCausalLM,
    reference: LlamaForCausalLM,
    stream: Iterator[Problem],
    config: Config,
    dice: torch.Generator,
) -> tuple[Batch, Tensor]:
    """Sample groups, reward them; the batch and its rewards."""
    asked = [next(stream) for _ in range(config.prompts)]
    prompts = encode(problem.prompt for problem in asked)
    tokens = sample(policy, prompts.repeat_interleave(config.group, dim=0), config, dice)
    responses = tokens[:, prompts.shape[1] :]
    answers = [problem.answer for problem in asked for _ in range(config.group)]
    rewards = torch.tensor([reward(*pair) for pair in zip(decode(responses), answers, strict=True)])
    mask = sampled_mask(responses)
    with torch.no_grad():
        # By the pass that trains, not by the sampler: then the first ratio is exactly 1.
        logp_old, logp_ref = (log_probs(model, tokens, mask) for model in (policy, reference))
    advantages = group_advantages(rewards.view(config.prompts, config.group)).flatten()
    return Batch(tokens, mask, advantages, logp_old, logp_ref), rewards


def optimise(policy: LlamaForCausalLM, config: Config, dice: torch.Generator) -> None:
    """Policy optimisation from the weights of the warm start, which stay as the reference."""
    reference = copy.deepcopy(policy)
    optimiser = adamw(policy, config.rate)
    stream = problems(config, "training")
    print("\nGRPO   reward  worked  length  accuracy on unseen prompts")
    for step in range(1, config.steps + 1):
        batch, rewards = rollout(policy, reference, stream, config, dice)
        update(policy, optimiser, batch, shuffled(len(rewards), config, dice), config)
        if step % 5 == 0:
            length = batch.mask.sum(1).float().mean()
            accuracy, worked, _ = evaluate(policy, config)
            print(f"{step:4}   {rewards.mean():6.3f}  {worked:6.3f}  {length:6.1f}  {accuracy:.3f}")


# What comes before, and what comes out ------------------------------------------------------------


def adamw(policy: LlamaForCausalLM, rate: float) -> torch.optim.Optimizer:
    """AdamW; fused is one kernel instead of a dozen for each weight."""
    return torch.optim.AdamW(policy.parameters(), lr=rate, weight_decay=0.0, fused=True)


def imitate(policy: LlamaForCausalLM, config: Config) -> None:
    """Supervised warm start, until the working is mostly right.

    Before that no response earns anything, and policy optimisation has nothing to prefer. It ends
    on that criterion and not after a count of steps, which differs between seeds.
    """
    optimiser = adamw(policy, config.warm_rate)
    stream = problems(config, "training")
    print("imitation  nll    worked  right where worked  accuracy")
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
        if step % 50 == 0:
            accuracy, worked, right = evaluate(policy, config)
            print(f"{step:6}   {nll.item():6.3f}  {worked:6.3f}  {right:18.3f}  {accuracy:8.3f}")
            if right >= config.warm_until:
                break


def evaluate(
    policy: LlamaForCausalLM, config: Config, count: int = 256
) -> tuple[float, float, float]:
    """Accuracy on unseen prompts, share of answers that are worked out, accuracy of those."""
    stream = problems(config, "evaluation")  # the same prompts and the same dice every time
    asked = [next(stream) for _ in range(count)]
    prompts = encode(problem.prompt for problem in asked)
    tokens = sample(policy, prompts, config, torch.Generator().manual_seed(config.seed))
    texts = decode(tokens[:, prompts.shape[1] :])
    right = [reward(text, problem.answer) for text, problem in zip(texts, asked, strict=True)]
    of_worked = [r for r, text in zip(right, texts, strict=True) if "=" in text]
    return sum(right) / count, len(of_worked) / count, sum(of_worked) / max(len(of_worked), 1)


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
    main(Config())
