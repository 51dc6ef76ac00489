"""Files whose name does not say what they are: images and videos of every format that is read."""

import av
import clips
import numpy as np
import pytest
from PIL import Image

from srgan_edge.errors import InputRefused
from srgan_edge.image.opening import RESULT_SUFFIXES
from srgan_edge.image.writer import SUFFIXES
from srgan_edge.jobs.plan import Naming, kind_of, plan_jobs
from srgan_edge.suffixes import VIDEO_SUFFIXES, suffix_by_content

IMAGES = {
    "PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp",
    "AVIF": ".avif", "JPEG2000": ".jp2", "PPM": ".ppm",
}  # fmt: skip
VIDEOS = {
    "mp4": ".mp4", "mov": ".mov", "matroska": ".mkv", "webm": ".mkv", "avi": ".avi", "flv": ".flv",
    "ogg": ".ogv", "asf": ".wmv", "yuv4mpegpipe": ".y4m", "vob": ".mpg", "mpegts": ".ts",
}  # fmt: skip


@pytest.mark.parametrize(("name", "suffix"), IMAGES.items())
def test_an_image_is_known_by_its_first_bytes(tmp_path, name, suffix):
    path = tmp_path / "photo"
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(path, name)
    assert suffix_by_content(path) == suffix
    assert kind_of(path) == "image"


@pytest.mark.parametrize(("name", "suffix"), VIDEOS.items())
def test_a_video_is_known_by_its_first_bytes(tmp_path, name, suffix):
    path = tmp_path / "clip.download"
    vp8, mpeg2 = (
        dict.fromkeys(("webm", "ogg"), "libvpx"),
        dict.fromkeys(("vob", "mpegts"), "mpeg2video"),
    )
    codecs = {**vp8, **mpeg2, "flv": "flv", "yuv4mpegpipe": "wrapped_avframe"}
    codec = codecs.get(name, "mpeg4")
    with av.open(str(path), "w", format=name) as output:
        stream = output.add_stream(codec, rate=25, width=32, height=16)
        stream.pix_fmt = "yuv420p"
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), "rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    assert suffix_by_content(path) == suffix
    assert kind_of(path) == "video"


def test_transport_streams_of_cameras_are_known(tmp_path):
    (tmp_path / "ts").write_bytes((b"\x47" + bytes(187)) * 4)
    (tmp_path / "m2ts").write_bytes((bytes(4) + b"\x47" + bytes(187)) * 4)
    assert suffix_by_content(tmp_path / "ts") == ".ts"
    assert suffix_by_content(tmp_path / "m2ts") == ".m2ts"


def test_other_files_are_nothing(tmp_path):
    for number, content in enumerate([b"", b"P", b"text", b"%PDF-1.7\n", b"PK\3\4", b"RIFF"]):
        path = tmp_path / str(number)
        path.write_bytes(content)
        assert suffix_by_content(path) is None
        with pytest.raises(InputRefused, match=r"by its name or its first bytes; possible: \.3g2 "):
            kind_of(path)
    assert suffix_by_content(tmp_path) is None
    with pytest.raises(InputRefused, match="missing: No such file"):
        kind_of(tmp_path / "missing")


def test_what_the_content_stands_for_is_read():
    stands_for = {*IMAGES.values(), *VIDEOS.values()}
    assert stands_for <= {*SUFFIXES, *RESULT_SUFFIXES, *VIDEO_SUFFIXES}


def test_the_whole_name_is_kept_where_no_part_of_it_is_a_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("holiday 2.0", "JPEG")
    Image.new("RGB", (8, 8)).save("photo", "AVIF")
    clips.make(tmp_path / "clip.mp4", frames=2)
    (tmp_path / "clip.mp4").rename("clip.download")
    jobs = plan_jobs(["holiday 2.0", "photo", "clip.download"], None, Naming("_x4"))
    assert [(job.kind, job.target.name) for job in jobs] == [
        ("image", "holiday 2.0_x4.jpg"),
        ("image", "photo_x4.png"),
        ("video", "clip.download_x4.mp4"),
    ]


def test_a_file_without_a_suffix_is_upscaled_as_its_content_is(cli, tmp_path):
    Image.fromarray(np.full((12, 16, 3), 90, np.uint8)).save(tmp_path / "scan", "PNG")
    clips.make(tmp_path / "clip.mkv", frames=3)
    (tmp_path / "clip.mkv").rename(tmp_path / "clip")
    code, _, err = cli("upscale", tmp_path / "scan", tmp_path / "clip", "-n", "edge-x4")
    assert code == 0, err
    with Image.open(tmp_path / "scan_x4.png") as image:
        assert image.size == (64, 48)
    with av.open(str(tmp_path / "clip_x4.mkv")) as container:
        assert len(list(container.decode(video=0))) == 3
