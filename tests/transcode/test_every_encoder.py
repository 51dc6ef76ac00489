"""Every video encoder there is, in every container: it works, or it is refused before the work."""

import re
import shlex
from dataclasses import replace

import av
import pytest
from clips import make, see_frames
from streams import Listener
from transcoding import OPTIONS, Doubler, refused, upscale

from srgan_edge.errors import ResourcesExhausted, UsageError
from srgan_edge.jobs.plan import Job
from srgan_edge.transcode import upscale as video
from srgan_edge.video.encoder import _encodes_video
from srgan_edge.video.frame import Encoding

ENCODERS = sorted(name for name in av.codecs_available if _encodes_video(name))

FEW = [
    ("jpeg2000", ".mkv", "yuv420p"),
    ("snow", ".mkv", "yuv420p"),
    ("vc2", ".mkv", "yuv420p"),
    ("rawvideo", ".mkv", "yuv444p"),
    ("rawvideo", ".mov", "yuv420p"),
    ("gif", ".mov", "rgb8"),
    ("v410", ".mov", "yuv444p10le"),
    ("v408", ".mov", None),
    ("v408", ".mov", "yuva444p"),
    ("h263", ".mov", "yuv420p"),
    ("mpeg2video", ".mp4", "yuv420p"),
    ("libvpx-vp9", ".mp4", "yuv440p"),
    ("png", ".mov", "yuv444p16le"),
    ("libsvtav1", ".mov", "yuv420p"),
]
"""Encoder, container and pixel format that do not go together, each for a reason of its own."""


def advised(target, encoding, message):
    """Return the target and encoding by the first way that a refusal names."""
    advice = re.split(r"; (?:use|type|possible:) ", message)[-1]
    words = shlex.split(re.split(r",? or | \| ", advice)[0])
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options.keys() <= {"-c", "-o", "--pix-fmt"}, message
    encoding = replace(
        encoding,
        codec=options.get("-c", encoding.codec),
        pixel_format=options.get("--pix-fmt", encoding.pixel_format),
    )
    suffix = options.get("-o", target.name).rpartition(".")[2]
    return target.with_suffix(f".{suffix}"), encoding


def works_or_names_what_works(source, target, encoding):
    doubler = Doubler()
    options = replace(OPTIONS, encoding=encoding)
    try:
        video.upscale_video_file(Job(source, target, "video"), doubler, options, {}, Listener())
    except ResourcesExhausted:  # encoders on GPUs
        assert doubler.frames == 0
        return False
    except UsageError as refusal:
        assert doubler.frames == 0
        assert not target.exists()
        target, encoding = advised(target, encoding, str(refusal))
        upscale(source, target, encoding=encoding)
    assert [frame.number for frame in see_frames(target)] == list(range(6))
    return True


@pytest.mark.parametrize(("codec", "suffix", "pixels"), FEW)
def test_what_does_not_fit_is_refused_with_advice_that_works(tmp_path, codec, suffix, pixels):
    source, target = make(tmp_path / "in.mkv", frames=6), tmp_path / f"out{suffix}"
    encoding = Encoding(codec, pixel_format=pixels)
    refused(source, target, "; (use|possible:) ", encoding=encoding)
    assert works_or_names_what_works(source, target, encoding)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ENCODERS)
def test_every_encoder_works_or_is_refused_before_the_work(tmp_path, codec):
    source = make(tmp_path / "in.mkv", frames=6)
    for suffix in (".mkv", ".mp4", ".mov"):
        works_or_names_what_works(source, tmp_path / f"out{suffix}", Encoding(codec))
