"""The arguments of a command: its target, and flags of the fields of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import click

from polopt.errors import UserError

if TYPE_CHECKING:
    from polopt.recipe.fields import Leaf

MODEL = "a run, RUN@STEP, a checkpoint or model directory, or a hub id"
as_json_option = click.option("--json", "as_json", is_flag=True, help="print JSON and nothing else")


class FieldCommand(click.Command):
    """A command that takes a flag for every field of a recipe; its help lists them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, then the fields by section."""
        super().format_options(ctx, formatter)
        for heading, lines in _sections():
            with formatter.section(heading):
                formatter.write_dl(lines)


def _sections() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    from polopt.recipe.fields import catalogue, sections

    summaries = sections()
    for section, leaves in groupby(catalogue().values(), lambda leaf: leaf.name.rpartition(".")[0]):
        summary = summaries.get(section, "Its algorithm, and where it starts.").rstrip(".")
        heading = f"{section or 'a stage'}: {summary[0].lower()}{summary[1:]}"
        yield heading, [(f"--{leaf.name}", _meaning(leaf)) for leaf in leaves]


def _meaning(leaf: Leaf) -> str:
    free = leaf.allowed.startswith("a string")
    allowed = "" if free else f" ({leaf.allowed})"
    decided = leaf.default in ("", "required", "the row decides")
    default = leaf.default if decided else f"default: {leaf.default}"
    return leaf.description + allowed + (f" [{default}]" if default else "")


def split(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Split arguments into targets and flags with their values, both in order."""
    targets: list[str] = []
    flags: list[str] = []
    for word in words:
        waiting = flags and flags[-1].startswith("--") and "=" not in flags[-1]
        if word.startswith("--") or waiting:
            flags.append(word)
        else:
            targets.append(word)
    return targets, flags


def one(targets: list[str], what: str, meaning: str) -> str:
    """The single target of a command, named ``what`` in its help.

    Raises:
        UserError: no target, or more than one.
    """
    if not targets:
        raise UserError(f"{what}: missing; {meaning}")
    if len(targets) > 1:
        raise UserError(f"{what}: {targets[1]!r} is one too many; a flag is --section.field value")
    return targets[0]


def none(targets: list[str]) -> None:
    """Check that a command without a target has none.

    Raises:
        UserError: a target was given.
    """
    if targets:
        raise UserError(f"{targets[0]!r} is not a flag; a flag is --section.field value")
