"""From rows to tokens: prompts to sample from, demonstrations and rankings to learn from.

Training sequences begin with exactly the tokens that the policy is prompted with: prompt and
completion are tokenised apart, never across the end of the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from polopt.data import chat
from polopt.data.identity import key, unique
from polopt.data.messages import TOOLS, strings
from polopt.data.rows import BadRowError, Row, Text, Tools
from polopt.errors import DataError
from polopt.recipe import shown
from polopt.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Demonstration:
    """A prompt with one response, as tokens and the mask of those to learn."""

    prompt: Prompt
    tokens: NDArray[np.int64]  # [P + T] begins with the tokens of the prompt
    mask: NDArray[np.bool_]  # [P + T] True on tokens of the response, with those that end a turn
    prompt_length: int  # P


@dataclass(frozen=True)
class Ranking:
    """A prompt and several responses to it, with their ranks."""

    prompt: Prompt
    responses: tuple[Demonstration, ...]
    ranks: tuple[float, ...]  # of the responses; lower is better


@dataclass(frozen=True)
class Tokeniser:
    """A tokeniser of transformers with the limits of a run.

    Text becomes tokens by the tokeniser's own convention for special tokens, chat messages by its
    template alone; so there is never a second BOS token. Text that contains a special token is
    refused: it would be read as the token, not as text.
    """

    tokenizer: PreTrainedTokenizerBase
    max_prompt_tokens: int | None = None
    max_tokens: int | None = None  # of a prompt with its demonstration: the model's context
    stop_ids: tuple[int, ...] = ()  # further tokens that end a response, beside the tokeniser's

    def prompt(self, row: Row, id: int) -> Prompt:
        """The prompt of a row; ``id`` is its position in the stream or in the evaluation list.

        Raises:
            BadRowError: a special token in the text, too many tokens, or none.
            DataError: messages, but no chat template; no room for any prompt.
        """
        self._check_special(row, row.fields.prompt, row.prompt)
        if isinstance(row.prompt, str):
            text, tokens = row.prompt, self._prompt_ids(row.prompt)
        else:
            self._check_special(row, TOOLS, row.tools)
            with _by_template(row):
                chat.check_complete(self.tokenizer, row.prompt, row.tools)
                text = chat.rendered(self.tokenizer, row.prompt, row.tools)
                tokens = chat.prompt_ids(self.tokenizer, row.prompt, row.tools)
        if not tokens:
            raise BadRowError(row.where, "empty field", "has no tokens", row.fields.prompt)
        if self.max_prompt_tokens is not None and len(tokens) > self.max_prompt_tokens:
            raise self._too_long(row, len(tokens), self.max_prompt_tokens)
        keys = unique([*row.keys, key(text)])
        messages = () if isinstance(row.prompt, str) else row.prompt
        return Prompt(id, text, tuple(tokens), row.columns, keys, messages)

    def again(self, text: str, *, rendered: bool) -> tuple[int, ...]:
        """The tokens of the text of a :meth:`prompt`; ``rendered``: it was messages."""
        return tuple(self._ids(text, special=False) if rendered else self._prompt_ids(text))

    def demonstration(self, row: Row, id: int) -> Demonstration:
        """Prompt, completion and end of sequence; for messages, the whole conversation.

        The mask is True on every turn of the assistant in the completion, and on the token that
        ends the turn.

        Raises:
            BadRowError: as ``prompt``; a completion without tokens; more than the context holds.
            DataError: messages, but no chat template, or no end-of-sequence token.
        """
        if row.completion is None:
            raise BadRowError(row.where, "missing field", "is missing", row.fields.completion)
        divided = row.fields.completion not in row.columns  # a conversation in the prompt field
        field = row.fields.prompt if divided else row.fields.completion
        return self._response(row, self.prompt(row, id), row.completion, field)

    def ranking(self, row: Row, id: int) -> Ranking:
        """The prompt with each of its responses, each as a demonstration, and their ranks.

        Raises:
            BadRowError: as ``demonstration``, naming the field of the response.
            DataError: messages, but no chat template, or no end-of-sequence token.
        """
        prompt = self.prompt(row, id)
        responses = tuple(
            self._response(row, prompt, one.completion, one.field) for one in row.ranked
        )
        return Ranking(prompt, responses, tuple(one.rank for one in row.ranked))

    def _response(self, row: Row, prompt: Prompt, completion: Text, field: str) -> Demonstration:
        """Tokens and mask of one response."""
        self._check_special(row, field, completion)
        match row.prompt, completion:
            case str(), str() as answer:
                tokens = [*prompt.tokens, *self._ids(answer, special=False), self._end]
                spans = [(len(prompt.tokens), len(tokens))]
            case tuple() as messages, tuple() as turns:
                stop_ids = {self._end, *self.stop_ids}
                with _by_template(row):
                    tokens, spans = chat.conversation(
                        self.tokenizer, messages, turns, stop_ids, self._end, row.tools
                    )
            case _:
                raise TypeError(f"{row.where}: text and messages are mixed")  # accept() refuses
        if any(end - start < 2 for start, end in spans):
            raise BadRowError(row.where, "empty field", "has no tokens", field)
        if self.max_tokens is not None and len(tokens) > self.max_tokens:
            detail = f"makes {len(tokens)} tokens with its prompt; at most {self.max_tokens}"
            raise BadRowError(row.where, "demonstration too long", detail, field)
        mask = np.zeros(len(tokens), dtype=np.bool_)
        for start, end in spans:
            mask[start:end] = True
        return Demonstration(prompt, np.array(tokens, dtype=np.int64), mask, len(prompt.tokens))

    def text(self, row: Row) -> NDArray[np.int64]:
        """The tokens [T] of a plain text and its end of sequence, cut to ``max_tokens``.

        Raises:
            BadRowError: a special token in the text, fewer than two tokens, or messages.
        """
        self._check_special(row, row.fields.prompt, row.prompt)
        if not isinstance(row.prompt, str):
            raise BadRowError(row.where, "wrong type", "is a list; text", row.fields.prompt)
        tokens = [*self._prompt_ids(row.prompt), self._end][: self.max_tokens]
        if len(tokens) < 2:
            raise BadRowError(row.where, "empty field", "has no tokens", row.fields.prompt)
        return np.array(tokens, dtype=np.int64)

    def check(self, row: Row) -> tuple[str, ...]:
        """The keys of the prompt as the model reads it, for ``load_rows``.

        Raises:
            BadRowError: as ``prompt``, ``demonstration`` or ``ranking``, by what the row holds.
        """
        if row.ranked:
            return self.ranking(row, 0).prompt.keys
        if row.completion is None:
            return self.prompt(row, 0).keys
        return self.demonstration(row, 0).prompt.keys

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """A pattern for any special token; built once, because asking the tokeniser is slow."""
        added = self.tokenizer.added_tokens_decoder.values()
        tokens = {*self.tokenizer.all_special_tokens, *(str(t) for t in added if t.special)}
        return re.compile("|".join(re.escape(token) for token in sorted(tokens) if token) or "(?!)")

    @cached_property
    def _end(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise DataError("model.path: the tokeniser has no end-of-sequence token")
        return cast("int", self.tokenizer.eos_token_id)

    def _too_long(self, row: Row, count: int, most: int) -> DataError:
        """The error of a prompt of ``count`` tokens, of which at most ``most`` may be."""
        context = self.max_tokens
        if context is not None and most < 1:
            return DataError(
                f"rollout.max_new_tokens: {context - most} leaves no room for a prompt in the "
                f"model's context of {context} tokens; the {count} of {row.where} leave "
                f"{max(context - count, 0)}"
            )
        limits = "data.max_prompt_tokens, or the context of {} less rollout.max_new_tokens"
        why = "" if context is None else f" ({limits.format(context)})"
        detail = f"has {count} tokens; at most {most}{why}"
        return BadRowError(row.where, "prompt too long", detail, row.fields.prompt)

    def _check_special(self, row: Row, field: str, text: Text | Tools) -> None:
        for part in strings(text):
            found = self._special.search(part)
            if found:
                detail = f"contains the special token {shown(found[0])}; text without such tokens"
                raise BadRowError(row.where, "special token in text", detail, field)

    def _prompt_ids(self, text: str) -> list[int]:
        """Plain text with the special tokens of the tokeniser's convention around it."""
        tokens = self._ids(text, special=True)
        # some tokenisers also append EOS, which must not stand between prompt and response
        ended = len(tokens) > 1 and tokens[-1] == self.tokenizer.eos_token_id
        return tokens[:-1] if ended else tokens

    def _ids(self, text: str, special: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])


@contextmanager
def _by_template(row: Row) -> Generator[None]:
    """Turn a refusal of the chat template into an error that names the row."""
    try:
        yield
    except chat.RefusedError as error:
        detail = f"cannot be rendered: the chat template {error}"
        raise BadRowError(row.where, "chat template", detail, row.fields.prompt) from error
