"""Report the statements of a Matroska file that FFmpeg does not read, so that no result has them.

FFmpeg makes one flat list of all chapters, in the order of time, and keeps one tag of each name. It
neither reads flags of chapters nor FlagEnabled nor LanguageBCP47, and no attached files that lack a
type or content. `unkept_boxes` does the same for MP4.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from srgan_edge.errors import printable
from srgan_edge.video.truncation import Broken, Element, elements_in, read_segment

_MOST_PARTS = 1_000_000
"""Elements of the whole file, such as clusters, that are passed over at most."""

_MOST_ELEMENTS = 200_000
"""Elements inside of those that are looked at in all."""

_MOST_BYTES = 200
"""Bytes of a name or a number that are read."""

MOST_NAMES = 8
"""Names in one line."""

_TRACKS, _TRACK, _TRACK_NUMBER, _TRACK_ENABLED = 0x1654AE6B, 0xAE, 0xD7, 0xB9
_TRACK_LANGUAGE, _TRACK_LANGUAGE_TAG = 0x22B59C, 0x22B59D
_ATTACHMENTS, _ATTACHED_FILE, _FILE_NAME = 0x1941A469, 0x61A7, 0x466E
_FILE_NEEDS = {_FILE_NAME: "name", 0x4660: "MIME type", 0x465C: "content"}
_TAGS, _TAG, _TARGETS, _SIMPLE_TAG = 0x1254C367, 0x7373, 0x63C0, 0x67C8
_TARGET_TYPE_VALUE = 0x68CA  # FFmpeg reads its name alone
_TAG_NAME, _TAG_LANGUAGE, _TAG_BINARY = 0x45A3, 0x447A, 0x4485
_CHAPTERS, _EDITION, _CHAPTER, _CHAPTER_START = 0x1043A770, 0x45B9, 0xB6, 0x91
_DISPLAY, _DISPLAY_LANGUAGE, _DISPLAY_LANGUAGE_TAG = 0x80, 0x437C, 0x437D

_OF_CHAPTERS: dict[int, tuple[str, int | None]] = {
    0x45BD: ("EditionFlagHidden", 0),
    0x45DD: ("EditionFlagOrdered", 0),
    0x4520: ("EditionDisplay", None),
    0x98: ("ChapterFlagHidden", 0),
    0x4598: ("ChapterFlagEnabled", 1),
    0x6E67: ("ChapterSegmentUUID", None),
    0x63C3: ("ChapterPhysicalEquiv", None),
    0x8F: ("ChapterTrack", None),
    0x6944: ("ChapProcess", None),
    0x437E: ("ChapCountry", None),
}
"""Element -> its name (RFC 9559), and its default, which says nothing."""


def unkept_elements(path: Path) -> list[str]:
    """Return a line for each kind of statement in a Matroska file that no result keeps.

    Of a broken file, it is what comes before the break; of a huge number of elements, the first.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        reading = _Reading(file)
        with suppress(Broken):  # told once all was read: see `truncation`
            reading.read(path.stat().st_size)
        return list(reading.lines())


@dataclass
class _Reading:
    file: BinaryIO
    editions: int = 0
    nested: int = 0
    further_names: int = 0
    not_later: int = 0
    stated: dict[str, None] = field(default_factory=dict)  # in the order of discovery
    languages: dict[str, None] = field(default_factory=dict)
    tags: Counter[tuple[bytes, ...]] = field(default_factory=Counter)
    binary_tags: dict[str, None] = field(default_factory=dict)
    disabled: list[str] = field(default_factory=list)
    full_languages: dict[str, None] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    _latest_start: int = 0
    _looked_at: int = 0

    def read(self, size: int) -> None:
        by_kind = {
            _TRACKS: self._tracks,
            _ATTACHMENTS: self._attachments,
            _TAGS: self._tags,
            _CHAPTERS: self._chapters,
        }
        segment = read_segment(self.file, size)
        for element in islice(elements_in(self.file, segment), _MOST_PARTS):
            if element.kind in by_kind:
                by_kind[element.kind](element)

    def lines(self) -> Iterator[str]:
        if self.editions > 1:
            yield f"editions of chapters: {self.editions} become one list"
        if self.nested:
            yield f"chapters within chapters: {self.nested}"
        if self.not_later:
            yield f"chapters that do not begin after those before them: {self.not_later}"
        if self.further_names:
            yield f"further names of chapters: {self.further_names}"
        if self.languages:
            yield f"the languages of chapters: {listed(self.languages)}"
        if self.stated:
            yield f"what chapters state: {listed(self.stated)}"
        repeated = (key[-2] for key, count in self.tags.items() if count > 1)
        names = dict.fromkeys(_text(name) for name in repeated)
        if names:
            yield f"all but one of the tags that repeat a name: {listed(names)}"
        if self.binary_tags:
            yield f"tags with binary content: {listed(self.binary_tags)}"
        if self.disabled:
            yield f"that tracks are disabled (FlagEnabled): {listed(self.disabled)}"
        if self.full_languages:
            yield f"the full languages of tracks: {listed(self.full_languages)}"
        yield from self.files[:MOST_NAMES]
        if (more := len(self.files) - MOST_NAMES) > 0:
            yield f"attached files, {more} more, without a name, MIME type or content"

    def _in(self, parent: Element) -> Iterator[Element]:
        for element in elements_in(self.file, parent):
            self._looked_at += 1
            if self._looked_at > _MOST_ELEMENTS:
                return
            yield element

    def _content(self, element: Element) -> bytes:
        self.file.seek(element.start)
        return self.file.read(min(element.end - element.start, _MOST_BYTES))

    def _number(self, element: Element) -> int:
        return int.from_bytes(self._content(element)[:8], "big")

    def _tracks(self, tracks: Element) -> None:
        for track in self._in(tracks):
            if track.kind == _TRACK:
                wanted = {_TRACK_NUMBER: 0, _TRACK_ENABLED: 1}
                languages = {_TRACK_LANGUAGE: "eng", _TRACK_LANGUAGE_TAG: ""}
                for it in self._in(track):
                    if it.kind in wanted:
                        wanted[it.kind] = self._number(it)
                    elif it.kind in languages:
                        languages[it.kind] = _text(self._content(it))
                if not wanted[_TRACK_ENABLED]:
                    self.disabled.append(str(wanted[_TRACK_NUMBER]))
                code, tag = languages[_TRACK_LANGUAGE], languages[_TRACK_LANGUAGE_TAG]
                if line := full_language(tag, code):
                    self.full_languages[line] = None

    def _attachments(self, attachments: Element) -> None:
        for attached in self._in(attachments):
            if attached.kind == _ATTACHED_FILE:
                parts = {it.kind: it for it in self._in(attached) if it.end > it.start}
                lacks = [name for kind, name in _FILE_NEEDS.items() if kind not in parts]
                if lacks:
                    name = parts.get(_FILE_NAME)
                    called = f" {_text(self._content(name))}" if name else ""
                    self.files.append(f"attached file{called}, which has no {', no '.join(lacks)}")

    def _tags(self, tags: Element) -> None:
        for tag in self._in(tags):
            if tag.kind == _TAG:
                target: list[bytes] = []
                for it in self._in(tag):
                    if it.kind == _TARGETS:
                        parts = [p for p in self._in(it) if p.kind != _TARGET_TYPE_VALUE]
                        target = sorted(bytes([p.kind & 255]) + self._content(p) for p in parts)
                    elif it.kind == _SIMPLE_TAG:
                        self._simple_tag(it, target)

    def _simple_tag(self, tag: Element, target: list[bytes]) -> None:
        parts = {it.kind: it for it in self._in(tag)}
        name, language = (
            self._content(parts[kind]) if kind in parts else b""
            for kind in (_TAG_NAME, _TAG_LANGUAGE)
        )
        if _TAG_BINARY in parts:
            self.binary_tags[_text(name)] = None
        else:
            self.tags[(*target, name, language.replace(b"und", b""))] += 1

    def _chapters(self, chapters: Element) -> None:
        for edition in self._in(chapters):
            if edition.kind == _EDITION:
                self.editions += 1
                for it in self._in(edition):
                    self._note(it)
                    if it.kind == _CHAPTER:
                        self._chapter(it)

    def _chapter(self, chapter: Element) -> None:
        start = names = 0
        for it in self._in(chapter):
            self._note(it)
            if it.kind == _CHAPTER:
                self.nested += 1
            elif it.kind == _CHAPTER_START:
                start = self._number(it)
            elif it.kind == _DISPLAY:
                names += 1
                self._display(it)
        self.further_names += max(0, names - 1)
        self.not_later += start <= self._latest_start and self._latest_start > 0
        self._latest_start = max(start, self._latest_start)

    def _display(self, display: Element) -> None:
        parts = {it.kind: it for it in self._in(display)}
        for it in parts.values():
            self._note(it)
        kind = next((it for it in (_DISPLAY_LANGUAGE_TAG, _DISPLAY_LANGUAGE) if it in parts), None)
        language = _text(self._content(parts[kind])) if kind else "eng"
        if language != "und":
            self.languages[language] = None

    def _note(self, element: Element) -> None:
        name, default = _OF_CHAPTERS.get(element.kind, ("", None))
        if name and (default is None or self._number(element) != default):
            self.stated[name] = None


def _text(content: bytes) -> str:
    return printable(content.rstrip(b"\0").decode(errors="replace"))


def full_language(tag: str, code: str) -> str:
    """Describe what a tag of RFC 5646, such as de-AT, says beyond the code that is kept.

    Returns:
        Nothing if it says no more, as `de` beside ger; two letters and three are compared only
        where the code says nothing.
    """
    says_no_more = tag in ("", "und", code) or (len(tag) == 2 and code != "und")
    return "" if says_no_more else f"{tag} (kept as {code})"


def listed(names: Iterable[str]) -> str:
    """Return the first names in one line, and the number of the others."""
    every = list(names)
    more = [f"and {len(every) - MOST_NAMES} more"] if len(every) > MOST_NAMES else []
    return ", ".join([*every[:MOST_NAMES], *more])
