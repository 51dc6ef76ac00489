"""Cuts and holes in containers whose damage FFmpeg passes over: Ogg, ASF and Y4M."""

from fractions import Fraction

import pytest
from clips import make

from srgan_edge.errors import InputDamaged
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.video.truncation import find_ogg_break, find_y4m_break, missing_asf_bytes

SIZE = (46, 30)
FRAME_BYTES = 46 * 30 + 2 * 23 * 15
VIDEOS = {
    "Ogg": (".ogv", "libvpx", {"b": "900k"}),
    "ASF": (".wmv", "wmv2", {"b": "900k"}),
    "Y4M": (".y4m", "wrapped_avframe", {}),
}
FINDS = {
    "Ogg": find_ogg_break,
    "ASF": missing_asf_bytes,
    "Y4M": lambda path: find_y4m_break(path, FRAME_BYTES),
}


@pytest.fixture(params=VIDEOS)
def video(request, tmp_path):
    """A container's name, and a whole video in it."""
    suffix, codec, options = VIDEOS[request.param]
    path = tmp_path / f"video{suffix}"
    make(path, frames=30, size=SIZE, codec=codec, options=options, time_base=Fraction(1, 25))
    return request.param, path


def test_whole_ones_are_whole(video):
    name, path = video
    assert not FINDS[name](path)
    with IsolatedReader(path) as reader:
        assert len(list(reader)) == 30


def test_a_hole_or_a_cut_anywhere_is_found(video):
    name, path = video
    content = path.read_bytes()
    head = len(content) // 5  # of another head it is another video, or none
    for at in range(head, len(content) - 40, max(1, len(content) // 97)):
        path.write_bytes(content[:at] + content[at + 40 :])
        assert FINDS[name](path), f"hole at byte {at}"
        path.write_bytes(content[:at])
        at_a_frame = name == "Y4M" and (at - content.index(b"\n") - 1) % (FRAME_BYTES + 6) == 0
        assert FINDS[name](path) or at_a_frame, f"cut at byte {at}"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_video_with_a_hole_is_damaged(video, share):
    _, path = video
    content = path.read_bytes()
    at = int(share * len(content))
    path.write_bytes(content[:at] + content[at + 40 :])
    with IsolatedReader(path) as reader, pytest.raises(InputDamaged):
        list(reader)


def test_a_flipped_bit_in_ogg_is_found(tmp_path):
    path = tmp_path / "video.ogv"
    make(path, frames=10, size=SIZE, codec="libvpx", options={}, time_base=Fraction(1, 25))
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), 37):
        content[at] ^= 4
        path.write_bytes(content)
        assert find_ogg_break(path), f"bit flipped in byte {at}"
        content[at] ^= 4


def test_a_page_that_is_missing_and_an_end_that_is_missing_are_told_apart(tmp_path):
    path = tmp_path / "video.ogv"
    make(path, frames=60, size=SIZE, codec="libvpx", options={"g": "1"},
         time_base=Fraction(1, 25))  # fmt: skip
    content = path.read_bytes()
    starts = [at for at in range(len(content)) if content.startswith(b"OggS", at)]
    path.write_bytes(content[: starts[3]] + content[starts[4] :])
    assert find_ogg_break(path) == f"1 pages are missing before byte {starts[3]}"
    path.write_bytes(content[: starts[-1]])
    assert find_ogg_break(path) == "cut off, the end of a stream is missing"


def test_a_broadcast_in_asf_states_no_size(tmp_path):
    path = tmp_path / "video.wmv"
    make(path, frames=10, size=SIZE, codec="wmv2", options={}, time_base=Fraction(1, 25))
    content = bytearray(path.read_bytes())
    properties = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    content[properties + 24 + 64] |= 1
    path.write_bytes(content[:-100])
    assert missing_asf_bytes(path) == 0


@pytest.mark.parametrize("content", [b"", b"OggS", b"OggS" + bytes(22) + b"\xff", b"YUV4MPEG2 W8"])
def test_what_is_hardly_a_file_is_no_crash(tmp_path, content):
    path = tmp_path / "video"
    path.write_bytes(content)
    for find in FINDS.values():
        find(path)
