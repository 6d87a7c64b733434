"""What training changed: two names become two models, prompts of a recipe or of a file, answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polopt import isolated
from polopt.algorithms import row
from polopt.api import arguments
from polopt.api.device import device_of, use
from polopt.api.domains import domain_of_weights, of_evaluation
from polopt.api.policy import LONGEST
from polopt.api.recorded import located, meant, stage_at
from polopt.assembly import StageInputs
from polopt.assembly.context import StageContext, context_of, examination, examined_by
from polopt.assembly.estimates import place_of
from polopt.assembly.fits import check_reach, check_vocabulary
from polopt.choices.domain import TEXT
from polopt.coordination import memory
from polopt.coordination.checkpoint import step_of
from polopt.coordination.progress import progress
from polopt.coordination.stage import Event, Observer
from polopt.data import BadRowError, Wanted
from polopt.diagnose.xray.looked import Given, Side, looked
from polopt.diagnose.xray.recorded import recorded
from polopt.errors import ModelError, UserError, counted
from polopt.models import LanguageModel, Reader, reader_of
from polopt.models.adapter import is_adapter, put_on
from polopt.recipe import StageRecipe, load
from polopt.recipe.schema import Coordination
from polopt.resolution import resolve
from polopt.rollout import usage
from polopt.rollout.dataset import demonstrated, ranked
from polopt.rollout.engines import Engine, Request
from polopt.rollout.rewarding import RewardFunction
from polopt.rollout.text import TextSource, text_source, wanted_by, whole_source
from polopt.types import Group

ANSWERS = 8  # to a prompt, where no recipe has groups of answers
FEWER = f"a smaller --prompts or --k takes less, {memory.WITHOUT_GPU}"


@dataclass(frozen=True)
class Named:
    """A model as it was named on the command line."""

    field: str  # BASE or TRAINED, for messages
    name: str
    weights: str  # a directory, a hub id or a built-in name
    run: Path | None = None
    step: int | None = None  # of the run
    stage: StageRecipe | None = None  # of the run, in which the weights were made

    def as_json(self) -> dict[str, Any]:
        """The name, and where in a run it is."""
        return {
            "name": self.name,
            "run": None if self.run is None else str(self.run),
            "step": self.step,
            "stage": None if self.stage is None else self.stage.name,
            "algorithm": None if self.stage is None else self.stage.algorithm,
            "kl": None if self.stage is None else _kl(self.stage),
        }


def _kl(stage: StageRecipe) -> dict[str, str] | None:
    """The estimator of a stage and where it acts; None: it has no KL term."""
    if not stage.kl.coefficient:
        return None
    estimator, place = place_of(stage)
    return {"estimator": estimator, "place": place}


def named(field: str, target: str) -> Named:
    """What a name means: a run, ``RUN@STEP``, a checkpoint, a model, an adapter, or a hub id.

    Raises:
        UserError: there is no such thing, or it is no language model.
    """
    name = meant(target)
    path = Path(name).expanduser()
    found = located(path.parent if is_adapter(path) else path)
    weights = name if found is None or is_adapter(path) else str(found[1])
    if domain_of_weights(weights) != TEXT.name:
        raise ModelError(
            f"{field}: {target} is a policy in control; polopt xray reads text, of language models"
        )
    if found is None:
        return Named(field, target, weights)
    stage = stage_at(*found)
    if row(stage.algorithm).trains != "actor":
        raise ModelError(f"{field}: {target} is a reward model, which writes no text")
    return Named(field, target, weights, found[0], step_of(found[1]), stage)


def xray(
    base: Named,
    trained: Named,
    *,
    data: str | None,
    prompts: int,
    k: int | None,
    reward: RewardFunction | None,
) -> dict[str, Any]:
    """See :func:`polopt.api.xray`."""
    asked = {} if k is None else {"group_size": k}
    arguments.check("rollout", asked, names={"group_size": "k"})
    own = trained.stage or base.stage
    stage = _stage(trained, base, data, prompts)
    count = k or (own and own.rollout.group_size) or ANSWERS
    if stage.run.threads is not None:
        torch.set_num_threads(stage.run.threads)
    device = use(device_of(stage.run.device))
    with progress() as observe, closing(isolated):
        one, other = (
            StageInputs(
                _with(stage, of, own),
                of.weights,
                of.weights,
                device,
                observe,
                is_last=True,
                reward=reward,
            )
            for of in (base, trained)
        )
        with memory.told("loading", memory.WITHOUT_GPU):
            models = [_model(inputs, of, base) for inputs, of in ((one, base), (other, trained))]
        _check_pair((base, models[0]), (trained, models[1]))
        text, texts = _text(other, reader_of(models[1]), own, data, prompts)
        with memory.told("answers", FEWER):
            sides = [
                _side(context_of(inputs, model, text), count, prompts, of, observe)
                for inputs, model, of in zip((one, other), models, (base, trained), strict=True)
            ]
        if data is None:
            texts += _of_training(trained, text, len(sides[1].groups), prompts)
        with memory.told("reading", FEWER):
            found = looked(
                sides[0], sides[1], texts, count, _shown(observe, "reading", "teacher forcing")
            )
    return {**_asked(base, trained, stage, sides[1], text), **found}


def _asked(
    base: Named, trained: Named, stage: StageRecipe, side: Side, text: TextSource
) -> dict[str, Any]:
    """What was compared, and how both were asked."""
    from polopt import __version__

    sampling = side.examination.sampling
    return {
        "polopt": __version__,
        "base": base.as_json(),
        "trained": trained.as_json(),
        "settings": {
            "source": text.rows.report.source,
            "prompts": len(side.groups),
            "answers": side.examination.answers,
            "temperature": sampling.temperature,
            "max_new_tokens": sampling.max_new_tokens,
            "seed": stage.run.seed,
        },
    }


def _stage(trained: Named, base: Named, data: str | None, prompts: int) -> StageRecipe:
    """The stage that says how both are asked: that of the trained model, else of the base.

    Raises:
        UserError: neither is of a run, and no data are given.
    """
    of = trained if trained.stage is not None else base
    if of.stage is not None and of.run is not None:
        tables = of_evaluation(of.stage, of.run / "checkpoints")
    elif data is None:
        raise UserError(
            f"--data: missing; neither {base.name} nor {trained.name} is of a run, whose prompts "
            "could be asked: a .jsonl, .csv or .parquet file, or hub:NAME"
        )
    else:
        tables = _tables(Path(trained.weights), data)
    tables["model"]["path"] = trained.weights
    tables.setdefault("algorithm", "sft")
    most = prompts if data is not None or of.stage is None else _held_out(of.stage, prompts)
    tables["evaluation"] = {**tables.get("evaluation", {}), "prompts": most}
    stage = resolve(load(tables), own_reward=True).stages[-1]
    # Read as in training: rows that it could not use would move what is held out.
    read = {} if of.stage is None else {"data": of.stage.data}
    return stage.model_copy(update={"coordination": Coordination(), **read})


def _held_out(stage: StageRecipe, prompts: int) -> int:
    """How many of ``prompts`` the run can have held out.

    Of rows it held out the first of one seeded order, and trained on what comes after them; the
    evaluation split of a task shares no prompt with that of training, and never ends.
    """
    endless = stage.data.parsed.of.has_verifier
    return prompts if endless else min(prompts, stage.evaluation.prompts)


def _tables(weights: Path, data: str) -> dict[str, Any]:
    """The tables of weights without a recipe, asked as they were in training where that is known.

    The temperature is 1: what is compared is what the models say, not what a sampler made of it.
    """
    known = usage.read(weights) if weights.is_dir() else None
    tables: dict[str, Any] = {"model": {}, "data": {"source": data}}
    tables["rollout"] = {"max_new_tokens": LONGEST}
    if known is not None:
        of = known.sampling
        tables["rollout"] = {
            "temperature": of.temperature,
            "max_new_tokens": of.max_new_tokens,
            "min_new_tokens": of.min_new_tokens,
            "stop": list(of.stop),
        }
        tables["data"]["prompt_field"] = known.prompt_field
    return tables


def _with(stage: StageRecipe, of: Named, own: StageRecipe | None) -> StageRecipe:
    """The stage with another model, in the revision that the run began with if it did with this."""
    revision = own.model.revision if own is not None and own.model.path == of.weights else None
    settings = {"path": of.weights, "revision": revision}
    return stage.model_copy(update={"model": stage.model.model_copy(update=settings)})


def _model(inputs: StageInputs, of: Named, base: Named) -> LanguageModel:
    """The model of a name; of an adapter, the base with it.

    Raises:
        ModelError: it cannot be loaded.
    """
    adapter = Path(of.weights).expanduser()
    try:
        inputs.tell(f"loading {of.name}")
        if of is not base and is_adapter(adapter):
            model = inputs.language_model(base.weights)
            put_on(model.model, adapter)
            model.model.to(inputs.device)  # pyright: ignore[reportArgumentType] - torch's overloads
        else:
            model = inputs.language_model(of.weights)
    except ModelError as error:
        said = str(error).removeprefix("model.path: ")
        raise ModelError(f"{of.field}: {said}") from error
    model.model.requires_grad_(False)
    return model


def _check_pair(base: tuple[Named, LanguageModel], trained: tuple[Named, LanguageModel]) -> None:
    """Refuse two models whose probabilities cannot be compared.

    Raises:
        ModelError: other tokens, or another number of them.
    """
    (one, before), (other, after) = base, trained
    check_vocabulary(one.field, (one.name, before), (other.name, after))
    sizes = [m.model.config.get_text_config().vocab_size for m in (before, after)]
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"{one.field}: {one.name} has probabilities of {sizes[0]:,} tokens, {other.name} of "
            f"{sizes[1]:,}; a KL divergence needs the same ones"
        )


def _text(
    inputs: StageInputs, reader: Reader, trained: StageRecipe | None, data: str | None, prompts: int
) -> tuple[TextSource, list[Given]]:
    """The prompts, and the answers to them that stand in the data."""
    wanted = "prompts" if trained is None else wanted_by(trained)
    if data is None:
        text = text_source(inputs.recipe, reader, wanted=wanted)
    else:
        text = _whole(inputs, reader, data, wanted)
    for line in text.rows.report.lines()[1:]:  # bad rows that were skipped
        inputs.tell(line)
    return text, list(_given(text, prompts))


def _whole(inputs: StageInputs, reader: Reader, source: str, trained: Wanted) -> TextSource:
    """Every row of a source, with what it holds beside prompts: pairs, or completions."""
    kinds: Sequence[Wanted] = ("pairs", "demonstrations") if trained == "pairs" else ()
    for wanted in kinds or ("demonstrations",):
        try:
            return whole_source(inputs.recipe, reader, source, wanted=wanted)
        except BadRowError as error:
            if error.reason != "missing field":
                raise
    return whole_source(inputs.recipe, reader, source)


def _given(text: TextSource, prompts: int) -> Iterator[Given]:
    """Demonstrations, or the best and the other answers of rankings, to the first prompts."""
    shown = [one for one in text.demonstrations if one.prompt.id < prompts]
    if shown:
        yield Given("given", [demonstrated(one.prompt.id, one) for one in shown])
    groups = [ranked(one.prompt.id, one) for one in text.unseen if one.prompt.id < prompts]
    for name, best in (("chosen", True), ("rejected", False)) if groups else ():
        yield Given(name, [_part(group, best=best) for group in groups])


def _of_training(trained: Named, text: TextSource, asked: int, prompts: int) -> list[Given]:
    """The newest answers of training that the run of the trained model recorded with tokens."""
    if trained.run is None or trained.stage is None or trained.step is None:
        return []
    found = recorded(
        trained.run,
        trained.stage.name,
        trained.step,
        text.tokeniser,
        prompts=prompts,
        first=asked,
    )
    return [] if found is None else [found]


def _part(group: Group, *, best: bool) -> Group:
    """The best of ranked answers, or the others."""
    most = max(sample.reward for sample in group.samples)
    kept = tuple(sample for sample in group.samples if (sample.reward == most) is best)
    return Group(group.ticket, group.prompt, kept)


def _side(of: StageContext, count: int, prompts: int, named: Named, observe: Observer) -> Side:
    """The answers of a model to the prompts, with their rewards where something can judge them."""
    model = of.actor.language_model
    longest = max(len(one.tokens) for one in of.text.evaluation[:prompts])
    check_reach(named.field, model, longest + of.sampling.max_new_tokens)
    with closing(of.inputs.serving):
        found = examination(of, count) or examined_by(of, list, count)  # nothing judges
        requests = [
            Request(i, prompt, count, found.sampling, found.seed)
            for i, prompt in enumerate(of.text.evaluation[:prompts])
        ]
        asked = f"{counted(count, 'answer')} to each of {counted(len(requests), 'prompt')}"
        groups = _answered(found.engine, requests, _shown(observe, named.name, asked))
        return Side(model, found, found.score(groups))


def _answered(
    engine: Engine, requests: Sequence[Request], done: Callable[[int, int], None]
) -> list[Group]:
    """All requested groups in the order of their tickets, telling how many there are so far."""
    engine.submit(requests)
    groups = list[Group]()
    while len(groups) < len(requests):
        groups.extend(engine.poll())
        done(len(groups), len(requests))
    return sorted(groups, key=lambda group: group.ticket)


def _shown(observe: Observer, name: str, what: str) -> Callable[[int, int], None]:
    """Shows how much is done as steps of a stage."""
    begun = list[bool]()

    def done(number: int, of: int) -> None:
        if not begun:
            observe(Event("stage", {"name": name, "algorithm": what, "steps": of, "step": 0}))
            begun.append(True)
        observe(Event("metrics", {"stage": name, "stage_step": number}))

    return done
