"""Times of frames and audio equal those of the input to the tick."""

from fractions import Fraction
from itertools import accumulate

import pytest
from clips import MS, make, see_frames, see_packets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from whole_frames import WholeFrames

from srgan_edge.engines.base import EngineInfo
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.model.library import find_model
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import upscale as video
from srgan_edge.video.frame import Encoding

pytestmark = pytest.mark.slow

SIZE = (32, 16)


class Doubler(WholeFrames):
    """Stands for the upscaler: repeats pixels."""

    scale, slots = 2, 1
    info = EngineInfo("nearest", "cpu", "fp32", find_model("edge-x4").spec)

    def upscale(self, pixels):
        return pixels.repeat(2, axis=0).repeat(2, axis=1)


class Silence:
    """Stands for the reporter."""

    def note(self, text):
        pass

    def started(self, job, frames, done=0):
        pass

    def frame_done(self):
        pass


def upscale(source, target, b_frames=3):
    target.unlink(missing_ok=True)
    encoding = Encoding(preset="ultrafast", options={"bf": str(b_frames)})
    options = Options("nearest", encoding, Tiling(), restart=True)
    return video.upscale_video_file(Job(source, target, "video"), Doubler(), options, {}, Silence())


def starts(path):
    return [(frame.number, frame.start) for frame in see_frames(path)]


def rising(largest_start):
    """Times in ticks: any first one, then steps from a tick to a long gap."""
    steps = st.lists(st.one_of(st.integers(1, 50), st.integers(1, 100_000)), max_size=14)
    return st.tuples(st.integers(0, largest_start), steps).map(
        lambda drawn: list(accumulate(drawn[1], initial=drawn[0]))
    )


CONTAINERS = [
    (".mkv", ".mkv", MS),
    (".mp4", ".mp4", Fraction(1, 12800)),
    (".mp4", ".mp4", Fraction(1, 90000)),
    (".mp4", ".mp4", Fraction(1001, 30000)),
    (".mov", ".mov", Fraction(1, 24000)),
    (".mov", ".mp4", Fraction(1, 600)),
    (".mkv", ".mp4", MS),
]


@pytest.mark.parametrize(("suffix", "to", "time_base"), CONTAINERS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pts=rising(100_000), b_frames=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_any_times_come_out_as_they_went_in(tmp_path, suffix, to, time_base, pts, b_frames):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{to}"
    options = {"bf": str(b_frames[0]), "crf": "18", "b-pyramid": "strict"}
    make(source, size=SIZE, time_base=time_base, pts=pts, options=options)
    upscale(source, target, b_frames[1])
    assert starts(target) == starts(source)
    assert [number for number, _ in starts(target)] == list(range(len(pts)))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    ("video_start", "audio_start"),
    [
        ("0", "0"),
        ("2", "2"),
        ("0", "2"),
        ("2", "0"),
        ("1/25", "1/2"),
        ("0", "1/7"),
        ("3600", "3601"),
    ],
)
def test_every_stream_starts_where_it_did(tmp_path, suffix, video_start, audio_start):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    make(
        source,
        size=SIZE,
        pts=[int(Fraction(video_start) * 12800) + 512 * n for n in range(8)],
        audio=["eng", "deu"],
        audio_start=Fraction(audio_start),
    )
    upscale(source, target)
    shift = starts(target)[0][1] - starts(source)[0][1]
    first_heard = min(audio[0].start for audio in see_packets(source, "audio"))
    assert shift in ((0,) if suffix != ".mkv" else (0, -first_heard))  # MKV starts at zero
    assert starts(target) == [(number, start + shift) for number, start in starts(source)]
    for before, after in zip(
        see_packets(source, "audio"), see_packets(target, "audio"), strict=True
    ):
        assert [packet.digest for packet in after] == [packet.digest for packet in before]
        moved = {a.start - b.start for a, b in zip(after, before, strict=True)}
        assert all(abs(by - shift) <= (MS if suffix == ".mkv" else 0) for by in moved)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("hidden", [1, 5, 12])
def test_frames_that_an_edit_list_hides_stay_hidden(tmp_path, suffix, b_frames, hidden):
    """Cameras and editors hide frames before the first requested keyframe."""
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    make(
        source,
        size=SIZE,
        pts=[512 * (n - hidden) for n in range(20)],
        options={"bf": str(b_frames), "g": "8"},
        container_options={"avoid_negative_ts": "disabled"},
    )
    assert [number for number, _ in starts(source)] == list(range(hidden, 20))
    done = upscale(source, target)
    assert starts(target) == starts(source)
    assert done.frames == 20 - hidden


def test_a_start_before_zero_is_kept_by_moving_all(tmp_path):
    """FLV and cut MKV have negative times. MP4 is tested in `test_video`."""
    source, target = tmp_path / "in.ts", tmp_path / "out.mkv"
    first = 2**33 - 9000  # a clock that wraps in the video starts before zero
    make(
        source,
        size=SIZE,
        time_base=Fraction(1, 90000),
        pts=[first + 3600 * n for n in range(8)],
        audio=["eng"],
        audio_start=Fraction(first, 90000),
    )
    upscale(source, target)
    before, after = starts(source), starts(target)
    assert before[0][1] < 0 <= after[0][1]
    shift = after[0][1] - before[0][1]
    assert all(abs(a - b - shift) <= MS for (_, a), (_, b) in zip(after, before, strict=True))
    (audio_before,), (audio_after,) = see_packets(source, "audio"), see_packets(target, "audio")
    assert all(
        abs(a.start - b.start - shift) <= MS for a, b in zip(audio_after, audio_before, strict=True)
    )
