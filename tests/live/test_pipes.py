"""Videos through pipes, in every format on either side: each frame at its time."""

import io
import itertools
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import pytest
from clips import MS, make, see_frames, see_packets
from streams import OPTIONS, Doubler, Listener, as_format, upscale

from srgan_edge.errors import InputDamaged, InputRefused, OutputFailed, ReaderGone, UsageError
from srgan_edge.jobs.plan import Job
from srgan_edge.jobs.reporters import VideoDamaged
from srgan_edge.live.upscale import upscale_stream
from srgan_edge.signals import STOPPING
from srgan_edge.video.endpoint import InputPipe, OutputPipe
from srgan_edge.video.frame import Encoding

pytestmark = pytest.mark.slow

PIPES = ["matroska", "nut", "yuv4mpegpipe"]
EDGE = ("-n", "edge-x4", "--tile", "0")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """48 frames with B-frames, at times that milliseconds cannot state, and two audio."""
    return make(
        tmp_path_factory.mktemp("video") / "in.mkv",
        frames=48,
        time_base=Fraction(1001, 30000),
        pts=range(48),
        stated_rate=Fraction(30000, 1001),
        audio=["eng", "deu"],
        options={"crf": "18", "bf": "2"},
    )


def seen(tmp_path, result):
    """A video that may be bytes, as a path to look at."""
    if isinstance(result, Path):
        return result
    path = tmp_path / "seen"
    path.write_bytes(result)
    return path


# ---------------------------------------------------------------- every format to every other


@pytest.mark.parametrize("target", ["file", *PIPES])
@pytest.mark.parametrize("source", ["file", *PIPES])
def test_every_frame_arrives_at_its_time(tmp_path, video, source, target):
    if source == target == "file":
        pytest.skip("is no stream: see test_transcode.py")
    wanted = video if source == "file" else as_format(video, source)
    aim = tmp_path / "out.mkv" if target == "file" else target
    raw = Encoding() if target == "yuv4mpegpipe" else Encoding(preset="ultrafast")
    result, listener, got = upscale(wanted, aim, encoding=raw)
    before = see_frames(seen(tmp_path, wanted))
    after = see_frames(seen(tmp_path, got or aim))
    assert [frame.number for frame in after] == list(range(48))
    assert result.frames == listener.frames == 48
    tick = 0 if target == "nut" else MS
    assert all(
        abs((a.start - after[0].start) - (b.start - before[0].start)) <= 2 * tick
        for a, b in zip(after, before, strict=True)
    )
    if source == "yuv4mpegpipe" and target in ("nut", "yuv4mpegpipe"):
        assert [frame.start for frame in after] == [n * Fraction(1001, 30000) for n in range(48)]
    audio = see_packets(seen(tmp_path, got or aim), "audio")
    if "yuv4mpegpipe" in (source, target):
        assert audio == []
    else:
        expected = see_packets(video, "audio")
        assert [[p.digest for p in s] for s in audio] == [[p.digest for p in s] for s in expected]
        offsets = {a.start - b.start for a, b in zip(audio[1], expected[1], strict=True)}
        assert max(offsets) - min(offsets) <= 2 * MS  # in step


def test_nut_keeps_times_that_follow_no_rate_exactly(tmp_path):
    pts = [0, 33, 66, 100, 400, 433, 1000, 1001, 1500, 4000, 4001]
    source = make(tmp_path / "in.mkv", time_base=MS, pts=pts, options={"bf": "3"})
    for name in ("nut", "matroska"):
        _, _, got = upscale(as_format(source, name), "nut")
        frames = see_frames(seen(tmp_path, got))
        assert [frame.start - frames[0].start for frame in frames] == [n * MS for n in pts]


def test_audio_that_changes_its_format_midway_ends_as_damage(tmp_path):
    """Matroska describes AAC once, before the first packet, so that a pipe cannot follow."""
    source = make(tmp_path / "in.ts", audio=["eng"], frames=25)
    content, header, found = bytearray(source.read_bytes()), bytes.fromhex("fff150"), []
    while (at := content.find(header, found[-1] + 1 if found else 0)) >= 0:
        found.append(at)
    for at in found[len(found) // 2 :]:
        content[at + 2] = 0x54  # 32000 Hz
    source.write_bytes(content)
    wanted = r"LC, 44100 Hz, mono to LC, 32000 Hz, mono at .*; for one format: ffmpeg .*packets of"
    with pytest.raises(VideoDamaged, match=wanted):
        upscale(source, "matroska")
    _, _, got = upscale(source, "nut")  # which keeps the headers
    with av.open(io.BytesIO(got)) as piped:
        assert {it.sample_rate for it in piped.decode(audio=0)} == {44100, 32000}


def test_raw_frames_are_refused_where_their_times_follow_no_rate(tmp_path):
    source = make(tmp_path / "in.mkv", time_base=MS, pts=[0, 40, 80, 900, 940, 980])
    with pytest.raises(OutputFailed, match=r"frame \d comes after .* use --pipe-format nut"):
        upscale(source, "yuv4mpegpipe", encoding=Encoding())


def test_what_raw_frames_leave_out_is_named(tmp_path):
    source = make(
        tmp_path / "in.mkv",
        audio=["eng"],
        subtitles="subrip",
        chapters=True,
        color=(1, 1, 1, 1),
        aspect=Fraction(4, 3),
    )
    result, listener, got = upscale(source, "yuv4mpegpipe", encoding=Encoding())
    assert result.left_out == [
        "audio stream 1 (aac)",
        "subtitle stream 2 (srt)",
        "how wide a pixel is: 4/3",
        "chapters",
        "which color matrix it is: bt709",
    ]
    assert "in.mkv: left out: audio stream 1 (aac)" in listener.notes
    assert got.startswith(b"YUV4MPEG2 W128 H96 F25:1 Ip A0:0 C420mpeg2")


def test_subtitles_and_chapters_go_along(tmp_path):
    source = make(tmp_path / "in.mkv", audio=["eng"], subtitles="subrip", chapters=True)
    result, _, got = upscale(source, "matroska")
    assert result.left_out == []
    path = seen(tmp_path, got)
    (subtitles,), (expected,) = see_packets(path, "subtitle"), see_packets(source, "subtitle")
    assert [packet[:2] for packet in subtitles] == [packet[:2] for packet in expected]
    with av.open(str(path)) as after:
        assert [chapter["metadata"]["title"] for chapter in after.chapters()] == [
            "part 0",
            "part 1",
        ]
    with pytest.raises(
        UsageError, match=r"cannot hold subtitle stream 2 \(srt\); use --pipe-format matroska"
    ):
        upscale(source, "nut")


def test_raw_frames_keep_their_bits(tmp_path):
    source = make(tmp_path / "in.mkv", frames=3, pixel_format="yuv420p10le")
    _, _, got = upscale(source, "yuv4mpegpipe", encoding=Encoding())
    with av.open(str(seen(tmp_path, got))) as result:
        assert result.streams.video[0].codec_context.pix_fmt == "yuv420p10le"


def test_raw_frames_take_no_encoder(video):
    with pytest.raises(
        UsageError, match="holds raw frames; possible: --pix-fmt, or --pipe-format nut"
    ):
        upscale(video, "yuv4mpegpipe", encoding=Encoding("libx265"))


def test_nothing_is_dropped_where_upscaling_is_slow(tmp_path, video):
    doubler = Doubler(seconds=0.02, slots=2)
    result, _, _ = upscale(as_format(video, "nut"), tmp_path / "out.mkv", doubler)
    assert result.frames == 48
    assert sorted(doubler.seen) == list(range(48))


# ---------------------------------------------------------------- bad inputs and bad ends


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "standard input is empty"),
        (b"SECRET\n" * 2000, "no video that can be read once through"),
        (b"ffconcat version 1.0\nfile in.mkv\n", "no video"),
        (b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/passwd\n", "no video"),
        (bytes(range(256)) * 400, "no video"),
    ],
    ids=["empty", "text", "ffconcat", "playlist", "noise"],
)
def test_what_is_no_video_is_refused(tmp_path, content, said):
    with pytest.raises(InputRefused, match=said):
        upscale(content, tmp_path / "out.mkv")
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_needs_going_back_is_refused(tmp_path):
    source = make(tmp_path / "in.mp4")
    with pytest.raises(InputRefused, match="possible: matroska, nut, yuv4mpegpipe, mpegts"):
        upscale(source.read_bytes(), tmp_path / "out.mkv")


def test_a_file_that_states_its_length_is_not_cut_off_unseen(tmp_path, video):
    whole = video.read_bytes()
    target = tmp_path / "out.mkv"
    with pytest.raises(InputDamaged, match=r"ends at .* what came before is in .*out.partial.mkv"):
        upscale(whole[: len(whole) // 2], target)
    assert not target.exists()
    assert 5 < len(see_frames(tmp_path / "out.partial.mkv")) < 48


def test_a_subtitle_that_lasts_to_the_end_hides_no_cut(tmp_path):
    source = make(tmp_path / "in.mkv", frames=48, subtitles="subrip", subtitle_starts_ms=(0,),
                  subtitle_ms=1920)  # fmt: skip
    whole = source.read_bytes()
    assert upscale(whole, tmp_path / "whole.mkv")[0].frames == 48
    with pytest.raises(InputDamaged, match=r"ends at .* what came before is in"):
        upscale(whole[: len(whole) // 2], tmp_path / "out.mkv")


def test_that_nothing_is_known_of_an_early_end_is_said(tmp_path, video):
    _, listener, _ = upscale(as_format(video, "nut"), tmp_path / "out.mkv")
    assert listener.notes[0] == (
        "standard input: in one pass, which cannot be resumed; "
        "states no length: whether it ends early cannot be known"
    )
    assert upscale(video, "nut")[1].notes[0] == "in.mkv: in one pass, which cannot be resumed"


def test_the_reader_that_leaves_ends_it_without_a_word(video):
    read_end, write_end = os.pipe()
    os.close(read_end)
    job = Job(video, Path("standard output"), "video", None, OutputPipe("nut", write_end))
    with pytest.raises(ReaderGone):
        upscale_stream(job, Doubler(), OPTIONS, Listener())
    os.close(write_end)


def test_a_full_disk_behind_a_pipe_is_named(video):
    full = os.open("/dev/full", os.O_WRONLY)
    job = Job(video, Path("standard output"), "video", None, OutputPipe("nut", full))
    with pytest.raises(OutputFailed, match="cannot write standard output: No space left"):
        upscale_stream(job, Doubler(), OPTIONS, Listener())
    os.close(full)


def test_terminals_are_refused():
    ours, theirs = pty.openpty()
    with pytest.raises(UsageError, match="standard input is a terminal; type: ffmpeg"):
        InputPipe(theirs).refuse_terminal()
    with pytest.raises(UsageError, match="standard output is a terminal; type: srgan-edge"):
        OutputPipe("nut", theirs).refuse_terminal()
    os.close(ours)
    os.close(theirs)


# ---------------------------------------------------------------- the command line


def command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "srgan_edge", "upscale", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a.mkv", "b.mkv", "-o", "-"], 2, "a pipe or an address takes only one video"),
        (["in.png", "-o", "-"], 3, "is an image"),
        (["missing.mkv", "-o", "-"], 3, "no such file"),
        (["in.mkv", "--pipe-format", "nut"], 2, "--pipe-format nut is for -o -"),
        (["in.mkv", "--live"], 2, "possible: with - or an address"),
        (
            [
                *("udp://127.0.0.1:9", "--allow-network", "--live"),
                *("-o", "-", "--pipe-format"),
                PIPES[2],
            ],
            2,
            "type --pipe-format nut",
        ),
        (["http://localhost/x.m3u8", "-o", "o.mkv"], 3, "add --allow-network"),
        (["http://localhost/x.mp4", "-o", "o.mkv"], 3, "possible over http: HLS"),
        (["gopher://localhost/x", "-o", "o.mkv"], 3, "rtsp, udp, srt, http, https, or a file"),
        (["udp://127.0.0.1:9", "--allow-network"], 2, "needs a name"),
        (["udp://127.0.0.1:9", "--allow-network", "-o", "folder/"], 2, "is a folder"),
    ],
)
def test_what_cannot_be_is_refused(cli, tmp_path, arguments, code, said):
    make(tmp_path / "in.mkv", frames=2)
    (tmp_path / "in.png").touch()
    got, out, err = cli("upscale", *arguments)
    assert (got, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_nothing_but_the_video_goes_to_standard_output(tmp_path):
    source = make(tmp_path / "in.mkv", frames=6, audio=["eng"])
    with command("-", "-o", "-", *EDGE, "--json-events", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(source.read_bytes())
    assert process.returncode == 0, err
    assert out[:4] == b"\x1aE\xdf\xa3"
    assert [frame.number for frame in see_frames(seen(tmp_path, out))] == list(range(6))
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events[0] == "began"
    assert events[-2:] == ["ended", "closed"]


def test_a_report_of_a_pipe_has_no_digest(tmp_path):
    source = make(tmp_path / "in.mkv", frames=3)
    report = tmp_path / "report.json"
    with command(source, "-o", "-", *EDGE, "--report", report, "-q") as process:
        _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    (job,) = json.loads(report.read_text())["jobs"]
    assert (job["frames"], job["target"], job["sha256"]) == (3, "standard output", None)


def test_a_reader_that_leaves_ends_the_command_like_a_filter(tmp_path):
    source = make(tmp_path / "in.mkv", frames=60, size=(128, 96))
    with command(source, "-o", "-", *EDGE) as process:
        process.stdout.read(100)
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(20) == 128 + signal.SIGPIPE
    assert b"rror" not in err


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_ends_it_though_nothing_comes(tmp_path, video, number):
    """An incomplete file is not left behind, and a stalled pipe blocks nobody."""
    target = tmp_path / "out.mkv"
    content = as_format(video, "nut")
    with command("-", "-o", target, *EDGE, stdin=subprocess.PIPE) as process:
        process.stdin.write(content[: len(content) // 2])
        process.stdin.flush()
        wait_for_file_in(tmp_path)
        asked = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 128 + number
        assert time.monotonic() - asked < 2
        assert b"nothing half done was kept" in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_signal_ends_it_though_the_source_has_not_begun(tmp_path):
    with command("-", "-o", tmp_path / "out.mkv", *EDGE, stdin=subprocess.PIPE) as process:
        time.sleep(4)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT
        assert time.monotonic() - asked < 2


@pytest.mark.slow
def test_a_signal_ends_it_though_the_reader_is_asleep(tmp_path):
    source = make(tmp_path / "in.mkv", frames=90, size=(160, 120))
    with command(source, "-o", "-", "--pipe-format", "yuv4mpegpipe", *EDGE) as process:
        process.stdout.read(100)
        time.sleep(2)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - asked < 2


def wait_for_file_in(folder):
    for _ in range(400):
        if any(folder.iterdir()):
            return
        time.sleep(0.05)
    raise AssertionError("nothing is written")


# ---------------------------------------------------------------- with ffmpeg on either end


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the program ffmpeg")
@pytest.mark.parametrize("back", PIPES)
@pytest.mark.parametrize("to", PIPES)
def test_between_two_ffmpegs(tmp_path, to, back):
    source = make(tmp_path / "in.mp4", frames=10, audio=["eng"])
    result = tmp_path / "out.mkv"
    copy = [] if to == "yuv4mpegpipe" else ["-map", "0", "-c", "copy"]
    ffmpeg = ["ffmpeg", "-v", "error", "-nostdin"]
    first = subprocess.Popen([*ffmpeg, "-i", source, *copy, "-f", to, "-"], stdout=subprocess.PIPE)
    last = subprocess.Popen(
        [*ffmpeg, "-i", "-", "-map", "0", "-c:a", "copy", "-c:v", "ffv1", result],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    ours = [
        sys.executable,
        "-m",
        "srgan_edge",
        "upscale",
        "-",
        "-o",
        "-",
        "--pipe-format",
        back,
        *EDGE,
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    middle = subprocess.run(ours, stdin=first.stdout, stdout=last.stdin, env=env)
    last.stdin.close()
    assert (first.wait(), middle.returncode, last.wait()) == (0, 0, 0)
    assert last.stderr.read() == b""
    frames = see_frames(result)
    assert [frame.number for frame in frames] == list(range(10))
    periods = {b.start - a.start for a, b in itertools.pairwise(frames)}
    assert periods == {40 * MS}
    kept = 0 if "yuv4mpegpipe" in (to, back) else 1
    assert len(see_packets(result, "audio")) == kept
