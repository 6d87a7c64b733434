"""Tokenisers of many conventions; for each, what must hold of prompts and demonstrations."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tokenizers import AddedToken, processors

from polopt.data import BadRowError, Tokeniser, generated, load_rows
from polopt.data.fields import accept
from polopt.data.rows import Fields
from polopt.errors import DataError
from polopt.models.builtin import CHAT_TEMPLATE, tokenizer
from polopt.recipe import Data

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# as some reasoning models do: an answer begins with an empty thought, but only after the last user
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_END = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + CHATML
)
FORGETFUL = "{% for m in messages[-1:] %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"


def wrapped(single):
    """The built-in tokeniser with special tokens around plain text."""
    made = tokenizer()
    ids = [(token, made.convert_tokens_to_ids(token)) for token in ("<bos>", "<eos>")]
    made._tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=ids
    )
    return made


def chatml(eos="<|im_end|>", template=CHATML):
    made = tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.eos_token = eos
    made.chat_template = template
    return made


def with_template(template):
    made = tokenizer()
    made.chat_template = template
    return made


def pad_is_eos():
    made = tokenizer()
    made.pad_token = made.eos_token
    return made


def no_pad():
    made = tokenizer()
    made.pad_token = None
    return made


def no_bos():
    made = tokenizer()
    made.bos_token = None
    made.chat_template = CHAT_TEMPLATE.replace("{{ bos_token }}", "")
    return made


def left_padding():
    made = tokenizer()
    made.padding_side = "left"
    return made


def thought_is_added():
    made = chatml()
    made.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return made


TOKENIZERS = {
    "built-in": tokenizer,
    "adds bos": lambda: wrapped("<bos> $A"),
    "adds bos and eos": lambda: wrapped("<bos> $A <eos>"),
    "adds eos": lambda: wrapped("$A <eos>"),
    "pad is eos": pad_is_eos,
    "no pad": no_pad,
    "no bos": no_bos,
    "left padding": left_padding,
    "chatml": chatml,
    "chatml, other eos": lambda: chatml(eos="<eos>"),
    "thinking": lambda: chatml(template=THINKING),
    "thinking, other eos": lambda: chatml(eos="<eos>", template=THINKING),
    "template without end": lambda: with_template(NO_END),
    "added tokens": thought_is_added,
    "strict": lambda: chatml(template=STRICT),
}
EXTRA_STOP = {"chatml, other eos": ("<|im_end|>",), "thinking, other eos": ("<|im_end|>",)}

TALK = [
    {"role": "user", "content": "3+8="},
    {"role": "assistant", "content": ">1"},
    {"role": "user", "content": "1-9="},
    {"role": "assistant", "content": ">2"},
]


def row(demonstrations=True, **columns):
    return accept("rows.jsonl:7", columns, Fields(), demonstrations)


def made(name, **limits):
    built = TOKENIZERS[name]()
    stops = tuple(built.convert_tokens_to_ids(token) for token in EXTRA_STOP.get(name, ()))
    return Tokeniser(built, stop_ids=stops, **limits)


def said(tokeniser, demonstration):
    """The text of each stretch of tokens that the policy is to produce."""
    edges = np.flatnonzero(np.diff(demonstration.mask, prepend=False, append=False))
    stretches = [demonstration.tokens[a:b] for a, b in edges.reshape(-1, 2)]
    return [tokeniser.tokenizer.decode(part) for part in stretches]


ROWS = {
    "text": {"prompt": "3+8=", "completion": ">1"},
    "chat": {"prompt": TALK[:1], "completion": TALK[1:2]},
    "chat and text": {"prompt": TALK[:1], "completion": ">1"},
    "after a talk": {"prompt": TALK[:3], "completion": ">2"},
    "conversation": {"prompt": TALK},
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_holds_for_every_tokeniser(name, kind):
    tokeniser = made(name)
    prompt = tokeniser.prompt(row(False, **{**ROWS[kind], "prompt": prompt_of(kind)}), id=3)
    found = tokeniser.demonstration(row(**ROWS[kind]), id=3)
    ends = {tokeniser.tokenizer.eos_token_id, *tokeniser.stop_ids}
    tokens, mask = found.tokens, found.mask

    # training continues exactly what sampling is given
    assert found.prompt_length == len(prompt.tokens) == len(found.prompt.tokens)
    assert tuple(tokens[: found.prompt_length]) == prompt.tokens == found.prompt.tokens
    assert not mask[: found.prompt_length].any() and mask[found.prompt_length]
    assert tokens.dtype == np.int64 and tokens.shape == mask.shape and mask.dtype == np.bool_
    # one beginning of sequence at most, and none later
    bos = tokeniser.tokenizer.bos_token_id
    assert list(tokens).count(bos) <= 1 and bos not in tokens[1:]
    # the assistant's words, each turn ended once, at its last token
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
    for turn, (start, stop) in enumerate(edges):
        inside = [int(token) in ends for token in tokens[start:stop]]
        last = turn == len(edges) - 1
        assert sum(inside) == (1 if last or name != "template without end" else 0)
        assert inside[-1] or not last
    assert mask[-1]
    words = [
        re.sub(r"<think></think>|<eos>|<\|im_end\|>|\n", "", t) for t in said(tokeniser, found)
    ]
    assert words == {"conversation": [">1", ">2"], "after a talk": [">2"]}.get(kind, [">1"])


def prompt_of(kind):
    return TALK[:1] if kind == "conversation" else ROWS[kind]["prompt"]


def test_text_by_hand():
    tokeniser = made("adds bos and eos")
    ids = tokeniser.tokenizer.convert_tokens_to_ids
    found = tokeniser.demonstration(row(prompt="3=", completion=">3", level=1), id=9)
    assert list(found.tokens) == [ids(t) for t in ("<bos>", "3", "=", ">", "3", "<eos>")]
    assert list(found.mask) == [False] * 3 + [True] * 3
    assert found.prompt.id == 9 and found.prompt.text == "3=" and found.prompt.columns["level"] == 1


def test_a_conversation_by_hand():
    found = made("built-in").demonstration(row(prompt=TALK), 0)
    text = made("built-in").tokenizer.decode(found.tokens)
    assert text == "<bos>user\n3+8=\nassistant\n>1<eos>\nuser\n1-9=\nassistant\n>2<eos>"
    assert said(made("built-in"), found) == [">1<eos>", ">2<eos>"]
    assert found.prompt.text == "<bos>user\n3+8=\nassistant\n"


def test_the_mask_is_what_transformers_reads_from_generation_marks():
    tokeniser = made("built-in")
    found = tokeniser.demonstration(row(prompt=TALK), 0)
    theirs = tokeniser.tokenizer.apply_chat_template(
        TALK, return_dict=True, return_assistant_tokens_mask=True
    )
    assert theirs["input_ids"][:-1] == list(found.tokens)  # theirs keeps the last line end
    assert theirs["assistant_masks"] == [*found.mask.astype(int), 0]


@pytest.mark.parametrize(
    ("name", "columns", "field", "message"),
    [
        ("built-in", {"prompt": "a<eos>b"}, "prompt", 'the special token "<eos>"; text without'),
        ("built-in", {"prompt": "<bos>a"}, "prompt", 'contains the special token "<bos>"'),
        ("built-in", {"completion": "a<pad>"}, "completion", 'the special token "<pad>"'),
        ("chatml", {"prompt": "<|im_end|>\n<|im_start|>system\n"}, "prompt", '"<|im_end|>"'),
        ("chatml", {"prompt": [{"role": "user", "content": "<|im_start|>"}]}, "prompt", "<|im_st"),
        (
            "chatml",
            {"prompt": [{"role": "system", "content": "<eos>"}, TALK[0]]},
            "prompt",
            '"<eos>"',
        ),
        (
            "chatml",
            {"prompt": TALK[:1], "completion": [{"role": "assistant", "content": "<eos>"}]},
            "completion",
            "<eos>",
        ),
        ("built-in", {"prompt": "x" * 21}, "prompt", "has 21 tokens; at most 20"),
        ("built-in", {"completion": "x" * 26}, "completion", "makes 31 tokens with its prompt"),
        (
            "strict",
            {"prompt": [{"role": "system", "content": "s"}, TALK[0]]},
            "prompt",
            "the chat template refuses it: System role not supported",
        ),
    ],
)
def test_bad_rows(name, columns, field, message):
    tokeniser = made(name, max_prompt_tokens=20 if name == "built-in" else 99, max_tokens=30)
    with pytest.raises(BadRowError) as error:
        tokeniser.check(row(**{"prompt": "3+8=", "completion": ">1", **columns}))
    said = str(error.value)
    assert said.startswith(f"rows.jsonl:7: field '{field}': ") and message in said
    assert "\n" not in said


def test_limits_are_inclusive():
    tokeniser = Tokeniser(tokenizer(), max_prompt_tokens=4, max_tokens=7)
    assert len(tokeniser.demonstration(row(prompt="3+8=", completion=">1"), 0).tokens) == 7


@pytest.mark.parametrize(("longest", "left"), [(-44, 252), (0, 252), (0, 0)])
def test_a_length_that_leaves_no_room_names_the_context(longest, left):
    """Of every row, so that skipping bad rows does not help."""
    tokeniser = Tokeniser(tokenizer(), max_prompt_tokens=longest, max_tokens=256)
    with pytest.raises(DataError) as error:
        tokeniser.prompt(row(False, prompt="3+8=" if left else "x" * 300), 0)
    assert not isinstance(error.value, BadRowError)
    assert str(error.value) == (
        f"rollout.max_new_tokens: {256 - longest} leaves no room for a prompt in the model's "
        f"context of 256 tokens; the {4 if left else 300} of rows.jsonl:7 leave {left}"
    )


def test_a_prompt_that_is_too_long_names_what_limits_it():
    tokeniser = Tokeniser(tokenizer(), max_prompt_tokens=3, max_tokens=256)
    with pytest.raises(BadRowError) as error:
        tokeniser.prompt(row(False, prompt="3+8="), 0)
    assert str(error.value) == (
        "rows.jsonl:7: field 'prompt': has 4 tokens; at most 3 (data.max_prompt_tokens, or the "
        "context of 256 less rollout.max_new_tokens)"
    )


def test_added_tokens_that_are_not_special_are_text():
    tokeniser = made("added tokens")
    found = tokeniser.demonstration(row(prompt="a", completion="<think>b</think>c"), 0)
    assert said(tokeniser, found) == ["<think>b</think>c<|im_end|>"]


def test_a_template_that_forgets_its_own_prompt_is_told():
    tokeniser = Tokeniser(with_template(FORGETFUL))
    with pytest.raises(BadRowError, match="renders message 2 in another way than its prompt"):
        tokeniser.demonstration(row(prompt=TALK[:1], completion=">1"), 0)


def test_what_the_tokeniser_lacks_is_an_error_even_where_rows_may_be_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": [{"role": "user", "content": "a"}]}\n' * 2)
    data = Data(source=str(path), on_bad_row="skip", max_bad_share=1.0)
    with pytest.raises(DataError, match="the tokeniser has no chat template"):
        load_rows(data, 1, 1, check=Tokeniser(with_template(None)).check)
    endless = tokenizer()
    endless.eos_token = None
    with pytest.raises(DataError, match="has no end-of-sequence token"):
        Tokeniser(endless).demonstration(row(prompt="a", completion="b"), 0)


def test_what_the_tokeniser_refuses_is_counted_with_other_bad_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "<eos>"}\n{"prompt": "long"}\n{}\n'
    )
    tokeniser = Tokeniser(tokenizer(), max_prompt_tokens=3)
    data = Data(source=str(path), on_bad_row="skip", max_bad_share=0.6)
    assert load_rows(data, 1, 1, check=tokeniser.check).report.skipped == {
        "special token in text": 1, "prompt too long": 1, "missing field": 1,
    }  # fmt: skip
    with pytest.raises(BadRowError, match=r"rows\.jsonl:3: field 'prompt': contains the special"):
        load_rows(Data(source=str(path)), 1, 1, check=tokeniser.check)


def test_rows_of_a_task():
    rows = generated("task:x", lambda split, index: {"prompt": "a", "completion": "b"}, 1)
    assert made("built-in").prompt(rows.evaluation[0], 0).tokens
    with pytest.raises(BadRowError, match="task:x:evaluation:0: field 'completion': is missing"):
        made("built-in").demonstration(rows.evaluation[0], 0)
