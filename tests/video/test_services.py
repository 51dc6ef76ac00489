"""The names of services in a transport stream are reported, and no names that nobody gave."""

import random

import pytest
from clips import make

from srgan_edge.video.reader import VideoReader
from srgan_edge.video.services import unkept_services


def table(*services):
    """Return a section of the service description table, with a wrong checksum."""
    content = b"\0\1\xc1\0\0\0\1\xff"
    for provider, name in services:
        words = b"\x01" + bytes([len(provider)]) + provider + bytes([len(name)]) + name
        described = b"\x48" + bytes([len(words)]) + words
        content += b"\0\1\xfc\x80" + bytes([len(described)]) + described
    size = len(content) + 4
    return bytes([0x42, 0xF0 | size >> 8, size & 255]) + content + bytes(4)


def packets(section, before=0, stride=188):
    """Return packets with the section, and as many others before it."""
    left, first = b"\0" + section, True
    packed = [b"\x47\x01\x00\x10" + bytes(184)] * before
    while left:
        packed.append(bytes([0x47, 0x40 * first, 0x11, 0x10]) + left[:184].ljust(184, b"\xff"))
        left, first = left[184:], False
    packed += [b"\x47\x1f\xff\x10" + bytes(184)] * 8
    return b"".join(bytes(stride - 188) * (stride == 192) + it for it in packed)


def named(tmp_path, content):
    path = tmp_path / "in.ts"
    path.write_bytes(content)
    return unkept_services(path)


@pytest.mark.parametrize(("before", "stride"), [(0, 188), (9, 188), (9, 192)])
def test_names_are_found(tmp_path, before, stride):
    section = table((b"ARD", b"\x05Das Erste"), (b"", b"\x15\xc3\x96"), (b"a" * 99, b"b" * 99))
    [line] = named(tmp_path, packets(section, before, stride))
    assert line == f"the names of the service: Das Erste, ARD, Ö, {'b' * 99}, {'a' * 99}"


def test_a_video_states_them(tmp_path):
    names = {"service_name": "Das Erste", "service_provider": "ARD"}
    with VideoReader(make(tmp_path / "made.ts", frames=30, metadata=names)) as reader:
        assert reader.info.unkept == ("the names of the service: Das Erste, ARD",)


def test_what_ffmpeg_writes_by_default_is_no_name(tmp_path):
    assert named(tmp_path, packets(table((b"FFmpeg", b"Service01")))) == []
    with VideoReader(make(tmp_path / "made.ts", frames=30)) as reader:
        assert reader.info.unkept == ()


def test_noise_is_no_error(tmp_path):
    content = packets(table((b"ARD", b"Das Erste")))
    for seed in range(200):
        chance = random.Random(seed)
        noisy = bytearray(content)
        for _ in range(1 + seed % 9):
            noisy[chance.randrange(200)] = chance.randrange(256)
        for line in named(tmp_path, bytes(noisy)):
            assert line.isprintable()
