"""Tiles: the geometry holds for every size, and tiled equals untiled bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srgan_edge.errors import UsageError
from srgan_edge.evaluation.parity import HaloError, smallest_halo_px
from srgan_edge.tiling import LITTLE_MORE, SHORTEST_PX, fit_windows, plan_tiles, upscale_tiled

sizes = st.integers(1, 400)
tiles = st.one_of(st.just(0), st.integers(16, 300))
halos = st.integers(0, 50)


def nearest(batch):
    return batch.repeat(4, axis=1).repeat(4, axis=2)


@given(sizes, sizes, tiles, halos)
def test_cores_partition_the_frame(width, height, tile_px, halo_px):
    plan = plan_tiles(width, height, tile_px, halo_px)
    covered = np.zeros((height, width), int)
    for tile in plan.tiles:
        covered[tile.core_y.slice(), tile.core_x.slice()] += 1
    assert (covered == 1).all()


@given(sizes, sizes, tiles, halos)
def test_windows_have_one_shape_lie_inside_and_hold_the_halo(width, height, tile_px, halo_px):
    plan = plan_tiles(width, height, tile_px, halo_px)
    for tile in plan.tiles:
        for window, core, length in [
            (tile.window_x, tile.core_x, width),
            (tile.window_y, tile.core_y, height),
        ]:
            assert 0 <= window.start <= core.start < core.stop <= window.stop <= length
            assert core.start - window.start >= halo_px or window.start == 0
            assert window.stop - core.stop >= halo_px or window.stop == length
        assert (tile.window_x.length, tile.window_y.length) == plan.window_size
    if tile_px:
        assert plan.window_size[0] <= tile_px + 2 * halo_px


@given(sizes, sizes, halos, st.integers(1, 200_000), st.integers(1, 500))
def test_fitted_windows_partition_the_frame_within_the_budget(
    width, height, halo_px, budget_px, highest_px
):
    plan = fit_windows(width, height, halo_px, budget_px, highest_px)
    covered = np.zeros((height, width), int)
    for tile in plan.tiles:
        covered[tile.core_y.slice(), tile.core_x.slice()] += 1
        for window, core, length in [
            (tile.window_x, tile.core_x, width),
            (tile.window_y, tile.core_y, height),
        ]:
            assert 0 <= window.start <= core.start < core.stop <= window.stop <= length
            assert core.start - window.start >= halo_px or window.start == 0
            assert window.stop - core.stop >= halo_px or window.stop == length
        assert (tile.window_x.length, tile.window_y.length) == plan.window_size
    assert (covered == 1).all()
    wide, high = plan.window_size
    smallest = max(wide, high) <= max(2 * SHORTEST_PX + 2 * halo_px, 2 * halo_px + 1)
    cores = [tile.core_y.length for tile in plan.tiles]
    assert smallest or (wide * high <= budget_px and max(cores) <= highest_px)


@given(sizes, sizes, st.integers(0, 20), st.integers(10_000, 200_000))
def test_no_square_tiles_within_the_budget_compute_less(width, height, halo_px, budget_px):
    plan = fit_windows(width, height, halo_px, budget_px, height)
    for tile_px in range(SHORTEST_PX, 400, 16):
        other = plan_tiles(width, height, tile_px, halo_px)
        wide, high = other.window_size
        if wide * high <= budget_px:
            assert plan.overhead <= LITTLE_MORE * other.overhead


@pytest.mark.parametrize(
    ("budget_px", "windows", "overhead"),
    [(57_600, (320, 180), 1), (57_599, (168, 180), 1.05), (20_000, (168, 98), 1.15)],
)
def test_windows_have_the_shape_of_the_frame(budget_px, windows, overhead):
    plan = fit_windows(320, 180, 8, budget_px, 180)
    assert plan.window_size == windows
    assert plan.overhead == pytest.approx(overhead, abs=0.01)


def test_a_large_image_is_not_cut_more_coarsely_than_pays():
    plan = fit_windows(20_000, 20_000, 8, 50_000_000, 20_000)
    assert plan.overhead < 1.03
    assert plan.window_size[0] * plan.window_size[1] < 3_000_000


@given(st.integers(1, 60), st.integers(1, 60), st.integers(16, 70), st.integers(0, 9), halos)
def test_tiled_equals_untiled_for_a_network_that_looks_no_further_than_the_halo(
    width, height, tile_px, reach_px, more_px
):
    """A box filter of radius `reach_px` with zero padding stands for the network."""

    def blur(batch):
        padded = np.pad(batch.astype(np.int64), ((0, 0), (reach_px,) * 2, (reach_px,) * 2, (0, 0)))
        for axis in (1, 2):
            windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach_px + 1, axis)
            padded = windows.sum(-1)
        return nearest((padded % 256).astype(np.uint8))

    frame = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    plan = plan_tiles(width, height, tile_px, reach_px + more_px)
    tiled = upscale_tiled(blur, frame, plan, scale=4, batch=3)
    np.testing.assert_array_equal(tiled, blur(frame[None])[0])


def test_a_halo_smaller_than_the_reach_shows():
    """The twin of the test above: it would pass for anything if this one failed."""

    def shift(batch):
        return nearest(np.pad(batch, ((0, 0), (0, 0), (3, 0), (0, 0)))[:, :, :-3])

    frame = np.random.default_rng(0).integers(0, 256, (20, 200, 3), np.uint8)
    whole = shift(frame[None])[0]
    for halo_px, equal in [(2, False), (3, True)]:
        tiled = upscale_tiled(shift, frame, plan_tiles(200, 20, 32, halo_px), scale=4, batch=1)
        assert np.array_equal(tiled, whole) == equal


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_batches_are_full_but_the_last(batch):
    seen = []

    def record(windows):
        seen.append(len(windows))
        return nearest(windows)

    frame = np.random.default_rng(1).integers(0, 256, (50, 97, 3), np.uint8)
    plan = plan_tiles(97, 50, 16, 4)
    np.testing.assert_array_equal(
        upscale_tiled(record, frame, plan, 4, batch), nearest(frame[None])[0]
    )
    assert sum(seen) == len(plan.tiles)
    assert all(count == batch for count in seen[:-1])


def test_a_tile_larger_than_the_frame_is_the_frame():
    plan = plan_tiles(97, 50, 128, 10)
    assert len(plan.tiles) == 1
    assert plan.window_size == (97, 50)
    assert plan.overhead == 1.0


@pytest.mark.parametrize(
    ("tile_px", "halo_px", "said"),
    [(7, 10, "--tile 7 is too small"), (-1, 0, "--tile -1"), (64, -1, "--overlap -1")],
)
def test_impossible_tiles_are_refused(tile_px, halo_px, said):
    with pytest.raises(UsageError, match=said):
        plan_tiles(100, 100, tile_px, halo_px)


@pytest.mark.parametrize(
    ("max_levels", "halo_px"),
    [([0], 0), ([9, 4, 1, 0], 2), ([9, 1, 2, 1, 0], 3), ([1, 1], 0), ([5, 5, 0], 2)],
)
def test_the_smallest_halo_is_one_from_which_on_all_are_fine(max_levels, halo_px):
    errors = [HaloError(n, levels, 0.5) for n, levels in enumerate(max_levels)]
    assert smallest_halo_px(errors) == halo_px
