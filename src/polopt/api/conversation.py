"""A conversation with a policy, by the chat template, shown while it is sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Unpack

from polopt.api.policy import SHORTER, Policy
from polopt.api.sampling import Settings, sampled
from polopt.coordination import memory
from polopt.data import BadRowError, Row
from polopt.data.rows import Fields
from polopt.errors import ModelError
from polopt.rollout.engines import LocalEngine

Message = Mapping[str, str]
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # of a character whose bytes are not all there yet


class Conversation:
    """Turns of a user and a policy.

    ``messages`` is what was said; ``as_trained`` says whether training had messages, too.

    Raises:
        ModelError: the tokeniser has no chat template.
        RecipeError: a setting that is not allowed.
    """

    def __init__(self, policy: Policy, *, seed: int = 0, **settings: Unpack[Settings]) -> None:
        if policy.language_model.tokenizer.chat_template is None:
            raise ModelError(
                "the tokeniser has no chat template, so it has no conversations; polopt generate "
                "continues plain text"
            )
        self.messages: list[Message] = []
        self.as_trained = policy.usage.messages
        self._policy = policy
        self._sampling = sampled(policy.usage.sampling, **settings)
        with memory.told("answers", SHORTER):
            self._engine, self._seed = LocalEngine(policy.language_model), seed
        self._tickets = count()  # the draws of a turn are its own, after a clear(), too

    def clear(self) -> None:
        """Forget what was said."""
        self.messages = []

    def say(self, turn: str, heard: Callable[[str], object]) -> None:
        """Answer a turn of the user; an interrupt leaves in the history what had been answered.

        Args:
            turn: text of the user.
            heard: gets the answer piece by piece.

        Raises:
            DataError: a conversation that fills the context, or a special token in it.
        """
        asked = [*self.messages, {"role": "user", "content": turn}]
        answer = _Growing(heard)

        def hear(tokens: list[int]) -> None:
            answer.reach(self._policy.text(tokens))

        self._submit(asked)
        try:
            with memory.told("answers", SHORTER):
                while not (groups := self._engine.poll(hear)):
                    pass
            answer.end(self._policy.answer(groups[0].samples[0]))
        except KeyboardInterrupt:
            self._remember(asked, answer.text)
            raise
        self._remember(asked, answer.text)

    def _remember(self, asked: list[Message], answer: str) -> None:
        self.messages = [*asked, {"role": "assistant", "content": answer}]

    def _submit(self, messages: list[Message]) -> None:
        # What a policy said is no row of data: it may be empty, and is not checked as one.
        row = Row("the conversation", tuple(messages), None, {}, Fields(""))
        try:
            request = self._policy.request(row, next(self._tickets), self._sampling, self._seed)
        except BadRowError as error:
            if error.reason == "prompt too long":
                error.add_note("/clear begins a new one")
            raise
        self._engine.submit([request])


class _Growing:
    """A text that grows at its end, and is handed on in pieces of whole characters."""

    def __init__(self, heard: Callable[[str], object]) -> None:
        self.text, self._heard = "", heard

    def reach(self, text: str) -> None:
        """The text as far as it has come; a tokeniser may yet change what ends it."""
        if text.startswith(self.text) and not text.endswith(UNFINISHED):
            self._heard(text[len(self.text) :])
            self.text = text

    def end(self, text: str) -> None:
        """The whole text."""
        self._heard(text[len(self.text) :])
        self.text = text
