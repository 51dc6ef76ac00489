"""NVENC without a GPU: the options it would get, and the messages if there is none."""

import errno

import av
import numpy as np
import pytest
from clips import make

from srgan_edge.errors import ResourcesExhausted, UsageError
from srgan_edge.live.writer import VideoWriter
from srgan_edge.machine import Gpu
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.frame import Encoding
from srgan_edge.video.nvidia import (
    DEFAULT_CQ,
    SOFTWARE,
    failure_in_video,
    nvenc_options,
    why_not_started,
)
from srgan_edge.video.reader import VideoReader

ADA = Gpu("RTX 4090", 128, "8.9", "13.0")
EVERY_ENCODER = pytest.mark.parametrize("codec", SOFTWARE)


@EVERY_ENCODER
def test_it_is_in_this_ffmpeg_with_its_software_twin(codec):
    assert av.Codec(codec, "w").canonical_name == av.Codec(SOFTWARE[codec], "w").canonical_name


@EVERY_ENCODER
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {"preset": "p5", "rc": "vbr", "cq": None, "b": "0"}),
        ({"crf": 30}, {"preset": "p5", "rc": "vbr", "cq": "30", "b": "0"}),
        ({"preset": "p1"}, {"preset": "p1", "rc": "vbr", "cq": None, "b": "0"}),
        ({"options": {"preset": "p7", "bf": "2"}}, {"preset": "p7", "bf": "2", "cq": None}),
        ({"options": {"b": "5M"}}, {"preset": "p5", "b": "5M"}),
        ({"options": {"rc": "constqp", "qp": "20"}}, {"rc": "constqp", "qp": "20"}),
        ({"options": {"tune": "lossless"}}, {"tune": "lossless"}),
    ],
)
def test_quality_and_speed_are_said_in_its_words(codec, said, expected):
    options = nvenc_options(Encoding(codec, **said))
    expected = {key: value or str(DEFAULT_CQ[codec]) for key, value in expected.items()}
    assert expected.items() <= options.items()
    assert ("cq" in options) == (not {"b", "qp"} & said.get("options", {}).keys())
    assert "crf" not in options


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"crf": 0}, "--crf 0; possible with h264_nvenc: 1, the best, to 51; without loss: -e"),
        ({"crf": 52}, "--crf 52; possible"),
        ({"preset": "medium"}, "--preset medium; possible with h264_nvenc: p1, the fastest, to p7"),
        ({"options": {"preset": "p8"}}, "--preset p8"),
        ({"options": {"crf": "20"}}, "h264_nvenc has no option crf; type --crf 20"),
        ({"crf": 20, "options": {"qp": "20"}}, "--crf 20 and -e qp=; possible: one of them"),
    ],
)
def test_what_it_does_not_take_is_refused_before_it_is_started(said, message):
    with pytest.raises(UsageError, match=message):
        nvenc_options(Encoding("h264_nvenc", **said))


def test_formats_of_a_gpus_memory_are_not_offered(tmp_path):
    make(tmp_path / "in.mp4", frames=1)
    with (
        VideoReader(tmp_path / "in.mp4") as reader,
        pytest.raises(UsageError, match=r"cannot store cuda; possible: --pix-fmt yuv420p \| nv12"),
    ):
        VideoEncoder(reader.info, (64, 48), Encoding("h264_nvenc", pixel_format="cuda"))


@pytest.mark.parametrize("named", [None, "yuv420p10le", "p010le"])
def test_videos_of_10_bits_stay_so(tmp_path, named):
    """10-bit frames get NVENC's name of the format; the samples are the same."""
    make(tmp_path / "in.mkv", frames=1, pixel_format="yuv420p10le")
    with VideoReader(tmp_path / "in.mkv") as reader:
        encoder = VideoEncoder(reader.info, (64, 48), Encoding("hevc_nvenc", pixel_format=named))
        twin = VideoEncoder(reader.info, (64, 48), Encoding("libx265"))
        frame = next(iter(reader))
    coded, expected = encoder.coded(frame).image, twin.coded(frame).image
    assert (coded.format.name, expected.format.name) == ("p010le", "yuv420p10le")
    luma, wanted = (
        np.frombuffer(memoryview(it.planes[0]), np.uint16).reshape(48, -1)[:, :64]
        for it in (coded, expected)
    )
    assert np.array_equal(luma >> 6, wanted)


@pytest.mark.skipif(Gpu.find() is not None, reason="there is a GPU")
@EVERY_ENCODER
def test_without_a_gpu_it_names_what_to_type(tmp_path, codec):
    """Without mocks: FFmpeg tries to load the driver and fails."""
    make(tmp_path / "in.mp4", frames=2)
    with (
        pytest.raises(
            ResourcesExhausted,
            match=f"{codec} does not start: there is no NVIDIA GPU here, .*; type -c "
            f"{SOFTWARE[codec]}$",
        ),
        VideoReader(tmp_path / "in.mp4") as reader,
        VideoWriter(tmp_path / "out.mkv", reader, (64, 48), Encoding(codec)),
    ):
        pytest.fail("it opened")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.skipif(Gpu.find() is not None, reason="there is a GPU")
def test_the_command_ends_with_its_code(cli, tmp_path):
    make(tmp_path / "in.mp4", frames=2)
    code, _, err = cli("upscale", "in.mp4", "-n", "edge-x4", "-c", "hevc_nvenc")
    assert code == 7
    assert "type -c libx265" in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (av.error.PermissionError(errno.EPERM, "x"), "libnvidia-encode.so.1, is missing; a cont"),
        (av.FFmpegError(errno.ENOSYS, "x"), "the driver is too old"),
        (av.error.MemoryError(errno.ENOMEM, "x"), "out of memory, or encodes as many videos as it"),
        (av.error.ExternalError(-0x20545845, "x"), "does not encode this codec in this format"),
    ],
)
def test_with_a_gpu_it_says_what_is_missing(monkeypatch, error, reason):
    monkeypatch.setattr(Gpu, "find", lambda: ADA)
    said = why_not_started("av1_nvenc", error)
    assert isinstance(said, ResourcesExhausted)
    assert reason in str(said)
    assert str(said).endswith("; type -c libsvtav1")


def test_refused_options_are_the_users_to_change(monkeypatch):
    monkeypatch.setattr(Gpu, "find", lambda: ADA)
    assert why_not_started("h264_nvenc", av.FFmpegError(errno.EINVAL, "Invalid argument")) is None


def test_a_gpu_lost_in_the_middle_of_a_video(tmp_path):
    """A stream of another encoder that fails like NVENC."""
    make(tmp_path / "in.mp4", frames=3)

    class Lost:
        def encode(self, frame):
            raise av.error.ExternalError(-0x20545845, "Generic error in an external library")

    with VideoReader(tmp_path / "in.mp4") as reader:
        encoder = VideoEncoder(reader.info, (64, 48), Encoding("h264_nvenc"))
        encoder._stream = Lost()
        with pytest.raises(ResourcesExhausted, match=r"h264_nvenc failed .* type -c libx264"):
            list(encoder.encode(next(iter(reader))))
    assert failure_in_video("av1_nvenc", av.FFmpegError(5, "y")).exit_code == 7
