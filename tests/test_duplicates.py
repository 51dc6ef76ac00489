"""Frames that nearly repeat an earlier one: found, made of its result, and never anything else."""

import re
import threading

import numpy as np
import pytest
from clips import make, see_frames
from PIL import Image
from transcoding import OPTIONS, Doubler, upscale

from srgan_edge.bench.subject import write_clip
from srgan_edge.bicubic import resize
from srgan_edge.duplicates import is_repeat, with_difference
from srgan_edge.engines.base import EngineInfo
from srgan_edge.model.library import find_model
from srgan_edge.pipeline import in_order
from srgan_edge.reuse import Reuse
from srgan_edge.tiling import Tiling
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.frame import Frame

SLOTS = 3


class Smooth:
    """Replaces an engine: smooth enlargement by four that counts its calls."""

    def __init__(self):
        spec = find_model("edge-x4").spec
        self.info = EngineInfo("smooth", "cpu", "fp32", spec, slots=SLOTS)
        self.calls, self._lock = 0, threading.Lock()

    def upscale(self, batch):
        with self._lock:
            self.calls += len(batch)
        return np.stack([resize(it, 4 * it.shape[0], 4 * it.shape[1]) for it in batch])


def texture(seed=0, size=(64, 96)):
    height, width = size
    coarse = np.random.default_rng(seed).integers(20, 236, (height // 6, width // 6, 3), np.uint8)
    return resize(coarse, height, width)


def panned(image, columns):
    """Move an image to the left by a part of a pixel, by linear interpolation."""
    left, part = divmod(columns, 1)
    moved = np.roll(image, -int(left), axis=1).astype(float)
    return ((1 - part) * moved + part * np.roll(moved, -1, axis=1)).round().astype(np.uint8)


def grain(image, levels, seed):
    change = np.random.default_rng(seed).integers(-levels, levels + 1, image.shape)
    return (image + change).clip(0, 255).astype(np.uint8)


def upscaled(frames, dedup, every=None):
    engine = Smooth()
    reuse = Reuse(FrameUpscaler(engine, Tiling(0)), dedup, every)
    items = (Frame(pixels, pts, 1) for pts, pixels in enumerate(frames))
    results = list(in_order(reuse.linked(items), reuse.upscale, SLOTS, SLOTS))
    return results, engine, reuse


def psnr(one, other):
    return 10 * np.log10(255**2 / max(1e-9, np.mean((one.astype(float) - other) ** 2)))


def test_held_drawings_are_upscaled_once_and_their_grain_goes_on():
    frames = [grain(texture(shot), 2, 10 * shot + n) for shot in range(4) for n in range(5)]
    results, engine, reuse = upscaled(frames, "strict")
    assert (engine.calls, reuse.frames_repeated, len(results)) == (4, 16, 20)
    whole, _, _ = upscaled(frames, None)
    assert min(psnr(one, other) for one, other in zip(results, whole, strict=True)) > 45
    assert not np.array_equal(results[1], results[2])


def with_whole_difference(result, pixels, earlier):
    """Enlarge all of the difference at once: the slow twin of `with_difference`."""
    shifted = (pixels.astype(int) - earlier + 128).clip(0, 255).astype(np.uint8)
    height, width, _ = result.shape
    wide = Image.fromarray(shifted).resize((width, len(pixels)), Image.Resampling.BICUBIC)
    enlarged = np.asarray(wide.resize((width, height), Image.Resampling.BICUBIC))
    return (result.astype(int) + enlarged - 128).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(36, 60), (8, 12), (1, 1), (41, 7)])
def test_a_difference_in_a_few_places_is_added_as_in_all(size, scale):
    rng = np.random.default_rng(scale)
    height, width = size
    for edits in (1, 2, 5, height * width):
        earlier = rng.integers(0, 256, (height, width, 3), np.uint8)
        pixels = earlier.copy()
        places = rng.integers(0, height, edits), rng.integers(0, width, edits)
        pixels[places] = rng.integers(0, 256, (edits, 3), np.uint8)
        result = rng.integers(0, 256, (scale * height, scale * width, 3), np.uint8)
        kept = result.copy()
        made = with_difference(result, pixels, earlier)
        np.testing.assert_array_equal(made, with_whole_difference(result, pixels, earlier))
        np.testing.assert_array_equal(result, kept)  # other frames are made of it, too


def test_a_cut_and_a_changed_detail_are_upscaled():
    image = texture()
    detail = image.copy()
    detail[8:16, 16:24] = 255 - detail[8:16, 16:24]
    for dedup in ("strict", "normal"):
        assert not is_repeat(texture(5), image, dedup)
        assert not is_repeat(detail, image, dedup)
        assert is_repeat(grain(image, 2, 1), image, dedup)
    assert is_repeat(grain(image, 9, 1), image, "normal")
    assert not is_repeat(grain(image, 9, 1), image, "strict")
    assert not is_repeat(image[:-1], image, "normal")


@pytest.mark.parametrize("dedup", ["strict", "normal"])
@pytest.mark.parametrize("pixels_a_frame", [0.02, 0.1, 0.5])
def test_a_slow_pan_goes_on_moving_and_loses_no_frame(dedup, pixels_a_frame):
    base = texture(3, (64, 160))
    frames = [np.ascontiguousarray(panned(base, n * pixels_a_frame)[:, 20:116]) for n in range(24)]
    results, engine, reuse = upscaled(frames, dedup)
    whole, _, _ = upscaled(frames, None)
    assert len(results) == 24
    assert engine.calls + reuse.frames_repeated + reuse.frames_reused == 24
    assert min(psnr(one, other) for one, other in zip(results, whole, strict=True)) > 40


def test_the_difference_of_equal_sources_is_nothing():
    image, result = texture(), texture(1, (256, 384))
    assert with_difference(result, image, image) is result
    brighter = with_difference(result, image + np.uint8(3), image)
    np.testing.assert_array_equal(brighter, (result.astype(int) + 3).clip(0, 255))


def test_results_do_not_depend_on_where_a_run_began():
    frames = [grain(texture(), 2, n) for n in range(15)]
    whole, engine, _ = upscaled(frames, "strict", every=5)
    assert engine.calls == 3
    resumed, _, _ = upscaled(frames[10:], "strict", every=5)
    for one, other in zip(whole[10:], resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_video_keeps_every_frame_and_says_how_many_were_repeated(tmp_path):
    frames = [grain(texture(n // 4), 1, n) for n in range(12)]
    write_clip(tmp_path / "in.mp4", frames)
    notes = upscale(tmp_path / "in.mp4", tmp_path / "out.mkv", dedup="normal")
    assert any(re.search("[89] frames nearly repeat an earlier one", it) for it in notes), notes
    assert len(see_frames(tmp_path / "out.mkv")) == 12
    assert OPTIONS.dedup is None


def test_without_the_option_nothing_is_repeated(tmp_path):
    make(tmp_path / "in.mp4", frames=6)
    notes = upscale(tmp_path / "in.mp4", tmp_path / "out.mkv")
    assert not any("repeat" in note for note in notes)
    assert Doubler.scale == 2
