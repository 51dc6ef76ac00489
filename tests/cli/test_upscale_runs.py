"""Whole runs of `srgan-edge upscale`: images, videos, folders."""

import json
import os
import shlex

import av
import clips
import numpy as np
import pytest
from command_inputs import EDGE, photo, save
from PIL import Image

from srgan_edge import files
from srgan_edge.bicubic import resize


@pytest.mark.parametrize("tile", ["0", "16", "auto"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (52, 41)])
def test_an_image_is_four_times_larger(cli, tmp_path, size, tile):
    save(tmp_path / "in.png", *size)
    assert cli("upscale", "in.png", "--tile", tile)[0] == 0
    with Image.open("in_x4.png") as result:
        assert result.size == (4 * size[0], 4 * size[1])


@pytest.mark.slow
def test_the_tile_changes_no_pixel_at_the_exact_halo(cli, tmp_path):
    save(tmp_path / "in.png", 90, 70)
    arguments = ("upscale", "in.png", "--engine", "torch", "--overlap", "exact")
    assert cli(*arguments, "--tile", 0, "-o", "whole.png")[0] == 0
    assert cli(*arguments, "--tile", 24, "--batch", 3, "-o", "tiled.png")[0] == 0
    np.testing.assert_array_equal(Image.open("whole.png"), Image.open("tiled.png"))


@pytest.mark.parametrize(
    ("outscale", "size"), [("2", (104, 80)), ("3", (156, 120)), ("1", (52, 40))]
)
def test_another_final_scale(cli, tmp_path, outscale, size):
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "-s", outscale, "-o", "out.png")[0] == 0
    with Image.open("out.png") as result:
        assert result.size == size


@pytest.mark.parametrize(
    ("options", "name", "size"),
    [
        (["--height", "100"], "in_100p.png", (130, 100)),
        (["--width", "78"], "in_78w.png", (78, 60)),
        (["--fit", "1000x80"], "in_1000x80.png", (104, 80)),
    ],
)
def test_a_final_size_in_pixels(cli, tmp_path, options, name, size):
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", *options)[0] == 0
    with Image.open(name) as result:
        assert result.size == size


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "IMG_1", "IMG 1.jpg", "IMG_1.mov"])
@pytest.mark.parametrize("command", ["upscale", "plan", "compare"])
def test_a_photograph_in_heic_is_no_video(cli, tmp_path, name, command):
    clips.heic(tmp_path / "in.heic").rename(tmp_path / name)
    code, _, err = cli(command, name, "-n", EDGE)
    assert code == 3
    assert f"magick {shlex.quote(f'heic:{name}')} {shlex.quote(name[:5] + '.png')}" in err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_height_takes_the_model_of_its_scale_and_is_refused_beforehand(cli, tmp_path):
    clips.make(tmp_path / "in.mp4", frames=3, size=(62, 48))
    code, _, err = cli("upscale", "in.mp4", "--height", "96")
    assert code == 0
    assert "edge-x2" in err
    with av.open("in_96p.mp4") as result:
        assert (result.streams.video[0].width, result.streams.video[0].height) == (124, 96)
    for options, said in [
        (["--height", "40"], "possible: --height 48 to 768, or -s X below 1"),
        (["--height", "97"], "videos have even sides; type --height 98"),
        (["--height", "96", "-s", "2"], "-s 2 and --height 96; possible: one of them"),
    ]:
        code, _, err = cli("upscale", "in.mp4", "-o", "out.mp4", *options)
        assert (code, said in err) == (2, True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "in_96p.mp4"]


def test_a_result_that_no_player_plays_is_named_for_a_size_too(cli, tmp_path):
    clips.make(tmp_path / "in.mp4", frames=1, size=(1024, 16))
    code, _, err = cli("upscale", "in.mp4", "--width", "8704", "-c", "libx264")
    assert code == 0
    assert "few players can show the result; --fit 8k" in err


def test_a_result_looks_like_its_input(cli, tmp_path):
    save(tmp_path / "in.png")
    cli("upscale", "in.png")
    shrunk = resize(np.asarray(Image.open("in_x4.png")), 40, 52)
    assert np.abs(shrunk.astype(int) - photo()).mean() < 2


@pytest.mark.parametrize(
    ("arguments", "locked"),
    [
        (("-n", "srgan-x4"), True),
        (("-n", "srgan-x4", "--no-color-lock"), False),
        (("-n", EDGE), False),
        ((), False),
    ],
)
def test_colors_are_locked_for_gans_unless_told_not_to(cli, tmp_path, arguments, locked):
    save(tmp_path / "in.png")
    code, _, err = cli("upscale", "in.png", *arguments)
    assert code == 0
    assert (", colors locked" in err) == locked
    shift = np.asarray(Image.open("in_x4.png")).mean((0, 1)) - photo().mean((0, 1))
    assert not locked or np.abs(shift).max() < 0.1


def test_a_video_of_ten_bits_stays_one(cli, tmp_path):
    source = clips.make(tmp_path / "in.mkv", frames=3, pixel_format="yuv420p10le")
    code, _, err = cli("upscale", source, "-n", EDGE)
    assert code == 0, err
    with av.open(str(tmp_path / "in_x4.mkv")) as video:
        assert next(video.decode(video=0)).format.name == "yuv420p10le"


def test_a_video_keeps_its_frames_times_and_audio(cli, tmp_path):
    source = clips.make(tmp_path / "in.mp4", frames=10, size=(64, 48), audio=["eng", "deu"])
    code, _, err = cli("upscale", "in.mp4", "--tile", 32)
    assert code == 0, err
    before, after = clips.see_frames(source), clips.see_frames(tmp_path / "in_x4.mp4")
    assert after == before  # barcode, start and end of every frame
    assert [frame.number for frame in after] == list(range(10))
    assert "in.mp4: states no color matrix and range: taken as smpte170m, limited" in err
    assert clips.see_packets(tmp_path / "in_x4.mp4", "audio") == clips.see_packets(source, "audio")


def test_check_lists_the_tags_that_a_result_lacks(cli, tmp_path):
    clips.make(tmp_path / "in.mkv", frames=4, audio=["fra"], metadata={"title": "T"})
    clips.make(tmp_path / "other.mkv", frames=4, audio=["deu"], size=(128, 96))
    code, out, err = cli("check", "in.mkv", "other.mkv")
    assert code == 0, err
    assert "it lacks the tags title" in out
    assert "it lacks language fra of audio aac" in out
    assert "lacks" not in cli("check", "in.mkv", "in.mkv")[1]


def test_check_lists_what_ffmpeg_did_not_read(cli, tmp_path):
    packet = b"\0\0\0\x1cuuid" + bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + b"<x/>"
    path = clips.make(tmp_path / "in.mp4", frames=4)
    (tmp_path / "with.mp4").write_bytes(path.read_bytes() + packet)
    assert "it lacks an XMP packet" in cli("check", "with.mp4", "in.mp4")[1]
    assert "lacks" not in cli("check", "with.mp4", "with.mp4")[1]


def test_a_video_at_another_scale(cli, tmp_path):
    clips.make(tmp_path / "in.mkv", frames=3, size=(64, 48))
    assert cli("upscale", "in.mkv", "-s", "2", "--crf", 20, "--preset", "ultrafast")[0] == 0
    assert len(clips.see_frames(tmp_path / "in_x2.mkv")) == 3


def test_a_folder_goes_on_past_a_bad_file_and_names_it(cli, tmp_path):
    save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("hello")
    save(tmp_path / "in/deep/c.jpg")
    clips.make(tmp_path / "in/d.mp4", frames=2, size=(32, 32))
    code, _, err = cli("upscale", "in", "-o", "out")
    assert code == 3
    assert err.count("error:") == 1
    assert "in/b.png" in err
    results = sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/**/*.*")
    )
    assert results == ["a_x4.png", "d_x4.mp4", "deep/c_x4.jpg"]


def test_existing_results_are_refused_kept_or_replaced(cli, tmp_path):
    save(tmp_path / "in.png")
    (tmp_path / "in_x4.png").write_text("old")
    code, _, err = cli("upscale", "in.png")
    assert code == 2
    assert "--overwrite" in err
    assert cli("upscale", "in.png", "--skip-existing")[0] == 0
    assert (tmp_path / "in_x4.png").read_text() == "old"
    assert cli("upscale", "in.png", "--overwrite")[0] == 0
    assert Image.open("in_x4.png").size == (208, 160)


@pytest.mark.parametrize("option", ["--skip-existing", "--overwrite", "--quiet"])
def test_what_has_the_name_of_a_result_and_is_no_file(cli, tmp_path, option):
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.png")
    (tmp_path / "a_x4.png").mkdir()
    os.mkfifo(tmp_path / "b_x4.png")
    (tmp_path / "c_x4.png").symlink_to("nothing.png")
    code, _, err = cli("upscale", "a.png", "b.png", "c.png", "-n", EDGE, option)
    assert code == 5, err
    assert "kept" not in err
    assert "a_x4.png: it is a folder" in err  # which --overwrite would not help
    assert "b_x4.png: it is not a regular file" in err
    advice = "c_x4.png exists; type --overwrite to replace it, or remove it"
    assert (advice in err) == (option != "--overwrite")
    assert (tmp_path / "c_x4.png").is_symlink() == (option != "--overwrite")


@pytest.mark.parametrize("option", ["--skip-existing", "--overwrite", "--quiet"])
def test_a_result_that_another_command_finishes_first(cli, tmp_path, monkeypatch, option):
    save(tmp_path / "in/a.png")
    clips.make(tmp_path / "in/b.mkv", frames=2, size=(32, 32))
    rename = files._rename_to_free

    def be_late(path, target):
        target.write_text("theirs")
        rename(path, target)

    monkeypatch.setattr(files, "_rename_to_free", be_late)
    code, _, err = cli("upscale", "in", "-n", "edge-x4", "-o", "out", option)
    found = {path.name: path.read_bytes()[:6] for path in (tmp_path / "out").glob("*.???")}
    if option == "--overwrite":
        assert code == 0, err
        assert b"theirs" not in found.values()
        return
    assert found == {"a_x4.png": b"theirs", "b_x4.mkv": b"theirs"}
    if option == "--skip-existing":
        assert code == 0, err
        assert err.count("kept") == 2
    else:
        assert code == 5
        assert err.count("appeared during the work and is kept; type --overwrite") == 2


def test_quiet_says_nothing_and_json_events_are_json(cli, tmp_path):
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "-q", "-o", "a.png") == (0, "", "")
    code, out, err = cli("upscale", "in.png", "--json-events", "-o", "b.png")
    events = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    kinds = [event["event"] for event in events if event["event"] != "progress"]  # once a second
    assert kinds == ["note", "began", "started", "ended", "closed"]
    assert events[0]["text"].startswith("in.png: upscaled by edge-l-x4 (PNG, an image on a CPU)")
    assert events[-2]["size"] == "208x160"
    code, out, _ = cli("upscale", "in.png", "--json-events", "-o", "b.png")
    assert json.loads(out.splitlines()[-1]) == {"event": "closed", "exit_code": 2}


def test_a_codec_that_segments_cannot_hold_is_refused_before_the_work(cli, tmp_path):
    clips.make(tmp_path / "in.mp4", frames=3)
    asked = ("upscale", "in.mp4", "-n", "edge-x4", "--pix-fmt", "yuv422p10le")
    code, _, err = cli(*asked, "-c", "prores_ks", "-o", "o.mov")
    assert (code, "prores_ks does not fit into the segments" in err) == (2, True)
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4"}
    advised = shlex.split(err.partition("possible: ")[2].partition(",")[0])
    assert cli(*asked, *advised)[0] == 0


@pytest.mark.parametrize(
    ("pixels", "code"),
    [("yuv444p", 2), ("yuv422p", 2), ("yuv420p", 2), ("uyvy422", 0), ("rgb24", 0), ("gray", 2)],
)
def test_raw_video_is_shown_as_what_it_is(cli, tmp_path, pixels, code):
    """MOV has a word for few formats, and is read as another one for the rest."""
    clips.make(tmp_path / "in.mp4", frames=2)
    asked = ("upscale", "in.mp4", "-n", "edge-x4", "--pix-fmt", pixels)
    got, _, err = cli(*asked, "-c", "rawvideo", "-o", "o.mov")
    assert (got, "o.mov" in err and "; use -" in err) == (code, code == 2)
    assert (tmp_path / "o.mov").exists() is (code == 0)
    assert not (tmp_path / "o.mov.partial").exists()
