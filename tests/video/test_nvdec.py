"""NVDEC without a GPU: software decodes instead and returns frames like NVDEC, or fails.

What is shown is what becomes of them. That NVDEC gives the same samples is for `make gpu` to show.
"""

import re
from pathlib import Path

import av
import numpy as np
import pytest
from clips import MS, make, see_frames

from srgan_edge.cli import app
from srgan_edge.errors import ResourcesExhausted
from srgan_edge.machine import Gpu
from srgan_edge.transcode.segments import SEGMENT_FRAMES
from srgan_edge.video import nvidia as nvdec_module
from srgan_edge.video.frame import Frame
from srgan_edge.video.nvidia import Nvdec, NvdecFailed, choose_decoder, why_not_here
from srgan_edge.video.reader import VideoReader

pytestmark = pytest.mark.slow

B_FRAMES = {"crf": "18", "bf": "3"}
FIELDS = {"flags": "+ildct+ilme", "x264-params": "interlaced=1"}
GIVEN = {"yuv420p": "nv12", "yuvj420p": "nv12", "yuv420p10le": "p010le"}


class Stand(Nvdec):
    """A software decoder in place of NVDEC; `lost` are the numbers of missing frames."""

    def __init__(self, lost=(), fails_at=None, damaged_at=None, software_at=None):
        super().__init__()
        self.hwaccel = None
        self.lost, self.fails_at = lost, fails_at
        self.damaged_at, self.software_at = damaged_at, software_at
        self.frames = -1

    def _decoded(self, stream, packet):
        given = []
        for frame in stream.decode(packet):
            self.frames += 1
            if self.frames == self.fails_at:
                raise av.error.ExternalError(-0x20545845, "Generic error in an external library")
            if self.frames != self.software_at:
                frame = frame.reformat(format=GIVEN.get(frame.format.name))
            if self.frames not in self.lost:
                given.append(frame)
        return given


def read(path, stand=None):
    with VideoReader(path, nvdec=stand) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
        return reader.info, frames, (reader.notes.nudged, reader.notes.untimed)


@pytest.mark.parametrize(
    ("suffix", "wanted"),
    [
        pytest.param(".mp4", {}, id="constant"),
        pytest.param(".mkv", {"frames": 30, "options": B_FRAMES}, id="B-frames"),
        pytest.param(".ts", {"frames": 30, "options": B_FRAMES}, id="transport stream"),
        pytest.param(".mkv", {"time_base": MS, "pts": [0, 33, 400, 433, 1000]}, id="VFR"),
        pytest.param(".mp4", {"display": (90, False), "color": (1, 2, 1, 1)}, id="full range"),
        pytest.param(".mp4", {"size": (66, 34), "color": (1, 1, 1, 1)}, id="BT.709"),
        pytest.param(".ts", {"frames": 30, "options": FIELDS}, id="fields"),
        pytest.param(".webm", {"codec": "libvpx-vp9", "options": {}}, id="VP9"),
        pytest.param(".mp4", {"pixel_format": "yuv420p10le"}, id="10 bits"),
        pytest.param(".mp4", {"codec": "libx265", "options": {"crf": "18"}}, id="HEVC"),
    ],
)
def test_frames_are_those_of_software(tmp_path, suffix, wanted):
    path = make(tmp_path / f"in{suffix}", **wanted)
    info, frames, moved = read(path)
    other_info, others, other_moved = read(path, Stand())
    assert (other_moved, len(others)) == (moved, len(frames))
    for one, other in zip(frames, others, strict=True):
        assert (one.pts, one.duration) == (other.pts, other.duration)
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.deep is None) == (other.deep is None) == ("10le" not in info.pixel_format)
        assert one.deep is None or np.array_equal(one.deep, other.deep)
    for name in ("pixel_format", "color", "display_matrix", "start_pts", "sample_aspect_ratio"):
        full_by_name = name == "pixel_format" and info.pixel_format == "yuvj420p"
        assert full_by_name or getattr(info, name) == getattr(other_info, name)


def test_fields_become_the_same_images(tmp_path):
    path = make(tmp_path / "in.ts", frames=12, options=FIELDS)
    seen = []
    for stand in (None, Stand()):
        with VideoReader(path, deinterlace=True, nvdec=stand) as reader:
            seen.append([item.pixels for item in reader if isinstance(item, Frame)])
            assert reader.notes.interlaced == 12
    assert all(np.array_equal(*pair) for pair in zip(*seen, strict=True))


@pytest.mark.parametrize(
    ("stand", "message"),
    [
        ({"lost": [7]}, r"returned no frame for the packet at 0\.28 s"),
        ({"lost": [11]}, r"returned no frame for the packet at 0\.44 s"),
        ({"lost": range(3, 12)}, r"returned no frame for the packet at 0\.12 s"),
        ({"fails_at": 5}, r"NVDEC failed \(Generic error"),
        ({"software_at": 0}, "does not support h264 in yuv420p here"),
        ({"software_at": 6}, "does not support h264 in yuv420p here"),
    ],
)
@pytest.mark.parametrize("options", [{"crf": "18", "bf": "0"}, B_FRAMES], ids=["IP", "IBP"])
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_doubt_is_the_end_of_it(tmp_path, suffix, options, stand, message):
    path = make(tmp_path / f"in{suffix}", options=options)
    if suffix == ".ts":  # begins at another time
        message = re.sub(r"at 0.*", r"at \\d\\.\\d+ s", message)
    with pytest.raises(NvdecFailed, match=message):
        read(path, Stand(**stand))


@pytest.mark.parametrize(("codec", "pixels"), [("mpeg4", "yuv420p"), ("mjpeg", "yuvj420p")])
def test_codecs_whose_decoders_may_differ_are_not_for_it(tmp_path, codec, pixels):
    path = make(tmp_path / "in.mkv", codec=codec, options={}, pixel_format=pixels)
    with pytest.raises(NvdecFailed, match=f"{codec} has no exact decoder"):
        read(path, Stand())


def test_a_first_frame_that_differs_is_the_end_of_it(tmp_path):
    class Shifted(Stand):
        def _decoded(self, stream, packet):
            frames = super()._decoded(stream, packet)
            for frame in frames:
                plane = frame.planes[1]
                samples = np.frombuffer(memoryview(plane), np.uint8).copy()
                samples[3] ^= 1
                plane.update(samples)
            return frames

    path = make(tmp_path / "in.mp4")
    with pytest.raises(NvdecFailed, match="first frame differs from that of the software decoder"):
        read(path, Shifted())


def test_packets_without_times_are_for_software(tmp_path):
    path = make(tmp_path / "in.avi", options=B_FRAMES)
    with pytest.raises(NvdecFailed, match="a packet has no time, so the loss"):
        read(path, Stand())


def test_a_decoder_that_gives_nothing_is_noticed_soon(tmp_path):
    path = make(tmp_path / "in.mp4", frames=200, size=(32, 16))
    stand = Stand(lost=range(2, 200))
    with pytest.raises(NvdecFailed, match="no frame for 65 packets"):
        read(path, stand)
    assert stand.frames < 100


def test_what_precedes_the_first_frame_is_for_nobody_to_decode(tmp_path):
    """A capture begins anywhere, so its first frames refer to frames that it lacks."""
    whole = make(tmp_path / "in.ts", frames=30, options={"bf": "2", "g": "10"})
    packets = 188
    cut = tmp_path / "cut.ts"
    content = whole.read_bytes()
    cut.write_bytes(content[: 3 * packets] + content[len(content) // 4 // packets * packets :])
    _, frames, _ = read(cut)
    _, others, _ = read(cut, Stand())
    assert [f.pts for f in others] == [f.pts for f in frames]
    assert 0 < len(frames) < 30


@pytest.fixture
def gpu_video(monkeypatch):
    """Run the video part of `make gpu`; callers replace everything that needs a GPU."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import gpu_video

    monkeypatch.setattr(gpu_video, "CLIPS", {"h264": gpu_video.CLIPS["h264"]})
    return gpu_video


@pytest.mark.slow
def test_what_make_gpu_holds_against_software(gpu_video, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_video, "Nvdec", Stand)
    assert gpu_video.nvdec_equals_software(tmp_path).keys() == {"h264"}
    monkeypatch.setattr(gpu_video, "_apart", lambda one, other: 1)
    with pytest.raises(AssertionError, match="1 levels apart"):
        gpu_video.nvdec_equals_software(tmp_path)


@pytest.mark.slow
def test_what_make_gpu_asks_of_nvenc(gpu_video, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_video, "SOFTWARE", {"libx264": "libx264"})
    found = gpu_video.nvenc_keeps_frames(tmp_path, "libx264", (160, 96))
    assert found.keys() == {"libx264"}
    assert all(it["psnr_db"] > 25 and it["bytes"] > 1000 for it in found.values())


@pytest.mark.parametrize(
    ("wanted", "device", "here", "expected", "said"),
    [
        ("cpu", "cuda:0", None, "cpu", []),
        ("auto", "cpu", None, "cpu", []),
        ("auto", "cuda:0", None, "gpu", []),
        ("gpu", "cpu", None, "gpu", []),
        ("auto", "cuda:0", "a reason", "cpu", ["decoding on the CPU: a reason"]),
    ],
)
def test_where_videos_are_decoded(monkeypatch, wanted, device, here, expected, said):
    monkeypatch.setattr(nvdec_module, "why_not_here", lambda: here)
    heard = []
    assert choose_decoder(wanted, device, heard.append) == expected
    assert heard == said


@pytest.mark.skipif(Gpu.find() is not None, reason="there is a GPU")
def test_without_a_gpu():
    assert "no NVIDIA GPU here" in why_not_here()
    with pytest.raises(ResourcesExhausted, match=r"--decode gpu: .*; type --decode cpu") as refused:
        choose_decoder("gpu", "cpu", print)
    assert refused.value.exit_code == 7


@pytest.mark.skipif(Gpu.find() is not None, reason="there is a GPU")
def test_a_gpu_that_ffmpeg_does_not_get(monkeypatch, tmp_path):
    """Without mocks: FFmpeg tries to load the driver and fails."""
    monkeypatch.setattr(Gpu, "find", lambda: Gpu("Busy", 1, "8.9", "13.0"))
    assert "libnvcuvid.so.1, is missing; a container needs NVIDIA_DRIVER_" in why_not_here()
    monkeypatch.setattr(nvdec_module, "_LIBRARY", "libc.so.6")
    assert "does not open for decoding (Operation not permitted)" in why_not_here()
    path = make(tmp_path / "in.mp4", frames=2)
    with pytest.raises(NvdecFailed, match="does not open it"), VideoReader(path, nvdec=Nvdec()):
        pass


@pytest.mark.parametrize(
    "stand", [{}, {"lost": [7]}, {"lost": [60]}, {"fails_at": 0}, {"fails_at": 55}], ids=str
)
def test_a_video_is_the_same_however_it_was_decoded(tmp_path, monkeypatch, capsys, stand):
    """Segments that were finished before NVDEC failed are kept."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "in.mp4", audio=["eng"], options=B_FRAMES, frames=64, size=(32, 16))
    monkeypatch.setattr(nvdec_module, "why_not_here", lambda: None)
    monkeypatch.setattr("srgan_edge.transcode.upscale.Nvdec", lambda: Stand(**stand))
    for where in ("cpu", "gpu"):
        arguments = ["upscale", "in.mp4", "-n", "edge-x4", "--decode", where, "--json-events"]
        with pytest.raises(SystemExit) as ended:
            app([*arguments, "-o", f"{where}.mp4"], standalone_mode=False)
        assert not ended.value.code
    said = capsys.readouterr().out
    assert ("; decoding it on the CPU instead" in said) == bool(stand)
    late = max(stand.get("lost", [stand.get("fails_at", 0)])) > SEGMENT_FRAMES
    assert ("resuming after 48 frames" in said) == late
    assert (tmp_path / "cpu.mp4").read_bytes() == (tmp_path / "gpu.mp4").read_bytes()
    assert [frame.number for frame in see_frames(tmp_path / "gpu.mp4")] == list(range(64))
    assert not list(tmp_path.glob("*.partial*"))
