"""Names and prose in the field's words: no private word as a name, no phrase that readers stumble over."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import raydd

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "raydd"
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

# Words that the field does not use for these things; no part of a name may be one of them, nor its plural.
PRIVATE = {"desk", "shelf", "shelve", "spool", "outlet", "crew", "librarian", "handover", "ledger", "book"}
# Words that say nothing when a name ends with them: `needs_experts` is fine, `Needs` is not.
VAGUE = {"place", "places", "way", "ways", "look", "looks", "sheet", "sheets", "needs", "where", "about"}
# Participles name nothing when they stand for a noun: `kept_steps` is fine, `kept` is not.
PARTICIPLES = {"found", "told", "shown", "kept", "made", "asked", "opened", "said"}
# Names of files that mean other things than their readers expect.
MODULES = {"real", "marks", "stages"} | VAGUE | PARTICIPLES
STANDARD = ("in_place", "out_of_place", "inplace")
PREDICATES = {"is", "was", "were", "are", "has", "have", "be"}

# Attributes and parameters that users' files and commands have: they stay.
PUBLIC = {("config", "kept"), ("buffer", "kept"), ("training", "kept")}

PHRASES = {
    "shall": r"\bshall\b",
    "an URI": r"\ban URIs?\b",
    "whom": r"\bwhom\b",
    "step size": r"\bstep[ -]sizes?\b",
    "who without a head": r"(?:^|[.:;] +)Who\b(?![^.?]*\?)|\b(?:for|to|by|of|from|with) who\b",
    "what is said": r"\bwhat (?:is|are|was|were) (?:said|told|asked|made|found|shown|kept)\b",
    "is told": r"\b(?:is|are|was|were|be) told (?:of|by|to|with|in)\b",
    "himself": r"\b(?:for|of|to|by) himself\b",
}

# Packages whose names and prose are still to be rewritten; remove them from here as they become clean.
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def words(name: str) -> list[str]:
    """The words of a name in snake or camel case, in small letters."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]


def package(path: Path) -> str:
    """The package below raydd that a file belongs to; "docs" outside of raydd."""
    return path.relative_to(PACKAGE).parts[0] if path.is_relative_to(PACKAGE) else "docs"


def is_private(name: str) -> bool:
    """Whether a class, function or module has a name that the field does not know it by."""
    parts = words(name)
    if not parts or "_".join(parts).endswith(STANDARD):
        return False
    noun = not PREDICATES & set(parts[:-1])
    return has_private_word(name) or (noun and parts[-1] in VAGUE | PARTICIPLES)


def has_private_word(name: str) -> bool:
    return bool(PRIVATE & {word.removesuffix("s") for word in words(name)})


def is_public(path: Path, name: str) -> bool:
    """Whether users' scripts or files have a name: then it stays."""
    return name in raydd.__all__ or (package(path), name) in PUBLIC


def definitions(path: Path) -> Iterator[str]:
    """The private names among a file's own name and those of its classes and functions."""
    if path.stem in MODULES or is_private(path.stem):
        yield path.stem
    for node in ast.walk(parse(path)):
        if isinstance(node, DEFINITIONS) and is_private(node.name) and not is_public(path, node.name):
            yield node.name


def variables(path: Path) -> Iterator[str]:
    """The participles and private words among the variables, parameters and attributes of a file."""
    for node in ast.walk(parse(path)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                if (name.strip("_") in PARTICIPLES and not is_public(path, name)) or has_private_word(name):
                    yield name


def prose(path: Path) -> Iterator[str]:
    """The texts of a file: of Python its strings and comments, of Markdown all but blocks of code, else everything."""
    text = path.read_text()
    if path.suffix == ".md":
        yield re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    elif path.suffix == ".py":
        for node in ast.walk(parse(path)):
            match node:
                case ast.Constant(value=str(value)):
                    yield value
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.string.lstrip("#: ")
    else:
        yield text


def phrases(text: str) -> Iterator[str]:
    """The phrases to rewrite in a text, with what stands around them."""
    line = " ".join(text.split())
    for name, pattern in PHRASES.items():
        for hit in re.finditer(pattern, line):
            yield f"{name}: ...{line[max(0, hit.start() - 30) : hit.end() + 40]}..."


def sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*") if path.suffix in suffixes and path.stem != "__pycache__")


def report(found: dict[Path, list[str]]) -> list[str]:
    """A line for each text, with its file."""
    return [f"{path.relative_to(ROOT)}: {item}" for path, items in found.items() for item in items]


def test_the_words_of_a_name_are_seen() -> None:
    assert words("_SetCache2HTTPPage") == ["set", "cache2", "http", "page"]
    for name in ("Desk", "spool_of", "LedgerRow", "_kept", "set_place", "Way", "asked", "describe_place", "Sheet"):
        assert is_private(name), name
    for name in (
        "kept_steps",
        "out_of_place",
        "needs_experts",
        "placement",
        "lookup",
        "is_found",
        "always",
        "Bookmark",
    ):
        assert not is_private(name), name


@pytest.mark.parametrize(
    "text",
    [
        "The file shall exist.",
        "an URI of a bucket",
        "The user to whom it belongs",
        "The step\n    size of the images.",
        "Who trains them waits.",
        "Needs a token. Who has it may join.",
        "a file by who wrote it",
        "Return what is said of a buffer.",
        "The user is told of it.",
        "He needs no GPU for himself.",
    ],
)
def test_the_phrases_are_seen(text: str) -> None:
    assert len([*phrases(text)]) == 1


def test_plain_sentences_pass() -> None:
    text = "Return the cached result. Who reads this? A user who has a GPU; see a URI, the number of steps, its size."
    assert [*phrases(text)] == []


def test_modules_classes_and_functions_have_the_fields_names() -> None:
    assert report({path: [*definitions(path)] for path in sources(".py")}) == []


def test_variables_are_nouns_of_the_field() -> None:
    assert report({path: sorted({*variables(path)}) for path in sources(".py")}) == []


def test_prose_is_plain() -> None:
    files = [*sources(".py", ".html", ".js", ".css", ".yaml"), *DOCUMENTS]
    assert len(files) > 200
    found = {path: [hit for text in prose(path) for hit in phrases(text)] for path in files}
    assert report(found) == []
