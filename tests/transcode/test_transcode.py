"""Videos stopped anywhere: no finished segment is lost, and the result is the same to the byte."""

import errno
import json
import os
import stat
import subprocess
import time
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import clips
import pytest
from clips import MS, make, see_frames, see_packets
from whole_frames import Death, WholeFrames

from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import (
    InputDamaged,
    InputRefused,
    Interrupted,
    OutputFailed,
    ResourcesExhausted,
    UsageError,
)
from srgan_edge.files import WHOLE_BYTES, content_sha256, sync
from srgan_edge.isolation import sandbox
from srgan_edge.isolation.child import ChildFailed, ChildKilled
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import VideoDamaged
from srgan_edge.live.writer import VideoWriter
from srgan_edge.model.library import find_model
from srgan_edge.model.spec import multiplications_per_px
from srgan_edge.run import was_finished
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import join as video_join
from srgan_edge.transcode import segments
from srgan_edge.transcode import upscale as video
from srgan_edge.transcode.rehearsal import Rehearsal
from srgan_edge.transcode.work_folder import is_finished, open_work_folder
from srgan_edge.video.demuxer import Demuxer
from srgan_edge.video.frame import CopiedPacket, Encoding, Frame
from srgan_edge.video.reader import VideoReader

OPTIONS = Options("nearest", Encoding(preset="ultrafast"), Tiling(), existing="replace")
B_FRAMES = {"crf": "18", "bf": "3"}
SEGMENT = 5


class Doubler(WholeFrames):
    """Replaces the upscaler: repeats pixels, and raises `error` at the frame `dies_at`."""

    scale, slots = 2, 2
    info = EngineInfo("nearest", "cpu", "fp32", find_model("edge-x4").spec)

    def __init__(self, dies_at=None, error=Death):
        self.dies_at, self.error, self.seen = dies_at, error, []

    def upscale(self, pixels):
        self.seen.append(clips.read_barcode(pixels))
        if self.seen[-1] == self.dies_at:
            raise self.error
        return pixels.repeat(2, axis=0).repeat(2, axis=1)


class Listener:
    """Replaces the reporter: remembers the notes and counts."""

    def __init__(self):
        self.notes, self.frames, self.expected = [], 0, None

    def note(self, text):
        self.notes.append(text)

    def started(self, job, frames, done=0):
        self.frames, self.expected = done, frames

    def frame_done(self):
        self.frames += 1


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", SEGMENT)


def upscale(source, target, doubler=None, options=OPTIONS, made_by=None):
    listener = Listener()
    done = video.upscale_video_file(
        Job(source, target, "video"), doubler or Doubler(), options, made_by or {}, listener
    )
    return done, listener


def in_one_pass(source, target, encoding=OPTIONS.encoding):
    """Write the result that segments have to equal, with one encoder and one muxer."""
    with VideoReader(source) as reader:
        size = (2 * reader.info.width, 2 * reader.info.height)
        with VideoWriter(target, reader, size, encoding) as writer:
            for item in reader:
                if isinstance(item, CopiedPacket):
                    writer.copy(item)
                else:
                    writer.write(replace(item, pixels=Doubler().upscale(item.pixels)))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- segments against one pass

VIDEOS = {
    "constant rate": {"frames": 17},
    "one frame": {"frames": 1},
    "a whole number of segments": {"frames": 2 * SEGMENT},
    "one frame more": {"frames": 2 * SEGMENT + 1, "options": B_FRAMES},
    "variable rate": {
        "time_base": MS,
        "pts": [0, 33, 66, 100, 400, 433, 1000, 1001, 1500, 1510, 4000, 4001, 4002],
        "options": B_FRAMES,
        "last_duration": 70,
    },
    "NTSC, late audio": {
        "time_base": Fraction(1001, 30000),
        "pts": range(1, 14),
        "audio": ["eng", "deu"],
        "audio_start": Fraction(1, 7),
    },
    "everything": {
        "frames": 23,
        "audio": ["eng"],
        "chapters": True,
        "display": (90, True),
        "aspect": Fraction(4, 3),
        "metadata": {"title": "A video"},
    },
}


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("name", VIDEOS)
def test_segments_come_to_what_one_pass_does(tmp_path, name, suffix):
    source = make(tmp_path / f"in{suffix}", **VIDEOS[name])
    whole, joined = tmp_path / f"whole{suffix}", tmp_path / f"joined{suffix}"
    encoding = Encoding(preset="ultrafast", options={"bf": "3"})
    in_one_pass(source, whole, encoding)
    upscale(source, joined, options=replace(OPTIONS, encoding=encoding))
    # Only start times: an MP4 with B-frames does not contain durations, except for the last frame.
    assert [f[:2] for f in see_frames(joined)] == [f[:2] for f in see_frames(whole)]
    assert see_frames(joined)[-1].end == see_frames(whole)[-1].end or suffix == ".mp4"
    assert see_packets(joined, "audio") == see_packets(whole, "audio")
    with VideoReader(whole) as a, VideoReader(joined) as b:
        assert [s.type for s in a.container.streams] == [s.type for s in b.container.streams]
        assert a.container.metadata == b.container.metadata
        assert a.container.chapters() == b.container.chapters()
        # Segments have keyframes of their own, and one pass does not know what follows a gap.
        unlike = {"duration_seconds": 0, "bit_rate": None, "average_rate": None}
        facts = [replace(it.info, **unlike) for it in (a, b)]
        assert facts[0] == facts[1]
    assert names_in(tmp_path) == sorted([source.name, whole.name, joined.name])


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_last_frame_that_stays_is_as_long_with_b_frames(tmp_path, suffix):
    """Each decoding lasts until the next, and the last of them is not of the last frame."""
    times = {"time_base": MS, "pts": [0, 100, 200, 1500], "last_duration": 5000}
    source = make(tmp_path / "in.mkv", **times)
    encoding = Encoding(preset="ultrafast", options={"bf": "3", "b_strategy": "0"})
    upscale(source, tmp_path / f"out{suffix}", options=replace(OPTIONS, encoding=encoding))
    with av.open(tmp_path / f"out{suffix}") as result:
        packets = [packet for packet in result.demux(video=0) if packet.pts is not None]
        assert [it.pts for it in packets] != sorted(it.pts for it in packets)
        assert sum(it.duration * it.time_base for it in packets) == Fraction(6.5)
        assert result.duration == 6_500_000
    for again in ("again.mp4", "again.mkv"):
        upscale(
            tmp_path / f"out{suffix}", tmp_path / again, options=replace(OPTIONS, encoding=encoding)
        )
        with VideoReader(tmp_path / again) as reader:
            scanned = [item for item in reader.scan() if not isinstance(item, CopiedPacket)]
            tick = reader.info.time_base
            assert list(reader.scan_packets()) == scanned
        assert (scanned[-1].pts + scanned[-1].duration - scanned[0].pts) * tick == Fraction(6.5)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_long_first_frame_shortens_no_last_one_with_b_frames(tmp_path, suffix):
    """Decoding starts so much earlier that all time is used up when the last packet comes."""
    times = {"time_base": MS, "pts": [167, 417, 500, 583, 667, 2417, *range(2500, 4000, 83)]}
    source = make(tmp_path / "in.mkv", **times, last_duration=83)
    upscale(source, tmp_path / f"out{suffix}", options=replace(OPTIONS, encoding=Encoding()))
    with av.open(tmp_path / f"out{suffix}") as result:
        *_, last = (packet for packet in result.demux(video=0) if packet.pts is not None)
        assert last.duration * last.time_base >= Fraction(1, 25)
        assert result.duration == 3_910_000


@pytest.mark.parametrize("frames_before", [9, 15, 16, 17])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_no_frame_lasts_longer_for_a_gap_before_it_with_b_frames(tmp_path, suffix, frames_before):
    """In MP4 the gap between decodings is that of another frame, perhaps of the last one."""
    pts = [40 * n + (3_340 if n >= frames_before else 0) for n in range(18)]
    times = {"time_base": MS, "pts": pts}
    x264 = {"options": {"bf": "3", "b_strategy": "0"}}
    source = make(tmp_path / "in.mp4", **times, **x264)
    with av.open(source) as video:
        packets = [packet for packet in video.demux(video=0) if packet.pts is not None]
        length = max(it.pts for it in packets) * packets[0].time_base + Fraction(1, 25)
    encoding = Encoding(preset="ultrafast", **x264)
    upscale(source, tmp_path / f"out{suffix}", options=replace(OPTIONS, encoding=encoding))
    with av.open(tmp_path / f"out{suffix}") as result:
        assert result.duration == 1_000_000 * length


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("libx265", ".mp4", {"x265-params": "log-level=none"}),
        ("libsvtav1", ".mkv", {}),
        ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8"}),
        ("mpeg4", ".mp4", {"bf": "2"}),
        ("ffv1", ".mkv", {}),
    ],
)
def test_segments_of_other_codecs(tmp_path, codec, suffix, options):
    source = make(tmp_path / "in.mkv", size=(128, 64), frames=13)
    wanted = replace(OPTIONS, encoding=Encoding(codec, options=options))
    upscale(source, tmp_path / f"out{suffix}", options=wanted)
    after = see_frames(tmp_path / f"out{suffix}")
    assert [f[:2] for f in after] == [f[:2] for f in see_frames(source)]


@pytest.mark.parametrize(
    ("model", "device", "size", "frames", "frames_with_repeats"),
    [
        ("edge-x4", "cpu", (640, 360), SEGMENT, SEGMENT),
        ("srgan-x4", "cpu", (320, 180), 11, 35),
        ("srgan-x4", "cpu", (1920, 1080), 8, 8),
        ("srgan-x4", "cuda:0", (1920, 1080), 48, 48),
    ],
)
def test_segments_are_short_where_a_frame_takes_long(
    monkeypatch, model, device, size, frames, frames_with_repeats
):
    if frames != SEGMENT:
        monkeypatch.undo()
    spec = find_model(model).spec
    info = EngineInfo("", device, "bf16", spec)
    assert segments.segment_frames(info, *size) == frames
    assert segments.segment_frames(info, *size, dedup=True) == frames_with_repeats


def test_multiplications_are_those_of_the_graph():
    """The counts are those that `srgan-edge export` prints, for networks at their own scale."""
    assert multiplications_per_px(find_model("srgan-x4").spec) == pytest.approx(2_218_176, rel=0.01)
    assert multiplications_per_px(find_model("edge-x4").spec) == pytest.approx(88_416, rel=0.02)


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("dies_at", [3, SEGMENT + 3, 2 * SEGMENT, 16])
def test_a_video_that_died_resumes_to_the_same_bytes(tmp_path, dies_at, suffix):
    source = make(tmp_path / "in.mkv", frames=17, audio=["eng"], options=B_FRAMES)
    whole, target = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    upscale(source, whole)
    with pytest.raises(Death):
        upscale(source, target, Doubler(dies_at))
    assert not target.exists()
    again = Doubler()
    done, heard = upscale(source, target, again)
    assert target.read_bytes() == whole.read_bytes()
    assert done.frames_resumed == min(again.seen)
    # Frames are upscaled ahead of the encoder, so up to one segment more has to be redone.
    assert 0 <= dies_at - done.frames_resumed < 2 * SEGMENT
    assert heard.frames == 17
    assert any("resuming after" in note for note in heard.notes) == bool(done.frames_resumed)
    assert names_in(tmp_path) == sorted(["in.mkv", whole.name, target.name])


def test_a_video_that_dies_while_it_is_joined_redoes_no_frame(tmp_path, monkeypatch):
    source, target = make(tmp_path / "in.mkv", frames=12), tmp_path / "out.mkv"
    upscale(source, tmp_path / "whole.mkv")

    def die(*arguments, **named):
        raise Death

    with monkeypatch.context() as dying:
        dying.setattr(video_join.Joiner, "join", die)
        with pytest.raises(Death):
            upscale(source, target)
    again = Doubler()
    upscale(source, target, again)
    assert again.seen == []
    assert target.read_bytes() == (tmp_path / "whole.mkv").read_bytes()


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, existing="replace")])
def test_a_video_that_dies_once_it_has_its_name_is_found_done(tmp_path, monkeypatch, options):
    source, target = make(tmp_path / "in.mkv", frames=12), tmp_path / "out.mkv"

    def die(*arguments):
        raise Death

    with monkeypatch.context() as dying:
        dying.setattr(video, "remarks_after", die)
        with pytest.raises(Death):
            upscale(source, target)
    before, again, job = target.stat(), Doubler(), Job(source, target, "video")
    assert was_finished(job, restart=False)
    assert not was_finished(job, restart=True)  # which would replace it
    done, heard = upscale(source, target, again, options)
    assert (done.frames, done.saved_as, again.seen) == (12, str(target), [])
    assert heard.notes == [f"in.mkv: an earlier run had finished {target}"]
    assert target.stat() == before
    assert names_in(tmp_path) == ["in.mkv", "out.mkv"]
    assert not is_finished(target)


def test_a_partial_result_of_a_run_that_died_is_found_with_its_damage(tmp_path, monkeypatch):
    source = make(tmp_path / "in.mkv", frames=40)
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * 0.6)])

    def die(*arguments):
        raise Death

    with monkeypatch.context() as dying:
        dying.setattr(video, "remarks_after", die)
        with pytest.raises(Death):
            upscale(source, tmp_path / "out.mkv")
    with pytest.raises(InputDamaged, match=r"what could be decoded is in .*out\.partial\.mkv"):
        upscale(source, tmp_path / "out.mkv")
    assert names_in(tmp_path) == ["in.mkv", "out.partial.mkv"]


def test_repeated_runs_on_a_damaged_video_keep_one_partial_result(tmp_path):
    """A nightly job does not fill the disk; a file that differs is kept."""
    source = make(tmp_path / "in.mkv", frames=40)
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * 0.6)])
    (tmp_path / "out.partial.mkv").write_text("of another time")
    options = replace(OPTIONS, existing="refuse")
    for _ in range(3):
        with pytest.raises(InputDamaged, match=r"decoded is in .*out\.partial-2\.mkv"):
            upscale(source, tmp_path / "out.mkv", options=options)
    assert names_in(tmp_path) == ["in.mkv", "out.partial-2.mkv", "out.partial.mkv"]
    assert (tmp_path / "out.partial.mkv").read_text() == "of another time"


def test_a_result_that_changed_after_a_run_died_is_not_taken_for_it(tmp_path, monkeypatch):
    source, target = make(tmp_path / "in.mkv", frames=12), tmp_path / "out.mkv"

    def die(*arguments):
        raise Death

    with monkeypatch.context() as dying:
        dying.setattr(video, "remarks_after", die)
        with pytest.raises(Death):
            upscale(source, target)
    target.write_bytes(b"something else")
    assert not is_finished(target)
    upscale(source, target, options=replace(OPTIONS, existing="replace"))
    assert [frame.number for frame in see_frames(target)] == list(range(12))


def test_frames_of_a_folder_that_is_gone_with_all_around_it_are_not_called_kept(tmp_path):
    source, target = make(tmp_path / "in.mkv", frames=40), tmp_path / "share" / "out.mkv"
    target.parent.mkdir()

    class Remover(Doubler):
        def upscale(self, pixels):
            if len(self.seen) == 2 * SEGMENT + 3:
                while not (target.parent / "out.mkv.partial" / "journal").stat().st_size:
                    time.sleep(0.01)
                target.parent.rename(tmp_path / "away")
            return super().upscale(pixels)

    with pytest.raises(
        OutputFailed, match=r"frames were in .*its folder is gone; if it comes back"
    ):
        upscale(source, target, Remover())
    (tmp_path / "away").rename(target.parent)
    done, _ = upscale(source, target)
    assert done.frames_resumed >= SEGMENT


def test_frames_of_a_removed_work_folder_are_not_called_kept(tmp_path):
    source, target = make(tmp_path / "in.mkv", frames=40), tmp_path / "out.mkv"

    class Remover(Doubler):
        def upscale(self, pixels):
            if len(self.seen) == 2 * SEGMENT + 3:
                # At once: files that are begun during `rmtree` would end it with an error.
                (tmp_path / "out.mkv.partial").rename(tmp_path / "removed")
            return super().upscale(pixels)

    with pytest.raises(OutputFailed, match=r"was removed during the work.*starts over"):
        upscale(source, target, Remover())
    done, _ = upscale(source, target)
    assert (done.frames, done.frames_resumed) == (40, 0)


def test_a_first_segment_that_was_damaged_since_is_named(tmp_path, monkeypatch):
    source, target = make(tmp_path / "in.mkv", frames=12), tmp_path / "out.mkv"
    join = video_join.Joiner.join

    def join_damaged(joiner, target, **named):
        segment = tmp_path / "out.mkv.partial" / "segment-000000.nut"
        content = bytearray(segment.read_bytes())
        content[len(content) // 2] ^= 1
        segment.write_bytes(content)
        return join(joiner, target, **named)

    monkeypatch.setattr(video_join.Joiner, "join", join_damaged)
    with pytest.raises(OutputFailed, match=r"segment-000000\.nut has changed since.*goes on"):
        upscale(source, target)


def test_an_interrupted_video_reports_what_is_kept(tmp_path):
    source = make(tmp_path / "in.mkv", frames=17)
    with pytest.raises(Interrupted) as stopped:
        upscale(source, tmp_path / "out.mkv", Doubler(14, Interrupted(15)))
    kept = json.loads((tmp_path / "out.mkv.partial" / "job.json").read_text())
    assert kept["size"] == [128, 96]
    assert stopped.value.exit_code == 143
    assert "frames are kept in" in str(stopped.value)
    assert "the same command goes on from there" in str(stopped.value)


def test_no_folder_stays_without_a_finished_segment(tmp_path):
    source = make(tmp_path / "in.mkv", frames=17)
    with pytest.raises(Death):
        upscale(source, tmp_path / "out.mkv", Doubler(0))
    assert names_in(tmp_path) == ["in.mkv"]


def half_done(tmp_path):
    """Return source, target and work folder of a video that died after two segments."""
    source, target = make(tmp_path / "in.mkv", frames=17), tmp_path / "out.mkv"
    with pytest.raises(Death):
        upscale(source, target, Doubler(16))
    return source, target, tmp_path / "out.mkv.partial"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoding": Encoding(preset="ultrafast", crf=30)}, r"encoding\.crf was null and is 30;"),
        ({"outscale": 3.0}, r"size was \[128, 96\] and is \[192, 144\];"),
    ],
)
def test_other_options_are_refused_with_the_difference(tmp_path, change, said):
    source, target, work = half_done(tmp_path)
    before = {path.name: path.read_bytes() for path in work.iterdir()}
    with pytest.raises(
        UsageError, match=rf"out\.mkv\.partial belongs to another job: {said}.*--restart"
    ):
        upscale(source, target, options=replace(OPTIONS, **change))
    assert {path.name: path.read_bytes() for path in work.iterdir()} == before
    done, _ = upscale(source, target, options=replace(OPTIONS, **change, restart=True))
    assert done.frames_resumed == 0
    assert names_in(tmp_path) == ["in.mkv", "out.mkv"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"size": [1'])
def test_a_broken_description_of_a_job_is_said_to_be_so(tmp_path, content):
    source, target, work = half_done(tmp_path)
    (work / "job.json").write_text(content)
    with pytest.raises(UsageError, match=r"job\.json is empty or broken, .* add --restart") as told:
        upscale(source, target)
    assert len(str(told.value)) < 300 + len(str(work))
    done, _ = upscale(source, target, options=replace(OPTIONS, restart=True))
    assert done.frames == 17 and names_in(tmp_path) == ["in.mkv", "out.mkv"]


def test_another_model_is_refused(tmp_path):
    source, target, _ = half_done(tmp_path)
    with pytest.raises(UsageError, match=r'model was null and is "other"'):
        upscale(source, target, made_by={"model": "other"})


def test_a_changed_input_is_refused(tmp_path):
    source, target, _ = half_done(tmp_path)
    content = bytearray(source.read_bytes())
    status = source.stat()
    content[-1] ^= 1
    source.write_bytes(content)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UsageError, match="the input has changed; put the earlier one back"):
        upscale(source, target)


def test_an_input_that_was_copied_or_touched_is_the_same(tmp_path):
    source, target, _ = half_done(tmp_path)
    content = source.read_bytes()
    source.unlink()
    source.write_bytes(content)
    os.utime(source, (1, 1))
    assert upscale(source, target)[0].frames_resumed > 0


def test_a_large_input_that_was_touched_is_refused_with_its_time(tmp_path, monkeypatch):
    """Only samples of its content are known."""
    monkeypatch.setattr("srgan_edge.transcode.work_folder.WHOLE_BYTES", 0)
    source, target, _ = half_done(tmp_path)
    modified_ns = source.stat().st_mtime_ns
    os.utime(source, (1, 1))
    with pytest.raises(UsageError, match=r"touched; .*, type: touch -d @[\d.]+ INPUT;") as refused:
        upscale(source, target)
    advice = str(refused.value).partition("type: ")[2].partition(" INPUT")[0]
    subprocess.run([*advice.split(), source], check=True)
    assert source.stat().st_mtime_ns == modified_ns
    assert upscale(source, target)[0].frames_resumed > 0


def test_a_middle_that_changed_between_two_runs_is_noticed(tmp_path):
    """Size, time and both ends are those of the input before."""
    source = tmp_path / "in.mkv"
    content = bytearray(os.urandom(WHOLE_BYTES + (1 << 20)))
    source.write_bytes(content)
    before = content_sha256(source)
    hole = 1 << 20  # twice as long as samples are apart
    with source.open("r+b") as file:
        for at in range(hole, WHOLE_BYTES, 9 * hole):
            for written, is_noticed in ((bytes(hole), True), (content[at : at + hole], False)):
                file.seek(at)
                file.write(written)
                file.flush()
                assert (content_sha256(source) != before) is is_noticed


def change_during(monkeypatch, moment, change):
    """Let `change` happen right before or after the join."""
    real = video_join.Joiner.join

    def join(self, *given, **named):
        if moment == "before":
            change()
        joined = real(self, *given, **named)
        if moment == "after":
            change()
        return joined

    monkeypatch.setattr(video_join.Joiner, "join", join)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("how", ["cut", "written", "replaced", "removed"])
def test_an_input_that_changes_before_its_audio_is_read_again_is_refused(
    tmp_path, monkeypatch, moment, how
):
    source = make(tmp_path / "in.mkv", frames=2 * SEGMENT, audio=["eng"])
    other = make(tmp_path / "other.mkv", frames=SEGMENT, audio=["eng"])
    target = tmp_path / "out.mkv"

    def change():
        if how == "cut":
            os.truncate(source, source.stat().st_size * 2 // 3)
        elif how == "written":
            status = source.stat()
            with source.open("r+b") as file:
                file.seek(status.st_size // 2)
                file.write(bytes(9))
            os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        elif how == "replaced":
            other.rename(source)
        else:
            source.unlink()

    change_during(monkeypatch, moment, change)
    with pytest.raises((InputDamaged, InputRefused, OutputFailed)):
        upscale(source, target)
    assert not target.exists()


def test_a_read_error_while_audio_is_copied_is_no_end(tmp_path, monkeypatch):
    source = make(tmp_path / "in.mkv", frames=SEGMENT, audio=["eng"])
    packets = Demuxer.__iter__

    def breaking(self):
        yield from islice(packets(self), 9)
        self.broke_off = "Input/output error"

    monkeypatch.setattr(Demuxer, "__iter__", breaking)
    target = tmp_path / "out.mkv"
    with (
        open_work_folder(target, {}, restart=True) as work,
        video_join.Joiner(source, work.path, (32, 32), Encoding()) as joiner,
        pytest.raises(InputDamaged, match=r"cannot be read again \(Input/output error\)"),
    ):
        video_join._join(joiner._order(target), lambda: None)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_an_audio_packet_that_no_container_takes_costs_that_packet_alone(tmp_path, suffix):
    source = make(tmp_path / "in.ts", frames=50, size=(64, 48), audio=["eng"])
    with av.open(str(source)) as video:
        number = video.streams.audio[0].id
    content = bytearray(source.read_bytes())
    audio = [
        at
        for at in range(0, len(content), 188)
        if int.from_bytes(content[at + 1 : at + 3]) & 0x1FFF == number
    ]
    at = audio[len(audio) // 2]
    content[at + 4 : at + 188] = bytes(184)
    source.write_bytes(content)
    target = tmp_path / f"out{suffix}"
    with pytest.raises(
        VideoDamaged, match=r"1 packets of audio .* everything else is in"
    ) as damage:
        upscale(source, target)
    assert len(see_frames(target)) == 50
    assert damage.value.video.packets_refused == 1
    assert len(see_packets(target, "audio")[0]) == len(see_packets(source, "audio")[0]) - 1
    assert names_in(tmp_path) == ["in.ts", target.name]


def test_a_damaged_segment_is_made_again(tmp_path):
    source, target, work = half_done(tmp_path)
    upscale(source, tmp_path / "whole.mkv")
    second = work / "segment-000001.nut"
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 16
    second.write_bytes(content)
    done, heard = upscale(source, target)
    assert done.frames_resumed == SEGMENT
    assert any("segment-000001.nut has changed since" in note for note in heard.notes)
    assert target.read_bytes() == (tmp_path / "whole.mkv").read_bytes()


@pytest.mark.parametrize(
    "tail", [b'{"pts": [1', b"\n", b"{}\n", b"[3]\n", b"\xff\xfe\n", b"null\n"]
)
def test_a_torn_or_foreign_line_ends_the_journal(tmp_path, tail):
    source, target, work = half_done(tmp_path)
    upscale(source, tmp_path / "whole.mkv")
    with (work / "journal").open("ab") as journal:
        journal.write(tail)
    done, _ = upscale(source, target)
    assert done.frames_resumed >= 2 * SEGMENT
    assert target.read_bytes() == (tmp_path / "whole.mkv").read_bytes()


def test_a_second_process_is_kept_out(tmp_path):
    source, target = make(tmp_path / "in.mkv", frames=3), tmp_path / "out.mkv"
    with (
        open_work_folder(target, {}),
        pytest.raises(OutputFailed, match=r"another process is writing .*out\.mkv"),
    ):
        upscale(source, target)
    upscale(source, target)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    "name", ["photos", "segment-001.ts", "segment-000001.nut.txt", "joined.mkv"]
)
def test_foreign_files_in_a_folder_of_that_name_stay(tmp_path, restart, name):
    """Programs that download videos make such folders, too."""
    source = make(tmp_path / "in.mkv", frames=3)
    precious = tmp_path / "out.mkv.partial" / name / "precious"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(OutputFailed, match=rf"{name} was not created by srgan-edge; move it away"):
        upscale(source, tmp_path / "out.mkv", options=replace(OPTIONS, restart=restart))
    assert precious.read_text() == "mine"
    assert names_in(tmp_path / "out.mkv.partial") == [name]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", ["journal", "lock", "finished.json", "segment-000000.nut"])
def test_foreign_files_that_are_called_as_ours_stay(tmp_path, restart, name):
    """Without a description of the job, ours are empty: a process died before its work began."""
    source = make(tmp_path / "in.mkv", frames=3)
    folder = tmp_path / "out.mkv.partial"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(OutputFailed, match=rf"{name} was not created by srgan-edge; move it away"):
        upscale(source, tmp_path / "out.mkv", options=replace(OPTIONS, restart=restart))
    assert names_in(folder) == [name]
    assert (folder / name).read_text() == "mine"
    (folder / name).unlink()
    (folder / "lock").touch()
    upscale(source, tmp_path / "out.mkv")


def test_only_its_owner_can_read_the_work_folder(tmp_path):
    *_, work = half_done(tmp_path)
    assert stat.S_IMODE(work.stat().st_mode) == 0o700


def test_a_file_in_the_place_of_the_work_folder_is_named(tmp_path):
    source = make(tmp_path / "in.mkv", frames=3)
    (tmp_path / "out.mkv.partial").write_text("mine")
    with pytest.raises(OutputFailed, match=r"out\.mkv\.partial is not a folder of yours"):
        upscale(source, tmp_path / "out.mkv")
    assert (tmp_path / "out.mkv.partial").read_text() == "mine"


def test_a_link_in_the_place_of_the_work_folder_is_not_followed(tmp_path):
    source = make(tmp_path / "in.mkv", frames=3)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.mkv.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputFailed, match="is not a folder of yours"):
        upscale(source, tmp_path / "out.mkv")
    assert list((tmp_path / "elsewhere").iterdir()) == []


# ---------------------------------------------------------------- inputs and disks that fail


@pytest.mark.children
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_children_produce_the_same_bytes(tmp_path, monkeypatch, suffix):
    source = make(tmp_path / "in.mkv", frames=17, audio=["eng"], chapters=True)
    with pytest.raises(Death):
        upscale(source, tmp_path / f"out{suffix}", Doubler(12))
    done, _ = upscale(source, tmp_path / f"out{suffix}")
    assert done.frames_resumed >= SEGMENT
    monkeypatch.setattr(video, "_open", lambda source, *_: VideoReader(source))
    upscale(source, tmp_path / f"whole{suffix}")
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    assert (tmp_path / f"out{suffix}").read_bytes() == whole


@pytest.mark.children
@pytest.mark.skipif(video_join.MEMORY_BYTES < 12 << 30, reason="no machine for that many threads")
def test_an_encoder_of_many_threads_starts_where_videos_are_joined(tmp_path):
    source = make(tmp_path / "in.mkv", frames=1)
    encoding = Encoding(options={"threads": "24"})  # as on a machine with 16 cores
    with video_join.Joiner(source, tmp_path, (7680, 4320), encoding) as joiner:
        assert joiner.rehearse(tmp_path / "out.mkv").left_out == ()


@pytest.mark.parametrize("dies_at", [3, 2 * SEGMENT, 13])
def test_a_decoder_that_dies_costs_only_the_unfinished_segment(tmp_path, monkeypatch, dies_at):
    source, target = (
        make(tmp_path / "in.mkv", frames=17, audio=["eng"]),
        tmp_path / "out.mkv",
    )
    upscale(source, tmp_path / "whole.mkv")
    honest = VideoReader.after

    def dying(reader, frames):
        left = dies_at
        for item in honest(reader, frames):
            if isinstance(item, Frame):
                if not left:
                    raise InputDamaged("the decoder was killed") from ChildFailed("was killed")
                left -= 1
            yield item

    with monkeypatch.context() as once:
        once.setattr(VideoReader, "after", dying)
        with pytest.raises(InputDamaged, match=r"killed; what could be decoded is in .*partial"):
            upscale(source, target)
    assert len(see_frames(tmp_path / "out.partial.mkv")) == dies_at
    done, _ = upscale(source, target)
    assert done.frames_resumed == dies_at // SEGMENT * SEGMENT
    assert target.read_bytes() == (tmp_path / "whole.mkv").read_bytes()


@pytest.mark.parametrize("dies_at", [3, 13])
def test_a_decoder_that_was_killed_is_no_damage(tmp_path, monkeypatch, dies_at):
    """The kernel takes decoders first where memory is scarce, which says nothing of the video."""
    source, target = make(tmp_path / "in.mkv", frames=17, audio=["eng"]), tmp_path / "out.mkv"
    upscale(source, tmp_path / "whole.mkv")
    honest = VideoReader.after

    def dying(reader, frames):
        for number, item in enumerate(honest(reader, frames)):
            if number == dies_at:
                raise ChildKilled(source)
            yield item

    with monkeypatch.context() as once:
        once.setattr(VideoReader, "after", dying)
        with pytest.raises(ResourcesExhausted, match=r"in\.mkv: .*killed.*of memory") as killed:
            upscale(source, target)
    assert ("frames are kept in" in str(killed.value)) == (dies_at > SEGMENT)
    assert not list(tmp_path.glob("*.partial.mkv"))
    upscale(source, target)
    assert target.read_bytes() == (tmp_path / "whole.mkv").read_bytes()


@pytest.mark.children
def test_a_process_that_crashes_while_it_joins_costs_no_frame(tmp_path, monkeypatch):
    source, target = make(tmp_path / "in.mkv", frames=12), tmp_path / "out.mkv"
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1])
    with monkeypatch.context() as crashing:
        remote = video_join.Remote
        crashing.setattr(
            video_join,
            "Remote",
            lambda entry, **rest: remote("misbehaving:joiner_that_crashes", **rest),
        )
        with pytest.raises(InputDamaged, match=r"in\.mkv: damaged: joining it crashed \(SIGABRT\)"):
            upscale(source, target)
    assert not target.exists()
    again = Doubler()
    upscale(source, target, again)
    assert again.seen == []


@pytest.mark.children
@pytest.mark.parametrize("module", ["misbehaving", "misbehaving_unfiltered"])
def test_a_process_that_joins_cannot_lead_elsewhere(tmp_path, monkeypatch, module):
    source, target = make(tmp_path / "in.mkv", frames=12), tmp_path / "out.mkv"
    (tmp_path / "key").write_text("secret")
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1])
    remote = video_join.Remote
    monkeypatch.setattr(
        video_join,
        "Remote",
        lambda entry, **rest: remote(f"{module}:joiner_that_plants_links", **rest),
    )
    with pytest.raises(OutputFailed):  # the result is gone, or a link
        upscale(source, target)
    assert (tmp_path / "key").read_text() == "secret"
    assert names_in(tmp_path) == ["in.mkv", "key", "out.mkv.partial"]
    if module == "misbehaving" and sandbox.landlock_version() >= 1:
        assert not any(path.is_symlink() for path in (tmp_path / "out.mkv.partial").iterdir())


def test_frames_before_damage_are_saved_with_their_audio(tmp_path):
    source = make(tmp_path / "in.mkv", frames=40, audio=["eng"])
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * 0.6)])
    with pytest.raises(InputDamaged, match=r"what could be decoded is in .*out\.partial\.mkv"):
        upscale(source, tmp_path / "out.mkv")
    assert names_in(tmp_path) == ["in.mkv", "out.partial.mkv"]
    numbers = [frame.number for frame in see_frames(tmp_path / "out.partial.mkv")]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > SEGMENT


def test_a_lost_segment_does_not_shorten_the_video(tmp_path, monkeypatch):
    source, target = make(tmp_path / "in.mkv", frames=17), tmp_path / "out.mkv"
    join = video_join.Joiner.join

    def join_what_is_left(joiner, target, **named):
        max((tmp_path / "out.mkv.partial").glob("segment-*")).unlink()
        return join(joiner, target, **named)

    with monkeypatch.context() as losing:
        losing.setattr(video_join.Joiner, "join", join_what_is_left)
        with pytest.raises(OutputFailed, match=r"only \d+ of 17 frames left"):
            upscale(source, target)
    assert names_in(tmp_path) == ["in.mkv", "out.mkv.partial"]
    done, _ = upscale(source, target)
    assert (done.frames, [frame.number for frame in see_frames(target)]) == (17, list(range(17)))


def test_a_result_that_differs_from_its_input_gets_no_name(tmp_path, monkeypatch):
    source, target = (
        make(tmp_path / "in.mkv", frames=12, audio=["eng"]),
        tmp_path / "out.mkv",
    )
    muxed = video_join.VideoMuxer.copy
    monkeypatch.setattr(video_join, "rehearse", lambda order: Rehearsal((), ()))
    monkeypatch.setattr(
        video_join.VideoMuxer,
        "copy",
        lambda muxer, copied: copied.packet.pts == 0 or muxed(muxer, copied),
    )
    with pytest.raises(
        OutputFailed, match=r"differs from .*in\.mkv: audio aac: \d+ packets instead of \d+"
    ):
        upscale(source, target)
    assert names_in(tmp_path) == ["in.mkv", "out.mkv.partial"]


class FailingDisk:
    """Counts the calls that change the disk, and makes the one of a given number fail."""

    def __init__(self, monkeypatch, fails_at=None):
        self.calls, self.fails_at = [], fails_at
        for name in ("fsync", "replace", "rename", "unlink", "truncate", "mkdir"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, self._counted(name, real))

    def _counted(self, name, real):
        def call(*arguments, **options):
            self.calls.append((name, arguments[0]))
            if len(self.calls) - 1 == self.fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return call


def test_whichever_call_fails_the_old_result_stays_and_the_next_run_is_the_same(tmp_path):
    """Let the Nth call to the disk fail, for every N, as SQLite's tests do."""
    source = make(tmp_path / "in.mkv", frames=12, audio=["eng"])
    upscale(source, tmp_path / "whole.mkv")
    whole = (tmp_path / "whole.mkv").read_bytes()
    target = tmp_path / "out.mkv"
    for number in range(200):
        target.write_bytes(b"an older result")
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = FailingDisk(monkeypatch, number)
            try:
                upscale(source, target)
            except OutputFailed as error:
                assert "No space left on device" in str(error), number
                assert target.read_bytes() == b"an older result", number
        if len(disk.calls) <= number:
            break
        upscale(source, target)
        assert target.read_bytes() == whole, number
        assert names_in(tmp_path) == ["in.mkv", "out.mkv", "whole.mkv"], number
    assert 10 < number < 200


def test_references_are_written_after_their_targets_are_on_disk(tmp_path, monkeypatch):
    """A power cut must not leave a line of the journal without its segment, or a partial result."""
    source = make(tmp_path / "in.mkv", frames=2 * SEGMENT)
    order = []
    monkeypatch.setattr(
        "srgan_edge.transcode.work_folder.sync", lambda p: (order.append(p.name), sync(p))
    )
    monkeypatch.setattr("srgan_edge.files.sync", lambda p: (order.append(p.name), sync(p)))
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor):
        order.append("fsync")
        real_fsync(descriptor)

    def rename(path, to):
        order.append(f"rename {Path(to).name}")
        return real_replace(path, to)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    upscale(source, tmp_path / "out.mkv")
    folder = "out.mkv.partial"
    segment = ["segment-{:06}.nut", "fsync", folder, "fsync", "fsync"]  # the last is the journal's
    begun = order.index("segment-000000.nut")
    expected = [name.format(number) for number in range(2) for name in segment]
    assert order[begun : begun + len(expected)] == expected
    result = order[begun + len(expected) :]
    assert result[0].startswith(".finished")
    record = ["fsync", "rename finished.json", folder, "fsync"]
    assert result[1:] == [
        *record, "joined.mkv", "fsync", "rename out.mkv", tmp_path.name, "fsync"
    ]  # fmt: skip


def mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True).returncode


def test_a_full_disk_keeps_finished_segments(tmp_path):
    """Runs on a real file system, which only root can mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or mount("-t", "tmpfs", "-o", "size=200k", "tmpfs", disk):
        pytest.skip("needs to mount a tmpfs")
    try:
        source = make(tmp_path / "in.mkv", frames=60, size=(96, 64))
        noisy = replace(OPTIONS, encoding=Encoding(preset="ultrafast", crf=1))
        upscale(source, tmp_path / "whole.mkv", options=noisy)
        with pytest.raises(
            OutputFailed, match=r"No space left.*free some.*kept in .*out\.mkv\.partial"
        ):
            upscale(source, disk / "out.mkv", options=noisy)
        assert names_in(disk) == ["out.mkv.partial"]
        assert mount("-o", "remount,size=64m", disk) == 0
        done, _ = upscale(source, disk / "out.mkv", options=noisy)
        assert done.frames_resumed > 0
        assert (disk / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
        assert names_in(disk) == ["out.mkv"]
    finally:
        subprocess.run(["umount", disk], check=True)
