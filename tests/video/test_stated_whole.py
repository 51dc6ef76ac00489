"""Cuts and holes whose damage FFmpeg passes over: Ogg, ASF, FLV, Y4M, fragments of MP4."""

from fractions import Fraction

import pytest
from clips import make
from transcoding import OPTIONS

from srgan_edge.errors import InputDamaged, InputRefused
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.jobs.reporters import remarks_after, remarks_on
from srgan_edge.video.frame import Frame, Notes
from srgan_edge.video.truncation import (
    find_asf_break,
    find_flv_break,
    find_fragment_break,
    find_ogg_break,
    find_second_movie,
    find_y4m_break,
)

SIZE = (46, 30)
FRAME_BYTES = 46 * 30 + 2 * 23 * 15
VIDEOS = {
    "Ogg": (".ogv", "libvpx", {"b": "900k"}),
    "ASF": (".wmv", "wmv2", {"b": "900k"}),
    "FLV": (".flv", "flv1", {"b": "900k"}),
    "Y4M": (".y4m", "wrapped_avframe", {}),
}
FINDS = {
    "Ogg": find_ogg_break,
    "ASF": find_asf_break,
    "FLV": find_flv_break,
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


@pytest.mark.parametrize(
    ("suffix", "options", "states"),
    [
        (".mkv", {}, True),
        (".mkv", {"live": "1"}, False),
        (".webm", {"live": "1"}, False),
        (".mp4", {"movflags": "frag_keyframe+empty_moov"}, True),
        (".ts", {}, False),
    ],
)
def test_whether_a_file_states_its_length(tmp_path, suffix, options, states):
    """Without it, an end that is missing at a border of clusters or packets leaves no trace."""
    codec = "libvpx" if suffix == ".webm" else "libx264"
    path = tmp_path / f"in{suffix}"
    make(path, frames=30, codec=codec, options={"g": "10"}, container_options=options)
    with IsolatedReader(path) as reader:
        assert reader.info.states_length == states
        assert len(list(reader)) == 30
    remarks = list(remarks_on(reader.info, OPTIONS))
    assert states != ("states no length: whether its end is missing is unknown" in remarks)


@pytest.mark.parametrize(("count", "said"), [(1, "1 packet may"), (2, "2 packets may")])
def test_packets_that_are_marked_as_cut_short_are_counted(tmp_path, count, said):
    with IsolatedReader(make(tmp_path / "in.mp4", frames=2)) as reader:
        info = reader.info
    notes = list(remarks_after(info, Notes(doubtful=count), OPTIONS, 0))
    assert notes == [f"{said} lack a part: marked as cut short or interrupted"]


def test_a_hole_or_a_cut_anywhere_is_found(video):
    name, path = video
    content = path.read_bytes()
    head = len(content) // 5  # of another head it is another video, or none
    for at in range(head, len(content) - 40, max(1, len(content) // 97)):
        path.write_bytes(content[:at] + content[at + 40 :])
        assert FINDS[name](path), f"hole at byte {at}"
        path.write_bytes(content[:at])
        assert FINDS[name](path) or at in frame_ends(name, content), f"cut at byte {at}"


def frame_ends(name, content):
    """Return where a container that states no number of frames may end."""
    if name == "Y4M":
        return range(content.index(b"\n") + 1, len(content), FRAME_BYTES + 6)
    behind = range(-4, 1)  # the size of an FLV tag, which follows it, may be missing
    return [at + n for at in flv_tags(content) for n in behind] if name == "FLV" else ()


def flv_tags(content):
    """Return where the tags of an FLV file begin."""
    starts = [13]
    while starts[-1] < len(content):
        size = int.from_bytes(content[starts[-1] + 1 : starts[-1] + 4], "big")
        starts.append(starts[-1] + size + 15)
    return starts[:-1]


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_part_of_zeros_is_damage(video, share):
    name, path = video
    content = path.read_bytes()
    at, length = int(share * len(content)), 4000
    if name == "FLV":
        at = next(start for start in flv_tags(content) if start >= at)
        length = 15 + int.from_bytes(content[at + 1 : at + 4], "big")
    path.write_bytes(content[:at] + bytes(length) + content[at + length :])
    with IsolatedReader(path) as reader, pytest.raises(InputDamaged):
        list(reader)


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
    assert find_asf_break(path) is None


@pytest.mark.parametrize("content", [b"", b"OggS", b"OggS" + bytes(22) + b"\xff", b"YUV4MPEG2 W8"])
def test_what_is_hardly_a_file_is_no_crash(tmp_path, content):
    path = tmp_path / "video"
    path.write_bytes(content)
    for find in FINDS.values():
        find(path)


@pytest.mark.parametrize("states", ["content", "all"])
def test_writers_of_flv_count_differently(tmp_path, states):
    path = make(tmp_path / "video.flv", codec="flv1", frames=30, size=SIZE, options={},
                time_base=Fraction(1, 25))  # fmt: skip
    content, total = bytearray(path.read_bytes()), 0
    starts = flv_tags(content)
    for at, behind in zip(starts, [*starts[1:], len(content)], strict=True):
        size = behind - at - 15
        total += size + 11
        content[behind - 4 : behind] = (size if states == "content" else total).to_bytes(4, "big")
    path.write_bytes(content)
    assert find_flv_break(path) is None
    with IsolatedReader(path) as reader:
        assert len(list(reader)) == 30
    at = starts[len(starts) // 2]
    path.write_bytes(content[:at] + bytes(40) + content[at + 40 :])
    assert find_flv_break(path).startswith("its structure is broken at byte")


def fragments(tmp_path, flags=""):
    """An MP4 in four fragments, and where each begins."""
    options = {"movflags": f"frag_keyframe+empty_moov{flags}"}
    path = make(tmp_path / "video.mp4", frames=40, size=SIZE, audio=["eng"],
                options={"g": "10"}, container_options=options)  # fmt: skip
    content = path.read_bytes()
    starts = [at - 4 for at in range(len(content)) if content.startswith(b"moof", at)]
    assert len(starts) >= 4
    return path, content, starts


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_fragment_that_ffmpeg_does_not_reach_is_damage(tmp_path, number):
    path, content, starts = fragments(tmp_path)
    at = starts[number]
    for damaged in (
        content[:at] + bytes(500) + content[at:],
        content[:at] + bytes(64) + content[at + 64 :],
        content[: at + 6] + b"\0" + content[at + 7 :],  # of its name
        content[: at - 9] + bytes(300) + content[at - 9 :],  # in the fragment before
    ):
        path.write_bytes(damaged)
        assert "its structure is broken at byte" in find_fragment_break(path)
    if number:
        with IsolatedReader(path) as reader, pytest.raises(InputDamaged):
            list(reader)


def test_fragments_that_were_not_downloaded_are_named(tmp_path):
    """yt-dlp passes over those that it does not get; the others state their times."""
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof+skip_trailer"}
    path = make(tmp_path / "video.mp4", frames=100, size=SIZE, audio=["eng"],
                options={"g": "20", "bf": "2", "sc_threshold": "0"},
                container_options=options)  # fmt: skip
    content = path.read_bytes()
    starts = [at - 4 for at in range(len(content)) if content.startswith(b"moof", at)]
    assert _gaps(path, 100) == (0, "")
    path.write_bytes(content[: starts[1]] + content[starts[2] :])
    assert _gaps(path, 80) == (0, "")  # less than a second
    path.write_bytes(content[: starts[1]] + content[starts[3] :])
    assert _gaps(path, 60) == (1, "0.88 to 2.48 s")  # the first frame is at 0.08 s


def test_a_pause_between_fragments_is_no_hole(tmp_path):
    options = {"movflags": "frag_keyframe+empty_moov"}
    pts = [number * 512 + (number > 5) * 64_000 for number in range(12)]
    for suffix in (".mp4", ".mov"):
        path = make(tmp_path / f"video{suffix}", pts=pts,
                    options={"g": "3", "bf": "2"}, container_options=options)  # fmt: skip
        assert _gaps(path, 12) == (0, "")


def _gaps(path, frames):
    with IsolatedReader(path) as reader:
        assert sum(isinstance(item, Frame) for item in reader) == frames
    return reader.notes.gaps, reader.notes.first_gap


@pytest.mark.parametrize("flags", ["disable_chpl", "faststart", "frag_keyframe+empty_moov"])
def test_a_movie_that_was_joined_to_another_is_damage(tmp_path, flags):
    """FFmpeg passes over its index and so over its frames."""
    first = make(tmp_path / "first.mp4", frames=9, size=SIZE, container_options={"movflags": flags})
    second = make(tmp_path / "second.mp4", frames=5, size=SIZE, audio=["eng"])
    both = tmp_path / "both.mp4"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with IsolatedReader(both) as reader, pytest.raises(InputDamaged) as caught:
        list(reader)
    assert "damaged: another video begins behind byte" in str(caught.value)


def test_an_index_that_comes_twice_is_no_second_movie(tmp_path):
    """Some who rescue files, and HLS, repeat the index of the only movie."""
    path = make(tmp_path / "video.mp4", frames=5, size=SIZE)
    content = path.read_bytes()
    index = content[content.index(b"moov") - 4 :]
    path.write_bytes(content + index)
    assert find_second_movie(path, len(content) - len(index)) is None
    with IsolatedReader(path) as reader:
        assert len(list(reader)) == 5
    path, content, starts = fragments(tmp_path, "+default_base_moof+skip_trailer")
    head = content[: starts[0]]
    path.write_bytes(content[: starts[2]] + head + content[starts[2] :])
    with IsolatedReader(path) as reader:
        assert sum(isinstance(item, Frame) for item in reader) == 40


def test_what_follows_the_last_fragment_is_no_damage(tmp_path):
    path, content, _ = fragments(tmp_path)
    for rest in (b"", bytes(500), b"\0\1junk" * 20):
        path.write_bytes(content + rest)
        assert find_fragment_break(path) is None


def test_words_of_boxes_in_a_file_without_fragments_are_none(tmp_path):
    path = make(tmp_path / "video.mp4", frames=5, size=SIZE)
    path.write_bytes(path.read_bytes() + bytes(8) + b"moof mdat")
    assert find_fragment_break(path) is None


def test_a_stream_that_begins_after_the_start_is_named(tmp_path):
    """PyAV knows those that FFmpeg found at the start; a text in a later tag of FLV is new."""
    path = make(tmp_path / "video.flv", codec="flv1", frames=60, size=SIZE, options={},
                audio=["eng"], time_base=Fraction(1, 25))  # fmt: skip
    content = path.read_bytes()
    at = flv_tags(content)[-3]
    text = b"\2\0\nonTextData\x08\0\0\0\1\0\4text\2\0\5hello\0\0\x09"
    size = len(text).to_bytes(3, "big")
    tag = b"\x12" + size + content[at + 4 : at + 8] + bytes(3) + text
    path.write_bytes(content[:at] + tag + len(tag).to_bytes(4, "big") + content[at:])
    with IsolatedReader(path) as reader:
        assert sum(isinstance(item, Frame) for item in reader) == 60
        assert reader.notes.unkept == ("a stream that begins later than all others",)


def test_a_whole_y4m_with_mixed_fields_is_not_called_damaged(tmp_path):
    path = tmp_path / "video.y4m"
    make(path, frames=3, size=SIZE, codec="wrapped_avframe", options={}, time_base=Fraction(1, 25))
    path.write_bytes(path.read_bytes().replace(b" Ip", b" Im", 1))
    with pytest.raises(InputRefused, match="possible: fields Ip, It or Ib, and colors C420"):
        IsolatedReader(path)
