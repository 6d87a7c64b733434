"""Other architectures of transformers: decoded right, or refused in one line; never wrong."""

import pytest
import torch

from polopt.errors import ModelError
from polopt.roles.policies.token import score
from polopt.rollout.engines import LocalEngine
from polopt.rollout.groups import experience
from polopt.types import Batch, Sampling
from random_models import SHARED, VOCABULARY, generated, of_architecture, request

HEADS = {**SHARED, "head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_local_experts": 4}
OLD = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
RIGHT = {
    "qwen2": SHARED,
    "qwen3": HEADS,
    "mistral": {**SHARED, "sliding_window": None},
    "gemma": HEADS,
    "gemma2": {**HEADS, "sliding_window": 64},  # eager attention, soft caps
    "gemma3_text": {**HEADS, "sliding_window": 64},
    "gpt2": OLD,  # absolute positions, new GELU
    "gptj": {**OLD, "rotary_dim": 4},  # eager attention
    "gpt_neox": SHARED,
    "phi": SHARED,
    "phi3": SHARED,
    "olmo2": SHARED,
    "smollm3": SHARED,
    "qwen3_moe": {**HEADS, **EXPERTS, "num_experts": 4},
    "gpt_oss": {**HEADS, **EXPERTS, "sliding_window": 64},  # attention sinks
}
STATEFUL = {
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "lfm2": {**SHARED, "layer_types": ["conv", "full_attention"]},
    "qwen3_next": HEADS,
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
}
WINDOWED = {
    "mistral": {**SHARED, "sliding_window": 32},
    "qwen2": {**SHARED, "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
    "gemma3_text": {**HEADS, "sliding_window": 32},
    "gpt_oss": {**HEADS, **EXPERTS, "sliding_window": 32},
    "llama4_text": {**HEADS, "num_local_experts": 2, "attention_chunk_size": 32},
}


@pytest.mark.parametrize("kind", RIGHT)
def test_log_probs_are_those_of_a_plain_forward_pass(kind: str) -> None:
    language_model = of_architecture(kind, **RIGHT[kind])
    sampling = Sampling(0.9, max_new_tokens=16)
    groups = generated(
        LocalEngine(language_model),
        [request(i, length, 3, sampling) for i, length in enumerate((1, 9, 17, 40))],
    )
    tensors = experience(Batch(tuple(groups.values()), 0), pad_id=0, device=torch.device("cpu"))
    with torch.no_grad():
        logp = score(language_model.model, tensors.tokens, {"logp"}).logp
    assert (logp - tensors.logp_rollout)[tensors.mask].abs().max() <= 1e-5


@pytest.mark.parametrize("kind", STATEFUL)
def test_what_has_a_state_of_its_own_is_refused(kind: str) -> None:
    language_model = of_architecture(kind, **STATEFUL[kind])
    with pytest.raises(ModelError, match=r"model\.path: the local engine cannot decode \w+ForCau"):
        LocalEngine(language_model)


@pytest.mark.parametrize("kind", WINDOWED)
def test_rows_that_outgrow_a_sliding_window_are_refused(kind: str) -> None:
    language_model = of_architecture(kind, **WINDOWED[kind])
    engine = LocalEngine(language_model)
    generated(engine, [request(0, 16, 1, Sampling(max_new_tokens=16))])  # 32 fit
    engine.submit([request(0, 17, 1, Sampling(max_new_tokens=16))])
    with pytest.raises(ModelError, match="looks back 32 tokens; prompt and response may take 33"):
        engine.poll()


def test_an_engine_with_wrong_numbers_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    from polopt.rollout.engines.cache import RaggedCache

    honest = RaggedCache.at
    monkeypatch.setattr(  # sees what it must not see, and nothing else
        RaggedCache,
        "at",
        lambda cache, positions, reach: torch.zeros(()).where(
            honest(cache, positions, reach).isinf(), -1e9
        ),
    )
    with pytest.raises(ModelError, match="LlamaForCausalLM; its log-probs differ from those"):
        LocalEngine(of_architecture("llama", **SHARED))
