"""Frames come out whole and once, whatever becomes of the engine."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from srgan_edge.color_lock import locked
from srgan_edge.cutter import JOINED_BYTES, STRIPE_BYTES
from srgan_edge.engines import choose_engine, open_engine
from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import EngineLost, OutOfMemory
from srgan_edge.model.library import find_model
from srgan_edge.model.spec import activation_bytes_per_px
from srgan_edge.tiling import Tiling
from srgan_edge.upscaler import FrameUpscaler

SPEC = find_model("edge-x4").spec


class Nearest:
    """An engine that repeats pixels, with memory for `limit_px`, and is lost after `calls`."""

    def __init__(self, name="nearest", limit_px=1 << 30, calls=1 << 30):
        self.info = EngineInfo(name, "cuda:0", "fp16", SPEC, slots=3)
        self.limit_px, self.calls_left, self.done = limit_px, calls, []
        self._lock = threading.Lock()

    def upscale(self, batch):
        with self._lock:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise EngineLost("gone")
        if batch.shape[0] * batch.shape[1] * batch.shape[2] > self.limit_px:
            raise OutOfMemory("full")
        self.done.append(batch.shape[:3])
        return batch.repeat(4, axis=1).repeat(4, axis=2)


def image(seed, height=90, width=130):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def nearest(frame):
    return frame.repeat(4, axis=0).repeat(4, axis=1)


@pytest.mark.parametrize(
    ("limit_px", "tiling", "said"),
    [
        (90 * 130, Tiling(tile=0), []),
        (8000, Tiling(tile=0), ["tiles of 65 px"]),
        (3000, Tiling(tile=0), ["tiles of 65 px", "tiles of 32 px"]),
        (7500, Tiling(tile=32, batch=8), ["4 tiles a call", "2 tiles a call"]),
        (2200, Tiling(tile=48, batch=2), ["1 tiles a call", "tiles of 24 px"]),
    ],
)
def test_out_of_memory_leads_to_less_at_once(limit_px, tiling, said):
    engine, lines = Nearest(limit_px=limit_px), []
    upscaler = FrameUpscaler(engine, tiling, lines.append)
    for seed in range(3):
        frame = image(seed)
        assert np.array_equal(upscaler.upscale(frame), nearest(frame))
    assert [line.removeprefix("out of memory: going on with ") for line in lines] == said


class Reddening(Nearest):
    """Makes every pixel redder by six levels, and those at the left of a tile by twelve."""

    def upscale(self, batch):
        pixels = super().upscale(batch).astype(int)
        pixels[..., 0] += 6
        pixels[:, :, :8, 0] += 6
        return pixels.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("tile", [0, 40])
def test_colors_are_locked_over_the_frame_and_not_the_tile(tile):
    frame = image(0) // 2 + 60
    loose, held, default = (
        FrameUpscaler(Reddening(), Tiling(tile=tile), color_lock=lock).upscale(frame).astype(int)
        for lock in (False, True, None)
    )
    assert 6 <= (loose - nearest(frame)).mean((0, 1))[0] < 7
    assert np.array_equal(held, locked(frame, loose.astype(np.uint8)))
    assert np.abs((held - nearest(frame)).mean((0, 1))).max() < 0.1
    assert np.array_equal(default, loose)  # a model trained on pixels alone


def test_there_is_nothing_less_than_the_smallest_tile():
    upscaler = FrameUpscaler(Nearest(limit_px=100), Tiling())
    with pytest.raises(OutOfMemory, match="full"):
        upscaler.upscale(image(0))


def test_slots_that_run_out_together_ask_for_less_once():
    lines = []
    upscaler = FrameUpscaler(Nearest(limit_px=8000), Tiling(tile=0), lines.append)
    frames = [image(seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as executor:
        results = list(executor.map(upscaler.upscale, frames))
    assert all(np.array_equal(*pair) for pair in zip(results, map(nearest, frames), strict=True))
    assert lines == ["out of memory: going on with tiles of 65 px"]


def test_a_lost_engine_is_replaced_once_and_no_frame_is_lost():
    first, lines, opened = Nearest("first", calls=5), [], []

    def spare():
        opened.append(Nearest("second"))
        return opened[-1]

    upscaler = FrameUpscaler(first, Tiling(tile=0), lines.append, spare)
    frames = [image(seed, 20, 30) for seed in range(24)]
    with ThreadPoolExecutor(4) as executor:
        results = list(executor.map(upscaler.upscale, frames))
    assert all(np.array_equal(*pair) for pair in zip(results, map(nearest, frames), strict=True))
    assert (len(first.done), [len(engine.done) for engine in opened]) == (5, [19])
    assert lines == ["first is lost (gone); going on with second, cuda:0, fp16 instead of fp16"]


def test_without_a_spare_the_loss_is_raised():
    upscaler = FrameUpscaler(Nearest(calls=0), Tiling())
    with pytest.raises(EngineLost, match="gone"):
        upscaler.upscale(image(0))


def test_a_spare_that_is_lost_too_is_the_end():
    upscaler = FrameUpscaler(Nearest(calls=0), Tiling(), spare=lambda: Nearest(calls=0))
    with pytest.raises(EngineLost, match="gone"):
        upscaler.upscale(image(0))


def stripes(upscaler, frame):
    height, width = frame.shape[:2]
    return list(upscaler.upscale_rows(lambda start, stop: frame[start:stop], width, height))


@pytest.mark.parametrize("tiling", [Tiling(), Tiling(tile=0), Tiling(tile=16), Tiling(32, 5, 3)])
@pytest.mark.parametrize("size", [(1, 1), (90, 130), (33, 7)])
def test_stripes_are_the_whole_image(tiling, size):
    frame = image(1, *size)
    assert np.array_equal(
        np.concatenate(stripes(FrameUpscaler(Nearest(), tiling), frame)),
        FrameUpscaler(Nearest(), tiling).upscale(frame),
    )


@pytest.mark.parametrize("tiling", [Tiling(tile=0), Tiling(tile=32), Tiling(tile=16)])
def test_stripes_of_a_real_network_are_the_whole_image(tiling):
    frame = image(2, 70, 50)
    with open_engine(choose_engine(find_model("edge-x4"), device="cpu"), fp32=True) as engine:
        upscaler = FrameUpscaler(engine, tiling)
        assert np.array_equal(np.concatenate(stripes(upscaler, frame)), upscaler.upscale(frame))


@pytest.mark.parametrize("size", [(1, 1), (90, 131), (37, 200), (200, 7)])
def test_stripes_hold_the_colors_of_the_whole_image(size):
    frame = image(5, *size)
    upscaler = FrameUpscaler(Nearest(), Tiling(tile=32), color_lock=True)
    upscaled = stripes(upscaler, frame)
    assert all(len(stripe) % 4 == 0 for stripe in upscaled)
    assert np.array_equal(np.concatenate(upscaled), upscaler.upscale(frame))


def test_out_of_memory_in_the_middle_of_an_image_goes_on_below():
    said, frame = [], image(3)
    engine = Nearest()
    upscaler = FrameUpscaler(engine, Tiling(tile=32), said.append)
    rows = upscaler.upscale_rows(lambda start, stop: frame[start:stop], 130, 90)
    result = [next(rows)]
    engine.limit_px = 1500
    result += rows
    assert np.array_equal(np.concatenate(result), nearest(frame))
    assert said == ["out of memory: going on with tiles of 16 px"]


def test_an_engine_lost_in_the_middle_of_an_image_is_replaced():
    frame = image(4)
    upscaler = FrameUpscaler(Nearest(calls=7), Tiling(tile=32), spare=lambda: Nearest("spare"))
    assert np.array_equal(np.concatenate(stripes(upscaler, frame)), nearest(frame))


def test_a_row_of_tiles_is_bounded():
    frame = np.zeros((2000, 30_000, 3), np.uint8)
    rows = FrameUpscaler(Nearest(), Tiling()).upscale_rows(lambda a, b: frame[a:b], 30_000, 2000)
    assert next(rows).nbytes <= STRIPE_BYTES


def test_a_quarter_of_the_memory_is_for_tiles(monkeypatch):
    tiles = []
    for memory_bytes in (64 << 20, 2 << 30, 8 << 30):
        monkeypatch.setattr("srgan_edge.machine.host_memory_bytes", lambda n=memory_bytes: n)
        engine = Nearest()
        engine.info = replace(engine.info, device="cpu")
        plan, _ = FrameUpscaler(engine, Tiling()).plan(1280, 720)
        tiles.append(len(plan.tiles))
    assert tiles[0] > tiles[1] > tiles[2] == 1


def test_a_gpu_uses_its_own_memory(monkeypatch):
    monkeypatch.setattr("srgan_edge.machine.host_memory_bytes", lambda: 64 << 30)
    tiles = []
    for memory_bytes in (1 << 30, 8 << 30):
        monkeypatch.setattr("srgan_edge.machine.gpu_memory_bytes", lambda index, n=memory_bytes: n)
        plan, _ = FrameUpscaler(Nearest(), Tiling()).plan(1280, 720)
        tiles.append(len(plan.tiles))
    assert tiles[0] > tiles[1] == 1


class OnCpu(Nearest):
    """The same on a CPU, where tiles may be joined."""

    def __init__(self, spec=SPEC, **options):
        super().__init__(**options)
        self.info = replace(self.info, device="cpu", precision="fp32", spec=spec)


@pytest.mark.parametrize("model", ["edge-x4", "srgan-x4"])
@pytest.mark.parametrize("size", [(320, 180), (640, 360), (1280, 720), (97, 801)])
def test_tiles_are_joined_on_a_cpu_within_their_memory(model, size):
    """`--tile 128` computes few pixels more than `auto`, in twice the memory of one tile at most,
    or in little memory."""
    spec = find_model(model).spec
    engine, tiling = OnCpu(spec), Tiling(128, joined=True)
    upscaler = FrameUpscaler(engine, tiling)
    plan, _ = upscaler.plan(*size)
    tile_px = (128 + 2 * upscaler.halo_px) ** 2
    window_px = plan.window_size[0] * plan.window_size[1]
    most = max(2 * tile_px, JOINED_BYTES // activation_bytes_per_px(spec))
    assert window_px <= most
    assert plan.overhead <= FrameUpscaler(engine, Tiling(128)).plan(*size)[0].overhead
    if size == (320, 180):
        assert plan.overhead <= 1 + 2 * upscaler.halo_px / 320  # two windows side by side
    if model == "edge-x4":
        assert plan.overhead <= 1.1


@pytest.mark.parametrize("changes", [{"joined": False}, {"batch": 2}, {"tile": 0}])
def test_tiles_are_what_was_asked_for_everywhere_else(changes):
    tiling = replace(Tiling(32, joined=True), **changes)
    plans = [
        FrameUpscaler(engine, tiling).plan(130, 90)[0].window_size
        for engine in (OnCpu(), Nearest())
    ]
    side = 32 + 2 * SPEC.halo_px
    assert plans[0] == plans[1] == ((130, 90) if tiling.tile == 0 else (side, side))
    on_gpu = FrameUpscaler(Nearest(), Tiling(32, joined=True)).plan(130, 90)[0]
    assert on_gpu.window_size == (side, side)


def test_joined_tiles_that_do_not_fit_are_cut_as_asked():
    engine, lines = OnCpu(limit_px=3000), []
    upscaler = FrameUpscaler(engine, Tiling(48, joined=True), lines.append)
    frame = image(1)
    assert np.array_equal(upscaler.upscale(frame), nearest(frame))
    assert max(height * width for _, height, width in engine.done) <= 3000
    assert all("out of memory: going on with tiles of" in line for line in lines)


@pytest.mark.parametrize("tile", [16, 33, 64])
def test_joined_tiles_with_an_exact_halo_are_the_whole_frame(monkeypatch, tile):
    """Bit for bit, in several windows: the memory in which everything is joined is taken away."""
    monkeypatch.setattr("srgan_edge.cutter.JOINED_BYTES", 1)
    frame = image(5, width=330)
    with open_engine(choose_engine(find_model("edge-x4"), "openvino"), fp32=True) as engine:
        whole = engine.upscale(frame[None])[0]
        upscaler = FrameUpscaler(engine, Tiling(tile, "exact", joined=True))
        assert len(upscaler.plan(330, 90)[0].tiles) > 1
        assert np.array_equal(upscaler.upscale(frame), whole)
        assert np.array_equal(FrameUpscaler(engine, Tiling(tile, "exact")).upscale(frame), whole)
