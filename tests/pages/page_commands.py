"""The commands that a page of documentation shows, in the order in which it shows them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

PROGRAMS = frozenset(
    {"cat", "cd", "cp", "curl", "ffmpeg", "ffprobe", "git", "make", "mkdir", "mpv", "pip", "pnnx"}
    | {"python", "srgan-edge", "tensorboard", "torchrun", "tritonserver", "wget"}
)
"""A line in a block of code is a command if it begins with one of these, or with a prompt."""

_INLINE = re.compile(r"`(srgan-edge\s[^`]+)`")
_FENCE = re.compile(r"^(```+|~~~+)\s*(\w*)")


@dataclass(frozen=True)
class Command:
    """A command, and the line of the page on which it begins."""

    line: int
    text: str
    kind: str = "block"
    """block: a line of a block of code. inline: `code` in prose. python: a whole Python block."""

    @property
    def is_install(self) -> bool:
        return self.text.startswith("pip install ")


def commands_of(page: str) -> list[Command]:
    """Return every command of a Markdown page, in page order."""
    lines = page.splitlines()
    found: list[Command] = []
    prose: list[str] = [""] * len(lines)
    number = 0
    while number < len(lines):
        if fence := _FENCE.match(lines[number]):
            end = _end_of_fence(lines, number + 1, fence[1])
            block = list(enumerate(lines[number + 1 : end], number + 2))
            if fence[2] == "python":
                found.append(Command(number + 2, "\n".join(text for _, text in block), "python"))
            else:
                found += _commands_of_block(block)
            number = end + 1
        elif lines[number].startswith("    ") and not _continues_prose(lines, number, prose):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            found += _commands_of_block([(n + 1, lines[n][4:]) for n in range(number, end)])
            number = end
        else:
            prose[number] = lines[number]
            number += 1
    found += _inline_commands("\n".join(prose))
    return sorted(found, key=lambda command: command.line)


def _end_of_fence(lines: list[str], start: int, mark: str) -> int:
    for number in range(start, len(lines)):
        if lines[number].strip() == mark:
            return number
    raise ValueError(f"line {start}: the fence is not closed")


def _continues_prose(lines: list[str], number: int, prose: list[str]) -> bool:
    """Return whether an indented line belongs to the paragraph above it, as in a list."""
    return number > 0 and bool(prose[number - 1].strip())


def _commands_of_block(block: list[tuple[int, str]]) -> Iterator[Command]:
    lines = iter(block)
    prompted = False
    for number, line in lines:
        text = line.removeprefix("$ ").strip()
        prompted = bool(text) and (prompted or line.startswith("$ "))
        if not (line.startswith("$ ") if prompted else text.split(" ", 1)[0] in PROGRAMS):
            continue  # after a prompt, up to an empty line, the rest is output
        text = _without_comment(text)
        while text.endswith("\\"):
            _, more = next(lines, (0, ""))
            text = f"{text[:-1].rstrip()} {_without_comment(more.strip())}"
        yield Command(number, text)


def _inline_commands(prose: str) -> Iterator[Command]:
    for match in _INLINE.finditer(prose):
        line = prose.count("\n", 0, match.start()) + 1
        yield Command(line, " ".join(match[1].split()), "inline")


def _without_comment(text: str) -> str:
    """Return a shell line without its comment; a `#` inside quotes or words is none."""
    quote = ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (position == 0 or text[position - 1].isspace()):
            return text[:position].rstrip()
    return text.rstrip()
