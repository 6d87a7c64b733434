"""What vs_trl.py trains on: random models, prompts of random characters, a reward of tokens.

A token is a character, so that a text has the same tokens in both libraries. A random model is
near to uniform: with k of its V tokens ending a response, a response ends after each token with
the probability k/V.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

PAD, END = 0, 1
FIRST = 0x10000  # of the characters; there are none of them that a tokeniser would treat apart


@dataclass(frozen=True)
class Shape:
    """A Qwen3 with tied embeddings."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    feed_forward: int
    vocabulary: int

    @property
    def backbone(self) -> int:
        """N: weights of the matrix products below the head."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    @property
    def output(self) -> int:
        """V d: weights of the head."""
        return self.vocabulary * self.hidden


SHAPES: Mapping[str, Shape] = {
    "tiny": Shape(2, 32, 2, 1, 16, 64, 128),  # to try a command
    "0.46M": Shape(2, 128, 4, 2, 32, 384, 512),
    "4.2M": Shape(4, 256, 4, 2, 64, 768, 4096),
    "25M": Shape(8, 512, 8, 4, 64, 1536, 4096),
    "0.6B": Shape(28, 1024, 16, 8, 128, 3072, 151_936),
}


@dataclass(frozen=True)
class Work:
    """One optimiser step: prompts, responses to each, and their lengths in tokens."""

    shape: Shape
    prompts: int  # B
    prompt_tokens: int  # P
    new_tokens: int  # C, the longest response
    group: int = 8  # G
    mean: float | None = None  # tokens of a response; None: all are as long as the longest

    @property
    def rows(self) -> int:
        """Responses in a step."""
        return self.prompts * self.group

    @property
    def ends(self) -> int:
        """Tokens that end a response."""
        if self.mean is None:
            return 1
        return round(self.shape.vocabulary * hazard(self.mean, self.new_tokens))

    @property
    def least(self) -> int:
        """The shortest response."""
        return self.new_tokens if self.mean is None else 0

    def as_json(self) -> dict[str, Any]:
        """For the process that does it."""
        return asdict(self)


CENTRE = SHAPES["4.2M"]
_AXES: Mapping[str, Mapping[object, Mapping[str, Any]]] = {
    "parameters": {name: {"shape": SHAPES[name]} for name in ("0.46M", "25M")},
    "V": {v: {"shape": replace(CENTRE, vocabulary=v)} for v in (512, 32_768)},
    "P": {p: {"prompt_tokens": p} for p in (16, 128, 512)},
    "C": {c: {"new_tokens": c} for c in (16, 128)},
    "G": {g: {"group": g} for g in (2, 32)},
}
# One at a time around a centre that is half as large as ``fixed`` of vs_trl.py.
ALONG: Mapping[str, Work] = {
    f"{axis}={value}": replace(Work(CENTRE, 4, 32, 32), **changed)
    for axis, values in _AXES.items()
    for value, changed in values.items()
}


def work_of(values: Mapping[str, Any]) -> Work:
    """What :meth:`Work.as_json` wrote."""
    return Work(**{**values, "shape": Shape(**values["shape"])})


def hazard(mean: float, longest: int) -> float:
    """The probability h of an end after each token with ``(1 - (1 - h)^C)/h = mean``."""
    low, high = 1e-9, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        expected = -math.expm1(longest * math.log1p(-middle)) / middle
        low, high = (middle, high) if expected > mean else (low, middle)
    return low


def lengths(work: Work, draw: random.Random) -> Iterator[int]:
    """Lengths of responses as a random model would give them."""
    chance = work.ends / work.shape.vocabulary
    while True:
        count = 1
        while count < work.new_tokens and (work.mean is None or draw.random() >= chance):
            count += 1
        yield count


def reward(completion_ids: Sequence[Sequence[int]], vocabulary: int) -> list[float]:
    """The share of tokens in the lower half of the vocabulary: near one half at the start."""
    half = vocabulary // 2
    return [sum(t < half for t in ids) / max(1, len(ids)) for ids in completion_ids]


def write(directory: Path, work: Work, *, seed: int = 0, count: int = 2048) -> None:
    """The model, and files of prompts, demonstrations and pairs, in a directory."""
    draw, shape = random.Random(seed), work.shape

    def text(length: int) -> str:
        return "".join(chr(FIRST + draw.randrange(64, shape.vocabulary)) for _ in range(length))

    sizes = lengths(work, draw)
    answers = [{k: text(next(sizes)) for k in ("chosen", "rejected")} for _ in range(count)]
    prompts = [{"prompt": text(work.prompt_tokens)} for _ in range(count)]
    write_model(directory / "model", shape, work.ends)
    rows = list(zip(prompts, answers, strict=True))
    _write_lines(directory / "prompts.jsonl", prompts)
    _write_lines(directory / "held.jsonl", [{"prompt": text(work.prompt_tokens)}])
    demonstrations = [{**prompt, "completion": both["chosen"]} for prompt, both in rows]
    _write_lines(directory / "demonstrations.jsonl", demonstrations)
    _write_lines(directory / "pairs.jsonl", [{**prompt, **both} for prompt, both in rows])


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_model(directory: Path, shape: Shape, ends: int, *, seed: int = 0) -> None:
    """A random model in float32, whose last ``ends`` tokens but the first end a response."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
    )
    model = Qwen3ForCausalLM(config)
    stop = [END, *range(shape.vocabulary - ends + 1, shape.vocabulary)]
    model.generation_config = GenerationConfig(eos_token_id=stop, pad_token_id=PAD)
    model.save_pretrained(directory)
    _tokenizer(shape.vocabulary).save_pretrained(directory)


def _tokenizer(vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<end>", *(chr(FIRST + i) for i in range(2, vocabulary))]
    backend = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<end>",
        clean_up_tokenization_spaces=False,
    )
