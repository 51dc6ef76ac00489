"""The size that MP4 and AVI files state, to the byte."""

from fractions import Fraction

import pytest
from clips import make

from srgan_edge.video.truncation import missing_bytes

VIDEOS = {
    "MP4": (".mp4", {}),
    "index first": (".mp4", {"container_options": {"movflags": "+faststart"}}),
    "fragments": (".mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "MOV": (".mov", {"audio": ["eng"]}),
    "AVI": (".avi", {"codec": "mpeg4", "options": {}, "time_base": Fraction(1, 25)}),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_every_missing_byte_is_counted(tmp_path, name):
    suffix, wanted = VIDEOS[name]
    path = make(tmp_path / f"video{suffix}", frames=8, **wanted)
    content = path.read_bytes()
    assert missing_bytes(path) == 0
    for missing in (1, 9, 100):
        path.write_bytes(content[:-missing])
        assert 0 < missing_bytes(path) <= missing  # what was behind the last chunk is not known of


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (b"", 0),
        (b"\0\0\0\x18ftyp", 16),
        (b"\0\0\0\x08free" * 3, 0),
        (b"\0\0\0\x08free" + b"\0\0\0\0mdat" + b"x" * 50, 0),  # up to the end, wherever that is
        (b"\0\0\0\x01mdat" + (100).to_bytes(8, "big") + b"x" * 50, 34),
        (b"\0\0\0\x08free" + b"\xff" * 20, 0),  # no box, but what somebody put behind them
        (b"\0\0\0\x04free" * 9, 0),
        (b"RIFF\x64\0\0\0AVI " + b"x" * 50, 46),
        (b"RIFF\x04\0\0\0AVI RIFF\x64\0\0\0AVIX", 96),
    ],
)
def test_boxes_and_chunks(tmp_path, content, missing):
    path = tmp_path / "video"
    path.write_bytes(content)
    assert missing_bytes(path) == missing
