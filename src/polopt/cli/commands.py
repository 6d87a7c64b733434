"""The commands. Each parses its arguments, calls ``polopt.api`` or ``diagnose``, and prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from polopt.cli.comparison import compare
from polopt.cli.looking import report, watch, xray
from polopt.cli.words import MODEL, FieldCommand, as_json_option, none, one, split
from polopt.errors import UserError

_PASS_ON = {"ignore_unknown_options": True}  # unknown options are fields of the recipe


class _InOrder(click.Group):
    """Commands in the order in which a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which the commands were added."""
        return list(self.commands)


@click.group(cls=_InOrder, invoke_without_command=True)
@click.version_option(metadata.version("polopt"), message="%(prog)s %(version)s")
@click.pass_context
def polopt(ctx: click.Context) -> None:
    """Optimise policies: every method a row of choices you can read.

    Start with: polopt quickstart
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _words(metavar: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    return click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar=metavar)


@polopt.command(cls=FieldCommand, context_settings=_PASS_ON)
@_words("[--FIELD VALUE]...")
@as_json_option
def quickstart(words: tuple[str, ...], as_json: bool) -> None:
    """Train a small model on this machine, in minutes.

    A warm start on demonstrations, policy optimisation, accuracy before and after, a report.
    """
    targets, flags = split(words)
    none(targets)
    from polopt import api
    from polopt.cli import output, summary

    with output.others_on_stderr(as_json):
        run = api.quickstart(flags)
    summary.show(run.directory, as_json=as_json)


@polopt.command(cls=FieldCommand, context_settings=_PASS_ON)
@_words("RECIPE [--FIELD VALUE]...")
@as_json_option
def train(words: tuple[str, ...], as_json: bool) -> None:
    """Run the recipe in a TOML file.

    Every field is also a flag, and a flag wins over the file.

    --update.learning_rate 1e-4 reaches every stage, --rl.update.learning_rate the stage rl.
    """
    targets, flags = split(words)
    recipe = one(targets, "RECIPE", "the path of a TOML file")
    from polopt import api
    from polopt.cli import output, summary

    with output.others_on_stderr(as_json):
        run = api.train(recipe, flags=flags)
    summary.show(run.directory, as_json=as_json)


@polopt.command(cls=FieldCommand, context_settings=_PASS_ON)
@_words("RUN [--FIELD VALUE]...")
@as_json_option
def resume(words: tuple[str, ...], as_json: bool) -> None:
    """Continue a run from its last checkpoint.

    --run.steps may make it longer, --coordination.engines and the like give it other processes.
    """
    targets, flags = split(words)
    directory = one(targets, "RUN", "the directory of a run")
    from polopt import api
    from polopt.cli import output, summary

    with output.others_on_stderr(as_json):
        run = api.resume(directory, flags=flags)
    summary.show(run.directory, as_json=as_json)


@polopt.command("eval", cls=FieldCommand, context_settings=_PASS_ON)
@_words("MODEL_OR_RUN [--data FILE]... [--FIELD VALUE]...")
@click.option("--data", multiple=True, metavar="FILE", help="evaluate on every row; repeatable")
@click.option("--k", type=click.IntRange(min=1), default=1, help="answers to a prompt, for pass@k")
@click.option("--output", metavar="DIRECTORY", help="of the table, its page and all answers")
@as_json_option
def evaluate(
    words: tuple[str, ...], data: tuple[str, ...], k: int, output: str | None, as_json: bool
) -> None:
    """Measure a policy on files, or on the prompts that its run held out.

    A run, RUN@STEP, a checkpoint or a model: accuracy, pass@k, majority@k, reward and length, each
    with its 95 % interval, apart for prompts that training has seen; in control, the return of
    episodes. Without --output the answers are written to evaluations/ in the run directory, or
    here.
    """
    targets, flags = split(words)
    target = one(targets, "MODEL_OR_RUN", MODEL)
    from polopt import api
    from polopt.cli import evaluation
    from polopt.cli.output import others_on_stderr

    if output is not None:
        api.check_output(output)
    with others_on_stderr(as_json):
        found = api.evaluate(target, data=data, flags=flags, k=k)
        directory = api.write_evaluation(found, target, output)
    evaluation.show(found, directory, as_json=as_json)


_target = click.argument("target", required=False, metavar="MODEL_OR_RUN")
_max_new_tokens = click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="longest answer [default: as in training]",
)
_seed = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    metavar="NUMBER",
    help="of what is drawn [default: 0]",
)


def _temperature(default: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    return click.option(
        "--temperature",
        type=click.FloatRange(min=0),
        metavar="NUMBER",
        help=f"0: the most likely answer [default: {default}]",
    )


@polopt.command()
@_target
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@click.option("--file", metavar="PROMPTS", help="a .jsonl, .csv or .parquet file with more prompts")
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    default=1,
    metavar="NUMBER",
    help="answers to each prompt [default: 1]",
)
@_temperature("0; with -n above 1, as in training")
@_max_new_tokens
@_seed
@as_json_option
def generate(
    target: str | None,
    prompts: tuple[str, ...],
    file: str | None,
    count: int,
    temperature: float | None,
    max_new_tokens: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Answer prompts with a run, RUN@STEP, a checkpoint or a model.

    A run is asked as in its training: the same template, stop strings and length.
    """
    if target is None:
        raise UserError(f"MODEL_OR_RUN: missing; {MODEL}")
    if not prompts and file is None:
        raise UserError("PROMPT: missing; a text, or --file with a column of prompts")
    from polopt import api
    from polopt.cli import output

    with output.others_on_stderr(as_json):
        policy = api.load_text(target)
        asked = [*prompts, *(policy.read(file) if file is not None else ())]
        answers = policy.respond(
            asked, n=count, seed=seed, temperature=temperature, max_new_tokens=max_new_tokens
        )
    if as_json:
        pairs = zip(asked, answers, strict=True)
        output.write_json([{"prompt": prompt, "answers": some} for prompt, some in pairs])
    else:
        print("\n\n".join(map(output.answered, asked, answers)))


@polopt.command()
@_target
@_temperature("0")
@_max_new_tokens
@_seed
def chat(
    target: str | None, temperature: float | None, max_new_tokens: int | None, seed: int
) -> None:
    """Talk with a run, RUN@STEP, a checkpoint or a model.

    Each line is a turn, through the chat template. Ctrl-C stops an answer, Ctrl-D ends.
    """
    if target is None:
        raise UserError(f"MODEL_OR_RUN: missing; {MODEL}")
    from polopt import api
    from polopt.cli.talk import talk

    talk(api.converse(target, seed=seed, temperature=temperature, max_new_tokens=max_new_tokens))


@polopt.command()
@as_json_option
def algorithms(as_json: bool) -> None:
    """List the methods and their choices."""
    from polopt.cli import output
    from polopt.resolution import table

    rows = table()
    if as_json:
        output.write_json(rows)
        return
    columns = [column for column in rows[0] if column not in ("file", "summary")]
    cells = [[row[column] for column in columns] for row in rows]
    if output.fits(columns, cells):
        output.table(columns, cells)
    else:
        output.table(("name", "summary"), [(row["name"], row["summary"]) for row in rows])
    print("\npolopt show NAME explains a row, choice by choice")


@polopt.command()
@click.argument("name", required=False, metavar="NAME")
@as_json_option
def show(name: str | None, as_json: bool) -> None:
    """Explain one method: choices, equations, files."""
    if name is None:
        raise UserError("NAME: missing; a method, polopt algorithms lists them")
    from polopt.algorithms import row
    from polopt.choices.domain import DOMAINS
    from polopt.cli import output
    from polopt.resolution import describe_row, differences

    method = row(name, "NAME")
    home, *others = method.domains
    if as_json:
        output.write_json(
            [{"on": d, **one} for d in method.domains for one in describe_row(name, d)]
        )
        return
    columns = ("column", "choice", "equation, settings, file")
    print(f"{name}: {method.summary}\n{method.source}\n{method.file}\n")
    output.table(columns, [_entry(one) for one in describe_row(name, home)])
    for other in others:
        domain = DOMAINS[other]
        title = f'in {other}, with data.source = "{domain.sources}"'
        title += f' and model.path = "{domain.model}"' if domain.model else ""
        output.table(columns, [_entry(one) for one in differences(name, other)], title)


def _entry(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    from polopt.cli import output

    settings = [f"{field} = {output.text(value)}" for field, value in entry["settings"].items()]
    lines = [line for line in (entry["equation"], *settings, entry["file"]) if line]
    return entry["column"], entry["choice"], "\n".join([*lines, ""])


@polopt.command(cls=FieldCommand, context_settings=_PASS_ON)
@_words("RECIPE [--selfcheck] [--device-memory GIB] [--FIELD VALUE]...")
@click.option(
    "--selfcheck", is_flag=True, help="compute one step in several ways, which must agree"
)
@click.option(
    "--device-memory", type=float, metavar="GIB", help="plan for a CUDA card of so many GiB"
)
@as_json_option
def check(
    words: tuple[str, ...], selfcheck: bool, device_memory: float | None, as_json: bool
) -> int:
    """Validate a recipe and print what it comes to.

    All settings and who decided them, what follows from them, which have no effect, and what each
    phase of the run will hold in memory: on the device that it would use, or on a card that need
    not be here. With --selfcheck instead one step with the model and the data, computed in several
    ways; exit code 1 where two of them differ.
    """
    targets, flags = split(words)
    recipe = one(targets, "RECIPE", "the path of a TOML file")
    if selfcheck:
        from polopt.cli import selfcheck as of_step

        if device_memory is not None:
            raise UserError("--device-memory: has no effect with --selfcheck; remove one of them")
        return of_step.run(recipe, flags, as_json=as_json)
    from polopt.cli import memory, output
    from polopt.diagnose.check import check as checked

    with output.others_on_stderr(as_json):
        stages = checked(recipe, flags, device_memory)
    if as_json:
        output.write_json(stages)
        return 0
    for stage in stages:
        deciders = stage["decided_by"]
        settings = [(name, value, deciders[name]) for name, value in stage["settings"].items()]
        output.table(
            ("field", "value", "decided by"), settings, f"{stage['stage']}: {stage['algorithm']}"
        )
        print()
        output.table(("derived", "value"), list(stage["derived"].items()))
        print()
        memory.show(stage["memory"])
        if stage["layout"] is not None:
            print(f"update: {stage['layout']['text']}\n")
        for part in stage["placement"]:
            print("{who}: {count}, {where}: {gets}".format(**part))
        for line in stage["inert"]:
            print(f"note: {line}")
    return 0


@polopt.command()
@click.argument("model", required=False, metavar="MODEL")
@click.option("--memory", type=float, metavar="GIB", help="of a CUDA card; default: this device")
@as_json_option
def fit(model: str | None, memory: float | None, as_json: bool) -> None:
    """List what trains on a card: full or LoRA, optimiser, answers.

    MODEL is a directory (its config.json is enough), a built-in model or a hub id. No weights are
    read.
    """
    if model is None:
        raise UserError("MODEL: missing; a directory, a built-in model or a hub id")
    from polopt import api
    from polopt.cli import memory as shown
    from polopt.cli import output

    found = api.fit(model, memory=memory)
    if as_json:
        output.write_json(found)
    else:
        shown.show_fits(found)


@polopt.command(cls=FieldCommand, context_settings=_PASS_ON)
@_words("RECIPE [--FIELD VALUE]...")
@click.option("--trace", metavar="RUN", help="a run whose record says what is not given")
@click.option("--length", metavar="TOKENS", help="of a response: lognormal(mean, sigma) or others")
@click.option("--token-seconds", type=float, metavar="SECONDS", help="of a decoding step")
@click.option("--row-seconds", type=float, metavar="SECONDS", help="more for every row in flight")
@click.option("--reward-seconds", metavar="SECONDS", help="of scoring: exponential(mean) or others")
@click.option("--update-seconds", type=float, metavar="SECONDS", help="of a batch, on one trainer")
@click.option("--publish-seconds", type=float, metavar="SECONDS", help="of new weights, an engine")
@click.option("--efficiency", type=float, metavar="SHARE", help="of speed when trainers double")
@click.option("--staleness", metavar="LIST", help="that are tried: 0,1,2,4")
@click.option("--window", metavar="LIST", help="that are tried")
@click.option("--engines", metavar="LIST", help="that are tried: 2,4,8")
@click.option("--trainers", metavar="LIST", help="that are tried")
@click.option("--max-lag", type=click.IntRange(min=0), metavar="UPDATES", help="that may happen")
@click.option("--out", metavar="FILE", help="a page (.html) or a plot (.png, .svg)")
@_seed
@as_json_option
def simulate(words: tuple[str, ...], as_json: bool, **asked: Any) -> None:  # noqa: ANN401
    """Predict idle time, lag, throughput and cost.

    Generation and training of the recipe with a simulated clock, for several values of staleness,
    window, engines and trainers, and which of them to take. Lengths and seconds come from a run
    (--trace), from options or from assumptions, which are printed. A distribution is a number,
    constant(x), exponential(mean) or lognormal(mean, sigma).
    """
    targets, flags = split(words)
    recipe = one(targets, "RECIPE", "the path of a TOML file")
    from polopt.cli import simulation

    simulation.run(recipe, flags, asked, as_json=as_json)


@polopt.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@as_json_option
def conformance(file: Path | None, as_json: bool) -> int:
    """Hold the shipped functions to golden numbers.

    FILE is JSON; by default the numbers that come with polopt. Exit code 1 if any differs.
    """
    from polopt.cli import output
    from polopt.diagnose import conformance as golden

    found = golden.run(file)
    if as_json:
        output.write_json(
            {
                "passed": found.passed,
                "failed": len(found.failures),
                "failures": list(found.failures),
                "unserved": list(found.unserved),
            }
        )
    else:
        for line in found.failures:
            print(line)
        if found.unserved:
            print(f"no shipped function serves: {', '.join(found.unserved)}")
        print(f"{found.passed} passed, {len(found.failures)} failed")
    return 1 if found.failures else 0


for _command in (watch, report, xray, compare):
    polopt.add_command(_command)


@polopt.command()
@as_json_option
def doctor(as_json: bool) -> None:
    """Say what this machine offers: devices, extras."""
    from dataclasses import asdict

    from polopt.cli import output
    from polopt.diagnose.doctor import doctor as examined

    found = [asdict(finding) for finding in examined()]
    if as_json:
        output.write_json(found)
    else:
        output.table(("", "found", "advice"), [list(finding.values()) for finding in found])
