"""A model and its tokeniser from a directory, a hub id, or the built-in ones.

``transformers`` is imported inside functions, so that runs in control do not wait for it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open

from polopt import hub
from polopt.errors import ModelError, did_you_mean, one_line
from polopt.models import adapter, builtin, streamed
from polopt.models.sharded import is_sharded, whole
from polopt.models.streamed import Later
from polopt.places import BUILT_IN, model_directory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Reader:
    """What is needed to read text as a model does, without its weights."""

    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]  # tokens that end a response
    context: int  # tokens that the model can attend to at once


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model and its tokeniser."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]  # tokens that end a response


@dataclass(frozen=True)
class ScalarModel:
    """A transformer with a linear head on its hidden states: a critic or a reward model."""

    model: PreTrainedModel  # of transformers' sequence classification
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]

    @property
    def backbone(self) -> torch.nn.Module:
        """The transformer below the head."""
        return self.model.base_model

    @property
    def head(self) -> torch.nn.Linear:
        """The linear layer on a hidden state."""
        return _head(self.model)


def load(path: str, *, revision: str | None = None, seed: int = 0) -> LanguageModel:
    """Load in float32 (the optimiser's master weights), in evaluation mode, on the CPU.

    Args:
        path: ``builtin:NAME``, a directory in Hugging Face layout, or a hub id.
        revision: commit, branch or tag of a hub model.
        seed: of the random weights of a built-in model.

    Raises:
        ModelError: there is no such model, its files are incomplete, or it holds pickles only.
    """
    if path.startswith(BUILT_IN):
        return _ready(builtin.model(_builtin(path), seed), builtin.tokenizer())
    return _ready(*_from_files(*_located(path, revision)))


def load_scalar(
    path: str, *, outputs: int = 1, revision: str | None = None, seed: int = 0
) -> ScalarModel:
    """Load the weights of ``path`` under a linear head of ``outputs`` numbers, without bias.

    A head in the files is kept if its shape is right; otherwise its weights are 0, so that the
    values of a new critic start at 0.

    Raises:
        ModelError: as :func:`load`; an architecture without sequence classification.
    """
    if path.startswith(BUILT_IN):
        body, tokens = builtin.model(_builtin(path), seed), builtin.tokenizer()
        model: PreTrainedModel = builtin.classifier(body, outputs)
        language_model = _ready(body, tokens)
    else:
        model, tokens = _from_files(*_located(path, revision), outputs)
        language_model = _ready(model, tokens)
    model.config.pad_token_id = cast(int, language_model.tokenizer.pad_token_id)
    return ScalarModel(model.eval(), language_model.tokenizer, language_model.stop_ids)


def read(path: str, *, revision: str | None = None) -> Reader:
    """The reader of a model, as :func:`load` would give it; no weights are loaded.

    Raises:
        ModelError: there is no such model, or its tokeniser or configuration cannot be read.
    """
    if path.startswith(BUILT_IN):
        config, tokens = _builtin(path), builtin.tokenizer()
        return Reader(
            tokens, _stop_ids(tokens.eos_token_id, tokens), config["max_position_embeddings"]
        )
    located, options = _located(path, revision)
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    with _told(path), quiet():
        tokens = AutoTokenizer.from_pretrained(located, trust_remote_code=False, **options)
        config = AutoConfig.from_pretrained(located, trust_remote_code=False, **options)
        try:
            ends = GenerationConfig.from_pretrained(located, **options).eos_token_id
        except OSError:  # most models have such a file; the others say it in their configuration
            ends = config.eos_token_id
    return Reader(tokens, _stop_ids(ends, tokens), _context(config))


def reader_of(model: LanguageModel | ScalarModel) -> Reader:
    """The reader of a model that is loaded."""
    return Reader(model.tokenizer, model.stop_ids, context_length(model))


def _head(model: PreTrainedModel) -> torch.nn.Linear:
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise ModelError(f"model.path: {type(model).__name__} has no linear head named score")
    return head


def _builtin(path: str) -> Mapping[str, Any]:
    name = path.removeprefix(BUILT_IN)
    if name not in builtin.BUILTIN:
        allowed = "allowed: " + ", ".join(BUILT_IN + known for known in builtin.BUILTIN)
        hint = did_you_mean(name, builtin.BUILTIN, allowed, as_=BUILT_IN + "{}")
        raise ModelError(f"model.path: {path!r} is no built-in model; {hint}")
    return builtin.BUILTIN[name]


def _located(path: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """Where transformers reads a model, and how: a directory that was checked, or a hub id."""
    directory = model_directory("model.path", path)
    if directory is not None:
        _check_weights(directory)
        return str(directory), {}
    answers = hub.answers("model.path", path, revision)
    return path, {"revision": revision, "local_files_only": not answers}


def _from_files(
    path: str, options: Mapping[str, Any], outputs: int | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokeniser by transformers; incomplete weights are refused, but for a new head.

    Args:
        path: a directory or a hub id.
        options: of transformers, how a hub id is read.
        outputs: of the head of a scalar model; None: a language model.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    language = outputs is None
    kind: Any = AutoModelForCausalLM if language else AutoModelForSequenceClassification
    head = {} if language else {"num_labels": outputs}
    try:
        # safetensors only, and no code from the model's repository: weights must not execute.
        with quiet(), torch.random.fork_rng(devices=[]):
            loaded: Any = kind.from_pretrained(  # a pair: model, loading info
                path,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
                **head,
                **options,
            )
            tokens = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options)
    except Exception as error:  # transformers raises anything on broken files
        reason = one_line(f"{type(error).__name__}: {error}".split(". ")[0], 160)
        raise ModelError(f"model.path: {path!r} cannot be loaded: {reason}") from error
    model, found = loaded
    written = str((model.config.architectures or [""])[0])
    if language and written.endswith("ForSequenceClassification"):
        # With tied weights transformers would load it in full, though it was not trained on text.
        raise ModelError(
            f"model.path: {path!r} holds a reward model or a critic, no language model"
        )
    lacking = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if not language and "score.weight" in lacking:
        lacking.remove("score.weight")
        torch.nn.init.zeros_(_head(model).weight)
    if lacking:  # transformers would fill them with random numbers
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ModelError(
            f"model.path: the weights in {path!r} lack {lacking[0]}{more} in the shape that "
            "config.json says"
        )
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ModelError(f"model.path: {name} in {path!r} holds NaN or infinity")
    return model, tokens


def save(language_model: LanguageModel | ScalarModel, directory: Path) -> None:
    """Write weights, configuration and tokeniser in Hugging Face layout, safetensors only.

    An adapter is merged into the weights, and stands beside them in the layout of peft.
    """
    model = language_model.model
    if adapter.has_adapter(model):
        adapter.save_adapter(model, directory / adapter.DIRECTORY)
    with quiet():
        model.save_pretrained(directory, state_dict={})  # all but the weights
        streamed.write(directory / WEIGHTS_FILE, _written(model), {"format": "pt"})
        language_model.tokenizer.save_pretrained(directory)


def _written(model: Any) -> Mapping[str, torch.Tensor | Later]:  # noqa: ANN401
    """The weights as transformers writes them: each once, by the names of the files of the hub."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    state: Any = adapter.merging(model) if adapter.has_adapter(model) else model.state_dict()
    ignored = model._keys_to_ignore_on_save or ()
    state = {name: weight for name, weight in state.items() if name not in ignored}
    # Tied weights are found by where they lie; of a share, and of none, that says nothing.
    held = {name: weight for name, weight in state.items() if not is_sharded(weight)}
    kept = remove_tied_weights_from_state_dict(dict(held), model)
    state = {name: weight for name, weight in state.items() if name in kept or name not in held}
    later = {name: weight for name, weight in state.items() if isinstance(weight, Later)}
    places = {n: torch.empty(w.shape, dtype=w.dtype, device="meta") for n, w in later.items()}
    found = revert_weight_conversion(model, {**state, **places})
    made = {id(place): later[name] for name, place in places.items()}
    if made.keys() <= {id(weight) for weight in found.values()}:
        return {name: made.get(id(weight), weight) for name, weight in found.items()}
    # Some are put together or taken apart, for which all are needed.
    return revert_weight_conversion(model, {**state, **{n: w.make() for n, w in later.items()}})


def weights(language_model: LanguageModel) -> dict[str, torch.Tensor]:
    """The weights by the names that :func:`save` gives them, an adapter merged."""
    return dict(each_weight(language_model))


def each_weight(language_model: LanguageModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The same one at a time; sharded ones are gathered, and all ranks go through all of them."""
    model = language_model.model
    if adapter.has_adapter(model):
        yield from adapter.merged(model).items()
    else:
        yield from ((name, whole(weight)) for name, weight in model.named_parameters())


def context_length(language_model: LanguageModel | ScalarModel) -> int:
    """Tokens that the model can attend to at once."""
    return _context(language_model.model.config)


def _context(config: Any) -> int:  # noqa: ANN401 - of any architecture
    return int(getattr(config, "max_position_embeddings", 1 << 30))


@contextmanager
def _told(path: str) -> Generator[None]:
    """One line for whatever transformers makes of files that are not ours."""
    try:
        yield
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}".split(". ")[0], 160)
        raise ModelError(f"model.path: {path!r} cannot be loaded: {reason}") from error


@contextmanager
def quiet() -> Generator[None]:
    """Silence progress bars and hints of transformers: polopt shows progress itself."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        logging.set_verbosity(verbosity)


def _check_weights(directory: Path) -> None:
    """Refuse a model directory whose weights transformers could not read.

    Raises:
        ModelError: in one line, which file is missing, damaged or pickled.
    """
    where = f"model.path: {str(directory)!r}"
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        pickles = [
            p.name for p in directory.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".pkl"}
        ]
        if pickles:
            raise ModelError(
                f"{where} holds only pickled weights ({pickles[0]}), which can run code when "
                "loaded; convert them to safetensors first"
            )
        raise ModelError(f"{where} has no *.safetensors weights")
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{where}: {file.name} is damaged or half-written: {error}") from error


def _ready(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """Set a padding token, collect the tokens that end a response, and switch dropout off.

    Raises:
        ModelError: model and tokeniser name no end-of-sequence token.
    """
    # A model for sequence classification has no generation_config.
    settings = getattr(model, "generation_config", None) or model.config
    stop = _stop_ids(settings.eos_token_id, tokenizer)
    if not stop:
        raise ModelError("model.path: the model names no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(stop[0])
    return LanguageModel(model.eval(), tokenizer, stop)


def _stop_ids(named: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:  # noqa: ANN401
    """The tokens that end a response, by the model and by its tokeniser."""
    stop = {named} if isinstance(named, int) else set(named or [])
    if isinstance(tokenizer.eos_token_id, int):
        stop.add(tokenizer.eos_token_id)
    return tuple(sorted(stop))
