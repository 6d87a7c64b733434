"""Small causal language models with random weights, which need no download.

The architecture is one of ``transformers``, so they take the same code path as any other model.
The tokeniser knows bytes: every text has an encoding, and nothing is lost.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from transformers import (
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )


class Size(NamedTuple):
    """Width, depth and context of a built-in model."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    context: int


BUILTIN = {
    "tiny": Size(hidden=32, layers=2, heads=2, feed_forward=64, context=256),  # tests
    "small": Size(hidden=128, layers=2, heads=4, feed_forward=512, context=1024),  # quickstart
}
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
TOKENS = (PAD, BOS, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet()))
# Readable on purpose: role, newline, text; the turn of the assistant ends with EOS.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}"
    "{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokeniser of bytes: 256 of them, and padding, beginning and end of sequence."""
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    built = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )
    built.chat_template = CHAT_TEMPLATE
    return built


def model(size: Size, seed: int) -> LlamaForCausalLM:
    """A model with random weights; the same seed gives the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        pad_token_id=TOKENS.index(PAD),
        bos_token_id=TOKENS.index(BOS),
        eos_token_id=TOKENS.index(EOS),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def classifier(body: LlamaForCausalLM, outputs: int) -> LlamaForSequenceClassification:
    """The trunk of a model (shared, not copied) under a head whose outputs are 0."""
    from transformers import LlamaForSequenceClassification

    config = deepcopy(body.config)
    config.num_labels = outputs
    with torch.random.fork_rng(devices=[]):
        built = LlamaForSequenceClassification(config)
    built.model = body.model
    torch.nn.init.zeros_(built.score.weight)
    return built
