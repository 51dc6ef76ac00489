"""How still an upscaled video holds: exact values on pans, and `srgan-edge eval --video`."""

import json
import shutil
from itertools import pairwise
from math import isnan

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2")

from srgan_edge.bench.subject import write_clip
from srgan_edge.cli.measure_videos import scenes_from
from srgan_edge.errors import InputRefused, ResourcesExhausted, UsageError
from srgan_edge.evaluation import temporal, vmaf
from srgan_edge.evaluation.metrics import Undefined
from srgan_edge.evaluation.scenes import PHOTOS, Scene, pan_over, video_scene, zoom_over
from srgan_edge.evaluation.systems import bicubic_upscale
from srgan_edge.evaluation.videos import SceneScores, VideoSystem, mean_scores, score_scenes
from srgan_edge.image.reader import read_pixels

GRAY_LEVEL = 219 / 255  # of BT.601 luma in studio range


@pytest.fixture(scope="module")
def photo():
    return read_pixels(PHOTOS / "grass.jpg")[:160, :240]


@pytest.fixture
def cobbles(tmp_path):
    path = tmp_path / "cobbles.png"
    Image.fromarray(read_pixels(PHOTOS / "cobblestone-hill.jpg")[40:120, 40:160]).save(path)
    return path


def test_a_pan_itself_does_not_flicker(photo):
    before, now = photo[:, :200], photo[:, 3:203]
    assert temporal.pan_flicker(before, now, 3) == 0
    assert temporal.pan_flicker(before, now, 2) > 1


def test_flicker_is_in_levels_of_luma(photo):
    before = photo[:, :200] // 2
    now = np.roll(before, -1, axis=1) + 3
    assert temporal.pan_flicker(before, now, 1) == pytest.approx(3 * GRAY_LEVEL)


def test_sharpness_is_a_share_of_the_original(photo):
    assert temporal.sharpness(photo, photo) == 1
    assert temporal.sharpness(np.full_like(photo, 90), photo) == 0
    assert temporal.sharpness(photo // 2 * 2, photo) == pytest.approx(1, abs=0.02)


def test_the_warping_error_is_what_motion_does_not_explain(photo):
    before, now = photo[:, :200], photo[:, 8:208]
    small = [
        np.asarray(Image.fromarray(it).resize((50, 40), Image.BICUBIC)) for it in (before, now)
    ]
    moved = temporal.warping_error(before, now, *small)
    brighter = temporal.warping_error(before // 2, now // 2 + 9, *small)
    assert moved < 0.5 * np.abs(before.astype(float) - now).mean()
    assert brighter > 0.9 * 9 * GRAY_LEVEL
    still = temporal.warping_error(before, before, small[0], small[0])
    assert still < 0.01


def test_a_cut_has_no_warping_error(photo):
    other = read_pixels(PHOTOS / "city.jpg")[:160, :200]
    small = [it[::4, ::4].copy() for it in (photo[:, :200], other)]
    with pytest.raises(Undefined, match="one scene"):
        temporal.warping_error(photo[:, :200], 255 - other, small[0], 255 - small[1] // 8)


def test_the_crop_is_that_of_tecogans_program():
    """Of its loops: multiples of 32, and at least 16 less."""
    for size, side in [(240, 224), (320, 288), (48, 32), (63, 32), (96, 64), (112, 96)]:
        assert temporal.tecogan_crop(np.zeros((size, size, 1))).shape[0] == side
    cropped = temporal.tecogan_crop(np.arange(100)[:, None, None] + np.zeros((1, 100, 1)))
    assert cropped[0, 0, 0] == 18  # (100 - 64) // 2
    with pytest.raises(Undefined, match="48x48 pixels, not 100x47"):
        temporal.tecogan_crop(np.zeros((47, 100, 1)))


def test_t_of_is_the_distance_of_two_motions(photo):
    before, now = photo[:, :200], photo[:, 2:202]
    assert temporal.t_of(before, now, before, now) == 0
    assert temporal.t_of(before, before, before, now) == pytest.approx(2, abs=0.15)


def test_t_lp_is_how_much_more_the_result_changes(photo):
    def distance(a, b):
        return abs(float(a.mean()) - float(b.mean())) / 100

    black, gray = np.zeros_like(photo), np.full_like(photo, 50)
    assert temporal.t_lp(distance, black, gray, black, black) == pytest.approx(50)
    assert temporal.t_lp(distance, black, gray, gray, black) == 0


def test_a_pan_moves_by_whole_pixels_of_the_middle(cobbles):
    scene = pan_over(cobbles, 4, 5, step_px=2)
    frames = list(scene.originals())
    assert [frame.shape for frame in frames] == [(80, 112, 3)] * 5
    for before, now in pairwise(frames):
        np.testing.assert_array_equal(before[:, 2:], now[:, :-2])
    lr, original = next(scene.pairs(4))
    assert lr.shape == (20, 28, 3)
    np.testing.assert_array_equal(original, frames[0])


def test_a_zoom_begins_with_the_middle_and_enlarges_it(cobbles):
    scene = zoom_over(cobbles, 4, 9)
    first, *_, last = scene.originals()
    photo = read_pixels(cobbles)
    np.testing.assert_array_equal(first, photo)
    assert scene.step_px is None
    middle = [frame[35:45, 55:65].astype(float).mean() for frame in (first, last)]
    assert middle[0] == pytest.approx(middle[1], abs=9)
    assert not np.array_equal(first, last)


def test_noise_is_the_same_in_every_run_and_another_in_every_frame():
    gray = np.full((200, 200, 3), 100, np.uint8)
    scene = Scene("gray", lambda: iter([gray, gray]), 25)
    first, second = (lr.astype(float) for lr, _ in scene.pairs(2, noise=4))
    again = [lr for lr, _ in scene.pairs(2, noise=4)]
    np.testing.assert_array_equal(first, again[0])
    assert first.std() == pytest.approx(4, rel=0.03)
    assert (first - second).std() == pytest.approx(4 * 2**0.5, rel=0.03)


def test_small_photographs_and_videos_are_refused(tmp_path):
    Image.fromarray(np.zeros((70, 70, 3), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(InputRefused, match="a pan of 9 frames needs 72x64"):
        pan_over(tmp_path / "small.png", 4, 9)
    scene = video_scene("v", lambda: iter([np.zeros((60, 90, 3), np.uint8)]), 25, 4, 9)
    with pytest.raises(InputRefused, match="88x60; possible: 64 px"):
        list(scene.originals())


def test_the_worst_seconds_are_named_first():
    scene = Scene("s", lambda: iter(()), fps=2)
    frames = [{"warping": value} for value in (1, 2, 2, 9, 9, 3, 3)]  # frames 1 to 7
    scores = SceneScores(scene, [*frames, {"warping": float("nan")}])
    assert scores.seconds("warping") == {0: 1, 1: 2, 2: 9, 3: 3}
    assert scores.worst_seconds("warping", 2) == [(2, 9), (3, 3)]
    assert scores.mean("warping") == pytest.approx(28 / 6)  # the first pair has just begun
    assert isnan(scores.mean("flicker"))


def test_a_steadied_baseline_flickers_less_under_noise(cobbles):
    enlarge = bicubic_upscale(4)
    system = VideoSystem("bicubic", lambda lr: enlarge(lr[None])[0], (0.0, 0.5))
    found = score_scenes([system], [pan_over(cobbles, 4, 6)], 4, noise=2)
    plain, steady = (mean_scores(found[label]) for label in ("bicubic", "bicubic --steady 0.5"))
    assert steady["flicker"] < plain["flicker"]
    assert isnan(plain["lpips"])
    assert plain["t_of"] >= 0


def test_scenes_are_photographs_and_videos(tmp_path, cobbles):
    (tmp_path / "bench" / "HR").mkdir(parents=True)
    shutil.copy(cobbles, tmp_path / "bench" / "HR" / "a.png")
    write_clip(tmp_path / "v.mp4", (np.full((70, 80, 3), 9 * n, np.uint8) for n in range(9)))
    scenes = scenes_from([tmp_path / "bench", cobbles, tmp_path / "v.mp4"], 4, 5)
    assert [(it.name, it.step_px) for it in scenes] == [("a", 1), ("cobbles", 1), ("v.mp4", None)]
    assert [frame.shape for frame in scenes[2].originals()] == [(68, 80, 3)] * 5
    assert len(list(scenes[2].originals())) == 5  # again
    assert len(scenes_from([], 4, 4)) == 16
    for source, line in [
        (tmp_path / "none", "no such"),
        (tmp_path, None),
        (tmp_path / "e", "no ph"),
    ]:
        (tmp_path / "e").mkdir(exist_ok=True)
        if line is not None:
            with pytest.raises(InputRefused, match=line):
                scenes_from([source], 4, 5)
    with pytest.raises(UsageError, match="--frames 3; possible: 4 and more"):
        scenes_from([cobbles], 4, 3)


def test_eval_video_prints_json_and_draws(cli, tmp_path, cobbles):
    pytest.importorskip("matplotlib")
    code, out, err = cli(
        *("eval", "--video", str(cobbles), "--bicubic", "-n", "edge-x4", "--steady", "auto"),
        *("--frames", "5", "--json", "--metrics", "psnr_y", "--plot", "p.png"),
    )
    assert code == 0, err
    records = json.loads(out)
    assert [it["system"] for it in records] == ["bicubic", "edge-x4", "edge-x4 --steady 0.5"]
    plain, steady = (it["mean"] for it in records[1:])
    assert steady["flicker"] < 0.7 * plain["flicker"]
    assert steady["psnr_y"] >= plain["psnr_y"]
    assert Image.open(tmp_path / "p.png").width > 500


def test_what_is_passed_over_in_a_folder_is_counted(capsys, tmp_path, cobbles):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.TIF", "notes.txt"):
        shutil.copy(cobbles, folder / name)
    assert len(scenes_from([folder], 4, 4)) == 2
    assert f"{folder}: passed over 1 that are no images by their names" in capsys.readouterr().err


def test_names_of_any_kind_are_drawn_and_kept_apart(cli, tmp_path):
    pytest.importorskip("matplotlib")
    for name in (r"a/$\frac{$.mp4", r"b/$\frac{$.mp4", "caf\udce9.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_clip(tmp_path / "v.mp4", (np.full((64, 64, 3), 9 * n, np.uint8) for n in range(4)))
        (tmp_path / "v.mp4").rename(tmp_path / name)
    code, out, err = cli(
        *("eval", "--video", r"a/$\frac{$.mp4", r"b/$\frac{$.mp4", "caf\udce9.mp4", "--bicubic"),
        *("--json", "--plot", "p.png", "--scale", "4"),
    )
    assert code == 0, err
    names = list(json.loads(out)[0]["scenes"])
    assert names[:2] == [r"a/$\frac{$.mp4", r"b/$\frac{$.mp4"] and len(names) == 3
    assert Image.open(tmp_path / "p.png").width > 500


def test_a_video_of_too_few_frames_has_no_scores(cli, tmp_path):
    write_clip(tmp_path / "v.mp4", (np.full((64, 64, 3), 9 * n, np.uint8) for n in range(3)))
    code, out, err = cli("eval", "--video", "v.mp4", "--bicubic")
    assert (code, out) == (3, "") and "v.mp4: frames 3; possible: 4 and more" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("eval", "--video", "--crops", "2"), "--video takes no --figure"),
        (("eval", "--frames", "5", "."), "--frames is for --video; type --video too"),
        (("eval",), "type: srgan-edge eval DIR"),
        (("eval", "--video", "--noise", "-1"), "--noise -1; possible"),
        (("eval", "--video", "--steady", "2"), "--steady 2; possible"),
        (("eval", "--video", "none.png"), "none.png: no such file"),
    ],
)
def test_eval_video_refuses_in_a_line(cli, words, line):
    code, _, err = cli(*words)
    assert code in (2, 3), err
    assert line in err
    assert err.count("\n") == 1


def program(folder, text):
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_vmaf_is_refused_without_an_ffmpeg_that_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="not in PATH"):
        vmaf.ffmpeg_with_vmaf()
    program(tmp_path, "echo ' ... scale V->V Scale'")
    with pytest.raises(UsageError, match="/ffmpeg has none"):
        vmaf.ffmpeg_with_vmaf()


def test_a_vmaf_that_fails_says_why(tmp_path, photo):
    failing = program(tmp_path, "echo 'libvmaf: no model' >&2; exit 1")
    with vmaf.Vmaf(failing, tmp_path, 25) as collected:
        collected.add(photo, photo)
        with pytest.raises(ResourcesExhausted, match="failed: libvmaf: no model"):
            collected.score()


def test_vmaf_of_the_original_is_the_highest(tmp_path, photo):
    try:
        ffmpeg = vmaf.ffmpeg_with_vmaf()
    except UsageError as refused:
        pytest.skip(str(refused))
    scores = []
    for made in (photo, photo // 32 * 32):
        with vmaf.Vmaf(ffmpeg, tmp_path, 25) as collected:
            for _ in range(3):
                collected.add(made, photo)
            scores.append(collected.score())
    assert scores[0] > 90 > scores[1] > 0
