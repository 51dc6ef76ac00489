"""Results of excerpts: whole, checked, resumed, and never mixed up with another job."""

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
