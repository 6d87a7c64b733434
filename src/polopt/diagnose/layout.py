"""How a run will lay out the rows of a model, found out without its weights.

Packed rows have no padding, and a prompt is computed once for all of its responses. Whether that is
exact depends on the architecture, and no list says it: a run compares with the model's own pass
(:mod:`polopt.roles.policies.proven`). Here a small model with random weights and the same
configuration, but for its sizes, is asked the same.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polopt import hub
from polopt.errors import ModelError, one_line
from polopt.places import BUILT_IN, model_directory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS = 8  # in the order of the whole model, whose kinds of layers mostly come round by then
MOST_OF = {
    "intermediate_size": 256,
    "moe_intermediate_size": 256,
    "num_experts": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
MOST = 100_000_000  # weights of a model that is made in about a second


@dataclass(frozen=True)
class Layout:
    """Whether rows are packed: ``Layout("Qwen3ForCausalLM", True, "")``."""

    architecture: str
    packed: bool | None  # None: it shows when the model is there
    why: str  # where they are not packed, or it is not known

    def __str__(self) -> str:
        if self.packed is None:
            return f"whether rows are packed shows when the model is loaded: {self.why}"
        if self.packed:
            return "rows are packed, and a prompt is computed once for all of its responses"
        return (
            f"rows of {self.architecture} are padded, and prompts computed for each row: {self.why}"
        )


def layout(path: str, revision: str | None = None) -> Layout:
    """The layout of the rows of ``model.path``; imports torch and transformers."""
    import torch

    from polopt.models.load import quiet
    from polopt.roles.policies.proven import proven

    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = _small(path, revision)
            unpacked = proven(model).unpacked
    except ModelError as error:
        return Layout("", None, str(error))
    except Exception as error:  # a configuration that does not fit sizes that it was not made for
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        return Layout("", None, f"no small model of its configuration can be made ({reason})")
    return Layout(type(model).__name__, unpacked is None, unpacked or "")


def _small(path: str, revision: str | None) -> PreTrainedModel:
    """A model of the same configuration with few weights, which are random and not small."""
    import torch
    from transformers import AutoModelForCausalLM

    from polopt.models import builtin

    if path.startswith(BUILT_IN):
        return builtin.model(builtin.BUILTIN[path.removeprefix(BUILT_IN)], seed=0).eval()
    config = _reduced(_configuration(path, revision))
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(config).num_parameters()
    if size > MOST:
        raise ValueError(f"{size:,} weights")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(3.0)  # a model that is sure of itself: attention counts
    return model.eval()


def _configuration(path: str, revision: str | None) -> Any:  # noqa: ANN401 - of transformers
    from transformers import AutoConfig

    directory: Path | None = model_directory("model.path", path)
    if directory is None:
        directory = hub.configuration("model.path", path, revision).parent
    return AutoConfig.from_pretrained(directory, trust_remote_code=False)


def _reduced(whole: Any) -> Any:  # noqa: ANN401
    """The configuration with few and narrow layers and few tokens.

    Width and heads become smaller by the same factor, so that a head is as wide as it was.
    """
    config = deepcopy(whole)
    if not hasattr(config, "num_hidden_layers"):
        raise ValueError(f"{type(config).__name__} is more than a language model")
    layers = min(config.num_hidden_layers, LAYERS)
    heads = getattr(config, "num_attention_heads", None) or 1
    factor = math.gcd(heads, getattr(config, "num_key_value_heads", None) or heads)
    for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"):
        if getattr(config, name, None):
            setattr(config, name, max(1, getattr(config, name) // factor))
    for name, most in MOST_OF.items():
        if getattr(config, name, None):
            setattr(config, name, min(getattr(config, name), most))
    config.num_hidden_layers = layers
    if vars(config).get("layer_types"):  # of others it follows from their settings
        config.layer_types = config.layer_types[:layers]
    config.vocab_size = min(config.vocab_size, 512)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    return config
