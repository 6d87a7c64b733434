"""The fields of a recipe as a person meets them: dotted name, what is allowed, default, meaning.

One reading of the schema serves help texts, error messages and the typing of flags.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from polopt.recipe.base import LARGEST
from polopt.recipe.schema import StageRecipe

Path = Sequence[str | int]
Node = dict[str, Any]
_INTERNAL = {"name", "inherited"}  # of StageRecipe; a user never writes them


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
    """Behind references and ``| None``; what the field itself says (default, ...) is kept."""
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
    """What the field at ``path`` may hold, in words."""
    node = _node(path)
    return _words(node) if node else "nothing"


def either(names: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


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
    elif node.get("by_row"):
        text = "the row decides"
    else:
        text = ""
    return Leaf(name, _words(node), text, node.get("description", ""), node.get("type") == "string")


def nearest(path: Path) -> Path | None:
    """The field a person most likely meant by the unknown ``path``.

    First a similar name in the same table, then the same name in another one, then a similar one.
    Outside of any table there are sections alone: the name of a field lacks its section.
    """
    key, table = str(path[-1]), path[:-1]
    endings = {name.rpartition(".")[2]: name for name in reversed(catalogue())}
    near = get_close_matches(key, members(table), n=1)
    if near and (table or key not in endings):
        return (*table, near[0])
    if key in endings:
        return endings[key].split(".")
    near = get_close_matches(".".join(map(str, path)), catalogue(), n=1, cutoff=0.75)
    near = near or get_close_matches(key, endings, n=1, cutoff=0.8)
    return endings.get(near[0], near[0]).split(".") if near else None
