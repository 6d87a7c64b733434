"""``polopt xray``: a table of what changed, and the page or the JSON of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polopt import record
from polopt.cli import output
from polopt.errors import RunDirectoryError
from polopt.places import is_run
from polopt.report.xray.estimators import estimators
from polopt.report.xray.words import SETS, estimate, sentence


def run(
    base: str,
    trained: str,
    data: str | None,
    prompts: int,
    k: int | None,
    out: str | None,
    *,
    as_json: bool,
) -> None:
    """Compare the two and print the table; a page is written unless JSON alone is asked for."""
    if out is not None and not Path(out).parent.is_dir():
        raise RunDirectoryError(f"--out: {str(Path(out).parent)!r}: no such directory")
    from polopt import api

    with output.others_on_stderr(as_json):
        found = api.xray(base, trained, data=data, prompts=prompts, k=k)
    page = None
    if out is not None or not as_json:
        page = api.write_xray(found, _free(found) if out is None else Path(out))
    if as_json:
        output.write_json(found)
    else:
        _show(found, page)


def _free(found: Mapping[str, Any]) -> Path:
    """``xray-1.html``, … in the run directory of the trained model, or here."""
    of_run = found["trained"]["run"]
    directory = Path(of_run) if of_run is not None and is_run(Path(of_run)) else Path()
    return record.next_free("xray", directory, ".html")


def _show(found: Mapping[str, Any], page: Path | None) -> None:
    rows = list[tuple[str, ...]]()
    sets = found["sets"]
    for key, title, share in (
        ("kl_answer", "KL of an answer, nats", False),
        ("kl_token", "KL of a token, nats", False),
        ("moved", "another token is the likeliest", True),
    ):
        rows.append((title, *(estimate(one[key], share=share) for one in sets)))
    kinds = dict.fromkeys(row["name"] for one in sets for row in one["classes"])
    for kind in kinds:
        cells = (_share_of(one, kind) for one in sets)
        rows.append((f"share in: {kind}", *cells))
    print(f"{sentence(found)}\n")
    output.table(("", *(SETS[one["name"]] for one in sets)), rows)
    broken = [estimate(found["breaks"][side]["broken"], share=True) for side in ("before", "after")]
    print(f"\ncut or repeating answers: {broken[0]} of the base, {broken[1]} of the trained model")
    estimated = estimators(found)
    if estimated is not None and estimated.sentence:
        print(estimated.sentence)
    print(f"page: {page}")


def _share_of(one: Mapping[str, Any], kind: str) -> str:
    found = next((row for row in one["classes"] if row["name"] == kind), None)
    return "" if found is None else estimate(found["of_kl"], share=True)
