"""A reward model says one number of a whole response, and the same whoever stands beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from polopt.models import ScalarModel
from polopt.roles import Computing, Critic, reward_of, step_ends, step_rewards_of
from polopt.types import TokenRows
from random_models import SHARED, TOKENIZER, VOCABULARY, peaked

CPU = torch.device("cpu")
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SHARED,
    "gpt2": {  # absolute positions: padding must not move a token
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}


@pytest.fixture(params=ARCHITECTURES)
def role(request: pytest.FixtureRequest) -> Iterator[Critic]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = AutoConfig.for_model(request.param, num_labels=1, **ARCHITECTURES[request.param])
    model = peaked(AutoModelForSequenceClassification.from_config(config))
    yield Critic(ScalarModel(model, TOKENIZER, (2,)))
    torch.set_num_threads(threads)


def drawn(count: int, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses of many lengths; padding is nobody's token."""
    dice = torch.Generator().manual_seed(seed)

    def some(least: int, most: int) -> list[int]:
        length = int(torch.randint(least, most, (), generator=dice))
        return torch.randint(3, VOCABULARY, (length,), generator=dice).tolist()

    return [some(1, 9) for _ in range(count)], [[], *(some(1, 12) for _ in range(count - 1))]


def test_it_is_the_number_that_transformers_gives(role: Critic) -> None:
    """Of each sequence alone, by the model's own forward pass."""
    prompts, responses = drawn(12)
    assert not responses[0], "a response may be empty: the prompt ends it then"
    ours = reward_of(role, pad_id=0, device=CPU)(prompts, responses)
    with torch.no_grad():
        theirs = [
            role.scalar_model.model(torch.tensor([[*x, *y]])).logits.item()
            for x, y in zip(prompts, responses, strict=True)
        ]
    assert torch.tensor(theirs).std() > 0.1
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-5)


def test_it_does_not_depend_on_the_others(role: Critic) -> None:
    prompts, responses = drawn(12)
    reward = reward_of(role, pad_id=0, device=CPU)
    together = torch.tensor(reward(prompts, responses))
    alone = [reward([x], [y])[0] for x, y in zip(prompts, responses, strict=True)]
    backwards = reward(prompts[::-1], responses[::-1])[::-1]
    torch.testing.assert_close(together, torch.tensor(alone), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, torch.tensor(backwards), rtol=1e-5, atol=1e-6)


def test_what_fills_up_is_not_read(role: Critic) -> None:
    prompts, responses = drawn(12)
    one, other = (reward_of(role, pad_id=pad, device=CPU)(prompts, responses) for pad in (0, 77))
    assert one == other


def test_the_last_token_counts(role: Critic) -> None:
    prompts, responses = drawn(4, seed=1)
    longer = [[*response, 5] for response in responses]
    reward = reward_of(role, pad_id=0, device=CPU)
    pairs = zip(reward(prompts, responses), reward(prompts, longer), strict=True)
    assert all(before != after for before, after in pairs)


def test_a_step_is_scored_as_a_response_that_ends_there(role: Critic) -> None:
    prompts, responses = drawn(12)
    whole = reward_of(role, pad_id=0, device=CPU)
    every_third = step_rewards_of(
        role, pad_id=0, device=CPU, ends=lambda ids: [t % 3 == 2 for t in range(len(ids))]
    )(prompts, responses)
    assert every_third[0] == []
    for prompt, response, found in zip(prompts, responses, every_third, strict=True):
        assert len(found) == len(response)
        for t, number in enumerate(found):
            assert (number is None) == (t % 3 != 2)
            if number is not None:
                (expected,) = whole([prompt], [response[: t + 1]])
                assert number == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("pieces", "separator", "ends"),
    [
        (["a", "b", "c"], None, [True, True, True]),
        (["a", ";", "b", ";", "c"], ";", [False, True, False, True, True]),
        (["a;b", "c", "d"], ";", [True, False, True]),  # complete inside a token
        (["a", "\n", "\n", "b"], "\n\n", [False, False, True, True]),  # of two tokens
        (["a", "", ";", ""], ";", [False, False, True, True]),
        (["a"], ";", [True]),
        ([], ";", []),
        ([], None, []),
    ],
)
def test_where_steps_end(pieces: list[str], separator: str | None, ends: list[bool]) -> None:
    assert step_ends(pieces, separator) == ends


def test_many_responses_are_scored_in_several_passes(
    role: Critic, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    score = Critic.score

    def counting(self: Critic, rows: TokenRows, want: Any) -> Any:
        sizes.append(len(rows.tokens))
        assert not torch.is_grad_enabled()
        return score(self, rows, want)

    monkeypatch.setattr(Critic, "score", counting)
    role = replace(role, how=Computing(tokens=100))
    assert len(reward_of(role, pad_id=0, device=CPU)([[3, 4]] * 200, [[5]] * 200)) == 200
    assert sizes == [98, 98, 4]  # the prompt counts once in a pass
