"""Low-rank adapters: a few trained weights beside frozen ones, by ``peft``.

    W' = W + α/r · B A,   A [r, in], B [out, r];  B = 0 at the start, so that W' = W

Hu et al. 2021, LoRA, arXiv:2106.09685, Section 4.1. The model stays the module of ``transformers``
that it was: its linear layers are replaced in place, and sampling and log-probs work as before.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from polopt.errors import ModelError, missing_extra, one_line
from polopt.math.reduce import widen
from polopt.models.streamed import Later, write
from polopt.recipe import Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "default"  # peft's own name of the one adapter
DIRECTORY = "adapter"  # of a checkpoint
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of every name in a file of peft


def attach(model: PreTrainedModel, settings: Model, seed: int, *, head: str | None = None) -> None:
    """Freeze a model and put an adapter of rank ``settings.lora`` beside its linear layers.

    Args:
        model: changed in place; what it computes stays the same until the adapter is trained.
        settings: rank, α (default: twice the rank) and layers (default: all but the head).
        seed: of A; the same seed gives the same bits, and no generator is disturbed.
        head: a layer that is trained with the adapter, all of it.

    Raises:
        ModelError: no layer of that name, or a rank above that of every layer.
    """
    import peft  # an extra; checked before the run began
    from transformers.pytorch_utils import Conv1D

    assert settings.lora is not None, "asked for"
    layers = _linear(model)
    targets = list(settings.lora_targets) or sorted({_last(name) for name in layers})
    _check_targets(targets, layers)
    chosen = [layer for name, layer in layers.items() if any(_is(name, t) for t in targets)]
    _check_rank(settings.lora, chosen)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM" if head is None else "SEQ_CLS",
        base_model_name_or_path=_hub_id(model),
        revision=settings.revision,
        r=settings.lora,
        lora_alpha=settings.lora_alpha or 2 * settings.lora,
        lora_dropout=0.0,  # the sampler and the trainer must be one policy
        target_modules=targets,
        modules_to_save=None,  # peft would copy the head
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in chosen),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, NAME)
    if head is not None:
        model.get_submodule(head).requires_grad_(True)
        config.modules_to_save = [head]
    model.eval()


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether the model has an adapter of :func:`attach`."""
    return NAME in getattr(model, "peft_config", {})


@contextmanager
def switched_off(model: PreTrainedModel) -> Generator[None]:
    """Inside, the model computes with its frozen weights alone, as before :func:`attach`."""
    layers = [layer for _, layer in _adapted(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights W' under the names that they have without an adapter; the model is left alone.

    Layers with an adapter come on the CPU.
    """
    return {n: w.make() if isinstance(w, Later) else w for n, w in merging(model).items()}


def merging(model: PreTrainedModel) -> dict[str, Tensor | Later]:
    """The same, each W' of a layer with an adapter made when it is asked for.

    Adding to W in place and subtracting again would change its last bits.
    """
    state: dict[str, Tensor | Later] = dict(model.state_dict())
    for name, layer in _adapted(model):
        own = {key: state.pop(key) for key in list(state) if key.startswith(f"{name}.")}
        for key, tensor in own.items():
            if key.startswith(f"{name}.base_layer."):
                state[key.replace(".base_layer.", ".")] = tensor
        base: Any = state[f"{name}.weight"]
        wide = torch.float64 if base.dtype == torch.float64 else torch.float32
        state[f"{name}.weight"] = Later(tuple(base.shape), wide, partial(_whole, layer, base))
    return state


@torch.no_grad()
def _whole(layer: Any, base: Tensor) -> Tensor:  # noqa: ANN401
    """W' of a layer in float32, for the delta may be small."""
    return widen(layer.get_delta_weight(NAME).add_(base)).cpu()


def save_adapter(model: PreTrainedModel, directory: Path) -> None:
    """Write the trained weights in the layout of peft, for ``PeftModel.from_pretrained``."""
    directory.mkdir(parents=True, exist_ok=True)
    write(directory / WEIGHTS_FILE, dict(_trained(model)), {"format": "pt"})
    config: dict[str, Any] = {**_config(model).to_dict(), "inference_mode": True}
    # The layers are a set, whose order differs from process to process.
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted)
    (directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def load_adapter(model: PreTrainedModel, directory: Path) -> None:
    """Load what :func:`save_adapter` wrote, bit for bit."""
    found = load_file(directory / WEIGHTS_FILE)
    with torch.no_grad():
        for name, parameter in _trained(model):
            parameter.copy_(found.pop(name))
    assert not found, f"{directory}: {sorted(found)} belong to no layer"


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter alone, in the layout of peft."""
    return (directory / CONFIG_FILE).is_file()


def put_on(model: PreTrainedModel, directory: Path) -> None:
    """Put an adapter that was trained beside a model on it.

    Raises:
        MissingExtraError: peft is not installed.
        ModelError: no adapter of this model.
    """
    try:
        import peft
    except ImportError as error:
        raise missing_extra(f"the adapter {str(directory)!r}", "peft", "lora", error) from error
    try:
        config = peft.PeftConfig.from_pretrained(str(directory))
        config.inference_mode = False  # else its weights would not be told from the frozen ones
        peft.inject_adapter_in_model(config, model, NAME)
        load_adapter(model, directory)
    except Exception as error:  # of peft, on files that are not ours
        reason = one_line(f"{type(error).__name__}: {error}", 160)
        raise ModelError(f"{str(directory)!r} is no adapter of this model: {reason}") from error
    model.eval()


def _hub_id(model: PreTrainedModel) -> str | None:
    """The hub id of the base model; None for a directory, which others do not have."""
    name = model.name_or_path
    return name if name and not Path(name).exists() else None


def _linear(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """The linear layers below the head, by their full names."""
    from transformers.pytorch_utils import Conv1D

    trunk = set(model.base_model.modules())
    return {
        name: layer
        for name, layer in model.named_modules()
        if layer in trunk and isinstance(layer, torch.nn.Linear | Conv1D)
    }


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is(name: str, target: str) -> bool:
    """Whether a target, whole or the end of a dotted name, means the layer; as peft has it."""
    return name == target or name.endswith(f".{target}")


def _check_targets(targets: Sequence[str], layers: dict[str, torch.nn.Module]) -> None:
    for target in targets:
        if not any(_is(name, target) for name in layers):
            known = ", ".join(sorted({_last(name) for name in layers}))
            raise ModelError(
                f"model.lora_targets: {target!r} is no linear layer below the head; there are: "
                + known
            )


def _check_rank(rank: int, layers: Sequence[torch.nn.Module]) -> None:
    largest = max(min(layer.weight.shape) for layer in layers)  # pyright: ignore[reportArgumentType]
    if rank > largest:
        raise ModelError(
            f"model.lora: {rank} is not allowed; at most {largest}, the rank of the layers "
            "themselves"
        )


def _adapted(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """The layers that have an adapter, by name."""
    from peft.tuners.lora import LoraLayer

    return ((name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer))


def _config(model: PreTrainedModel) -> Any:  # noqa: ANN401
    return model.peft_config[NAME]


def _trained(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The trained parameters, under the names of peft's files."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield _PREFIX + name.replace(f".{NAME}.", "."), parameter
