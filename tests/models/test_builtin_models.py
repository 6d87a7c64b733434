"""The models that need no hub: reproducible, and a tokeniser that loses nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polopt.errors import ModelError
from polopt.models import BUILTIN, builtin, context_length, load

TOKENIZER = builtin.tokenizer()


def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
    return load(name, seed=seed).model.state_dict()


@pytest.mark.parametrize("name", BUILTIN)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    one = weights(f"builtin:{name}", 3)
    torch.manual_seed(77)  # whatever the global generator stands at
    two = weights(f"builtin:{name}", 3)
    other = weights(f"builtin:{name}", 4)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_making_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load("builtin:tiny", seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_model_is_ready_to_be_trained_and_sampled() -> None:
    found = load("builtin:tiny")
    assert not found.model.training  # no dropout in any pass
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    assert found.stop_ids == (TOKENIZER.eos_token_id,)
    assert context_length(found) == BUILTIN["tiny"]["max_position_embeddings"]


@pytest.mark.parametrize(
    ("path", "hint"),
    [("builtin:smal", "did you mean builtin:small?"), ("builtin:", "allowed: builtin:tiny")],
)
def test_an_unknown_name_is_answered_with_what_there_is(path: str, hint: str) -> None:
    with pytest.raises(ModelError, match="is no built-in model; ") as caught:
        load(path)
    assert hint in str(caught.value)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_survives_the_round_trip(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    if not any(special in text for special in TOKENIZER.all_special_tokens):
        assert len(ids) == len(text.encode("utf-8", "surrogatepass"))
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t  x ", "a  b", "3+8=1;1-9=2>2", "naïve 漢字 🙂", "\x00\x7f", " . ' n't"]
)
def test_spaces_and_punctuation_are_kept_as_they_are(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


@given(st.binary(max_size=40))
@settings(max_examples=100, deadline=None)
def test_every_token_is_a_byte(raw: bytes) -> None:
    """Tokens that are no valid text decode to replacement characters, never to an error."""
    by_byte = {TOKENIZER.decode([i]): i for i in range(3, len(TOKENIZER))}
    assert len(TOKENIZER) == 256 + 3
    assert sum(len(text) == 1 and text.isascii() for text in by_byte) == 128
    ids = [3 + value for value in raw]
    assert isinstance(TOKENIZER.decode(ids), str)


def test_special_tokens_have_the_first_places() -> None:
    assert (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (0, 1, 2)


def test_the_chat_template_by_hand() -> None:
    messages = [{"role": "user", "content": "3+8="}, {"role": "assistant", "content": "1"}]
    rendered = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert rendered == "<bos>user\n3+8=\nassistant\n1<eos>\n"
    prompt = TOKENIZER.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<bos>user\n3+8=\nassistant\n"
    assert rendered.startswith(prompt)


def test_the_template_marks_what_the_assistant_says_and_its_end() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    out = TOKENIZER.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [id for id, own in zip(out["input_ids"], out["assistant_masks"], strict=True) if own]
    assert TOKENIZER.decode(said) == "yes<eos>"
