"""Results of excerpts: whole, checked, resumed, and never mixed up with another job."""

import shutil
import subprocess
from fractions import Fraction
from itertools import pairwise

import av
import clips
import pytest
from transcoding import Doubler, upscale

from srgan_edge.errors import InputRefused, Interrupted, UsageError
from srgan_edge.video.excerpt import Excerpt

GOP = {"crf": "18", "bf": "2", "g": "20"}


@pytest.fixture
def source(tmp_path):
    return clips.make(tmp_path / "in.mp4", frames=200, options=GOP, audio=["eng"], chapters=True)


@pytest.mark.parametrize(("suffix", "subtitles"), [(".mp4", "mov_text"), (".mkv", "subrip")])
def test_a_result_is_the_excerpt_with_its_audio(tmp_path, suffix, subtitles):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    clips.make(
        source,
        frames=200,
        options=GOP,
        audio=["eng"],
        chapters=True,
        subtitles=subtitles,
        subtitle_starts_ms=[0, 5000, 5500, 7900],
    )
    notes = upscale(source, target, excerpt=Excerpt(4.81, 1.0))
    frames = clips.see_frames(target)
    assert [frame.number for frame in frames] == list(range(121, 146))
    assert frames[0].start == 0
    assert float(frames[-1].end) == pytest.approx(1.0)
    assert any("left out: chapters" in note for note in notes)
    [audio], [before] = (clips.see_packets(it, "audio") for it in (target, source))
    digests = [packet.digest for packet in audio]
    where = [packet.digest for packet in before].index(digests[0])
    assert digests == [packet.digest for packet in before[where : where + len(digests)]]
    assert float(before[where].start - audio[0].start) == pytest.approx(4.84, abs=0.002)
    assert 40 <= len(digests) <= 44
    [lines] = clips.see_packets(target, "subtitle")
    shown = [float(line.start) for line in lines if line.duration == Fraction(150, 1000)]
    assert shown == pytest.approx([0.16, 0.66], abs=0.002)


@pytest.mark.parametrize("start_seconds", [0.9, 1.96, 3.0])
def test_an_excerpt_may_begin_between_two_texts(tmp_path, start_seconds):
    """MP4 fills the time before a text with an empty one, and each track starts in one unit."""
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    texts = {"subtitles": "mov_text", "subtitle_starts_ms": [0, 1900, 5000]}
    clips.make(source, frames=150, options=GOP, audio=["eng"], **texts)
    upscale(source, target, excerpt=Excerpt(start_seconds, None))
    [lines] = clips.see_packets(target, "subtitle")
    shown = [float(line.start) for line in lines if line.duration == Fraction(150, 1000)]
    first = float(clips.see_frames(source)[-1].end - clips.see_frames(target)[-1].end)
    after = [it - first for it in (1.9, 5.0) if it >= start_seconds]
    assert shown == pytest.approx(after, abs=0.002)


def cut_by_ffmpeg(source, start_seconds):
    """Everything from the keyframe before on, with an edit list that hides what is too early."""
    target = source.with_name(f"cut{source.suffix}")
    command = ["ffmpeg", "-v", "error", "-ss", str(start_seconds), "-i", source, "-map", "0"]
    subprocess.run([*command, "-c", "copy", target], check=True)
    return target


needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the program ffmpeg")


@needs_ffmpeg
def test_a_text_that_was_cut_away_stays_away(tmp_path):
    texts = {"subtitles": "mov_text", "subtitle_starts_ms": [1900, 4000]}
    options = {"g": "200", "bf": "0", "sc_threshold": "0"}
    clips.make(tmp_path / "in.mp4", frames=150, options=options, audio=["eng"], **texts)
    cut = cut_by_ffmpeg(tmp_path / "in.mp4", 2)
    upscale(cut, tmp_path / "out.mp4")
    played, hidden, found = [], [], []
    for path, shown in ((cut, played), (tmp_path / "out.mp4", found)):
        with av.open(str(path)) as video:
            for packet in video.demux(subtitles=0):
                if packet.size > 2:
                    seconds = float(packet.pts * packet.time_base)
                    (hidden if packet.is_discard else shown).append((bytes(packet), seconds))
    assert len(hidden) == 1
    assert found == played != []


@needs_ffmpeg
@pytest.mark.parametrize("audio", [["eng"], []])
def test_a_held_frame_within_which_an_edit_list_begins_is_named(tmp_path, audio):
    """FFmpeg hides it and shows all others too early: no damage, but said."""
    pts = [*range(10), *range(50, 100)]
    options = {"g": "5", "bf": "0"}
    made = {"pts": pts, "time_base": Fraction(1, 50), "last_duration": 1, "audio": audio}
    clips.make(tmp_path / "in.mp4", options=options, **made)
    notes = upscale(cut_by_ffmpeg(tmp_path / "in.mp4", 0.6), tmp_path / "out.mp4")
    assert any("begins: video 0.40 s early" in note for note in notes)
    assert len(clips.see_frames(tmp_path / "out.mp4")) == 50


def test_samples_become_one_video(source, tmp_path):
    upscale(source, tmp_path / "out.mkv", excerpt=Excerpt.of_sample("3x0.4s"))
    numbers = [frame.number for frame in clips.see_frames(tmp_path / "out.mkv")]
    assert len(numbers) == 30
    assert sum(after != before + 1 for before, after in pairwise(numbers)) == 2


def test_an_excerpt_is_resumed_to_the_same_bytes_and_is_its_own_job(source, tmp_path, monkeypatch):
    upscale(source, tmp_path / "once.mkv", excerpt=Excerpt(2.0, 5.0))
    monkeypatch.setattr(Doubler, "upscale", stopping_at(60, Doubler.upscale))
    target = tmp_path / "out.mkv"
    with pytest.raises(Interrupted):
        upscale(source, target, excerpt=Excerpt(2.0, 5.0))
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"excerpt.start_seconds was 2.0 and is 3.0"):
        upscale(source, target, excerpt=Excerpt(3.0, 5.0))
    with pytest.raises(UsageError, match=r"excerpt.*repeat the earlier command"):
        upscale(source, target)
    notes = upscale(source, target, excerpt=Excerpt(2.0, 5.0))
    assert any("resuming after" in note for note in notes)
    assert target.read_bytes() == (tmp_path / "once.mkv").read_bytes()


def test_a_start_behind_the_end_is_refused_before_the_work(source, tmp_path):
    with pytest.raises(InputRefused, match=r"no frame from 80 s on; possible: --start 0 to 7\.96"):
        upscale(source, tmp_path / "out.mkv", excerpt=Excerpt(80.0))
    upscale(source, tmp_path / "out.mkv", excerpt=Excerpt(7.96))
    assert len(clips.see_frames(tmp_path / "out.mkv")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mkv"]


def test_damage_elsewhere_is_no_damage_of_the_excerpt(tmp_path):
    source = clips.make(tmp_path / "in.mkv", frames=200, options=GOP)
    content = source.read_bytes()
    source.write_bytes(content[: len(content) * 3 // 4])
    upscale(source, tmp_path / "out.mkv", excerpt=Excerpt(1.0, 1.0))
    assert len(clips.see_frames(tmp_path / "out.mkv")) == 25


def test_the_command(cli, source):
    common = ("upscale", "in.mp4", "-n", "edge-x4")
    assert cli(*common, "--start", "0:05", "--duration", "0.2")[0] == 0
    assert cli(*common, "--sample", "2x0.1s", "--height", "96")[0] == 0
    for name in ("in_x4_excerpt.mp4", "in_96p_sample.mp4"):
        with av.open(name) as video:
            assert 4 <= len(list(video.decode(video=0))) <= 6
    code, _, err = cli("upscale", "in.mp4", "--start", "soon")
    assert (code, "possible: seconds or h:mm:ss" in err) == (2, True)
    code, _, err = cli("upscale", "in.mp4", "-o", "-", "--start", "1")
    assert (code, "from a video file to another" in err) == (2, True)


def stopping_at(frame, upscale_one):
    def upscale_or_stop(self, pixels):
        if self.frames == frame:
            raise Interrupted(2)
        return upscale_one(self, pixels)

    return upscale_or_stop


@needs_ffmpeg
def test_a_video_without_any_time_is_upscaled_whole_and_in_no_parts(tmp_path):
    """FFmpeg writes elementary streams into a program stream without times."""
    stream = {"codec": "mpeg2video", "time_base": Fraction(1, 25), "options": {"g": "5"}}
    clips.make(tmp_path / "in.mkv", frames=40, **stream)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "in.mkv", "-c", "copy"]
    subprocess.run([*command, tmp_path / "in.m2v"], check=True)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "in.m2v", "-c", "copy", "-f", "vob"]
    subprocess.run([*command, tmp_path / "in.vob"], check=True)
    notes = upscale(tmp_path / "in.vob", tmp_path / "out.mkv")
    frames = clips.see_frames(tmp_path / "out.mkv")
    assert [frame.number for frame in frames] == list(range(40))
    assert [float(frame.start) for frame in frames[:3]] == pytest.approx([0, 0.04, 0.08], abs=0.001)
    assert any("40 frames had no time" in note for note in notes)
    with pytest.raises(InputRefused, match="40 of its frames have no time"):
        upscale(tmp_path / "in.vob", tmp_path / "part.mkv", excerpt=Excerpt(0.5, 0.5))


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", ".avi"), ("mpeg4", ".avi"), ("mpeg2video", ".vob")]
)
def test_an_excerpt_has_the_frames_whose_times_are_made_up(tmp_path, codec, suffix):
    """With B-frames, containers of decoding times do not tell when the last ones are shown."""
    source = tmp_path / f"in{suffix}"
    stream = {"codec": codec, "time_base": Fraction(1, 25), "options": {"bf": "2", "g": "12"}}
    clips.make(source, frames=75, **stream)
    upscale(source, tmp_path / "all.mkv", excerpt=Excerpt(0.0, None))
    assert [frame.number for frame in clips.see_frames(tmp_path / "all.mkv")] == list(range(75))
    upscale(source, tmp_path / "part.mkv", excerpt=Excerpt(1.0, None))
    first, *others = (frame.number for frame in clips.see_frames(tmp_path / "part.mkv"))
    assert 25 <= first <= 27  # AVI counts from the first frame decoded
    assert others == list(range(first + 1, 75))


@needs_ffmpeg
def test_an_excerpt_that_cannot_be_found_is_refused(tmp_path):
    """FFmpeg finds no times for most of H.264 in a program stream."""
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1.6"]
    command += ["-f", "lavfi", "-i", "anoisesrc=r=48000:d=1.6", "-pix_fmt", "yuv420p"]
    command += ["-c:v", "libx264", "-bf", "3", "-c:a", "mp2", "-f", "mpeg", tmp_path / "in.mpg"]
    subprocess.run(command, check=True)
    upscale(tmp_path / "in.mpg", tmp_path / "all.mkv")
    assert len(clips.see_frames(tmp_path / "all.mkv")) == 40
    for excerpt in (Excerpt(1.0, None), Excerpt.of_sample("2x0.3s")):
        with pytest.raises(InputRefused, match=r"\d+ of its frames have no time.*upscale all of"):
            upscale(tmp_path / "in.mpg", tmp_path / "part.mkv", excerpt=excerpt)
