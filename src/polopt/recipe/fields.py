"""The fields of a recipe as they are documented: dotted name, allowed values, default, meaning.

One reading of the schema serves help texts, error messages and the typing of flags.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from polopt.choices.section import LARGEST, ByRow, In, Section, Values, either
from polopt.choices.source import parse
from polopt.errors import near
from polopt.recipe.schema import Reward, StageRecipe

Path = Sequence[str | int]
Node = dict[str, Any]
_INTERNAL = {"name", "inherited"}  # of StageRecipe; a user never writes them
ALONE = ("algorithm", "from", "until", "rewards")  # fields of a stage outside of any section
F = TypeVar("F")


@cache
def section_types() -> dict[str, type[Section]]:
    """The sections of a stage by name, in the order of the schema."""
    annotations = {name: info.annotation for name, info in StageRecipe.model_fields.items()}
    optional = {"until"}  # a table that a stage may lack is one field
    return {
        name: kind
        for name, kind in annotations.items()
        if isinstance(kind, type) and issubclass(kind, Section) and name not in optional
    }


@cache
def facts() -> dict[str, tuple[object, ...]]:
    """The facts of every field of a section, by dotted name.

    A field's own facts stand before those of its section.
    """
    return {"rewards": Reward.facts} | {
        f"{name}.{info.alias or key}": (*info.metadata, *kind.facts)
        for name, kind in section_types().items()
        for key, info in kind.model_fields.items()
    }


def fact(field: str, kind: type[F]) -> F | None:
    """The fact of that kind that a field carries, if it carries one."""
    return next((one for one in facts().get(field, ()) if isinstance(one, kind)), None)


def domains(field: str) -> tuple[str, ...]:
    """The domains in which a field has an effect."""
    where = fact(field, In)
    return where.domains if where else ()


@cache
def row_decides() -> dict[str, ByRow]:
    """The fields that the row decides, each with the values of rows that have none of their own."""
    found = {field: fact(field, ByRow) for field in facts()}
    return {field: one for field, one in found.items() if one is not None}


def flat(stage: StageRecipe) -> dict[str, Any]:
    """Every field of a stage by its dotted name; ``rewards`` and ``until`` are one field each."""
    values: dict[str, Any] = {
        "algorithm": stage.algorithm,
        "from": stage.start,
        "until": stage.until,
        "rewards": stage.rewards,
    }
    for name, kind in section_types().items():
        section = getattr(stage, name)
        for key, info in kind.model_fields.items():
            values[f"{name}.{info.alias or key}"] = getattr(section, key)
    return values


def given(stage: StageRecipe) -> set[str]:
    """The fields that the recipe states."""
    names = {
        f"{name}.{kind.model_fields[key].alias or key}"
        for name, kind in section_types().items()
        for key in getattr(stage, name).model_fields_set
    }
    alone = {"algorithm": True, "from": stage.start, "until": stage.until, "rewards": stage.rewards}
    return names | {field for field, value in alone.items() if value}


def domain_of(values: Values) -> str:
    """The domain of a stage whose fields these are."""
    return parse(values["data.source"]).domain


@dataclass(frozen=True)
class Leaf:
    """One field: ``Leaf("rollout.top_p", "a number > 0 and <= 1", "1.0", "nucleus", False)``."""

    name: str
    allowed: str
    default: str  # as text; "the row decides" or "required" where there is none
    description: str
    takes_text: bool  # a flag's value is the string itself, never parsed


@cache
def _schema() -> Node:
    """JSON schema of one stage, with the two spellings of rewards that a recipe may use."""
    root = StageRecipe.model_json_schema(by_alias=True)
    properties = root["properties"]
    for name in _INTERNAL:
        del properties[name]
    properties["reward"] = {"$ref": "#/$defs/Reward"}  # short form of one of the rewards
    return root


def _follow(node: Node) -> Node:
    """Resolve references and ``| None``; entries of the field itself (default, ...) are kept."""
    if "$ref" in node:
        return {**_follow(_schema()["$defs"][node["$ref"].rpartition("/")[2]]), **node}
    options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        return {**_follow(options[0]), **node}
    return node


def _node(path: Path) -> Node | None:
    """The schema of the field at ``path``; None where there is no such field."""
    node = _schema()
    for key in path:
        if isinstance(key, int):
            found = node.get("items")
        else:
            extra = node.get("additionalProperties")
            found = node.get("properties", {}).get(key, extra if extra else None)
        if not found:
            return None
        node = _follow(found)
    return node


def members(path: Path) -> list[str]:
    """Names of the fields in the table at ``path``."""
    node = _node(path)
    return sorted(node.get("properties", {})) if node else []


def allowed(path: Path) -> str:
    """The allowed values of the field at ``path``, in words."""
    node = _node(path)
    return _words(node) if node else "nothing"


def _words(node: Node) -> str:
    if "allowed" in node:
        return node["allowed"]
    if "const" in node:
        return node["const"]
    if "enum" in node:
        return either(node["enum"])
    match node.get("type"):
        case "integer":
            return "an integer" + _range(node)
        case "number":
            return "a number" + _range(node)
        case "string":
            return "a string that is not empty" if node.get("minLength") else "a string"
        case "boolean":
            return "true or false"
        case "array":
            items = _follow(node["items"])
            return "a list of " + (_words(items) if "enum" in items else _plural(items))
        case "object" if node.get("properties"):
            return "a table with " + ", ".join(node["properties"])
        case "object":
            return "a table of single values"
        case _:
            return "true, false, a number or a string"


def _plural(items: Node) -> str:
    kinds = {"object": "tables", "integer": "integers", "number": "numbers"}
    return kinds.get(items.get("type", ""), "strings") + _range(items)


def _range(node: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if high is not None and high >= LARGEST:
        high = None
    if low is not None and high is not None:
        return f" from {low} to {high}"
    bounds = {
        ">=": low,
        ">": node.get("exclusiveMinimum"),
        "<=": high,
        "<": node.get("exclusiveMaximum"),
    }
    words = [f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None]
    return " " + " and ".join(words) if words else ""


@cache
def catalogue() -> dict[str, Leaf]:
    """Every field by its dotted name, in the order of the schema; rewards in their short form."""
    return {leaf.name: leaf for leaf in _leaves()}


def sections() -> dict[str, str]:
    """Every table by name, with the sentence that explains it."""
    nodes = ((name, _node((name,)) or {}) for name in _schema()["properties"] if name != "rewards")
    return {name: node["description"] for name, node in nodes if "properties" in node}


def _leaves() -> Iterator[Leaf]:
    for section in _schema()["properties"]:
        node = _node((section,))
        assert node is not None
        if section == "rewards":
            continue
        if "properties" not in node:
            yield _leaf(section, node, required=section == "algorithm")
            continue
        for key in node["properties"]:
            inner = _node((section, key))
            assert inner is not None
            yield _leaf(f"{section}.{key}", inner, required=key in node.get("required", ()))


def _leaf(name: str, node: Node, required: bool) -> Leaf:
    default = node.get("default")
    if required:
        text = "required"
    elif default is not None:
        text = "none" if default == [] else str(default)
    elif name in row_decides():
        text = "the row decides"
    else:
        text = ""
    return Leaf(name, _words(node), text, node.get("description", ""), node.get("type") == "string")


def nearest(path: Path) -> Path | None:
    """The field that was most likely meant by the unknown ``path``.

    First a similar name in the same table, then the same name in another one, then a similar one.
    Outside of any table there are sections alone: the name of a field lacks its section.
    """
    key, table = str(path[-1]), path[:-1]
    endings = {name.rpartition(".")[2]: name for name in reversed(catalogue())}
    here = near(key, members(table))
    if here and (table or key not in endings):
        return (*table, here[0])
    if key in endings:
        return endings[key].split(".")
    # The name of a table that is there would make any of its fields look alike.
    whole = [] if members(table) else near(".".join(map(str, path)), catalogue(), cutoff=0.75)
    elsewhere = whole or near(key, endings, cutoff=0.8)
    return endings.get(elsewhere[0], elsewhere[0]).split(".") if elsewhere else None
