"""The side-by-side view: its two columns, labels and crop, and the inputs that it refuses."""

import numpy as np
import pytest
from images import holds

from srgan_edge import bicubic
from srgan_edge.errors import UsageError
from srgan_edge.evaluation.drawing import Crop, side_by_side
from srgan_edge.pixels import Pixels

LABELS = ("bicubic", "edge-x4")


def image(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("before_size", "after_size"),
    [((13, 17), (52, 68)), ((13, 17), (26, 34)), ((13, 17), (52, 67)), ((1, 1), (4, 4))],
)
def test_shows_bicubic_on_the_left_and_the_result_on_the_right(
    before_size: tuple[int, int], after_size: tuple[int, int]
) -> None:
    before, after = image(*before_size), image(*after_size, seed=1)
    sheet = side_by_side(before, after, LABELS)
    middle = sheet.shape[1] // 2
    assert holds(sheet[:, :middle], bicubic.resize(before, *after_size))
    assert holds(sheet[:, middle:], after)


def test_shows_the_crop_enlarged_in_both_columns() -> None:
    before, after = image(20, 30), image(80, 120, seed=1)
    kept = after.copy()
    crop = Crop(31, 17, 24, 16)
    sheet = side_by_side(before, after, LABELS, crop)
    middle = sheet.shape[1] // 2
    for half, pixels in [
        (sheet[:, :middle], bicubic.resize(before, 80, 120)),
        (sheet[:, middle:], after),
    ]:
        detail = bicubic.resize(crop.of(pixels), 80, 120)
        assert holds(half, detail[2:-2, 2:-2])  # all but the frame around it
        assert not holds(half, pixels)  # the frame around the crop
        assert holds(half, crop.of(pixels)[2:-2, 2:-2])
    np.testing.assert_array_equal(after, kept)


def test_a_label_changes_its_own_column_only() -> None:
    before, after = image(20, 30), image(80, 120, seed=1)
    one = side_by_side(before, after, ("left", "right"))
    other = side_by_side(before, after, ("left", "ours"))
    middle = one.shape[1] // 2
    np.testing.assert_array_equal(one[:, :middle], other[:, :middle])
    assert (one[:, middle:] != other[:, middle:]).any()


def test_a_long_label_is_made_to_fit() -> None:
    after = image(80, 120)
    sheet = side_by_side(image(20, 30), after, ("x", "a model with quite a long name, at x4"))
    caption = sheet[: (sheet.shape[0] - 80) // 2]
    ink = np.flatnonzero((caption[:, sheet.shape[1] // 2 :] != sheet[0, 0]).any(axis=(0, 2)))
    assert ink.size and ink[0] > 0 and ink[-1] < 120


@pytest.mark.parametrize("after_size", [(80, 80), (90, 120), (20, 120)])
def test_refuses_two_different_images(after_size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=r"30x20 and \d+x\d+ are not one image"):
        side_by_side(image(20, 30), image(*after_size), LABELS)


@pytest.mark.parametrize(
    "crop", [Crop(0, 0, 0, 5), Crop(-1, 0, 5, 5), Crop(100, 0, 21, 5), Crop(0, 76, 5, 5)]
)
def test_refuses_a_crop_that_is_not_in_the_result(crop: Crop) -> None:
    with pytest.raises(UsageError, match="120x80"):
        side_by_side(image(20, 30), image(80, 120), LABELS, crop)


def test_reads_a_crop_as_typed() -> None:
    assert Crop.from_text("40,20,160,120") == Crop(x=40, y=20, width=160, height=120)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1;2;3;4", "1.5,2,3,4"])
def test_refuses_a_crop_that_is_not_four_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="X,Y,W,H"):
        Crop.from_text(text)
