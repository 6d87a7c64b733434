"""Fenced blocks of the documentation."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "AGENTS.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "examples" / "one_file" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


@dataclass(frozen=True)
class Block:
    """One of them: ``Block("README.md:46", "python", None, "import polopt ...")``."""

    where: str
    language: str
    title: str | None  # the file that the page says it is
    text: str


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type != "fence":
            continue
        language, _, rest = token.info.strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        where = f"{name(page)}:{token.map[0] + 1}"
        found.append(Block(where, language, title and title[1], token.content))
    return found


def commands(block: Block) -> list[tuple[str, int]]:
    """The commands of a bash block, each with the exit code that a comment promises."""
    found: list[tuple[str, int]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        command, _, comment = line.partition("#")
        code = re.match(r"\s*exit (\d+)", comment)
        if command.strip():
            found.append((command.strip(), int(code[1]) if code else 0))
    return found
