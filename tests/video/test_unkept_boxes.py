"""Each statement of an MP4 file that FFmpeg does not read is reported as left out, and no other."""

import random
import struct

import av
import pytest
from clips import make

from srgan_edge.video import unkept_boxes as module
from srgan_edge.video.reader import VideoReader
from srgan_edge.video.unkept_boxes import unkept_boxes


def box(kind, *parts):
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind.encode("latin-1")) + content


def track(*parts, language=b"\x15\xc7", of_media=()):
    """Return a track in a language, packed, which is English by default."""
    header = box("mdhd", bytes(20), language, bytes(2))
    media = box("mdia", header, box("hdlr", bytes(25)), box("minf", box("what")), *of_media)
    return box("trak", box("tkhd", bytes(84)), media, *parts)


def movie(*parts):
    return box("moov", box("mvhd", bytes(100)), *parts)


def user_data(*parts):
    return box("udta", *parts, bytes(4))  # QuickTime ends it by a zero


def uuid(kind, content=b""):
    return box("uuid", bytes.fromhex(kind), content)


def edits(*entries, version=0):
    form = ">qqi" if version else ">iii"
    shown = [struct.pack(form, 1, start, round(speed * 65536)) for start, speed in entries]
    return box(
        "edts", box("elst", bytes([version, 0, 0, 0]), struct.pack(">I", len(shown)), *shown)
    )


def tags(handler, *parts):
    described = box("hdlr", bytes(8), handler, bytes(13))
    return box("meta", bytes(4), described, *parts)


SPHERICAL = "ffcc8263f8554a938814587a02521fdd"
XMP = "be7acfcb97a942e89c71999491e3afac"
ROLE = b"\0\0\0\0urn:mpeg:dash:role:2011\0"

LOST = {
    "language": (
        movie(track(of_media=[box("elng", bytes(4), b"en-GB\0")])),
        ["the full languages of tracks: en-GB (kept as eng)"],
    ),
    "language without a code": (
        movie(track(of_media=[box("elng", bytes(4), b"de\0")], language=b"\x55\xc4")),
        ["the full languages of tracks: de (kept as und)"],
    ),
    "XMP": (uuid(XMP, b"<x/>"), ["an XMP packet"]),
    "XMP of QuickTime": (movie(user_data(box("XMP_", b"<x/>"))), ["an XMP packet"]),
    "spherical": (
        movie(track(uuid(SPHERICAL, b"<GSpherical:Spherical>true"))),
        ["that it is spherical (GSpherical without StitchingSoftware)"],
    ),
    "private": (
        uuid("00" * 15 + "0a"),
        ["what FFmpeg does not read, in the boxes `uuid` 0000000000000000000000000000000a"],
    ),
    "role": (
        movie(track(user_data(box("kind", ROLE, b"sign\0")))),
        ["the role sign of urn:mpeg:dash:role:2011"],
    ),
    "3GPP": (
        movie(user_data(box("titl", b"a"), box("auth", b"b"))),
        ["what FFmpeg does not read, in the boxes `titl`, `auth`"],
    ),
    "events": (
        movie() + box("emsg", b"a") + box("moof") + box("emsg", b"b"),
        ["what FFmpeg does not read, in the boxes `emsg`"],
    ),
    "XML": (
        box("meta", bytes(4), box("hdlr", bytes(25)), box("xml ", b"<a/>")),
        ["what FFmpeg does not read, in the boxes `xml`"],
    ),
    "tag": (
        movie(user_data(tags(b"mdir", box("ilst", box("tmpo", b"\0"), box("©nam", b"\0"))))),
        ["what FFmpeg does not read, in the boxes `tmpo`"],
    ),
    "speeds": (
        movie(track(edits((-1, 0), (0, 0.5), (9, 1))), track(edits((0, 2), version=1))),
        ["the speeds of edits, 0.5, 2: all is played at 1"],
    ),
}

KEPT = {
    "phones": movie(
        box("iods"),
        track(
            box("tapt", box("clef")),
            box("tref", box("tmcd")),
            box("load"),
            edits((-1, 0), (0, 1)),
            box("meta", box("hdlr", bytes(25)), box("keys"), box("ilst", box("\0\0\0\1"))),
        ),
        tags(b"mdta", box("keys"), box("ilst", box("\0\0\0\1"))),
        user_data(box("©xyz", b"\0"), box("name", b"a"), box("free")),
    ),
    "fragments": movie(box("mvex", box("trex"))) + box("sidx") + box("moof") + box("mfra"),
    "languages": movie(track(of_media=[box("elng", bytes(4), b"en\0")])),
    "a spherical one that is read": movie(
        track(uuid(SPHERICAL, b"<GSpherical:StitchingSoftware>a"))
    ),
    "roles": movie(track(user_data(box("kind", ROLE, b"caption\0")))),
    "padding": box("free", b"a") + box("skip") + box("wide") + bytes(12),
}


def written(tmp_path, content):
    path = tmp_path / "in.mp4"
    path.write_bytes(box("ftyp", b"isom") + content)
    return path


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_named(tmp_path, name):
    content, lines = LOST[name]
    assert unkept_boxes(written(tmp_path, content)) == lines


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_not_named(tmp_path, name):
    assert unkept_boxes(written(tmp_path, KEPT[name])) == []


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_video_states_it(tmp_path, suffix):
    path = make(tmp_path / f"in{suffix}", frames=2, audio=("eng",))
    with VideoReader(path) as reader:
        assert reader.info.unkept == ()
    more, lines = LOST["XMP"]
    with path.open("ab") as file:
        file.write(more)
    with VideoReader(path) as reader:
        assert reader.info.unkept == tuple(lines)


@pytest.mark.parametrize("key", ["com.example.score", "com.apple.quicktime.artwork"])
def test_values_are_named_that_ffmpeg_does_not_read(tmp_path, key):
    """Phones write some as integers of 8 bits, which it skips."""
    with_keys = {"movflags": "use_metadata_tags"}
    path = make(
        tmp_path / "in.mov", frames=2, metadata={key: "sixteen"}, container_options=with_keys
    )
    content = path.read_bytes()
    at = content.index(b"data\0\0\0\1\0\0\0\0sixteen") + 7
    for kind in range(80):
        path.write_bytes(content[:at] + bytes([kind]) + content[at + 1 :])
        with av.open(str(path)) as container:
            is_read = key in container.metadata or len(container.streams) > 1
        line = f"the tags `{key}`, whose types FFmpeg does not read"
        assert unkept_boxes(path) == ([] if is_read else [line]), kind


def test_noise_is_no_error(tmp_path):
    content = b"".join([*(content for content, _ in LOST.values()), *KEPT.values()])
    for seed in range(200):
        chance = random.Random(seed)
        noisy = bytearray(content)
        for _ in range(1 + seed % 9):
            noisy[chance.randrange(len(noisy))] = chance.randrange(256)
        for line in unkept_boxes(written(tmp_path, bytes(noisy))):
            assert line.isprintable() and len(line) < 2000


def test_no_file_makes_it_read_much(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_BOXES", 10)
    many = user_data(*(box(f"x{number:03}") for number in range(20)))
    path = written(tmp_path, movie(many, many, many))
    [line] = unkept_boxes(path)
    assert line.endswith("`x003`, `x004`, `x005`")
