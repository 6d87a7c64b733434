"""The commands that look at runs and models: each reads what is there, and shows it."""

from __future__ import annotations

from pathlib import Path

import click

from polopt.cli.words import MODEL, as_json_option
from polopt.errors import UserError


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path), metavar="RUN")
@click.option("--once", is_flag=True, help="print it as it stands, and end")
@as_json_option
def watch(run: Path | None, once: bool, as_json: bool) -> None:
    """Show a run while it goes on, from any terminal.

    Stage and step, rewards by part, held-out figures, KL, entropy, length, speed, time left, alarms
    and warnings, settings that did nothing so far, and whether it lives. It reads files alone, and
    ends with the run.
    """
    if run is None:
        raise UserError("RUN: missing; the directory of a run")
    from polopt.cli import watching

    watching.watch(run, once=once, as_json=as_json)


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="RUN...")
@as_json_option
def report(runs: tuple[Path, ...], as_json: bool) -> None:
    """Write report.html, the page that explains a run.

    It is written into the directory of each RUN.
    """
    if not runs:
        raise UserError("RUN: missing; the directory of a run, or of several")
    from polopt import api
    from polopt.cli import output

    pages = [str(page) for page in api.report(runs)]
    if as_json:
        output.write_json(pages)
    else:
        print("\n".join(pages))


@click.command()
@click.argument("base", required=False, metavar="BASE")
@click.argument("trained", required=False, metavar="TRAINED")
@click.option("--data", metavar="FILE", help="prompts, also with completions that both are to read")
@click.option("--prompts", type=click.IntRange(min=1), default=64, help="at most [default: 64]")
@click.option(
    "--k", type=click.IntRange(min=1), help="answers to a prompt [default: as in training, else 8]"
)
@click.option("--out", metavar="FILE.html", help="the page")
@as_json_option
def xray(
    base: str | None,
    trained: str | None,
    data: str | None,
    prompts: int,
    k: int | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Show what training changed, token by token.

    Both models answer the same prompts with the same seeds, and both read all of these answers: a
    page with what became more and less likely, where the change sits, what broke, diversity and
    pass@k. A model is a run, RUN@STEP, a checkpoint (RUN/checkpoints/sft: the end of a stage), a
    directory or a hub id. Prompts are those that the run of TRAINED held out, or in --data.
    """
    for name, value in (("BASE", base), ("TRAINED", trained)):
        if value is None:
            raise UserError(f"{name}: missing; {MODEL}")
    from polopt.cli import change

    change.run(str(base), str(trained), data, prompts, k, out, as_json=as_json)
