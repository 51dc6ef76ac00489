"""MPEG-4 Part 2: frames that are not coded are no damage."""

from fractions import Fraction

import av
import pytest
from clips import make

from srgan_edge.video.frame import Frame, FrameTime
from srgan_edge.video.mpeg4 import is_not_coded, time_bits
from srgan_edge.video.reader import VideoReader

START_CODE = b"\0\0\1\xb6"
XVID_PACKED = b"\0\0\1\xb2DivX503b1393p"


def coded(path, time_base, **options):
    return make(path, codec="mpeg4", frames=24, size=(46, 30), time_base=time_base,
                options={"bf": "0", "g": "100"} | options)  # fmt: skip


def headers_of(path):
    with av.open(str(path)) as container:
        return bytes(container.streams.video[0].codec_context.extradata)


def packets_of(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def not_coded(packet, bits):
    """Return a frame of the same time as a P frame, as Xvid writes it."""
    content = packet[packet.index(START_CODE) + 4 :][:12]
    written = "".join(f"{byte:08b}" for byte in content)
    ends = written.index("0", 2) + 1 + 1 + bits + 1  # modulo_time_base, marker, time, marker
    stuffed = "01" + written[2:ends] + "0" + "0"
    stuffed += "1" * (-len(stuffed) % 8)
    return START_CODE + int(stuffed, 2).to_bytes(len(stuffed) // 8, "big")


def without_coded(source, target, places, bits):
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = read.streams.video[0]
        output = written.add_stream_from_template(stream)
        for number, packet in enumerate(it for it in read.demux(stream) if it.size):
            if number in places:
                other = av.Packet(not_coded(bytes(packet), bits))
                other.pts, other.dts = packet.pts, packet.dts
                other.duration, other.time_base = packet.duration, packet.time_base
                packet = other
            packet.stream = output
            written.mux(packet)
    return target


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_frame_that_is_not_coded_is_no_damage(tmp_path, suffix):
    source = coded(tmp_path / "all.mkv", Fraction(1, 25))
    clip = without_coded(
        source, tmp_path / f"in{suffix}", {7, 8, 19}, time_bits(headers_of(source))
    )
    with VideoReader(clip) as reader:
        times = [item.pts for item in reader if isinstance(item, Frame)]
        assert not reader.notes.damage
    assert len(times) == 21
    with VideoReader(clip) as reader:
        scanned = [item.pts for item in reader.scan_packets() if isinstance(item, FrameTime)]
    assert scanned == times


@pytest.mark.parametrize(
    ("rate", "bits"),
    [(Fraction(25), 5), (Fraction(30000, 1001), 15), (Fraction(50), 6), (Fraction(64), 6)],
)
@pytest.mark.parametrize("aspect", ["1:1", "100:33"])
def test_the_time_of_a_frame_has_the_bits_that_its_headers_say(tmp_path, rate, bits, aspect):
    source = coded(tmp_path / "in.mp4", 1 / rate, aspect=aspect, bf="2")
    headers = headers_of(source)
    assert time_bits(headers) == bits
    packets = packets_of(source)
    assert not any(is_not_coded(packet, bits) for packet in packets)
    assert all(is_not_coded(not_coded(packet, bits), bits) for packet in packets[1:])


def test_headers_that_say_nothing_of_use(tmp_path):
    headers = headers_of(coded(tmp_path / "in.mp4", Fraction(1, 25)))
    layer = headers.index(b"\0\0\1\x20")
    assert time_bits(headers + XVID_PACKED) is None  # of two frames in a packet, one is missing
    assert time_bits(headers[:layer]) is None
    assert time_bits(headers[: layer + 6]) is None
    assert time_bits(b"") is None


@pytest.mark.parametrize("packet", [b"", START_CODE, START_CODE + b"\xff" * 40, b"\0\0\1\xb3" * 3])
def test_a_packet_that_is_no_frame_counts_as_coded(packet):
    assert not is_not_coded(packet, 5)
