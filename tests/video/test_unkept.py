"""Each statement of a Matroska file that FFmpeg does not read is reported as left out."""

import random

import pytest
from clips import make

from srgan_edge.video import unkept
from srgan_edge.video.reader import VideoReader
from srgan_edge.video.unkept import unkept_elements


def element(kind, *parts):
    """Return an element of Matroska; its parts are bytes, text or a number."""
    content = b"".join(
        part.encode() if isinstance(part, str) else bytes([part]) if isinstance(part, int) else part
        for part in parts
    )
    return bytes.fromhex(kind) + (1 << 56 | len(content)).to_bytes(8, "big") + content


def chapter(start, *parts, names=(("One", "und"),)):
    displays = (
        element("80", element("85", name), element("437c", language)) for name, language in names
    )
    return element("b6", element("73c4", start + 1), element("91", start), *displays, *parts)


def chapters(*editions):
    return element("1043a770", *(element("45b9", *edition) for edition in editions))


def tag(*simple, target=b""):
    return element("7373", element("63c0", target), *simple)


def simple(name, value="value", kind="4487"):
    return element("67c8", element("45a3", name), element(kind, value))


def attached(*parts):
    return element("1941a469", element("61a7", *parts))


NAME, TYPE, CONTENT = element("466e", "a.ttf"), element("4660", "font/ttf"), element("465c", "abc")

LOST = {
    "nested": (
        chapters([chapter(0, chapter(0), chapter(1)), chapter(5)]),
        ["chapters within chapters: 2"],
    ),
    "editions": (
        chapters([chapter(0), chapter(9)], [chapter(3)]),
        [
            "editions of chapters: 2 become one list",
            "chapters that do not begin after those before them: 1",
        ],
    ),
    "ordered": (
        chapters([element("45dd", 1), chapter(0)]),
        ["what chapters state: EditionFlagOrdered"],
    ),
    "flags": (
        chapters(
            [element("45bd", 1), chapter(0, element("98", 1)), chapter(5, element("4598", 0))]
        ),
        ["what chapters state: EditionFlagHidden, ChapterFlagHidden, ChapterFlagEnabled"],
    ),
    "languages": (
        chapters([chapter(0, names=[("One", "eng"), ("Eins", "ger")])]),
        ["further names of chapters: 1", "the languages of chapters: eng, ger"],
    ),
    "tags": (
        element("1254c367", tag(simple("ARTIST"), simple("ARTIST"), simple("BIN", "\0", "4485"))),
        ["all but one of the tags that repeat a name: ARTIST", "tags with binary content: BIN"],
    ),
    "track": (
        element("1654ae6b", element("ae", element("d7", 7), element("b9", 0))),
        ["that tracks are disabled (FlagEnabled): 7"],
    ),
    "a language with a region, and one without a code": (
        element(
            "1654ae6b",
            element("ae", element("22b59c", "por"), element("22b59d", "pt-BR")),
            element("ae", element("22b59c", "und"), element("22b59d", "de")),
        ),
        ["the full languages of tracks: pt-BR (kept as por), de (kept as und)"],
    ),
    "no type": (attached(NAME, CONTENT), ["attached file a.ttf, which has no MIME type"]),
    "no content": (
        attached(NAME, TYPE, element("465c")),
        ["attached file a.ttf, which has no content"],
    ),
}

KEPT = {
    "flags as they are by default": chapters(
        [element("45bd", 0), element("45dd", 0), chapter(0, element("98", 0), element("4598", 1))]
    ),
    "tags of different streams": element(
        "1254c367",
        tag(simple("TITLE"), target=element("63c5", 1)),
        tag(simple("TITLE"), target=element("63c5", 2)),
    ),
    "a track": element("1654ae6b", element("ae", element("d7", 1), element("b9", 1))),
    "languages that say no more": element(
        "1654ae6b",
        element("ae", element("22b59c", "ger"), element("22b59d", "de")),
        element("ae", element("22b59c", "gsw"), element("22b59d", "gsw")),
        element("ae", element("22b59d", "en")),
    ),
    "a file": attached(NAME, TYPE, CONTENT),
}


def written(tmp_path, content):
    path = tmp_path / "in.mkv"
    path.write_bytes(element("1a45dfa3") + element("18538067", content))
    return path


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_named(tmp_path, name):
    content, lines = LOST[name]
    assert unkept_elements(written(tmp_path, content)) == lines


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_not_named(tmp_path, name):
    assert unkept_elements(written(tmp_path, KEPT[name])) == []


def test_a_video_states_it(tmp_path):
    path = make(tmp_path / "in.mkv", frames=2, attachment=("a", "b/c", b"d"))
    with VideoReader(path) as reader:
        assert reader.info.unkept == ()
    content = path.read_bytes()
    at = content.index(bytes.fromhex("18538067")) + 4
    more, lines = LOST["nested"]
    size = int.from_bytes(content[at : at + 8], "big") + len(more)
    path.write_bytes(content[:at] + size.to_bytes(8, "big") + content[at + 8 :] + more)
    with VideoReader(path) as reader:
        assert reader.info.unkept == tuple(lines)


def test_no_file_makes_it_read_much(tmp_path, monkeypatch):
    """Names of any length, lists of any length, and noise."""
    monkeypatch.setattr(unkept, "_MOST_ELEMENTS", 1000)
    names = [simple(f"{n}" * 99, "", "4485") for n in range(2000)]
    path = written(tmp_path, element("1254c367", tag(*names)))
    (line,) = unkept_elements(path)
    assert len(line) < 2000 and line.endswith(" more")
    content = b"".join(content for content, _ in LOST.values())
    for seed in range(200):
        chance = random.Random(seed)
        noisy = bytearray(content)
        for _ in range(1 + seed % 9):
            noisy[chance.randrange(len(noisy))] = chance.randrange(256)
        for line in unkept_elements(written(tmp_path, bytes(noisy))):
            assert line.isprintable()
