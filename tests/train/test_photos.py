"""The photographs of a training: every kind of file, the packed cache, crops, a teacher's pack."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from images import cmyk_profile  # noqa: E402

from srgan_edge import bicubic  # noqa: E402
from srgan_edge.errors import InputRefused, OutputFailed, UsageError  # noqa: E402
from srgan_edge.image.reader import ImageReader  # noqa: E402
from srgan_edge.image.still import StillImage  # noqa: E402
from srgan_edge.image.writer import write_image  # noqa: E402
from srgan_edge.train import derived  # noqa: E402
from srgan_edge.train.derived import add_teacher  # noqa: E402
from srgan_edge.train.photo_files import UnusablePhoto, photo_paths, read_photo  # noqa: E402
from srgan_edge.train.photos import PhotoPack  # noqa: E402

CROP_PX, SCALE = 32, 4
SIZES = {"a": (67, 90), "b": (40, 33), "c": (100, 41)}


def photograph(height, width, seed=5):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return bicubic.resize(coarse, height, width)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three photographs of odd sizes, one of them in a subfolder."""
    for seed, (name, size) in enumerate(SIZES.items()):
        place = tmp_path / "photos" / ("within" if name == "b" else ".")
        save(place / f"{name}.png", photograph(*size, seed))
    return tmp_path / "photos"


def open_pack(folder, cache, **options):
    return PhotoPack.open([folder], cache, **({"crop_px": CROP_PX, "scale": SCALE} | options))


def hr_of(pack, photo):
    stop = photo.offset_px + photo.height_px * photo.width_px
    flat = pack.hr[photo.offset_px : stop]
    return flat.view(photo.height_px, photo.width_px, 3).numpy()


def lr_of(pack, photo):
    start, area = photo.offset_px // SCALE**2, photo.height_px * photo.width_px // SCALE**2
    size = (photo.height_px // SCALE, photo.width_px // SCALE, 3)
    return pack.lr[start : start + area].view(size).numpy()


# Files


GRAY = photograph(40, 50)[..., 0]


def test_gray_palette_and_opaque_alpha_are_photographs(tmp_path):
    colors = photograph(40, 50)
    palette = Image.fromarray(colors).quantize(64)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(
        read_photo(tmp_path / "palette.png", CROP_PX), np.asarray(palette.convert("RGB"))
    )
    gray = read_photo(save(tmp_path / "gray.png", GRAY), CROP_PX)
    assert np.array_equal(gray, np.repeat(GRAY[..., None], 3, axis=2))
    opaque = np.dstack([colors, np.full((40, 50), 255, np.uint8)])
    assert np.array_equal(read_photo(save(tmp_path / "rgba.png", opaque), CROP_PX), colors)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_gray_is_scaled_and_not_clipped(tmp_path, suffix):
    levels = GRAY.astype(np.uint16) * 257
    levels[0, 0] -= levels[0, 0] > 0  # rounds back up
    path = save(tmp_path / f"gray16.{suffix}", levels)
    assert np.array_equal(read_photo(path, CROP_PX)[..., 0], GRAY)


def test_a_float_image_counts_from_0_to_1(tmp_path):
    path = save(tmp_path / "f.tif", (GRAY / 255).astype(np.float32))
    assert np.array_equal(read_photo(path, CROP_PX)[..., 1], GRAY)


def test_cmyk_becomes_rgb(tmp_path):
    path = tmp_path / "cmyk.tif"
    Image.fromarray(photograph(40, 50)).convert("CMYK").save(path)
    # Pillow's own conversion has no black and comes back to the same colors.
    assert np.array_equal(read_photo(path, CROP_PX), photograph(40, 50))


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned clockwise to be upright
    path = save(tmp_path / "turned.png", photograph(40, 50), exif=exif)
    assert np.array_equal(read_photo(path, CROP_PX), np.rot90(photograph(40, 50), -1))


def write_truncated_jpeg(path):
    Image.fromarray(photograph(80, 80)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-400])


def write_half_transparent(path):
    alpha = np.full((40, 50), 255, np.uint8)
    alpha[3, 4] = 254
    Image.fromarray(np.dstack([photograph(40, 50), alpha])).save(path, "PNG")


def write_transparent_gray_16_bit(path):
    Image.fromarray(GRAY.astype(np.uint16)).save(path, "PNG", transparency=int(GRAY[0, 0]))


def write_floats(path, value):
    levels = np.full((40, 50), 0.5, np.float32)
    levels[1, 2] = value
    Image.fromarray(levels).save(path, "TIFF")


@pytest.mark.parametrize(
    ("write", "flaw", "said"),
    [
        (
            lambda path: path.write_bytes(b"\xff\xd8\xff\xe0 not really"),
            "unreadable",
            "header is broken",
        ),
        (lambda path: path.write_bytes(b""), "unreadable", "empty file"),
        (write_truncated_jpeg, "unreadable", "truncated"),
        (lambda path: path.symlink_to("nowhere.png"), "unreadable", "No such file"),
        (os.mkfifo, "unreadable", "not a regular file"),
        (write_half_transparent, "transparent", "transparent in places"),
        (write_transparent_gray_16_bit, "transparent", "transparent in places"),
        (lambda path: write_floats(path, np.nan), "unreadable", "not finite"),
        (lambda path: write_floats(path, 255), "unreadable", "from 0.5 to 255; possible: 0 to 1"),
        (
            lambda path: Image.fromarray(photograph(90, 31)).save(path, "PNG"),
            "tiny",
            "31x90 is smaller than a crop of 32x32",
        ),
    ],
)
def test_an_unusable_file_is_named_and_left_out(folder, tmp_path, write, flaw, said):
    path = folder / "bad.png"
    write(path)
    with pytest.raises(UnusablePhoto, match=said) as caught:
        read_photo(path, CROP_PX)
    assert caught.value.flaw == flaw
    pack = open_pack(folder, tmp_path / "cache")
    assert len(pack.photos) == 3
    assert pack.left_out == (str(caught.value),)
    assert pack.left_out[0].startswith(f"{path}: ")


def test_too_many_pixels_are_left_out_by_the_header(tmp_path, monkeypatch):
    path = save(tmp_path / "big.png", photograph(40, 50))
    monkeypatch.setattr("srgan_edge.train.photo_files.MAX_PIXELS", 1999)
    with pytest.raises(UnusablePhoto, match=r"50x40 is 2000 pixels, and 1999 is the limit$"):
        read_photo(path, CROP_PX)


def write_turned_tiff(path):
    """An uncompressed TIFF on its side, which Pillow 13 misreads if it opens the path itself."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GRAY).save(path, "TIFF", exif=exif)


def write_cmyk(path):
    image = Image.fromarray(photograph(40, 50)).convert("CMYK")
    image.save(path, "JPEG", icc_profile=cmyk_profile())


def write_deep(path):
    write_image(path, StillImage(photograph(40, 50).astype(np.uint16) * 257 + 200))


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.tif", write_turned_tiff), ("a.jpg", write_cmyk), ("a.png", write_deep)],
)
def test_a_photograph_is_what_upscale_sees(tmp_path, name, write):
    write(tmp_path / name)
    with ImageReader(tmp_path / name) as reader:
        pixels = reader.rows(0, reader.height).pixels
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(int) + 128) // 257).astype(np.uint8)
    assert np.array_equal(read_photo(tmp_path / name, CROP_PX), pixels)


def test_a_gif_is_no_photograph_whatever_it_is_called(tmp_path):
    Image.fromarray(photograph(40, 50)).save(tmp_path / "a.png", "GIF")
    with pytest.raises(UnusablePhoto, match="256 colors"):
        read_photo(tmp_path / "a.png", CROP_PX)
    Image.fromarray(photograph(40, 50)).save(tmp_path / "b.gif")
    assert [path.name for path in photo_paths(tmp_path)] == ["a.png", "b.gif"]


# The pack


def test_photographs_are_packed_with_the_exact_bicubic(folder, tmp_path):
    pack = open_pack(folder, tmp_path / "cache")
    assert [photo.path.name for photo in pack.photos] == ["a.png", "c.png", "b.png"]
    for photo in pack.photos:
        height, width = SIZES[photo.path.stem]
        whole = np.asarray(Image.open(photo.path))
        hr = whole[: height // SCALE * SCALE, : width // SCALE * SCALE]
        assert np.array_equal(hr_of(pack, photo), hr)
        assert np.array_equal(
            lr_of(pack, photo), bicubic.resize(hr, height // SCALE, width // SCALE)
        )
    assert pack.megapixels == (64 * 88 + 40 * 32 + 100 * 40) / 1e6
    assert pack.bytes == 3 * (len(pack.hr) + len(pack.lr)) == len(pack.hr) * 51 // 16


def test_reduced_copies_are_more_photographs(folder, tmp_path):
    pack = open_pack(folder, tmp_path / "cache", reduced=(0.75, 0.5))
    found = [(photo.path.stem, photo.reduced) for photo in pack.photos]
    assert found == [("a", 1.0), ("a", 0.75), ("a", 0.5), ("c", 1.0), ("b", 1.0)]
    assert pack.left_out == ()  # the missing ones would be smaller than a crop
    whole = np.asarray(Image.open(pack.photos[2].path))
    half = bicubic.resize(whole, 34, 45)[:32, :44]  # 67 / 2 rounds up
    assert np.array_equal(hr_of(pack, pack.photos[2]), half)
    assert np.array_equal(lr_of(pack, pack.photos[2]), bicubic.resize(half, 8, 11))


def test_a_pack_is_used_again_without_reading_a_photograph(folder, tmp_path):
    cache, seen = tmp_path / "cache", []
    first = open_pack(folder, cache, on_progress=lambda *done: seen.append(done))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    path = folder / "a.png"
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = open_pack(folder, cache, on_progress=lambda *done: seen.append(done))
    assert len(seen) == 4
    assert again.key == first.key
    assert again.photos == first.photos
    assert torch.equal(again.hr, first.hr)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    third = open_pack(folder, cache)
    assert len(third.photos) == 2
    assert third.key != first.key


def test_the_key_depends_on_the_contents_only(folder, tmp_path):
    first = open_pack(folder, tmp_path / "cache")
    moved = folder.rename(tmp_path / "moved")
    os.utime(moved / "a.png")
    second = open_pack(moved, tmp_path / "cache")
    assert second.key == first.key
    assert second.photos[0].path == moved / "a.png"
    save(moved / "a.png", photograph(*SIZES["a"], seed=9))
    assert open_pack(moved, tmp_path / "cache").key != first.key


def test_other_arguments_make_another_pack(folder, tmp_path):
    cache = tmp_path / "cache"
    plain = open_pack(folder, cache)
    reduced = open_pack(folder, cache, reduced=(0.5,))
    assert len(reduced.hr) > len(plain.hr)
    assert len(plain.hr) == len(open_pack(folder, cache).hr)
    assert len(open_pack(folder, cache, crop_px=40).photos) == 2
    assert len(open_pack(folder, cache, scale=2).lr) > len(plain.lr)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def overwrite(path):
    path.write_bytes(b'{"made_of": 1}')


class Stopped(Exception):
    """Raised while photographs are packed, in place of Ctrl-C."""


def stopped_at(photo, then=lambda: None):
    def on_progress(done, total):
        if done == photo:
            then()
            raise Stopped

    return on_progress


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("reduced", [(), (0.75, 0.5)])
def test_packing_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch, at, reduced):
    monkeypatch.setattr("srgan_edge.train.packing.FILES_BETWEEN_SYNCS", 2)
    (folder / "bad.png").write_text("no image")
    save(folder / "e.png", photograph(77, 66))
    whole = open_pack(folder, tmp_path / "whole", reduced=reduced)
    cache, read = tmp_path / "cache", []
    with pytest.raises(Stopped):
        open_pack(folder, cache, reduced=reduced, on_progress=stopped_at(at))
    monkeypatch.setattr(
        "srgan_edge.train.packing.read_photo",
        lambda path, crop_px: read.append(path) or read_photo(path, crop_px),
    )
    again = open_pack(folder, cache, reduced=reduced)
    assert len(read) == 5 - at // 2 * 2
    assert again.key == whole.key
    assert torch.equal(again.hr, whole.hr)
    assert torch.equal(again.lr, whole.lr)
    assert [photo.offset_px for photo in again.photos] == [it.offset_px for it in whole.photos]
    assert again.left_out == whole.left_out
    assert {path.name for path in cache.iterdir()} == {"hr.u8", "lr.u8", "photos.json"}


@pytest.mark.parametrize("name", ["photos.partial", "hr.u8.partial", "lr.u8.partial"])
@pytest.mark.parametrize("harm", [truncate, lengthen, Path.unlink, overwrite])
def test_a_damaged_part_of_a_pack_is_packed_again(folder, tmp_path, monkeypatch, name, harm):
    monkeypatch.setattr("srgan_edge.train.packing.FILES_BETWEEN_SYNCS", 1)
    whole, cache = open_pack(folder, tmp_path / "whole"), tmp_path / "cache"
    with pytest.raises(Stopped):
        open_pack(folder, cache, on_progress=stopped_at(2))
    harm(cache / name)
    again = open_pack(folder, cache)
    assert again.key == whole.key
    assert torch.equal(again.hr, whole.hr)
    assert torch.equal(again.lr, whole.lr)


def test_a_part_of_other_photographs_is_not_continued(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("srgan_edge.train.packing.FILES_BETWEEN_SYNCS", 1)
    with pytest.raises(Stopped):
        open_pack(folder, tmp_path / "cache", on_progress=stopped_at(2))
    save(folder / "a.png", photograph(*SIZES["a"], seed=9))
    assert open_pack(folder, tmp_path / "cache").key == open_pack(folder, tmp_path / "new").key


def test_two_processes_do_not_pack_into_one_folder(folder, tmp_path):
    def pack_too():
        with pytest.raises(OutputFailed, match="another process packs photographs into it"):
            open_pack(folder, tmp_path / "cache")

    with pytest.raises(Stopped):
        open_pack(folder, tmp_path / "cache", on_progress=stopped_at(1, pack_too))


@pytest.mark.parametrize("name", ["hr.u8", "lr.u8", "photos.json"])
@pytest.mark.parametrize("harm", [truncate, lengthen, Path.unlink, overwrite])
def test_a_broken_pack_is_packed_again(folder, tmp_path, name, harm):
    cache = tmp_path / "cache"
    first = open_pack(folder, cache)
    pixels = first.hr.clone()
    harm(cache / name)
    assert torch.equal(open_pack(folder, cache).hr, pixels)


def test_arrays_of_another_pack_are_not_taken_for_this_one(folder, tmp_path):
    """Two runs that share a cache could leave arrays of equal sizes but other photographs."""
    first = open_pack(folder, tmp_path / "cache")
    pixels = first.hr.clone()
    save(folder / "a.png", photograph(*SIZES["a"], seed=9))
    open_pack(folder, tmp_path / "other")
    (tmp_path / "other" / "hr.u8").rename(tmp_path / "cache" / "hr.u8")
    save(folder / "a.png", photograph(*SIZES["a"], seed=0))
    assert torch.equal(open_pack(folder, tmp_path / "cache").hr, pixels)


def test_no_photographs_at_all(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputRefused, match=r"no usable photograph of at least 32x32.*; 0 files"):
        open_pack(tmp_path / "empty", tmp_path / "cache")
    with pytest.raises(InputRefused, match="3 files left out, the first because: 90x67 is smaller"):
        open_pack(folder, tmp_path / "cache", crop_px=400)
    with pytest.raises(InputRefused, match="no such folder"):
        open_pack(tmp_path / "missing", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFailed, match="cannot make the cache folder"):
        open_pack(folder, tmp_path / "file" / "cache")
    (tmp_path / "cache" / "lr.u8").mkdir(parents=True)
    with pytest.raises(OutputFailed, match="it is a folder"):
        open_pack(folder, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lr.u8"]


@pytest.mark.parametrize("options", [{"crop_px": 30}, {"crop_px": 0}, {"reduced": (1.0,)}])
def test_arguments_out_of_range_are_refused(folder, tmp_path, options):
    with pytest.raises(UsageError, match="possible:"):
        open_pack(folder, tmp_path / "cache", **options)


# Crops


def slow_crop(image, top, left, side, margin, turn):
    """The specification: pad, slice, transpose, reverse."""
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    crop = padded[top : top + side + 2 * margin, left : left + side + 2 * margin]
    if turn & 4:
        crop = crop.transpose(1, 0, 2)
    if turn & 2:
        crop = crop[::-1]
    if turn & 1:
        crop = crop[:, ::-1]
    return crop.transpose(2, 0, 1)


@pytest.mark.parametrize("margin", [0, 3])
def test_a_crop_is_slicing_flipping_and_turning(folder, tmp_path, margin):
    pack = open_pack(folder, tmp_path / "cache")
    side, seen = CROP_PX // SCALE, set()
    crops = pack.crops(3, 8, range(300), margin_px=margin * SCALE)
    assert crops.teacher is None
    assert crops.hr.is_contiguous(memory_format=torch.channels_last)
    areas = np.cumsum([photo.height_px * photo.width_px for photo in pack.photos])
    for row, hr, lr in zip(
        np.random.default_rng((3, 8)).random((300, 4)),
        crops.hr.numpy(),
        crops.lr.numpy(),
        strict=True,
    ):
        number = int(np.searchsorted(areas, row[0] * areas[-1], side="right"))
        photo, turn = pack.photos[number], int(row[3] * 8)
        top = int(row[1] * (photo.height_px // SCALE - side + 1))
        left = int(row[2] * (photo.width_px // SCALE - side + 1))
        seen.add((number, turn))
        expected = slow_crop(lr_of(pack, photo), top, left, side, margin, turn)
        assert np.array_equal(lr, expected)
        expected = slow_crop(
            hr_of(pack, photo), SCALE * top, SCALE * left, CROP_PX, SCALE * margin, turn
        )
        assert np.array_equal(hr, expected)
    assert len(seen) == 3 * 8


def test_every_pixel_of_every_photograph_is_reached(folder, tmp_path):
    """Photographs are drawn in proportion to their area, and crops reach every border."""
    pack = open_pack(folder, tmp_path / "cache")
    marked = torch.zeros_like(pack.lr)
    for photo in pack.photos:
        start = photo.offset_px // SCALE**2
        width = photo.width_px // SCALE
        height = photo.height_px // SCALE
        places = torch.arange(height * width)
        # Red: which photograph; green and blue: the corners a crop can touch.
        marked[start : start + height * width, 0] = pack.photos.index(photo)
        marked[start : start + height * width, 1] = (places // width).to(torch.uint8)
        marked[start : start + height * width, 2] = (places % width).to(torch.uint8)
    crops = dataclasses.replace(pack, lr=marked).crops(0, 0, range(6000)).lr
    numbers = crops[:, 0, 0, 0].numpy()
    for number, photo in enumerate(pack.photos):
        share = photo.height_px * photo.width_px / len(pack.hr)
        assert np.mean(numbers == number) == pytest.approx(share, abs=0.03)
        of_this = crops[numbers == number]
        assert of_this[:, 1].min() == of_this[:, 2].min() == 0
        assert of_this[:, 1].max() == photo.height_px // SCALE - 1
        assert of_this[:, 2].max() == photo.width_px // SCALE - 1


def test_a_crop_is_a_function_of_seed_step_and_index(folder, tmp_path):
    pack = open_pack(folder, tmp_path / "cache")
    whole = pack.crops(1, 7, range(12))
    for indices in (range(12), range(3, 9), range(1, 12, 2), [11], [5, 0]):
        part = pack.crops(1, 7, indices)
        assert torch.equal(part.lr, whole.lr[list(indices)])
        assert torch.equal(part.hr, whole.hr[list(indices)])
    assert not torch.equal(whole.hr, pack.crops(1, 8, range(12)).hr)
    assert not torch.equal(whole.hr, pack.crops(2, 7, range(12)).hr)


@pytest.mark.gpu
def test_a_pack_on_the_gpu_returns_the_same_crops(folder, tmp_path):
    pack = open_pack(folder, tmp_path / "cache")
    here, there = pack.crops(1, 2, range(9)), pack.to("cuda").crops(1, 2, range(9))
    assert there.hr.is_cuda
    assert torch.equal(here.hr, there.hr.cpu())
    assert torch.equal(here.lr, there.lr.cpu())


# Teachers


def nearest(batch):
    return batch.repeat(SCALE, axis=1).repeat(SCALE, axis=2)


def test_a_teacher_runs_once_over_every_photograph(folder, tmp_path):
    cache, calls, seen = tmp_path / "cache", [], []

    def teacher(batch):
        calls.append(batch.shape)
        return nearest(batch)

    pack = open_pack(folder, cache)
    taught = add_teacher(
        pack, teacher, "nearest-1", halo_px=0, on_progress=lambda *done: seen.append(done)
    )
    assert calls == [(1, 16, 22, 3), (1, 25, 10, 3), (1, 10, 8, 3)]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert taught.bytes == pack.bytes + pack.hr.numel()
    crops = taught.crops(0, 0, range(20), margin_px=8)
    assert torch.equal(crops.teacher, torch.from_numpy(nearest_of(crops.lr)))
    assert torch.equal(crops.hr, pack.crops(0, 0, range(20), margin_px=8).hr)

    add_teacher(open_pack(folder, cache), teacher, "nearest-1", halo_px=0)
    assert len(calls) == 3
    add_teacher(pack, teacher, "nearest-2", halo_px=0)
    assert len(calls) == 6
    save(folder / "a.png", photograph(*SIZES["a"], seed=9))
    add_teacher(open_pack(folder, cache), teacher, "nearest-1", halo_px=0)
    assert len(calls) == 9


def nearest_of(lr):
    return lr.numpy().repeat(SCALE, axis=2).repeat(SCALE, axis=3)


def test_large_photographs_go_through_a_teacher_in_tiles(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(derived, "TEACHER_TILE_PX", 16)
    pack, calls = open_pack(folder, tmp_path / "cache"), []

    def teacher(batch):
        calls.append(batch.shape)
        return nearest(batch)

    taught = add_teacher(pack, teacher, "tiled", halo_px=1)
    assert max(max(shape[1:3]) for shape in calls) == 18
    assert len(calls) > 3
    crops = taught.crops(0, 0, range(20))
    assert torch.equal(crops.teacher, torch.from_numpy(nearest_of(crops.lr)))


def test_a_teacher_that_fails_leaves_nothing_behind(folder, tmp_path):
    pack = open_pack(folder, tmp_path / "cache")

    class Failure(Exception):
        pass

    def teacher(batch):
        raise Failure

    with pytest.raises(Failure):
        add_teacher(pack, teacher, "x", halo_px=0)
    assert len(list((tmp_path / "cache").iterdir())) == 3
    with pytest.raises(AssertionError, match="64, 88"):
        add_teacher(pack, lambda batch: batch, "x", halo_px=0)
    assert len(list((tmp_path / "cache").iterdir())) == 3
    with pytest.raises(UsageError, match="possible: letters"):
        add_teacher(pack, teacher, "../x", halo_px=0)


def test_the_busiest_of_several_windows_is_taken(tmp_path):
    """Half of the photograph is flat: one window in two shows none of it, the busier one does."""
    pixels = np.zeros((64, 256, 3), np.uint8)
    pixels[:, 128:] = photograph(64, 128, seed=1)
    save(tmp_path / "photos" / "a.png", pixels)
    pack = open_pack(tmp_path / "photos", tmp_path / "cache")

    def busy(candidates):
        lr = pack.crops(0, 0, range(64), candidates=candidates).lr.float()
        return float((lr[..., 1:] - lr[..., :-1]).abs().mean())

    assert busy(1) < busy(2) < busy(8)
    some = pack.crops(3, 4, [2, 5], candidates=3)
    alone = pack.crops(3, 4, [5], candidates=3)
    assert torch.equal(some.hr[1:], alone.hr)
