"""Unchanged frames and tiles are not computed again; the result is that of a run without reuse."""

import json
import threading

import clips
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srgan_edge.bench.subject import write_clip
from srgan_edge.engines import choose_engine, open_engine
from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import OutOfMemory, ResourcesExhausted
from srgan_edge.model.library import find_model
from srgan_edge.pipeline import in_order
from srgan_edge.reuse import Reuse
from srgan_edge.tiling import Tiling
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.frame import Frame

WIDTH, HEIGHT, SLOTS = 110, 70, 3


class Counting:
    """An engine, or nearest neighbor, that counts its calls; its device may be full at times."""

    def __init__(self, engine=None, full_at=()):
        spec = find_model("edge-x4").spec
        self.info = EngineInfo("nearest", "cpu", "fp32", spec, slots=SLOTS)
        self.calls, self._engine, self._full_at = 0, engine, full_at
        self._lock = threading.Lock()

    def upscale(self, batch):
        with self._lock:
            self.calls += 1
            if self.calls in self._full_at:
                raise OutOfMemory("full")
        if self._engine is not None:
            return self._engine.upscale(batch)
        return batch.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def network():
    choice = choose_engine(find_model("edge-x4"), "openvino")
    with open_engine(choice, fp32=True, slots=SLOTS) as engine:
        yield engine


def upscaled(frames, upscaler):
    """Upscale in several slots, as the pipeline does; return the results and the counts."""
    reuse = Reuse(upscaler)
    items = (Frame(pixels, pts, 1) for pts, pixels in enumerate(frames))
    return list(in_order(reuse.linked(items), reuse.upscale, SLOTS, SLOTS)), reuse


Edit = st.tuples(
    *(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1)),
    *(st.integers(0, 40), st.integers(0, 40), st.integers(0, 255)),
)


def edited(seed, edits):
    """A frame, and the frames after it: each is the one before with a rectangle painted over."""
    frame = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    frames = [frame]
    for x, y, width, height, level in edits:
        frame = frame.copy()
        frame[y : y + height, x : x + width] = level
        frames.append(frame)
    return frames


@settings(max_examples=25)
@given(st.integers(0, 9), st.lists(Edit, max_size=7), st.sampled_from([0, 32, 48]), st.booleans())
def test_results_are_those_without_reuse(network, seed, edits, tile, color_lock):
    frames = edited(seed, edits)
    counting = Counting(network)
    upscaler = FrameUpscaler(counting, Tiling(tile), color_lock=color_lock)
    plain = FrameUpscaler(network, Tiling(tile), color_lock=color_lock)
    results, reuse = upscaled(frames, upscaler)
    for result, frame in zip(results, frames, strict=True):
        np.testing.assert_array_equal(result, plain.upscale(frame))
    assert counting.calls == reuse.tiles - reuse.tiles_reused
    assert reuse.tiles == len(frames) * len(upscaler.plan(WIDTH, HEIGHT)[0].tiles)


def test_a_repeated_frame_is_not_computed():
    frames = edited(1, [(0, 0, 0, 0, 0)] * 9)
    engine = Counting()
    results, reuse = upscaled(frames, FrameUpscaler(engine, Tiling(0)))
    assert engine.calls == 1
    assert (reuse.frames_reused, reuse.tiles_reused) == (9, 9)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_change_costs_the_tiles_that_see_it():
    """One pixel in the middle of the first core; the halo of no other tile reaches it."""
    engine = Counting()
    upscaler = FrameUpscaler(engine, Tiling(32))
    tiles = len(upscaler.plan(WIDTH, HEIGHT)[0].tiles)
    _, reuse = upscaled(edited(1, [(2, 2, 1, 1, 7)]), upscaler)
    assert engine.calls == tiles + 1
    assert (reuse.frames_reused, reuse.tiles_reused) == (0, tiles - 1)


def test_tiles_of_other_sizes_are_not_mixed():
    """Memory runs out in between: later frames are cut into smaller tiles."""
    frames = edited(3, [(5, 5, 9, 9, 0), (0, 0, 0, 0, 0), (60, 40, 30, 20, 9), (1, 1, 1, 1, 1)])
    engine = Counting(full_at=(8,))
    results, _ = upscaled(frames, FrameUpscaler(engine, Tiling(48)))
    for result, frame in zip(results, frames, strict=True):
        np.testing.assert_array_equal(result, frame.repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.timeout(60)
def test_a_failure_reaches_the_frames_that_wait_for_it():
    class Failing(Counting):
        def upscale(self, batch):
            raise ResourcesExhausted("no more")

    with pytest.raises(ResourcesExhausted, match="no more"):
        upscaled(edited(1, [(0, 0, 0, 0, 0)] * 5), FrameUpscaler(Failing(), Tiling(0)))


def test_no_frame_keeps_all_frames_before_it():
    reuse = Reuse(FrameUpscaler(Counting(), Tiling(0)))
    frames = edited(1, [(0, 0, 0, 0, 0)] * 5)
    links = []
    for link in reuse.linked(Frame(pixels, pts, 1) for pts, pixels in enumerate(frames)):
        reuse.upscale(link)
        links.append(link)
    assert all(link.before is None for link in links)


def test_the_report_counts_what_was_reused(cli, tmp_path):
    still = np.full((48, 64, 3), 90, np.uint8)
    pixels = [still, still, still, 255 - still, 255 - still]
    write_clip(tmp_path / "in.mp4", pixels)
    frames = clips.see_frames(tmp_path / "in.mp4")
    code, _, err = cli("upscale", "in.mp4", "-n", "edge-x4", "--report", "r.json")
    assert code == 0, err
    (job,) = json.loads((tmp_path / "r.json").read_text())["jobs"]
    assert job["frames"] == job["tiles"] == len(frames) == 5
    assert job["frames_reused"] == job["tiles_reused"] == 3
