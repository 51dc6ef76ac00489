"""Videos that name other files, claim to be huge, or change under the reader's eyes."""

import os
import socket
import struct
import time
from fractions import Fraction

import av
import clips
import pytest
from clips import make

from srgan_edge.errors import InputDamaged, InputRefused
from srgan_edge.files import WHOLE_BYTES
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.video.opening import MAX_STREAMS, OPEN_OPTIONS, file_identity
from srgan_edge.video.reader import VideoReader

pytestmark = pytest.mark.slow

READERS = pytest.mark.parametrize("reader", [VideoReader, IsolatedReader])


@pytest.fixture
def server():
    """A socket that must not receive a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield "{}:{}".format(*listening.getsockname())
        with pytest.raises(BlockingIOError):
            listening.accept()


# ---------------------------------------------------------------- other files, other machines

HEAD = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-MEDIA-SEQUENCE:0\n"
LISTS = {
    "HLS, a path": HEAD + "#EXTINF:1,\n{neighbor}\n#EXT-X-ENDLIST\n",
    "HLS, an address": HEAD + "#EXTINF:1,\nhttp://{server}/a.ts\n#EXT-X-ENDLIST\n",
    "HLS, a key": HEAD + '#EXT-X-KEY:METHOD=AES-128,URI="http://{server}/k"\n'
    "#EXTINF:1,\n{neighbor}\n#EXT-X-ENDLIST\n",
    "HLS, a part of a file": HEAD + "#EXTINF:1,\nsubfile,,start,0,end,99,,:{neighbor}\n",
    "HLS, decrypted": HEAD + "#EXTINF:1,\ncrypto:{neighbor}\n#EXT-X-ENDLIST\n",
    "concat, a neighbor": "ffconcat version 1.0\nfile neighbor.ts\n",
    "concat, an address": "ffconcat version 1.0\nfile 'http://{server}/a.ts'\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" mediaPresentationDuration="PT1S">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>http://{server}/a.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "a subtitle index": "# VobSub index file, v7\nsize: 720x576\nid: en, index: 0\n",
    "a link": '<?xml version="1.0"?><?quicktime type="application/x-quicktime-media-link"'
    '?><embed src="rtsp://{server}/a.mov" />',
    "text": "SECRET\n" * 200,
}


@pytest.mark.parametrize(
    ("reader", "suffix"),
    [
        (IsolatedReader, ".m3u8"),
        *((VideoReader, s) for s in (".mp4", ".m3u8", ".ffconcat", ".mpd", ".sdp", ".txt")),
    ],
)
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_other_files_are_no_videos(tmp_path, server, reader, suffix, name):
    neighbor = make(tmp_path / "neighbor.ts", time_base=Fraction(1, 90000), frames=2)
    path = tmp_path / f"in{suffix}"
    path.write_text(LISTS[name].replace("{neighbor}", str(neighbor)).replace("{server}", server))
    with pytest.raises(InputRefused, match="is not a video; possible: MP4"):
        reader(path)


@pytest.mark.parametrize(
    "argument", ["http://{}/a.mp4", "tcp://{}", "concat:a.ts|b.ts", "pipe:0", "data:,x", "fd:"]
)
def test_an_argument_is_a_path_and_no_address(tmp_path, monkeypatch, server, argument):
    monkeypatch.chdir(tmp_path)
    path = type(tmp_path)(argument.format(server))
    with pytest.raises(InputRefused, match=r"cannot read .*: No such file"):
        VideoReader(path)


@READERS
def test_a_socket_and_a_link_to_a_device_are_no_videos(tmp_path, reader):
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s.mp4"))
        with pytest.raises(InputRefused, match=r"cannot read|is not a file"):
            reader(tmp_path / "s.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("zero.mp4", "pipe.mp4"):
        with pytest.raises(InputRefused, match="is not a file"):
            reader(tmp_path / name)


# ---------------------------------------------------------------- what FFmpeg may try


@pytest.mark.parametrize("name", sorted({*OPEN_OPTIONS["codec_whitelist"].split(",")}))
def test_what_is_allowed_exists(name):
    assert av.Codec(name, "r").name == name


def test_formats_that_name_other_files_are_not_among_them():
    allowed = set(OPEN_OPTIONS["format_whitelist"].split(","))
    assert not allowed & {"hls", "concat", "dash", "sdp", "rtsp", "image2", "tty", "lavfi", "imf"}


@READERS
@pytest.mark.parametrize(
    ("codec", "suffix", "pixel_format"), [("cinepak", ".mov", "rgb24"), ("zmbv", ".avi", "bgr0")]
)
def test_other_decoders_are_not_tried(tmp_path, reader, codec, suffix, pixel_format):
    source = make(
        tmp_path / f"in{suffix}",
        codec=codec,
        options={},
        pixel_format=pixel_format,
        frames=2,
        time_base=Fraction(1, 25),
    )
    with pytest.raises(InputRefused, match=f"its video is {codec}, .*: ffmpeg -i .* -c:v ffv1"):
        reader(source)


@READERS
def test_encrypted_videos_are_refused(tmp_path, reader):
    keys = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    source = make(tmp_path / "in.mp4", container_options=keys, audio=["eng"])
    with pytest.raises(InputRefused, match="is encrypted"):
        reader(source)


def test_two_thousand_streams_are_refused_at_once(tmp_path):
    source = make(tmp_path / "in.mp4", audio=["eng"], frames=2)
    content = source.read_bytes()
    (start, size), *_ = [(at, n) for kind, at, n in boxes(content, 0) if kind == b"moov"]
    inner = list(boxes(content[: start + size], start + 8))
    audio = [content[at : at + n] for kind, at, n in inner if kind == b"trak"][-1]
    moov = content[start + 8 : start + size] + 2000 * audio
    source.write_bytes(content[:start] + struct.pack(">I4s", len(moov) + 8, b"moov") + moov)
    started = time.monotonic()
    with pytest.raises(InputRefused, match=f"more than {MAX_STREAMS} streams; keep some"):
        VideoReader(source)
    assert time.monotonic() - started < 5


def boxes(content, at):
    """Kind, place and size of each box of an MP4 from `at` on."""
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        yield kind, at, size
        at += size


@pytest.mark.parametrize(("streams", "fits"), [(MAX_STREAMS - 1, True), (MAX_STREAMS, False)])
def test_no_stream_of_many_is_lost_without_a_word(tmp_path, streams, fits):
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as clip:
        video = clips._add_video(clip, clips.Clip())
        for _ in range(streams):
            clip.add_mux_stream("subrip", time_base=clips.MS)
        clip.start_encoding()
        clips._write_video(clip, video, clips.Clip())
    if fits:
        with VideoReader(path) as reader:
            assert len(reader.copied) == streams
    else:
        with pytest.raises(InputRefused, match=f"more than {MAX_STREAMS} streams"):
            VideoReader(path)


@READERS
def test_a_hundred_megabytes_of_metadata_are_survived(tmp_path, reader):
    source = make(tmp_path / "in.mkv", frames=2, metadata={"title": "a" * (100 << 20)})
    started = time.monotonic()
    with reader(source) as video:
        assert sum(1 for _ in video) == 2
    assert time.monotonic() - started < 20


def test_a_hundred_thousand_chapters_are_survived(tmp_path):
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as clip:
        video = clips._add_video(clip, clips.Clip())
        clip.set_chapters(
            [
                {"id": n, "start": n, "end": n + 1, "time_base": clips.MS, "metadata": {}}
                for n in range(100_000)
            ]
        )
        clip.start_encoding()
        clips._write_video(clip, video, clips.Clip())
    started = time.monotonic()
    with VideoReader(path) as reader:
        assert sum(1 for _ in reader) == 12
    assert time.monotonic() - started < 20


# ---------------------------------------------------------------- changed while it is read


def grow(path):
    with path.open("ab") as file:
        file.write(b"more")


def replace(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def remove(path):
    path.unlink()


def write(path):
    """The size and the time stay."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(bytes(9))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@READERS
@pytest.mark.parametrize("change", [grow, replace, remove, write])
def test_a_video_that_changes_while_it_is_read_is_no_success(tmp_path, reader, change):
    source = make(tmp_path / "in.mkv", frames=40)
    seen = 0
    with (
        pytest.raises(InputDamaged, match="was changed or removed while it was read"),
        reader(source) as video,
    ):
        for _ in video:
            seen += 1
            if seen == 1:
                change(source)
    assert seen == 40


@READERS
def test_a_video_that_is_only_touched_has_not_changed(tmp_path, reader):
    source = make(tmp_path / "in.mkv", frames=40)
    with reader(source) as video:
        for number, _ in enumerate(video):
            os.utime(source, (number, number))


def test_a_large_file_is_known_by_its_time(tmp_path):
    path = tmp_path / "in.mkv"
    path.write_bytes(b"a")
    os.truncate(path, WHOLE_BYTES)
    before = file_identity(path)
    os.utime(path, (1, 1))
    assert file_identity(path) == before
    os.truncate(path, WHOLE_BYTES + 1)
    before = file_identity(path)
    os.utime(path, (2, 2))
    assert file_identity(path) != before
