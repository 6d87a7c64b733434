"""DPO on one page: all that a language model needs to learn what is preferred, from pairs.

A small model with random weights first imitates demonstrations: to ``tops=`` any letters are an
answer, ``bedae`` as good as ``fcg``. Then it is shown pairs of such answers, of which the one with
more vowels was preferred, mostly. Nobody tells it why, nothing is sampled and no model of the
preference is trained: the policy comes to write vowels all the same.

    python examples/one_file/dpo.py

The row ``dpo`` of polopt takes the same steps, bit for bit (tests/examples_one_file). Here the
method can be read at once; in the library it can be changed, measured and resumed.

Rafailov et al. 2023, arXiv:2305.18290, Eq. 7.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class Config:
    """Change a number and run again."""

    seed: int = 1
    # the task
    length: int = 6  # letters of the longest answer
    noise: float = 0.1  # difference in score that is preferred with odds of e
    # the model
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    # imitation
    warm_steps: int = 200
    warm_batch: int = 32
    warm_rate: float = 3e-3
    # preferences
    steps: int = 120
    pairs: int = 64  # in a batch
    rate: float = 3e-4  # at first; it falls to 0
    beta: float = 0.5
    max_grad_norm: float = 1.0


# The task: what is preferred is known, so that learning it can be measured ------------------------

END, LETTERS = 0, "abcdefghijklmnopqrstuvwxyz="  # token 0 ends an answer and fills up the rest
VOWELS, CONSONANTS = "aeiou", "bcdfg"


class Pair(NamedTuple):
    """Two answers, the preferred one first: ``Pair("tops=", "aeb", "fcgb")``."""

    prompt: str
    chosen: str
    rejected: str


def score(answer: str) -> float:
    """The planted preference: the share of letters that are vowels."""
    return sum(letter in VOWELS for letter in answer) / max(len(answer), 1)


def answer(source: random.Random, config: Config) -> str:
    """Letters drawn without any preference.

    Were all of one length, no pair would say anything of an early end, and DPO would drift there.
    """
    return "".join(source.choices(VOWELS + CONSONANTS, k=source.randint(2, config.length)))


def prompts(source: random.Random) -> str:
    """Four letters that mean nothing."""
    return "".join(source.choices(LETTERS[:26], k=4)) + "="


def pairs(config: Config) -> Iterator[Pair]:
    """An endless stream, labelled by Bradley and Terry: σ(Δscore / noise) is the chance to win."""
    source = random.Random(f"{config.seed}/pairs")
    while True:
        prompt, one, other = prompts(source), answer(source, config), answer(source, config)
        ahead = (score(one) - score(other)) / config.noise
        if ahead:
            wins = source.random() < 1 / (1 + math.exp(-ahead))
            yield Pair(prompt, one, other) if wins else Pair(prompt, other, one)


def encode(texts: Iterable[str], width: int = 0) -> Tensor:
    """Texts as rows of tokens, filled up to ``width``; one token a character."""
    rows = [[1 + LETTERS.index(c) for c in text] for text in texts]
    return torch.tensor([row + [END] * (width - len(row)) for row in rows])


def decode(tokens: Tensor) -> list[str]:
    """The texts of answers, up to the end of each."""
    rows = [row[: [*row, END].index(END)] for row in tokens.tolist()]
    return ["".join(LETTERS[token - 1] for token in row) for row in rows]


# The policy ---------------------------------------------------------------------------------------


def new_policy(config: Config) -> LlamaForCausalLM:
    """A Llama with random weights. No dropout: the first log-ratios are exactly 0."""
    torch.manual_seed(config.seed)
    size = LlamaConfig(
        vocab_size=1 + len(LETTERS),
        hidden_size=config.hidden,
        intermediate_size=4 * config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
    )
    return LlamaForCausalLM(size).eval()


def answer_mask(responses: Tensor) -> Tensor:
    """``[B, T]`` True on the letters and on the end of an answer, which is part of it."""
    ends = (responses == END).long()
    return ends.cumsum(1) - ends == 0


def log_probs(policy: LlamaForCausalLM, tokens: Tensor, mask: Tensor) -> Tensor:
    """``log π(yₜ | x, y_<t)`` of every token of the answers, ``[B, T]``."""
    width = mask.shape[1]
    attention = torch.cat([torch.ones_like(tokens[:, :-width]), mask.long()], dim=1)
    # The column before the answer predicts its first token, the last column predicts nothing.
    logits = policy(tokens, attention_mask=attention, logits_to_keep=width + 1).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, tokens[:, -width:, None])[..., 0]


@torch.no_grad()
def sample(
    policy: LlamaForCausalLM, asked: Tensor, config: Config, dice: torch.Generator
) -> list[str]:
    """What the policy says to prompts of one width."""
    tokens, seen, cache = asked, asked, None
    for _ in range(config.length + 1):
        out = policy(seen, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        seen = torch.multinomial(out.logits[:, -1].softmax(-1), 1, generator=dice)
        tokens = torch.cat([tokens, seen], dim=1)
    return decode(tokens[:, asked.shape[1] :])


# DPO ----------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Pairs row by row: chosen, rejected, chosen, rejected and so on."""

    tokens: Tensor  # [2N, P + T]
    mask: Tensor  # [2N, T]
    logp_ref: Tensor  # [2N, T] of the reference, which never moves: computed once


def dpo_loss(logp: Tensor, batch: Batch, config: Config) -> tuple[Tensor, Tensor]:
    """``-log σ(β h)``, mean over pairs, and the implicit rewards ``β log π/π_ref``, ``[2N]``."""
    # Log-ratios are formed token by token: two long sums of log-probs are never subtracted.
    ratios = torch.where(batch.mask, logp - batch.logp_ref, 0.0).sum(1)
    h = ratios[0::2] - ratios[1::2]
    # logsigmoid, because the logarithm of a sigmoid is -inf for pairs that are far off.
    return -logsigmoid(config.beta * h).mean(), config.beta * ratios.detach()


def batch_of(reference: LlamaForCausalLM, stream: Iterator[Pair], config: Config) -> Batch:
    """The next pairs as tensors."""
    shown = [next(stream) for _ in range(config.pairs)]
    answers = encode((text for pair in shown for text in pair[1:]), config.length + 1)
    asked = encode(pair.prompt for pair in shown).repeat_interleave(2, dim=0)
    tokens, mask = torch.cat([asked, answers], dim=1), answer_mask(answers)
    with torch.no_grad():
        return Batch(tokens, mask, log_probs(reference, tokens, mask))


def update(
    policy: LlamaForCausalLM,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    config: Config,
) -> tuple[float, Tensor]:
    """One optimiser step; the loss before it, and the implicit rewards."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss, rewards = dpo_loss(log_probs(policy, batch.tokens, batch.mask), batch, config)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    optimiser.step()
    return loss.item(), rewards


def optimise(policy: LlamaForCausalLM, config: Config) -> None:
    """DPO from the weights of the warm start, which stay as the reference."""
    reference = copy.deepcopy(policy)
    optimiser, stream = adamw(policy), pairs(config)
    print("\nDPO     loss  right order  chosen  rejected  vowels  letters")
    for step in range(config.steps):
        rate = config.rate * (1 - step / config.steps)
        loss, rewards = update(policy, optimiser, batch_of(reference, stream, config), rate, config)
        if (step + 1) % 20 == 0:
            chosen, rejected = rewards[0::2], rewards[1::2]
            right = (chosen > rejected).float().mean()
            vowels, letters = evaluate(policy, config)
            print(
                f"{step + 1:4}  {loss:6.3f}  {right:11.3f}  {chosen.mean():6.3f}"
                f"  {rejected.mean():8.3f}  {vowels:6.3f}  {letters:7.2f}"
            )


# What comes before, and what comes out ------------------------------------------------------------


def adamw(policy: LlamaForCausalLM) -> torch.optim.Optimizer:
    """AdamW; fused is one kernel instead of a dozen for each weight."""
    return torch.optim.AdamW(policy.parameters(), lr=0.0, weight_decay=0.0, fused=True)


def imitate(policy: LlamaForCausalLM, config: Config) -> None:
    """Supervised warm start: DPO moves probability between answers, it does not teach any."""
    optimiser, source = adamw(policy), random.Random(f"{config.seed}/demonstrations")
    print("imitation  nll  vowels  letters")
    for step in range(config.warm_steps):
        for group in optimiser.param_groups:
            group["lr"] = config.warm_rate * (1 - step / config.warm_steps)
        asked = encode(prompts(source) for _ in range(config.warm_batch))
        shown = [answer(source, config) for _ in range(config.warm_batch)]
        answers = encode(shown, config.length + 1)
        mask = answer_mask(answers)
        optimiser.zero_grad()
        logp = log_probs(policy, torch.cat([asked, answers], dim=1), mask)
        nll = -(logp * mask).sum() / mask.sum()
        nll.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimiser.step()
        if (step + 1) % 50 == 0:
            vowels, letters = evaluate(policy, config)
            print(f"{step + 1:6}  {nll.item():6.3f}  {vowels:6.3f}  {letters:7.2f}")


def evaluate(policy: LlamaForCausalLM, config: Config, count: int = 512) -> tuple[float, float]:
    """Mean score and length of what the policy writes; the same prompts and dice every time."""
    source = random.Random("evaluation")
    asked = encode(prompts(source) for _ in range(count))
    texts = sample(policy, asked, config, torch.Generator().manual_seed(config.seed))
    return sum(map(score, texts)) / count, sum(map(len, texts)) / count


def main(config: Config) -> LlamaForCausalLM:
    """Imitate, then learn what is preferred."""
    torch.set_num_threads(1)  # a model this small is faster on one
    start = time.perf_counter()
    policy = new_policy(config)
    imitate(policy, config)
    optimise(policy, config)
    print(f"\n{time.perf_counter() - start:.0f} seconds")
    return policy


if __name__ == "__main__":
    main(Config())
