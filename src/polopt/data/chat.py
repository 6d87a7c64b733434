"""Chat messages as tokens, by the tokeniser's template, and the spans of the assistant's turns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from polopt.data.rows import Message
from polopt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Spans = list[tuple[int, int]]


class RefusedError(Exception):
    """The chat template cannot render these messages; the message of the error says why."""


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The prompt of the messages as text, up to where the assistant's turn begins."""
    return str(_apply(tokenizer, messages, prompt=True, tokenize=False))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The prompt of the messages as tokens, up to where the assistant's turn begins."""
    return list(_apply(tokenizer, messages, prompt=True, tokenize=True)["input_ids"])


def conversation(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    completion: Sequence[Message],
    stop_ids: Collection[int],
    end: int,
) -> tuple[list[int], Spans]:
    """The tokens of a conversation, and the span of every turn of the assistant in ``completion``.

    A turn starts where the prompt before it ends, so that training sees the same prompt as
    sampling, and includes the token that ends it. Where the template ends turns without such a
    token, ``end`` is appended to the last one, or the policy would never learn to stop.

    Args:
        tokenizer: with a chat template.
        prompt: messages up to the first turn to learn.
        completion: the messages from there on; the last is of the assistant.
        stop_ids: tokens that end a response.
        end: the stop token that is appended where the template has none.

    Raises:
        RefusedError: the template does not continue its own prompt with the answer.
    """
    messages = (*prompt, *completion)
    tokens = _full_ids(tokenizer, messages)
    answers = range(len(prompt), len(messages))
    turns = [i for i in answers if messages[i]["role"] == "assistant"]
    starts = [len(_prefix(tokens, prompt_ids(tokenizer, messages[:i]), i)) for i in turns]
    spans: Spans = []
    for turn, start, limit in zip(turns, starts, [*starts[1:], len(tokens)], strict=True):
        stops = (t + 1 for t in range(start, limit) if tokens[t] in stop_ids)
        stop = next(stops, None)
        if stop is None:
            whole = tokens if turn == turns[-1] else _full_ids(tokenizer, messages[: turn + 1])
            stop = len(_prefix(tokens, whole, turn))
        spans.append((start, stop))
    start, stop = spans[-1]
    tokens = tokens[:stop]
    if tokens[-1] not in stop_ids:
        tokens.append(end)
        spans[-1] = (start, stop + 1)
    return tokens, spans


def _full_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    return list(_apply(tokenizer, messages, prompt=False, tokenize=True)["input_ids"])


def _prefix(tokens: list[int], beginning: list[int], turn: int) -> list[int]:
    if tokens[: len(beginning)] != beginning:
        raise RefusedError(f"renders message {turn + 1} in another way than its prompt announces")
    return beginning


def _apply(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prompt: bool, tokenize: bool
) -> Any:  # noqa: ANN401
    """Apply the chat template, which alone adds special tokens: no second BOS token.

    Raises:
        DataError: the tokeniser has no chat template.
        RefusedError: the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise DataError("model.path: the tokeniser has no chat template; data of plain text")
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=prompt,
            tokenize=tokenize,
            return_dict=True,
        )
    except TemplateError as error:
        raise RefusedError(f"refuses it: {error.message}") from error
