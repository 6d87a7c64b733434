"""Whether a critic or a reward model can read the tokens of a policy."""

from __future__ import annotations

from polopt.errors import ModelError
from polopt.models.load import LanguageModel, ScalarModel, context_length


def check_vocabulary(
    field: str, reader: tuple[str, ScalarModel | LanguageModel], policy: tuple[str, LanguageModel]
) -> None:
    """Refuse a model whose tokens have other ids than those of the policy.

    Args:
        field: of the recipe that names the reader.
        reader: path and model of a critic, a reward model or a process reward model.
        policy: path and model whose tokens it reads.

    Raises:
        ModelError: names both, and a token that they do not share.
    """
    theirs, ours = (one[1].tokenizer.get_vocab() for one in (reader, policy))
    if theirs == ours:
        return
    place, token = min((place, token) for token, place in ours.items() ^ theirs.items())
    raise ModelError(
        f"{field}: the tokeniser of {reader[0]!r} ({len(theirs):,} tokens) is not that of "
        f"{policy[0]!r} ({len(ours):,}), whose ids it reads: only one of them has {token!r} "
        f"as number {place}"
    )


def check_reach(field: str, reader: ScalarModel | LanguageModel, longest: int) -> None:
    """Refuse a model whose context is shorter than the longest prompt and response together.

    Raises:
        ModelError: how many tokens it reads, and what to lower.
    """
    if (reach := context_length(reader)) < longest:
        raise ModelError(
            f"{field}: reads {reach:,} tokens at most, and prompt and response may have "
            f"{longest:,}; lower data.max_prompt_tokens or rollout.max_new_tokens"
        )
