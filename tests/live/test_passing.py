"""Pipes are examined while they pass, as files are once they were read."""

import io
import os
import threading
from fractions import Fraction

import av
import pytest
from clips import make
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import as_format, fed, upscale

from srgan_edge.errors import InputDamaged
from srgan_edge.live import passing
from srgan_edge.live.passing import ExaminedPipe, PassedBytes
from srgan_edge.live.source import StreamReader
from srgan_edge.video.truncation import find_break_in_passing


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=300),
    parts=st.lists(st.integers(1, 90), min_size=1),
    steps=st.lists(st.tuples(st.integers(-8, 70), st.integers(0, 120)), max_size=30),
    kept=st.integers(8, 20),
)
def test_what_has_passed_reads_as_a_file_does(content, parts, steps, kept):
    """Forward by any distance, and back by a little; the reader is behind or waits."""
    before = passing._KEPT_BYTES, passing._MOST_BYTES
    passing._KEPT_BYTES, passing._MOST_BYTES = kept, 64
    try:
        passed, file, at = PassedBytes(), io.BytesIO(content), 0
        writer = threading.Thread(target=add_in_parts, args=(passed, content, parts), daemon=True)
        writer.start()
        for step, count in steps:
            at = max(0, at + step)
            passed.seek(at)
            file.seek(at)
            expected = file.read(count)
            assert passed.read(count) == expected
            at += len(expected)
        passed.close()
        writer.join(timeout=20)
        assert not writer.is_alive()
    finally:
        passing._KEPT_BYTES, passing._MOST_BYTES = before


def add_in_parts(passed, content, parts):
    at = number = 0
    while at < len(content):
        size = parts[number % len(parts)]
        passed.add(content[at : at + size])
        at, number = at + size, number + 1
    passed.end()


def test_a_pipe_that_does_not_wait_is_waited_for():
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    threading.Timer(0.2, os.write, (write_end, b"late")).start()
    assert ExaminedPipe(read_end).read(100) == b"late"
    os.close(write_end)
    assert ExaminedPipe(read_end).read(100) == b""
    os.close(read_end)


def test_a_failing_examination_holds_nothing_up_and_is_told():
    read_end, write_end = os.pipe()
    pipe = ExaminedPipe(read_end)
    pipe.examine(lambda passed: passed.read(1)[5])
    for _ in range(300):  # more than is held
        os.write(write_end, bytes(60_000))
        assert pipe.read(1 << 16)
    with pytest.raises(IndexError):
        pipe.verdict()
    os.close(write_end)
    os.close(read_end)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "in.mkv"
    return make(path, frames=100, audio=["eng"], options={"bf": "2", "g": "20"})


def without_sizes(source):
    """Return the clip as Matroska that was written without going back."""

    class Pipe:
        content = b""

        def write(self, part):
            self.content += bytes(part)
            return len(part)

    pipe = Pipe()
    with av.open(str(source)) as clip, av.open(pipe, "w", format="matroska") as output:
        streams = [output.add_stream_from_template(stream) for stream in clip.streams]
        for packet in clip.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                output.mux_one(packet)
    return pipe.content


@pytest.mark.parametrize("kind", ["file", "without sizes", "mpegts"])
@pytest.mark.parametrize("how", ["zeros", "lost", "twice"])
def test_damage_in_the_middle_of_a_pipe_is_told(tmp_path, video, kind, how):
    """In Matroska with the sizes of a file, or without them, and in a transport stream."""
    whole = {
        "file": video.read_bytes,
        "without sizes": lambda: without_sizes(video),
        "mpegts": lambda: as_format(video, "mpegts"),
    }[kind]()
    assert upscale(whole, tmp_path / "whole.mkv")[0].frames == 100
    half, part = len(whole) // 2, 2000
    middle = {"zeros": bytes(part), "lost": b"", "twice": 2 * whole[half : half + part]}[how]
    with pytest.raises(InputDamaged, match=r"what came before is in .*out.partial.mkv"):
        upscale(whole[:half] + middle + whole[half + part :], tmp_path / "out.mkv")
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.parametrize("kind", ["without sizes", "yuv4mpegpipe"])
def test_a_pipe_that_ends_within_a_frame_is_cut_off(tmp_path, video, kind):
    whole = without_sizes(video) if kind == "without sizes" else as_format(video, kind)
    assert upscale(whole, tmp_path / "whole.mkv")[0].frames == 100
    with pytest.raises(InputDamaged, match=r"cut off.* what came before is in .*out.partial.mkv"):
        upscale(whole[:-1000], tmp_path / "out.mkv")
    assert not (tmp_path / "out.mkv").exists()


def test_matroska_that_passes_may_end_behind_an_element_alone():
    head = bytes.fromhex("1a45dfa380 18538067 01ffffffffffffff")
    frame = bytes.fromhex("a3 88") + b"\x81" + bytes(7)  # of the track 1
    tracks = bytes.fromhex("1654ae6b 85 ae 83 d7 81 01")
    sized, unsized = bytes.fromhex("1f43b675 94"), bytes.fromhex("1f43b675 ff")
    ends = []  # in bytes
    for cluster in (sized, unsized):
        content = head + tracks + cluster + 2 * frame + cluster + 2 * frame
        for end in range(len(head), len(content) + 1):
            passed = PassedBytes()
            passed.add(content[:end])
            passed.end()
            if not find_break_in_passing(passed):
                ends.append(end)
    # A cluster of known size is cut between its frames, too; one of unknown size is not.
    assert ends == [27, 52, 77, 27, 32, 42, 52, 57, 67, 77]


@pytest.mark.parametrize(
    ("pixel_format", "size"),
    [("yuv420p", (47, 31)), ("yuv411p", (46, 31)), ("gray", (47, 31)), ("yuv422p10le", (47, 31))],
)
def test_y4m_that_passes_is_whole_with_frames_of_any_kind(tmp_path, pixel_format, size):
    path = tmp_path / "in.y4m"
    coding = {"codec": "wrapped_avframe", "pixel_format": pixel_format, "options": {}}
    container_options = {"strict": "-1"}
    make(path, frames=3, size=size, time_base=Fraction(1, 25), **coding,
         container_options=container_options)  # fmt: skip
    whole = path.read_bytes()
    for content, damaged in ((whole, False), (whole[:-1], True)):
        with fed(content) as inlet, StreamReader(inlet, allow_8bit=True) as reader:
            try:
                assert len(list(reader.scan())) == 3
                assert not damaged
            except InputDamaged as error:
                assert damaged and "cut off in the frame at byte" in str(error)
