"""Small causal language models with random weights, which need no download.

The architecture is one of ``transformers``, so they take the same code path as any other model.
The tokeniser knows bytes: every text has an encoding, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from polopt.memory.shapes import BUILTIN

__all__ = ["BOS", "BUILTIN", "EOS", "PAD", "TOKENS", "classifier", "model", "tokenizer"]

if TYPE_CHECKING:
    from transformers import (
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )


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


def model(config: Mapping[str, Any], seed: int) -> LlamaForCausalLM:
    """A model of one of the ``BUILTIN``, random weights; the same seed gives the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    special = {
        "pad_token_id": TOKENS.index(PAD),
        "bos_token_id": TOKENS.index(BOS),
        "eos_token_id": TOKENS.index(EOS),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig.from_dict({**config, **special}))


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
