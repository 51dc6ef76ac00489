"""The structure of Matroska files: damage is found, complete files pass, and nothing hangs."""

import io
import random

import pytest
from clips import make

from srgan_edge.video.truncation import find_break, find_break_in_passing, find_wrong_checksum

EVERYTHING = {
    "audio": ["eng", "deu"],
    "subtitles": "subrip",
    "chapters": True,
    "attachment": ("font.ttf", "application/x-truetype-font", b"glyphs"),
    "metadata": {"title": "A video"},
}
SHORT_CLUSTERS = {"container_options": {"cluster_time_limit": "200"}}
LIVE = {"container_options": {"live": "1"}}  # no sizes but those of the clusters
UNKNOWN = b"\x01\xff\xff\xff\xff\xff\xff\xff"


@pytest.mark.parametrize(
    ("suffix", "wanted"),
    [
        (".mkv", {}),
        (".mkv", EVERYTHING),
        (".mkv", SHORT_CLUSTERS),
        (".mkv", LIVE),
        (".webm", {"codec": "libvpx-vp9", "options": {}}),
    ],
)
def test_a_whole_file_is_whole_and_no_part_of_it_is(tmp_path, suffix, wanted):
    whole = make(tmp_path / f"whole{suffix}", frames=20, **wanted)
    assert find_break(whole) is None
    assert find_wrong_checksum(whole) is None
    content = whole.read_bytes()
    part = tmp_path / f"part{suffix}"
    for size in range(0, len(content), 31):
        part.write_bytes(content[:size])
        # A live recording may end behind any cluster.
        assert find_break(part) or wanted is LIVE
    part.write_bytes(content + b"\0" * 100)  # what is behind the segment is nobody's
    assert find_break(part) is None or wanted is LIVE


def test_a_cut_says_how_much_is_missing(tmp_path):
    whole = make(tmp_path / "whole.mkv")
    content = whole.read_bytes()
    whole.write_bytes(content[:-321])
    assert find_break(whole) == "cut off, 321 bytes are missing"


def test_clusters_of_unknown_size(tmp_path):
    """Live recordings have clusters of unknown size. Their blocks are examined all the same."""
    whole = make(tmp_path / "whole.mkv", frames=20, container_options={"write_crc32": "0"})
    content = bytearray(whole.read_bytes())
    segment = content.index(b"\x18\x53\x80\x67") + 4
    content[segment : segment + 8] = UNKNOWN
    cluster = content.index(b"\x1f\x43\xb6\x75") + 4
    stated = 9 - content[cluster].bit_length()
    content[cluster : cluster + stated] = UNKNOWN
    del content[content.index(b"\x1c\x53\xbb\x6b", cluster) :]  # its index
    whole.write_bytes(content)
    assert find_break(whole) is None
    block = content.index(b"\xa3", cluster)
    content[block] ^= 1
    whole.write_bytes(content)
    assert find_break(whole) is not None


def test_a_changed_byte_in_a_frame_is_in_the_checksum_alone(tmp_path):
    whole = make(tmp_path / "whole.mkv", frames=20, codec="ffv1", options={})
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 4
    whole.write_bytes(content)
    assert find_break(whole) is None
    assert "a checksum differs in bytes" in (find_wrong_checksum(whole) or "")


def test_what_may_lie_between_header_and_segment(tmp_path):
    whole = make(tmp_path / "whole.mkv", frames=3)
    content = whole.read_bytes()
    segment = content.index(b"\x18\x53\x80\x67")
    whole.write_bytes(content[:segment] + b"\xec\x83abc" * 2 + content[segment:])
    assert find_break(whole) is None
    whole.write_bytes(content[:segment] + b"\xec\x83abc" * 2)
    assert find_break(whole) is not None


def test_noise_is_broken_soon(tmp_path):
    path = tmp_path / "noise.mkv"
    head = make(tmp_path / "whole.mkv", frames=3).read_bytes()[:100]
    for seed in range(200):
        path.write_bytes(head + random.Random(seed).randbytes(3000))
        assert find_break(path)
    path.write_bytes(b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67" + UNKNOWN + b"\xa0\x80" * 5000)
    assert find_break(path) is None  # empty, but not broken


def test_no_number_is_longer_than_it_can_be():
    """A stranger's size is never read into memory, nor waited for in a pipe."""

    class Reads(io.BytesIO):
        reached_end = False

        def read(self, count):
            assert count < 2**20
            return super().read(count)

    sizes = (size.to_bytes(8, "big") for size in (2**56 + 2**40, 2**56 + 2**39, 2**56 + 2**38))
    tracks, entry, number = (name + size for name, size in zip(
        (b"\x16\x54\xae\x6b", b"\xae", b"\xd7"), sizes, strict=True))  # fmt: skip
    head = b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67" + UNKNOWN
    found = find_break_in_passing(Reads(head + tracks + entry + number + bytes(100)))
    assert found.startswith("its structure is broken at byte")
