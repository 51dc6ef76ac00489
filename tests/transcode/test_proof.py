"""A joined file is proved if its segments decode and it holds their packets, and not otherwise."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.codec import Codec

from srgan_edge.errors import OutputFailed
from srgan_edge.transcode.proof import CodedPackets, refuse_undecodable

FRAMES = 12
X265 = {"x265-params": "log-level=none"}
CODECS = [
    ("libx264", "yuv420p", "mp4", {}),
    ("libx264", "yuv420p", "matroska", {"bf": "3"}),
    ("libx265", "yuv420p", "mp4", X265),
    ("libx265", "yuv420p", "matroska", X265),
    ("libsvtav1", "yuv420p", "mp4", {}),
    ("libsvtav1", "yuv420p", "matroska", {}),
    ("libvpx-vp9", "yuv420p", "webm", {"deadline": "realtime"}),
    ("mpeg4", "yuv420p", "mp4", {"bf": "2"}),
    ("mpeg2video", "yuv420p", "matroska", {}),
    ("mjpeg", "yuvj420p", "matroska", {}),
    ("ffv1", "yuv420p", "matroska", {}),
]


def encode(path, codec, pixel_format, options, frames=FRAMES):
    texture = np.random.default_rng(5).integers(0, 256, (64, 96, 3), np.uint8)
    with av.open(str(path), "w", format="nut") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        stream.codec_context.options = dict(options)
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, 2 * number, 1), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def packets_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.codec_context.extradata, [it for it in container.demux(stream) if it.size]


def recorded(path, codec, changed=lambda packets: packets):
    found = CodedPackets(Codec(codec, "w").canonical_name)
    parameters, packets = packets_of(path)
    found.add_parameters(parameters)
    for packet in changed(packets):
        found.add(packet)
    return found


def remuxed(source, target, container_format):
    with (
        av.open(str(source)) as segment,
        av.open(str(target), "w", format=container_format) as made,
    ):
        stream = made.add_stream_from_template(segment.streams.video[0], opaque=True)
        for packet in segment.demux(video=0):
            if packet.size:
                packet.stream = stream
                made.mux_one(packet)
    return target


@pytest.mark.parametrize(("codec", "pixel_format", "container_format", "options"), CODECS)
def test_packets_are_found_again(tmp_path, codec, pixel_format, container_format, options):
    segment = encode(tmp_path / "segment.nut", codec, pixel_format, options)
    refuse_undecodable(segment, FRAMES)
    file = remuxed(segment, tmp_path / "file", container_format)
    assert recorded(segment, codec).are_in(recorded(file, codec), 0.001)


def swapped_times(packets):
    packets[1].pts, packets[2].pts = packets[2].pts, packets[1].pts
    return packets


def later(packets):
    for packet in packets:
        packet.pts += 7
    return packets


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (lambda packets: packets[:-1], False),
        (lambda packets: [*packets, packets[-1]], False),
        (lambda packets: [packets[1], packets[0], *packets[2:]], False),
        (swapped_times, False),
        (later, True),
    ],
    ids=["lost", "doubled", "out of order", "at another time", "all shifted"],
)
def test_other_packets_are_not_proved(tmp_path, changed, same):
    segment = encode(tmp_path / "segment.nut", "libx264", "yuv420p", {})
    file = remuxed(segment, tmp_path / "file", "matroska")
    assert recorded(segment, "libx264").are_in(recorded(file, "libx264", changed), 0.001) is same


def test_other_content_or_parameters_are_not_proved(tmp_path):
    segment = encode(tmp_path / "one.nut", "libx264", "yuv420p", {"crf": "20"})
    other = encode(tmp_path / "other.nut", "libx264", "yuv420p", {"crf": "30"})
    ours = recorded(segment, "libx264")
    assert not ours.are_in(recorded(other, "libx264"), 0.001)
    theirs = recorded(segment, "libx264")
    theirs.add_parameters(b"others")
    assert not theirs.are_in(ours, 0.001)  # segments of two kinds
    parameters = CodedPackets("h264")
    parameters.add_parameters(packets_of(encode(tmp_path / "x.nut", "libx264", "yuv444p", {}))[0])
    for packet in packets_of(segment)[1]:
        parameters.add(packet)
    assert not parameters.are_in(ours, 0.001)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video"])
def test_a_segment_that_does_not_decode_is_refused(tmp_path, codec):
    segment = encode(tmp_path / "segment.nut", codec, "yuv420p", {})
    with pytest.raises(OutputFailed, match="12 of 13 frames"):
        refuse_undecodable(segment, FRAMES + 1)
    content = bytearray(segment.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(0xA5 ^ value for value in content[middle : middle + 400])
    segment.write_bytes(content)
    with pytest.raises(OutputFailed, match="decode"):
        refuse_undecodable(segment, FRAMES)
