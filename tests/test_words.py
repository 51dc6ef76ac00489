"""The project speaks plainly: docstrings, comments and pages use the field's own words.

A docstring is a sentence that stands alone, not a fragment that completes the name above it.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("srgan_edge", "train", "export", "kernels", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

OPENINGS = re.compile(
    r"(Of|What|Whether|Where|Who|Whose|By|As|That|So|How|Likewise|Such|Told|Said)\b"
)
"""Words with which a docstring that is no sentence begins."""

INSTEAD = {
    r"\bfilms?\b": "video",
    r"\b(colou?rs?|grey)(?<!color)(?<!colors)\b": "color, gray",
    r"\bpictures?\b": "image",
    r"\bsounds?\b(?! like)": "audio",
    r"\bthe bicubic\b(?! (interpolation|upscale|kernel|baseline|result))": "bicubic interpolation",
    r"\bby itself\b": "by default, alone",
    r"\bbe it\b": "whether",
    r"\b(has|have|had) not (a|an|the|as|its|all|any)\b": "does not have",
    r"\bis had\b|\bbe had\b": "is available",
    r"\bwho(ever)? (reads|waits|has|wants|holds|opens|keeps|calls|records)\b": "name the caller",
    r"\bthis machine's memory\b": "host memory",
    r"\b(is|are|was|were|be) (said|told) (of|to be)\b": "report, state",
    r"\botherwise than\b": "differently from",
    r"\bso long\b(?! as)": "how long",
}
"""A pattern of the private English that the project has left, and what to write."""


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """The comments and docstrings of a module, each with its line number."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    yield from docstrings_of(source)


def docstrings_of(source: str) -> Iterator[tuple[int, str]]:
    """The strings that stand alone as statements: of modules, classes, functions and values."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                yield node.lineno, text.strip()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_sentences(path: Path) -> None:
    fragments = [
        f"{path.name}:{line}: {text.splitlines()[0]}"
        for line, text in docstrings_of(path.read_text())
        if OPENINGS.match(text)
    ]
    assert fragments == []


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_those_of_the_field(path: Path) -> None:
    source = path.read_text()
    prose = prose_of(source) if path.suffix == ".py" else enumerate(source.splitlines(), 1)
    assert [
        f"{path.name}:{line}: {found.group(0)!r}; write: {instead}"
        for line, text in prose
        for pattern, instead in INSTEAD.items()
        for found in re.finditer(pattern, text)
    ] == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Of a film by the bicubic.", 2),
        ("The color of a video, its audio and its images.", 0),
        ("Who reads it has not as much memory, be it free.", 2),
    ],
)
def test_the_list_finds_what_it_should(text: str, count: int) -> None:
    assert sum(bool(re.search(pattern, text)) for pattern in INSTEAD) == count
