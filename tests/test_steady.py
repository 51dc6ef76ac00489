"""Steady detail: what is kept from the last result, where, and where nothing is."""

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

from srgan_edge import bicubic, steady
from srgan_edge.errors import ExtraMissing, HostMemoryExhausted, UsageError
from srgan_edge.image.reader import read_pixels
from srgan_edge.motion import gray
from srgan_edge.pipeline import in_order
from srgan_edge.steady import (
    Motion,
    Steadied,
    Steadier,
    chosen_strength,
    mixed,
    mixed_band,
    motion_between,
    next_steadied,
    steadied_from_bytes,
    steady_from_text,
)

SCALE, WIDTH, HEIGHT = 4, 60, 44
PHOTOS = Path(steady.__file__).parent / "demo" / "photos"


def texture(seed, shape=(SCALE * HEIGHT, SCALE * WIDTH, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def photo():
    return read_pixels(PHOTOS / "cobblestone-hill.jpg")


def pan(photo, frames, step=1, y=20, x=20):
    """HR frames of a pan by `step` pixels a frame, and what is left of them at a quarter."""
    height, width = SCALE * HEIGHT, SCALE * WIDTH
    hr = [photo[y : y + height, x + step * n : x + step * n + width] for n in range(frames)]
    return hr, [bicubic.resize(frame, HEIGHT, WIDTH) for frame in hr]


def redrawn(hr):
    """Results of a generator that draws other detail, of no color, in every frame."""
    return [
        (frame.astype(np.int16) + np.random.default_rng(n).integers(-20, 21, (*frame.shape[:2], 1)))
        .clip(0, 255)
        .astype(np.uint8)
        for n, frame in enumerate(hr)
    ]


def steadied_video(lr, raw, strength=0.5):
    last, shown = None, []
    for source, result in zip(lr, raw, strict=True):
        last = next_steadied(source, result, last, strength)
        shown.append(last.shown)
    return shown


def flicker(frames, step=1, border=8):
    inner = slice(border, -border)
    return np.mean(
        [
            np.abs(
                before[inner, border + step : -border].astype(float)
                - now[inner, border : -border - step]
            ).mean()
            for before, now in pairwise(frames[2:])
        ]
    )


def slow_mix(raw, last, shift, trust, strength):
    """The twin: the luma, one pixel after the other, for a motion by whole pixels of the result."""
    height, width = raw.shape
    rows, columns = height // SCALE, width // SCALE
    change = np.zeros(raw.shape)
    for y in range(height):
        for x in range(width):
            from_x = min(max(x + shift, 0), width - 1)
            change[y, x] = last[y, from_x].astype(float) - raw[y, x]
    means = change.reshape(rows, SCALE, columns, SCALE).mean(axis=(1, 3))
    result = np.zeros(raw.shape)
    for y in range(height):
        for x in range(width):
            own = change[y, x] - between(means, y, x)
            most = steady.MOST_LEVELS * strength
            share = between(trust, y, x)
            result[y, x] = raw[y, x] + share * np.clip(own, -most, most)
    return result


def between(means, y, x):
    """Interpolate linearly between the middles of LR pixels."""
    parts = []
    for place, size in ((y, means.shape[0]), (x, means.shape[1])):
        at = min(max((place + 0.5) / SCALE - 0.5, 0), size - 1)
        first = min(int(at), size - 2)
        parts.append(((first, 1 - (at - first)), (first + 1, at - first)))
    return sum(wy * wx * means[row, column] for row, wy in parts[0] for column, wx in parts[1])


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_mixing_is_that_of_its_slow_twin(strength):
    shape = (6 * SCALE, 9 * SCALE, 3)
    raw, last = texture(1, shape), texture(2, shape[:2])
    trust = np.random.default_rng(3).random((6, 9)).astype(np.float32)
    flow = np.zeros((6, 9, 2), np.float32)
    flow[..., 0] = 2 / SCALE
    kept, _ = mixed_band(raw, last, Motion(flow, trust), strength)
    slow = slow_mix(gray(raw), last, 2, trust, strength).clip(0, 255)
    assert np.abs(kept - slow).max() <= 0.501  # rounded


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("rows", [1, 95, 96, 97, 200])
def test_bands_are_the_whole(scale, rows):
    rng = np.random.default_rng(rows)
    raw = rng.integers(0, 256, (scale * rows, scale * 20, 3), np.uint8)
    last = rng.integers(0, 256, raw.shape[:2], np.uint8)
    flow = rng.normal(0, 2, (rows, 20, 2)).astype(np.float32)
    motion = Motion(flow, rng.random((rows, 20)).astype(np.float32))
    for band, whole in zip(
        mixed(raw, last, motion, 0.5), mixed_band(raw, last, motion, 0.5), strict=True
    ):
        # Thirds of a pixel, and running sums, are rounded differently where a band begins.
        assert np.mean(band != whole) <= 0.001
        assert scale == 3 or np.abs(band.astype(int) - whole).max() <= 1


def test_a_pan_flickers_less_than_half_as_much_and_is_nearer_to_the_original(photo):
    hr, lr = pan(photo, 8)
    raw = redrawn(hr)
    shown = steadied_video(lr, raw)
    assert flicker(shown) < 0.5 * flicker(raw)
    assert flicker(steadied_video(lr, raw, 0.1)) > flicker(shown)
    error = [np.mean((made[-1].astype(float) - hr[-1]) ** 2) for made in (raw, shown)]
    assert error[1] < error[0]


def test_what_does_not_move_stays_where_it_is(photo):
    hr, lr = pan(photo, 4, step=0)
    noisy = [frame + (n % 2 == 1) for n, frame in enumerate(np.minimum(lr, 254))]
    raw = redrawn(hr)
    assert flicker(steadied_video(noisy, raw), 0) < 0.25 * flicker(raw, 0)


def test_a_steadied_frame_is_no_sharper_than_its_own_result(photo):
    hr, lr = pan(photo, 5, step=0)
    noisy = [frame + (n % 2 == 1) for n, frame in enumerate(np.minimum(lr, 254))]
    shown = steadied_video(noisy, hr)

    def gradient(frame):
        return np.abs(np.diff(frame.astype(float), axis=1)).mean()

    assert gradient(shown[-1]) <= 1.01 * gradient(hr[-1])


def test_a_frame_after_a_cut_is_its_own_bit_for_bit(photo):
    hr, lr = pan(photo, 6)
    other_hr, other_lr = pan(read_pixels(PHOTOS / "city.jpg"), 6)
    raw = redrawn(hr[:3] + other_hr[:3])
    shown = steadied_video(lr[:3] + other_lr[:3], raw)
    np.testing.assert_array_equal(shown[0], raw[0])
    np.testing.assert_array_equal(shown[3], raw[3])
    assert not np.array_equal(shown[2], raw[2])
    assert not np.array_equal(shown[4], raw[4])
    alone = steadied_video(other_lr[:3], raw[3:])
    np.testing.assert_array_equal(np.stack(shown[3:]), np.stack(alone))


def test_a_repeated_frame_is_shown_as_it_was(photo):
    hr, lr = pan(photo, 3)
    raw = redrawn(hr)
    shown = steadied_video([*lr, lr[-1]], [*raw, texture(9)])
    np.testing.assert_array_equal(shown[3], shown[2])


def test_an_object_that_appears_is_not_seen_through(photo):
    """Where the inputs differ, the result is that of the frame itself."""
    hr, lr = pan(photo, 3, step=0)
    raw, changed = redrawn(hr), lr[2].copy()
    changed[10:30, 20:40] = (250, 20, 20)
    shown = steadied_video([*lr[:2], changed], raw)
    inside = slice(SCALE * 12, SCALE * 28), slice(SCALE * 22, SCALE * 38)
    np.testing.assert_array_equal(shown[2][inside], raw[2][inside])
    assert not np.array_equal(shown[2][:, : SCALE * 16], raw[2][:, : SCALE * 16])


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (15, 15), (16, 16), (17, 33)])
def test_frames_of_any_size(size):
    height, width = size
    sources = [texture(n, (height, width, 3)) // 64 for n in range(3)]
    raw = [source.repeat(2, 0).repeat(2, 1) for source in sources]
    shown = steadied_video(sources, raw)
    assert [frame.shape for frame in shown] == [frame.shape for frame in raw]


def test_another_size_begins_anew(photo):
    hr, lr = pan(photo, 2)
    raw = redrawn(hr)
    smaller_lr, smaller_raw = lr[1][:30], raw[1][: SCALE * 30]
    shown = steadied_video([lr[0], smaller_lr], [raw[0], smaller_raw])
    np.testing.assert_array_equal(shown[1], smaller_raw)


def test_the_state_of_a_frame_survives_a_file(photo):
    hr, lr = pan(photo, 3)
    raw = redrawn(hr)
    last = next_steadied(lr[0], raw[0], None, 0.5)
    for n in (1, 2):
        direct = next_steadied(lr[n], raw[n], last, 0.5)
        last = next_steadied(lr[n], raw[n], steadied_from_bytes(last.to_bytes()), 0.5)
        np.testing.assert_array_equal(direct.shown, last.shown)
        np.testing.assert_array_equal(direct.kept, last.kept)


def through_slots(lr, raw, steadier, slots, fails_at=None):
    delays = np.random.default_rng(0).uniform(0, 0.02, len(raw))

    def upscale(link):
        def result():
            time.sleep(delays[link.item])
            if link.item == fails_at:
                raise ArithmeticError("failed")
            return raw[link.item]

        return steadier.steadied(link, lr[link.item], result)

    links = (steadier.link(n) for n in range(len(raw)))
    return list(in_order(links, upscale, slots, slots))


def test_frames_that_are_upscaled_at_once_are_steadied_in_their_order(photo):
    hr, lr = pan(photo, 9)
    raw = redrawn(hr)
    steadier = Steadier(0.5, keeps=lambda number: number in (2, 8))
    shown = through_slots(lr, raw, steadier, slots=3)
    np.testing.assert_array_equal(np.stack(shown), np.stack(steadied_video(lr, raw)))
    resumed = Steadier(0.5, steadier.state_after(2))
    rest = through_slots(lr[3:], raw[3:], resumed, slots=2)
    np.testing.assert_array_equal(np.stack(rest), np.stack(shown[3:]))
    with pytest.raises(KeyError):
        steadier.state_after(2)


@pytest.mark.timeout(60)
def test_a_failure_reaches_the_frames_that_wait_for_it(photo):
    hr, lr = pan(photo, 6)
    with pytest.raises(ArithmeticError):
        through_slots(lr, redrawn(hr), Steadier(0.5), slots=3, fails_at=2)


@pytest.mark.parametrize(
    ("text", "value"), [("off", 0), ("auto", "auto"), ("0", 0), ("0.25", 0.25), ("1", 1)]
)
def test_strengths_that_can_be_typed(text, value):
    assert steady_from_text(text) == value


@pytest.mark.parametrize("text", ["on", "-0.1", "1.01", "nan", "inf", ""])
def test_other_strengths_are_refused_with_what_is_possible(text):
    with pytest.raises(UsageError, match="possible: off, auto, or a number from 0 to 1"):
        steady_from_text(text)


def test_auto_is_on_where_it_suits_and_opencv_is_installed(monkeypatch):
    assert chosen_strength("auto", suits=True) == steady.AUTO_STRENGTH
    assert chosen_strength("auto", suits=False) == 0
    assert chosen_strength(0.25, suits=False) == 0.25
    monkeypatch.setattr(steady, "find_spec", lambda name: None)
    assert chosen_strength("auto", suits=True) == 0
    assert chosen_strength(0.0, suits=True) == 0
    with pytest.raises(ExtraMissing, match=r"pip install 'srgan-edge\[steady\]'"):
        chosen_strength(0.5, suits=True)


def test_the_record_names_strength_and_library():
    import cv2

    assert steady.recorded(0.0) == {"steady": 0.0}
    assert steady.recorded(0.5) == {"steady": 0.5, "opencv": cv2.__version__}


def test_frames_that_leave_no_memory_are_refused(monkeypatch):
    monkeypatch.setattr(steady, "host_memory_bytes", lambda: 1 << 30)
    steady.refuse_too_large(3840, 2160)
    with pytest.raises(HostMemoryExhausted, match=r"--steady off"):
        steady.refuse_too_large(7680, 4320)


def test_motion_is_that_of_the_pan(photo):
    _, lr = pan(photo, 2, step=8)
    motion = motion_between(lr[0], lr[1])
    middle = motion.flow[8:-8, 8:-8]
    assert np.abs(np.median(middle, axis=(0, 1)) - (2, 0)).max() < 0.1
    assert Steadied(lr[0], lr[0], lr[0]).source is lr[0]
