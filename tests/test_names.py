"""The names in the package: one class a name, locals that are nouns, and the field's words.

``python tests/test_names.py ROOM`` lists what is left to rename in one room (no room: in all of them). A room
is a folder directly below ``src/limner``; modules that stand in no folder are the room ``limner``. In
benchmarks, tools and examples locals are nouns, too. The words, and what may stay, are in ``names.toml``.
"""

import ast
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from parsed import tree

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "limner"
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *(ROOT / "docs/guide").glob("*.md")])

TABLE = tomllib.loads(Path(__file__).with_name("names.toml").read_text(encoding="utf-8"))
NO_NOUNS = set(f"{TABLE['pronouns']} {TABLE['participles']}".split())
FIELD = set(TABLE["field"].split())
OLD_WORDS, PAGE_WORDS = TABLE["old"], TABLE["pages"].split()
ALLOWED = TABLE["allowed"]
BESIDE = ("benchmarks", "examples", "tools")
"""Folders of programs beside the package."""
SHARE = 0.5
"""Per cent of a room's names that may be pronouns or participles."""


@cache
def modules() -> dict[str, list[tuple[Path, ast.Module]]]:
    """Room -> its modules, parsed."""
    rooms = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).parts
        room = parts[0] if len(parts) > 1 else "limner"
        rooms[room].append((path, tree(path)))
    return dict(rooms)


@cache
def scripts() -> dict[str, list[tuple[Path, ast.Module]]]:
    """The same of the folders of programs beside the package."""
    return {room: [(path, tree(path)) for path in sorted((ROOT / room).rglob("*.py"))] for room in BESIDE}


def bindings(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield (name, line) of each parameter, variable and attribute that a module binds."""
    for node in ast.walk(module):
        match node:
            case (
                ast.Name(id=name, ctx=ast.Store())
                | ast.arg(arg=name)
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield name, node.lineno
            case (
                ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
            ):
                yield name, node.lineno


def definitions(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield (name, line) of each function and class."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def no_noun(name: str, others: frozenset[str]) -> bool:
    """Whether a name is a pronoun, an adverb or a participle. ``others``: the names bound beside it."""
    word = name.strip("_").lower()
    if word == "left":  # the edge of a box, or what remains
        return not others & {"right", "top"}
    return word in NO_NOUNS or (re.fullmatch(r"[a-z]{2,}ed", word) is not None and word not in FIELD)


def old_word(name: str) -> str | None:
    """Return the forbidden word in an identifier, in the singular."""
    for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name):
        if word.lower() == "settings":  # options of a request; "a setting" was one resolved run
            continue
        for form in (word.lower(), word.lower().removesuffix("s"), word.lower().removesuffix("es")):
            if form in OLD_WORDS:
                return form
    return None


def pronouns(room: str) -> tuple[list[str], float]:
    """Return the offending bindings of a room, as "file:line name", and their share in per cent."""
    total, offenders = 0, []
    for path, module in (modules() | scripts())[room]:
        names = [(name, line) for name, line in bindings(module) if name.strip("_")]
        beside = frozenset(name for name, _ in names)
        total += len(names)
        offenders += [f"{where(path, line)} {name}" for name, line in names if no_noun(name, beside)]
    return offenders, 100 * len(offenders) / max(total, 1)


def old_words(room: str) -> dict[str, list[str]]:
    """Return forbidden word -> where a room's identifiers or file names hold it."""
    hits = defaultdict(list)
    for path, module in modules()[room]:
        for name, line in [(path.stem, 1), *bindings(module), *definitions(module)]:
            if word := old_word(name):
                hits[word].append(f"{where(path, line)} {name} (say {OLD_WORDS[word]})")
    return dict(hits)


def page_words(page: Path) -> dict[str, list[str]]:
    """Return forbidden word -> the lines of a page that hold it."""
    hits = defaultdict(list)
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        for word in PAGE_WORDS:
            if re.search(rf"\b{word}(s|es|ed)?\b", line, re.IGNORECASE):
                hits[word].append(f"{where(page, number)} {word}")
    return dict(hits)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def classes() -> dict[str, list[str]]:
    """Return class name -> where it is defined."""
    places = defaultdict(list)
    for room in modules().values():
        for path, module in room:
            for node in ast.walk(module):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(where(path, node.lineno))
    return dict(places)


def test_a_class_name_stands_once():
    twice = {name: spots for name, spots in classes().items() if len(spots) > ALLOWED["classes"].get(name, 1)}
    assert not twice, "\n".join(f"{name}: {', '.join(spots)}" for name, spots in twice.items())


@pytest.mark.parametrize("room", sorted(modules() | scripts()))
def test_locals_are_nouns(room):
    offenders, share = pronouns(room)
    budget = max(ALLOWED["share"].get(room, SHARE), SHARE)
    assert share <= budget, f"{share:.1f} % of {room}, {budget} % at most:\n" + "\n".join(offenders)


@pytest.mark.parametrize("room", sorted(modules()))
def test_identifiers_are_the_words_of_the_field(room):
    allowed = ALLOWED["old"].get(room, "").split()
    hits = {word: spots for word, spots in old_words(room).items() if word not in allowed}
    assert not hits, "\n".join(spot for spots in hits.values() for spot in spots)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_pages_are_in_the_words_of_the_field(page):
    allowed = ALLOWED["pages"].get(str(page.relative_to(ROOT)), "").split()
    hits = {word: spots for word, spots in page_words(page).items() if word not in allowed}
    assert not hits, "\n".join(spot for spots in hits.values() for spot in spots)


def test_the_lint_sees_what_it_is_for():
    code = "def f(each, *, Made=1):\n  for x_seen, kept in each: self._found = left = seed = kept_rows = 1"
    names = {name for name, _ in bindings(ast.parse(code))}
    assert names == {"each", "Made", "x_seen", "kept", "_found", "left", "seed", "kept_rows"}
    assert {n for n in names if no_noun(n, frozenset())} == {"each", "Made", "left", "kept", "_found"}
    assert not no_noun("left", frozenset({"top"}))
    words = {
        "CaptionWish": "wish",
        "_wishes": "wish",
        "mend_file": "mend",
        "replaced": None,
        "Settings": None,
    }
    assert {name: old_word(name) for name in words} == words


def main(rooms: list[str]) -> None:
    """Print what is left to rename in these rooms, or in all of them."""
    for room in rooms or sorted(modules() | scripts()):
        offenders, share = pronouns(room)
        hits = old_words(room) if room in modules() else {}
        spots = [*offenders, *(spot for word in hits.values() for spot in word)]
        counts = Counter({word: len(spots) for word, spots in hits.items()})
        words = ", ".join(f"{word} {count}" for word, count in counts.most_common())
        head = f"{room}: {share:.1f} % of names are no nouns; old words: {words or 'none'}"
        sys.stdout.write("\n".join([*(spots if rooms else []), head]) + "\n")
    twice = {name: spots for name, spots in classes().items() if len(spots) > 1}
    for name, spots in twice.items():
        if any(f"limner/{room}/" in spot for room in rooms for spot in spots) or not rooms:
            sys.stdout.write(f"class {name} stands {len(spots)} times: {', '.join(spots)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
