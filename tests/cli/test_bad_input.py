"""Bad input: the exit code, one line that names it and what to type, and nothing left behind."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import clips
import pytest
from command_inputs import save, snapshot

from srgan_edge.signals import STOPPING


def nothing(path):
    pass


def text(path):
    path.write_text("this is no image\n")


def empty(path):
    path.touch()


def truncated_image(path):
    save(path, 300, 200)
    path.write_bytes(path.read_bytes()[:-300])


def truncated_video(path):
    clips.make(path, frames=20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_faststart(path):
    clips.make(path, frames=60, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def audio_only(path):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100)
        silence = av.AudioFrame("fltp", "mono", 1024)
        silence.planes[0].update(bytes(4096))
        silence.sample_rate = 44100
        output.mux([*stream.encode(silence), *stream.encode(None)])


BAD_INPUTS = [
    ("in.png", nothing, 3, "no such file"),
    ("in", lambda path: path.mkdir(), 3, "no image or video in it"),
    ("in.png", text, 3, "not a PNG"),
    ("in.mp4", text, 3, "in.mp4"),
    ("in.jxl", text, 3, "not an image or video by its name or its first bytes"),
    ("in.png", empty, 3, "0 bytes"),
    ("in.jpg", empty, 3, "0 bytes"),
    ("in.mp4", empty, 3, "empty|0 bytes"),
    ("in.png", truncated_image, 4, "cut short"),
    ("in.jpg", truncated_image, 4, "cut short"),
    ("in.mp4", truncated_video, 4, "in.mp4"),
    ("in.mp4", truncated_faststart, 4, "cut off|ends at"),
    ("in.mp4", audio_only, 3, "no video"),
    ("in.png", lambda path: os.mkfifo(path), 3, "not a regular file"),
    ("in.mp4", lambda path: os.mkfifo(path), 3, "is not a file"),
]


@pytest.mark.parametrize(("name", "make", "code", "said"), BAD_INPUTS)
def test_bad_input(cli, tmp_path, name, make, code, said):
    make(tmp_path / name)
    target = "out.mp4" if name.endswith("mp4") else "out.png"
    before = snapshot(tmp_path)
    got, _, err = cli("upscale", name, "-o", target)
    assert got == code, err
    errors = [line for line in err.splitlines() if line.startswith("srgan-edge: error: ")]
    assert len(errors) == 1, err
    assert "Traceback" not in err
    assert re.search(said, errors[0]), errors[0]
    assert not (tmp_path / target).exists()
    kept = {"out.partial.mp4"} if make is truncated_faststart else set()
    assert snapshot(tmp_path).keys() == before.keys() | kept
    assert {name: snapshot(tmp_path)[name] for name in before} == before


def test_what_was_saved_of_a_cut_video_is_whole_and_named(cli, tmp_path):
    truncated_faststart(tmp_path / "in.mp4")
    code, _, err = cli("upscale", "in.mp4", "-o", "out.mp4")
    assert code == 4
    assert "out.partial.mp4" in err
    frames = clips.see_frames(tmp_path / "out.partial.mp4")
    assert 5 < len(frames) < 60
    assert [frame.number for frame in frames] == list(range(len(frames)))


BAD_OPTIONS = [
    (["--tile", "7"], 2, "--tile 7 is too small; possible: 0"),
    (["--tile", "big"], 2, "--tile 'big'; possible"),
    (["--overlap", "-3"], 2, "--overlap -3"),
    (["--batch", "0"], 2, "--batch 0"),
    (["-n", "edge-4x"], 2, "did you mean 'edge-x4'"),
    (["-n", "nothing-like-it.pth"], 2, "no model"),
    (["-n", "small.onnx"], 2, "no model 'small.onnx': no such file; possible: edge"),
    (["--engine", "tensorflow"], 2, "possible: auto, openvino"),
    (["-s", "0"], 2, "--outscale 0"),
    (["-o", "in.png"], 2, "is the input itself"),
    (["-o", "out.xyz"], 2, "possible: .png"),
    (["-o", "out.jp2"], 2, "possible: .png"),
    (["-o", "/proc/out.png"], 5, "cannot write /proc/out.png"),
    (["-o", "file.txt/out.png"], 5, "cannot write"),
    (["--device", "cuda", "--engine", "openvino"], 2, "runs on cpu"),
    (["-e", "tune"], 2, "key=value"),
    (["-e", "=film"], 2, "key=value"),
    (["-e", "crf=10", "--crf", "20"], 2, "--crf 20 and -e crf=10; possible: one of them"),
    (["-e", "crf=1", "-e", "crf=2"], 2, "-e crf=1 and -e crf=2; possible: one of them"),
]


BAD_OPTIONS += [
    (["-f", name], 2, f"-f {name}; possible for images: bmp, gif, jpeg, jpg, png, tif, tiff, webp")
    for name in ("mkv", "avif", "jp2", "png.png")
]


@pytest.mark.parametrize(("options", "code", "said"), BAD_OPTIONS)
def test_bad_options(cli, tmp_path, options, code, said):
    save(tmp_path / "in.png")
    (tmp_path / "file.txt").touch()
    before = snapshot(tmp_path)
    got, _, err = cli("upscale", "in.png", *options)
    assert got == code, err
    assert err.splitlines()[-1].startswith("srgan-edge: error: ")
    assert said in err
    assert snapshot(tmp_path) == before


BAD_ENCODINGS = [
    (["-c", "libx265x"], "libx265"),
    (["-c", "libx264", "-o", "out.webm"], "out.webm cannot hold libx264; use -o out.mkv"),
    (["-c", "png", "--pix-fmt", "rgb24", "-o", "out.mkv"], "cannot hold png; use -o out.mov"),
    (["-c", "utvideo", "-o", "out.mkv"], "out.mkv cannot hold utvideo; use -c libx264"),
    (
        ["-c", "mpeg2video"],
        "mpeg2video does not accept frames for 256x192 yuv420p: Invalid argument; use -c libx264",
    ),
    (["-f", "avi"], "-f avi; possible for videos: m4v, mkv, mov, mp4, webm"),
    (["-f", "png"], "-f png; possible for videos: m4v, mkv, mov, mp4, webm"),
    (["-f", "webm"], "in.mp4_x4.webm cannot hold libx264; use -o in.mp4_x4.mkv"),
    (["--pix-fmt", "yuv999p"], "yuv999p"),
    (["-s", "1.02"], "yuv444p"),
    (["--preset", "warp"], "libx264 has no preset warp; possible: ultrafast, superfast"),
    (["-e", "preset=warp"], "libx264 has no preset warp; possible: ultrafast, superfast"),
]


def test_frames_in_which_an_encoder_corrupts_memory_are_refused(cli, tmp_path):
    clips.make(tmp_path / "in.mp4", frames=3, size=(10, 6))
    before = snapshot(tmp_path)
    code, _, err = cli("upscale", "in.mp4", "-n", "edge-x4", "-c", "hevc")
    assert code == 2, err
    assert "libx265 corrupts memory in frames that are 40 px wide; use -c libx264" in err
    assert snapshot(tmp_path) == before
    code, _, err = cli("upscale", "in.mp4", "-n", "edge-x4", "-c", "libx264")
    assert code == 0, err


@pytest.mark.parametrize(("options", "said"), BAD_ENCODINGS)
def test_bad_encodings_are_refused_before_the_first_frame(cli, tmp_path, options, said):
    clips.make(tmp_path / "in.mp4", frames=3, size=(64, 48))
    before = snapshot(tmp_path)
    got, _, err = cli("upscale", "in.mp4", *options)
    assert got == 2, err
    assert said in err
    assert snapshot(tmp_path) == before


def test_a_tile_larger_than_the_frame_is_fine(cli, tmp_path):
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "--tile", 5000, "--overlap", 3)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("in.png", "--suffix", "/x"), 2, "a part of a name, without /"),
        (("in.png", "--overwrite", "--skip-existing"), 2, "possible: one of them"),
        (("in.png", "in.png", "-o", "new.png"), 2, "type the name of a folder, without a suffix"),
        (("in.png", "--report", "in.png"), 2, "--report in.png is an input itself; name another"),
        (("in.png", "--report", "in_x4.png"), 2, "in_x4.png is the result of in.png; name another"),
        (("in.png", "--report", "none/r.json"), 5, "name another place with --report"),
        (("a" * 300 + ".png",), 3, "File name too long"),
        (("in.png", "-o", "b" * 300 + ".png"), 5, "File name too long"),
    ],
)
def test_what_contradicts_itself_is_refused_before_any_work(cli, tmp_path, arguments, code, said):
    image = save(tmp_path / "in.png").read_bytes()
    found, out, err = cli("upscale", *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["in.png"]
    assert (tmp_path / "in.png").read_bytes() == image


def test_nothing_to_upscale(cli):
    code, _, err = cli("upscale")
    assert code == 2
    assert "srgan-edge upscale FILE" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_stops_within_two_seconds_and_leaves_nothing(tmp_path, number):
    clips.make(tmp_path / "in.mp4", frames=3000, size=(80, 60))
    command = [sys.executable, "-m", "srgan_edge", "upscale", "in.mp4", "--json-events"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            events = map(json.loads, process.stdout)
            assert any(event["event"] == "progress" for event in events)
            process.send_signal(number)
            _, stderr = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    # Where other work holds the cores, the end is forced after two seconds: what is there stays.
    forced = "the same command goes on from there" in stderr
    kept = ["in_x4.mp4.partial"] if forced else []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", *kept]
