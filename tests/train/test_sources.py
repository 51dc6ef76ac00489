"""Realistic sources: images saved as JPEG or coded as video, seeded, in variants made once."""

import shutil
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image
from training import tiny_recipe, write_photos

from srgan_edge import bicubic
from srgan_edge.errors import UsageError
from srgan_edge.train.derived import add_sources
from srgan_edge.train.loop import train
from srgan_edge.train.photos import PhotoPack
from srgan_edge.train.sources import (
    FRAMES,
    Sources,
    jpeg_coded,
    pan_over,
    source_of,
    sources_name,
    video_coded,
)

SCALE = 4
PHOTOGRAPH = Path(__file__).resolve().parents[2] / "srgan_edge" / "demo" / "photo.png"
HR = np.array(Image.open(PHOTOGRAPH).convert("RGB"))[:176, :240]
LR = bicubic.resize(HR, 44, 60)
QUIET = {
    "first_probability": 0.0,
    "sharpening_probability": 0.0,
    "banding_probability": 0.0,
    "noise_probability": 0.0,
    "combing_probability": 0.0,
    "clean_share": 0.0,
}


def made(seed=0, **options):
    sources = Sources(**(QUIET | options))
    return source_of(HR, np.random.default_rng(seed), scale=SCALE, sources=sources)


def error(pixels):
    return np.abs(pixels.astype(float) - LR).mean()


def test_clean_sources_are_the_exact_bicubic():
    assert np.array_equal(made(clean_share=1.0, video_share=0.0), LR)


def test_a_photograph_saved_once_is_the_bicubic_as_jpeg():
    once = made(video_share=0.0, webp_probability=0.0, jpeg_quality=(40, 40))
    assert np.array_equal(once, jpeg_coded(LR, 40)) or np.array_equal(
        once, jpeg_coded(LR, 40, whole_chroma=True)
    )


@pytest.mark.parametrize("webp", [0.0, 1.0])
def test_lower_qualities_are_further_from_the_image(webp):
    errors = [
        error(
            made(video_share=0.0, webp_probability=webp, jpeg_quality=(q, q), webp_quality=(q, q))
        )
        for q in (95, 60, 10)
    ]
    assert errors == sorted(errors) and errors[0] < errors[2] / 2


@pytest.mark.parametrize(
    ("codec", "scale", "best", "worst"),
    [
        ("h264", "h264_crf", 12, 40),
        ("hevc", "hevc_crf", 12, 44),
        ("vp9", "vp9_crf", 10, 60),
        ("mpeg2", "mpeg_quantizer", 2, 25),
        ("mpeg4", "mpeg_quantizer", 2, 25),
    ],
)
def test_a_frame_of_a_video_shows_the_photograph_as_its_codec_does(codec, scale, best, worst):
    def at(level):
        video = {"video_share": 1.0, "codecs": (codec,), "motion_px": (1.0, 2.0)}
        return error(made(**video, **{scale: (level, level)}))

    assert 0 < at(best) < 6
    assert at(best) < 0.7 * at(worst)


def test_a_codec_that_is_missing_or_refuses_is_left_out(monkeypatch):
    monkeypatch.setitem(source_of.__globals__["_CODECS"], "av1", ("no-such-encoder", lambda *_: {}))
    video = {"video_share": 1.0, "h264_crf": (20, 20)}
    assert 0 < error(made(codecs=("av1", "h264"), **video)) < 6
    assert np.array_equal(made(codecs=("av1",), video_share=1.0, motion_px=(0.0, 0.0)), LR)


def test_a_pan_moves_and_its_middle_is_the_image():
    clip = pan_over(HR, SCALE, 5, 2, (4, -8))
    assert np.array_equal(clip[2], LR)
    assert np.array_equal(clip[3][4:36, 8:50], LR[5:37, 6:48])  # one LR pixel down, two left


def test_odd_sizes_go_through_a_video():
    odd = LR[:43, :59]
    frames = video_coded([odd] * 3, "mpeg4", {"qmin": "2", "qmax": "2"})
    assert [frame.shape for frame in frames] == [odd.shape] * 3
    assert np.abs(frames[1].astype(float) - odd).mean() < 6


@pytest.mark.parametrize(("width", "height"), [(40, 30), (36, 44), (33, 16), (48, 31)])
def test_frames_in_which_an_encoder_corrupts_memory_are_not_given_to_it(width, height):
    small = [LR[:height, :width]] * FRAMES
    with pytest.raises(av.FFmpegError, match="corrupts memory"):
        video_coded(small, "libx265", {})
    assert len(video_coded(small, "libx264", {})) == FRAMES


@pytest.mark.parametrize("centered", [False, True])
def test_a_video_shifts_neither_colors_nor_their_place(centered):
    """Every step could shift or darken a slope of colors."""
    x, y = np.meshgrid(np.linspace(40, 200, 64), np.linspace(60, 180, 48))
    slope = np.stack([x, y, 240 - x], 2).round().astype(np.uint8)
    (frame,) = video_coded([slope], "mpeg4", {"qmin": "1", "qmax": "1"}, centered=centered)
    difference = frame[4:-4, 4:-4].astype(float) - slope[4:-4, 4:-4]
    assert np.abs(difference.mean((0, 1))).max() < 0.3
    assert np.abs(difference).max() <= 6


def test_wear_changes_images_and_is_seeded():
    for option in ("first", "sharpening", "banding", "noise"):
        worn = {f"{option}_probability": 1.0, "video_share": 0.0, "jpeg_quality": (100, 100)}
        assert error(made(**worn)) > error(made(video_share=0.0, jpeg_quality=(100, 100))), option
        assert np.array_equal(made(3, **worn), made(3, **worn))
    assert not np.array_equal(made(3), made(4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clean_share": 1.5}, "possible: 0 to 1"),
        ({"clean_share": 0.8, "video_share": 0.3}, "more than 1 together"),
        ({"jpeg_quality": (50, 20)}, "not falling, from 1 to 100"),
        ({"h264_crf": (20, 70)}, "from 0 to 63"),
        ({"codecs": ("divx",)}, "possible: of h264"),
        ({"variants": 0}, "1 to 64"),
    ],
)
def test_values_out_of_range_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        Sources(**options)
    assert sources_name(Sources()) != sources_name(Sources(variants=5))


def numbered(hr, random):
    """A source whose pixels encode its random draw."""
    level = random.integers(256)
    return np.full((hr.shape[0] // SCALE, hr.shape[1] // SCALE, 3), level, np.uint8)


@pytest.fixture
def pack(tmp_path):
    photos = write_photos(tmp_path / "photos")
    return PhotoPack.open([photos], tmp_path / "cache", crop_px=32, scale=SCALE)


def test_crops_come_from_the_variants_in_the_places_of_the_lr(pack):
    def shifted(hr, random):
        return bicubic.resize(hr, hr.shape[0] // SCALE, hr.shape[1] // SCALE) // 2

    clean = pack.crops(0, 5, range(20), candidates=2)
    worn = add_sources(pack, shifted, "half", 3, 0).crops(0, 5, range(20), candidates=2)
    assert torch.equal(worn.lr, clean.lr // 2)
    assert torch.equal(worn.hr, clean.hr)
    several = add_sources(pack, numbered, "numbered", 3, 0).crops(0, 5, range(200)).lr
    assert len(several[:, 0, 0, 0].unique()) == 3 * 3


def test_sources_are_made_once_and_resume_where_they_stopped(pack):
    calls = []

    def counted(hr, random, fail_at=99):
        calls.append(hr.shape)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return numbered(hr, random)

    with pytest.raises(KeyboardInterrupt):
        add_sources(pack, partial(counted, fail_at=4), "n", 2, 0)
    made = add_sources(pack, counted, "n", 2, 0)
    assert len(calls) == 4 + 4  # the first photograph's two are not made again
    assert torch.equal(made.sources, add_sources(pack, counted, "n", 2, 0).sources)
    assert len(calls) == 8
    whole = add_sources(pack, numbered, "other", 2, 0)
    assert torch.equal(made.sources, whole.sources)
    assert not torch.equal(made.sources, add_sources(pack, numbered, "n", 2, 1).sources)


def test_a_run_learns_from_its_sources(tmp_path):
    settings = ("data.teacher=", "pixel.distillation=0.0", "pixel.steps=2", "sources.variants=2")
    recipe = tiny_recipe("edge-real", *settings)
    released = train(recipe, [write_photos(tmp_path / "photos")], tmp_path / "run")
    assert released.name == "edge-real-x4.safetensors"
    assert len(list((tmp_path / "run" / "photos").glob("sources-*.u8"))) == 1


def test_the_command_writes_examples(cli, tmp_path):
    write_photos(tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").unlink()
    (tmp_path / "photos" / "small.png").unlink()
    code, out, _ = cli("degrade", "photos", "-o", "out", "--variants", 2)
    assert (code, out) == (0, "wrote 6 images into out\n")
    with Image.open(tmp_path / "out" / "c-2.png") as image:
        assert image.size == (41 // SCALE, 100 // SCALE)
    assert cli("degrade", "absent", "-o", "out")[0] == 3
    assert cli("degrade", "photos", "-o", "out", "--set", "sources.variants=0")[0] == 2
    assert cli("degrade", "photos", "-o", "photos/a.png")[0] == 5
    for variants in (0, 1001, 10**9):
        code, _, err = cli("degrade", "photos", "-o", "many", "--variants", variants)
        assert code == 2 and f"--variants {variants}; possible: 1 to 1000" in err
    (tmp_path / "more").mkdir()
    shutil.copy(tmp_path / "photos" / "c.png", tmp_path / "more" / "c.bmp")
    code, _, err = cli("degrade", "photos", "more", "-o", "out")
    assert code == 2 and "photos/c.png and more/c.bmp would both become c-1.png" in err
