"""What the local engine returns: the numbers of a plain forward pass, and how responses end."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from polopt.models import LanguageModel
from polopt.roles.policies.token import score
from polopt.rollout.engines import LocalEngine, Request
from polopt.rollout.engines.decode import Decode, Row, Slots
from polopt.rollout.groups import experience
from polopt.types import Batch, Finish, Group, Prompt, Sample, Sampling, Span
from random_models import (
    STOP,
    TOKENIZER,
    always,
    builtin_model,
    generated,
    peaked,
    prompt,
    request,
)

CPU = torch.device("cpu")


def teacher_forced(language_model: LanguageModel, groups: list[Group]) -> torch.Tensor:
    """log π of every response token by the policy that is trained, minus the engine's."""
    tensors = experience(Batch(tuple(groups), 0), pad_id=0, device=CPU)
    with torch.no_grad():
        logp = score(
            language_model.model, tensors.tokens, {"logp"}, stop_ids=language_model.stop_ids
        ).logp
    return (logp - tensors.logp_rollout)[tensors.mask]


def all_samples(groups: dict[int, Group]) -> list[Sample]:
    return [sample for group in groups.values() for sample in group.samples]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("minimum", [0, 6])
@pytest.mark.parametrize("name", ["tiny", "small"])
def test_log_probs_are_those_of_a_plain_forward_pass(
    name: str, temperature: float, minimum: int
) -> None:
    language_model = builtin_model(name)
    sampling = Sampling(temperature, max_new_tokens=20, min_new_tokens=minimum)
    groups = generated(
        LocalEngine(language_model),
        [request(i, length, 4, sampling) for i, length in enumerate((1, 2, 17, 40))],
    )
    samples = all_samples(groups)
    lengths = [int(sample.mask.sum()) for sample in samples]
    assert min(lengths) >= minimum
    difference = teacher_forced(language_model, list(groups.values()))
    assert difference.numel() == sum(lengths)
    assert difference.abs().max() <= 1e-5
    for sample in samples:
        assert (np.isnan(sample.logp_rollout) == ~sample.mask).all()
        assert (sample.mask == (np.arange(len(sample.tokens)) >= sample.prompt_length)).all()


def test_a_minimum_beyond_the_likely_end_is_kept_exactly() -> None:
    language_model = always(STOP)
    groups = generated(
        LocalEngine(language_model),
        [request(0, 3, 8, Sampling(max_new_tokens=9, min_new_tokens=5))],
    )
    for sample in groups[0].samples:
        assert len(sample.tokens) - sample.prompt_length == 6  # five others, then the end
        assert sample.tokens[-1] == STOP
        assert STOP not in sample.tokens[3:-1]


def test_end_of_sequence_as_the_first_token() -> None:
    groups = generated(LocalEngine(always(STOP)), [request(0, 4, 3), request(1, 1, 2)])
    for sample in all_samples(groups):
        assert sample.tokens.tolist()[sample.prompt_length :] == [STOP]
        assert sample.finish is Finish.STOP
        assert sample.logp_rollout[-1] == pytest.approx(0.0, abs=1e-5)


def test_one_new_token_and_a_prompt_of_one() -> None:
    language_model = builtin_model()
    sampling = Sampling(max_new_tokens=1)
    groups = generated(LocalEngine(language_model), [request(0, 1, 30, sampling)])
    for sample in groups[0].samples:
        assert len(sample.tokens) == 2
        stopped = sample.tokens[-1] == STOP
        assert sample.finish is (Finish.STOP if stopped else Finish.LENGTH)
    assert teacher_forced(language_model, list(groups.values())).abs().max() <= 1e-5


def test_length_is_the_end_of_what_does_not_stop() -> None:
    letter = TOKENIZER("a")["input_ids"][0]
    groups = generated(LocalEngine(always(letter)), [request(0, 2, 2, Sampling(max_new_tokens=7))])
    for sample in groups[0].samples:
        assert sample.tokens.tolist()[2:] == [letter] * 7
        assert sample.finish is Finish.LENGTH


def test_stop_strings_end_a_response_with_themselves() -> None:
    a, b = (TOKENIZER(text)["input_ids"][0] for text in "ab")
    sampling = Sampling(max_new_tokens=40, stop=("ab", "bbb"))
    groups = generated(LocalEngine(always(a, b)), [request(0, 2, 24, sampling)])
    texts = [TOKENIZER.decode(s.tokens[s.prompt_length :]) for s in groups[0].samples]
    assert len(set(texts)) > 3
    for text, sample in zip(texts, groups[0].samples, strict=True):
        assert set(text) <= {"a", "b"}
        assert text.endswith(("ab", "bbb"))
        assert "ab" not in text[:-1] and "bbb" not in text[:-1]
        assert sample.finish is Finish.STOP


def test_a_prompt_that_holds_the_stop_string_does_not_end_the_response() -> None:
    a, b = (TOKENIZER(text)["input_ids"][0] for text in "ab")
    stop = Request(0, Prompt(0, "ab", (a, b)), 1, Sampling(max_new_tokens=3, stop=("ab",)), 0)
    groups = generated(LocalEngine(always(a)), [stop])
    assert groups[0].samples[0].tokens.tolist() == [a, b, a, a, a]


def test_the_probability_of_two_equal_tokens_is_a_half() -> None:
    a, b = (TOKENIZER(text)["input_ids"][0] for text in "ab")
    groups = generated(LocalEngine(always(a, b)), [request(0, 2, 200)])
    tokens = np.concatenate([s.tokens[2:] for s in groups[0].samples])
    logp = np.concatenate([s.logp_rollout[2:] for s in groups[0].samples])
    assert set(tokens.tolist()) == {a, b}
    assert np.allclose(logp, np.log(0.5), atol=1e-5)
    assert abs((tokens == a).mean() - 0.5) < 5 * 0.5 / np.sqrt(len(tokens))  # five sigma


def test_greedy_takes_the_most_likely_token_and_temperature_has_no_part() -> None:
    language_model = builtin_model()
    sampling = Sampling(temperature=0.0, max_new_tokens=12)
    groups = generated(LocalEngine(language_model), [request(0, 9, 2, sampling)])
    one, two = groups[0].samples
    assert one.tokens.tolist() == two.tokens.tolist()
    tokens = torch.tensor(one.tokens[None, :-1])
    with torch.no_grad():
        logits = language_model.model(tokens).logits[0, 8:]
    assert one.tokens[9:].tolist() == logits.argmax(-1).tolist()
    expected = logits.log_softmax(-1).max(-1).values
    assert np.allclose(one.logp_rollout[9:], expected, atol=1e-5)


def test_top_p_renormalises_over_the_smallest_set() -> None:
    a, b, c = (TOKENIZER(text)["input_ids"][0] for text in "abc")
    language_model = always(a, b)
    with torch.no_grad():  # c: about e^-5 of the probability of a
        language_model.model.lm_head.weight[c] = 45.0 / language_model.model.config.hidden_size
    sampling = Sampling(top_p=0.9, max_new_tokens=20)
    groups = generated(LocalEngine(language_model), [request(0, 2, 40, sampling)])
    tokens = np.concatenate([s.tokens[2:] for s in groups[0].samples])
    logp = np.concatenate([s.logp_rollout[2:] for s in groups[0].samples])
    assert set(tokens.tolist()) == {a, b}
    assert np.allclose(logp, np.log(0.5), atol=1e-5)


def test_the_version_served_is_stamped_on_what_it_drew() -> None:
    engine = LocalEngine(builtin_model())
    assert engine.version == 0
    before = generated(engine, [request(0, 5)])[0].samples[0]
    engine.publish(dict, 7)
    assert engine.version == 7
    after = generated(engine, [request(0, 5)])[0].samples[0]
    assert before.spans == (Span(0, 5, len(before.tokens)),)
    assert after.spans == (Span(7, 5, len(after.tokens)),)


def test_new_weights_are_used_at_once() -> None:
    language_model = builtin_model()
    engine = LocalEngine(language_model)
    generated(engine, [request(0, 5)])
    peaked(language_model.model, 0.5)
    groups = generated(engine, [request(0, 5, 4)])
    assert teacher_forced(language_model, list(groups.values())).abs().max() <= 1e-5


def test_requests_of_different_distributions_are_not_mixed() -> None:
    language_model = builtin_model()
    engine = LocalEngine(language_model)
    cold, warm = Sampling(0.5, max_new_tokens=9), Sampling(1.0, max_new_tokens=4)
    requests = [request(i, 6, 2, warm if i % 2 else cold) for i in range(4)]
    groups = generated(engine, requests)
    assert sorted(groups) == [0, 1, 2, 3]
    for ticket, group in groups.items():
        assert {s.sampling for s in group.samples} == {warm if ticket % 2 else cold}
        assert teacher_forced(language_model, [group]).abs().max() <= 1e-5


def test_a_prompt_as_long_as_the_context_allows() -> None:
    language_model = builtin_model()
    context = language_model.model.config.max_position_embeddings
    groups = generated(
        LocalEngine(language_model),
        [request(0, context - 4, 2, Sampling(max_new_tokens=4)), request(1, 1, 2)],
    )
    assert teacher_forced(language_model, list(groups.values())).abs().max() <= 1e-5


def test_rows_that_ended_are_gone_before_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 rows at once, of 24: keys and values of the first ones never stand beside those of 32."""
    held, read = list[int](), Decode._read

    def watched(decode: Decode, rows: Sequence[Row], fillers: int) -> Slots:
        before = 0 if decode._slots is None else len(decode._slots.next)
        held.append(before + len(rows) + fillers)
        return read(decode, rows, fillers)

    monkeypatch.setattr(Decode, "_read", watched)
    language_model = builtin_model()
    for sampling in (Sampling(max_new_tokens=3), Sampling(max_new_tokens=200)):
        held.clear()
        generated(LocalEngine(language_model, rows=16), [request(0, 3, 24, sampling)])
        assert len(held) > 2  # those of the proof are one
        assert max(held) == 16


def test_an_idle_engine_returns_nothing() -> None:
    assert LocalEngine(builtin_model()).poll() == []


def test_prompts_are_returned_as_they_were_given() -> None:
    own = prompt(3, 11)
    groups = generated(LocalEngine(builtin_model()), [Request(9, own, 2, Sampling(), 0)])
    assert groups[9].prompt is own
    for sample in groups[9].samples:
        assert tuple(sample.tokens[: sample.prompt_length]) == own.tokens
