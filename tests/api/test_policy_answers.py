"""What a loaded policy answers."""

from __future__ import annotations

import pytest

from polopt.api.policy import Policy
from polopt.rollout.usage import Usage
from polopt.types import Sampling
from random_models import TOKENIZER, always


@pytest.mark.parametrize("length", [5, 60])  # less and more than an engine takes by itself
def test_an_answer_is_as_long_as_those_of_its_training(length: int) -> None:
    (token,) = TOKENIZER("a", add_special_tokens=False)["input_ids"]
    policy = Policy(always(token), Usage(False, "prompt", Sampling(max_new_tokens=length)))
    assert policy.respond(["1+2="]) == ["a" * length]
