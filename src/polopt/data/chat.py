"""Chat messages as tokens, by the tokeniser's template, and the spans of the assistant's turns."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from polopt.data.rows import Message, Tools
from polopt.errors import DataError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Spans = list[tuple[int, int]]


class RefusedError(Exception):
    """The chat template cannot render these messages; the message of the error says why."""


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools = ()
) -> str:
    """The prompt of the messages as text, up to where the assistant's turn begins."""
    return str(_apply(tokenizer, messages, tools, prompt=True, tokenize=False))


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools = ()
) -> list[int]:
    """The prompt of the messages as tokens, up to where the assistant's turn begins."""
    return list(_apply(tokenizer, messages, tools, prompt=True, tokenize=True)["input_ids"])


def conversation(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    completion: Sequence[Message],
    stop_ids: Set[int],
    end: int,
    tools: Tools = (),
) -> tuple[list[int], Spans]:
    """The tokens of a conversation, and the span of every turn of the assistant in ``completion``.

    A turn starts where the prompt before it ends, so that training sees the same prompt as
    sampling, and includes its calls of tools and the token that ends it; what the tools gave stands
    between two turns. Where the template ends turns without such a token, ``end`` is appended to
    the last one, or the policy would never learn to stop.

    Args:
        tokenizer: with a chat template.
        prompt: messages up to the first turn to learn.
        completion: the messages from there on; the last is of the assistant.
        stop_ids: tokens that end a response.
        end: the stop token that is appended where the template has none.
        tools: schemas of the functions that may be called.

    Raises:
        RefusedError: the template does not continue its own prompt with the answer, or leaves
            something out.
    """
    messages = (*prompt, *completion)
    check_complete(tokenizer, messages, tools)
    tokens = full_ids(tokenizer, messages, tools)
    answers = range(len(prompt), len(messages))
    turns = [i for i in answers if messages[i]["role"] == "assistant"]
    starts = [len(_prefix(tokens, prompt_ids(tokenizer, messages[:i], tools), i)) for i in turns]
    spans: Spans = []
    for turn, start, limit in zip(turns, starts, [*starts[1:], len(tokens)], strict=True):
        last = turn == turns[-1]
        alone = tokens if last else full_ids(tokenizer, messages[: turn + 1], tools)
        stops = [i for i in range(start, limit) if tokens[i] in stop_ids]
        if stops and stop_ids & {*alone[start:]}:  # it ends itself, with the first
            spans.append((start, stops[0] + 1))
        else:  # a stop may also end what follows
            spans.append((start, len(_prefix(tokens, alone, turn))))
    start, stop = spans[-1]
    tokens = tokens[:stop]
    if tokens[-1] not in stop_ids:
        tokens.append(end)
        spans[-1] = (start, stop + 1)
    return tokens, spans


def check_complete(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools = ()
) -> None:
    """Refuse a template that leaves out what many do not know: a developer, tools, their calls.

    Raises:
        RefusedError: what it leaves out.
    """
    parts = list[tuple[Sequence[Message], Tools, str]]()
    if tools:
        parts.append((messages, (), "the tools"))
    for i, message in enumerate(messages):
        before, after = messages[:i], messages[i + 1 :]
        if message["role"] in ("developer", "tool"):
            parts.append(((*before, *after), tools, f"message {i + 1}, of the {message['role']}"))
        if "tool_calls" in message:
            bare = {key: value for key, value in message.items() if key != "tool_calls"}
            parts.append(((*before, bare, *after), tools, f"the tool calls of message {i + 1}"))
    whole = _apply(tokenizer, messages, tools, prompt=False, tokenize=False) if parts else None
    for less, fewer, what in parts:
        if _text_or_none(tokenizer, less, fewer) == whole:
            raise RefusedError(f"leaves out {what}")


def full_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools = ()
) -> list[int]:
    """A whole conversation as tokens, no turn being awaited."""
    return list(_apply(tokenizer, messages, tools, prompt=False, tokenize=True)["input_ids"])


def _text_or_none(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools
) -> str | None:
    """The messages as text; None: the template cannot do without what they lack."""
    try:
        return str(_apply(tokenizer, messages, tools, prompt=False, tokenize=False))
    except RefusedError:
        return None


def _prefix(tokens: list[int], beginning: list[int], turn: int) -> list[int]:
    if tokens[: len(beginning)] != beginning:
        raise RefusedError(f"renders message {turn + 1} in another way than its prompt announces")
    return beginning


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Tools,
    *,
    prompt: bool,
    tokenize: bool,
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
            tools=[dict(tool) for tool in tools] or None,
            add_generation_prompt=prompt,
            tokenize=tokenize,
            return_dict=True,
        )
    except (TemplateError, TypeError) as error:  # a template may add text to what is none
        raise RefusedError(f"refuses it: {one_line(error)}") from error
