"""Degradations: each against its slow twin or its definition, alone and in a batch."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from srgan_edge import bicubic  # noqa: E402
from srgan_edge.errors import UsageError  # noqa: E402
from srgan_edge.train.degradation import RealDegradation, degrade, real_crops  # noqa: E402
from srgan_edge.train.derived import add_teacher  # noqa: E402
from srgan_edge.train.jpeg import jpeg  # noqa: E402
from srgan_edge.train.photos import PhotoPack  # noqa: E402

OFF = {
    "blur_probability": 0.0,
    "resize_probability": 0.0,
    "noise_probability": 0.0,
    "jpeg_probability": 0.0,
}
SCALE = 4
PHOTOGRAPH = Path(__file__).resolve().parents[2] / "srgan_edge" / "demo" / "photo.png"


def only(**options):
    return RealDegradation(**(OFF | options))


def photographs(batch, height, width, coarseness=3):
    """uint8 [B, 3, H, W]: smooth, with edges, clipped here and there."""
    random = np.random.default_rng(7)
    images = []
    for _ in range(batch):
        size = (height // coarseness + 2, width // coarseness + 2, 3)
        coarse = random.normal(128, 70, size).clip(0, 255).astype(np.uint8)
        images.append(bicubic.resize(coarse, height, width))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def image_of(tensor):
    return tensor.permute(1, 2, 0).numpy()


def degraded(hr, degradation, *, scale=SCALE, seed=0, step=0):
    return degrade(hr, degradation, scale, seed, step, range(len(hr)))


def reduced(hr, size):
    images = [bicubic.resize(image_of(one), *size) for one in hr]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def mean_difference(a, b):
    return (a.float() - b.float()).abs().mean().item()


def roughness(batch):
    return batch.float().diff(dim=3).abs().mean().item()


@pytest.mark.parametrize(("height", "width", "scale"), [(36, 52, 4), (4, 8, 4), (30, 66, 3)])
def test_with_everything_off_it_is_the_exact_bicubic(height, width, scale):
    hr = photographs(3, height, width)
    expected = reduced(hr, (height // scale, width // scale))
    assert torch.equal(degraded(hr, only(), scale=scale), expected)


@pytest.mark.parametrize(
    "nothing",
    [
        {"blur_probability": 1.0, "blur_sigma": (0.0, 0.0)},
        {"noise_probability": 1.0, "noise_sigma": (0.0, 0.0), "poisson_scale": (0.0, 0.0)},
        {"resize_probability": 1e-12},
        {"blur_probability": 1e-12, "noise_probability": 1e-12, "jpeg_probability": 1e-12},
    ],
)
def test_a_degradation_of_probability_zero_changes_nothing(nothing):
    hr = photographs(3, 36, 52)
    assert torch.equal(degraded(hr, only(**nothing)), reduced(hr, (9, 13)))


# Blur


@pytest.mark.parametrize("anisotropic", [0.0, 1.0])
def test_blur_is_a_gaussian(anisotropic):
    """A single white pixel becomes the Gaussian itself, at scale 1."""
    dot = torch.zeros(4, 3, 41, 41, dtype=torch.uint8)
    dot[:, :, 20, 20] = 255
    blur = only(blur_probability=1.0, blur_sigma=(1.0, 3.0), anisotropic_probability=anisotropic)
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    found = set()
    for one in degraded(dot, blur, scale=1)[:, 0].double():
        assert one.sum() == pytest.approx(255, rel=0.2)  # 8 bits round its skirts away
        variance = torch.stack([(one * x * x), (one * x * y), (one * y * y)]).sum((1, 2)) / 255
        small, large = torch.linalg.eigvalsh(
            torch.tensor([[variance[0], variance[1]], [variance[1], variance[2]]])
        )
        assert 0.5 < small <= large < 9.5
        found.add(bool(large > 1.2 * small))
    assert True in found if anisotropic else found == {False}


def test_more_blur_is_smoother():
    hr = photographs(4, 96, 96)
    sigmas = [0.5, 2.0, 4.0]
    blurred = [degraded(hr, only(blur_probability=1.0, blur_sigma=(s, s))) for s in sigmas]
    rough = [roughness(batch) for batch in (reduced(hr, (24, 24)), *blurred)]
    assert rough == sorted(rough, reverse=True)
    assert rough[-1] < 0.6 * rough[0]


# Resizing


def twin_of_resizing(hr, factor, mode):
    size = [int(factor * side / SCALE + 0.5) for side in hr.shape[2:]]
    resized = F.interpolate(hr.float(), size, mode=mode).clamp(0, 255)
    return reduced(resized.round().to(torch.uint8), [side // SCALE for side in hr.shape[2:]])


@pytest.mark.parametrize(
    ("factor", "modes"),
    [
        (1.0, ["area", "bilinear", "bicubic"]),
        (0.8, ["bilinear", "bicubic"]),  # here torch's area has windows of whole pixels
        (1.37, ["bilinear", "bicubic"]),
    ],
)
def test_resizing_equals_torchs(factor, modes):
    """Each crop uses one of three methods; the twin rounds once more, hence two levels."""
    hr = photographs(12, 96, 112)
    resized = degraded(hr, only(resize_probability=1.0, resize_range=(factor, factor)))
    twins = {mode: twin_of_resizing(hr, factor, mode) for mode in modes}
    found = [
        mode
        for number, one in enumerate(resized)
        for mode, twin in twins.items()
        if (one.int() - twin[number].int()).abs().max() <= 2
    ]
    assert set(found) == set(modes)
    assert len(found) == 12 if "area" in modes else len(found) < 12


def test_resizing_by_area_keeps_the_mean():
    flat = torch.full((30, 3, 36, 52), 77, dtype=torch.uint8)
    resized = degraded(flat, only(resize_probability=0.8, resize_range=(0.3, 5.0)))
    assert torch.equal(resized, torch.full((30, 3, 9, 13), 77, dtype=torch.uint8))


# Noise


def gray_hr(level, batch=6):
    return torch.full((batch, 3, 128, 128), level, dtype=torch.uint8)


AT_LR = {"resize_probability": 1.0, "resize_range": (1.0, 1.0), "noise_probability": 1.0}


@pytest.mark.parametrize("sigma", [2.0, 12.0])
def test_gaussian_noise_has_the_requested_sigma(sigma):
    noise = only(**AT_LR, noise_sigma=(sigma, sigma), poisson_probability=0.0)
    noisy = degraded(gray_hr(128), noise).float()
    assert noisy.std(dim=(1, 2, 3)).numpy() == pytest.approx(np.full(6, sigma), rel=0.1)
    assert noisy.mean().item() == pytest.approx(128, abs=0.2)


@pytest.mark.parametrize("level", [25, 100, 200])
def test_poisson_noise_grows_with_the_root_of_the_level(level):
    noise = only(**AT_LR, poisson_scale=(1.0, 1.0), poisson_probability=1.0)
    noisy = degraded(gray_hr(level), noise).float()
    assert noisy.std().item() == pytest.approx(level**0.5, rel=0.1)


@pytest.mark.parametrize("poisson", [0.0, 1.0])
@pytest.mark.parametrize("gray", [0.0, 1.0])
def test_gray_noise_is_the_same_in_all_channels(gray, poisson):
    noise = only(**AT_LR, gray_noise_probability=gray, poisson_probability=poisson)
    noisy = degraded(gray_hr(128), noise)
    for one in noisy:
        assert torch.equal(one[0], one[1]) == torch.equal(one[0], one[2]) == bool(gray)


# JPEG


def by_libjpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file)).astype(int)


@pytest.mark.parametrize("size", [(176, 240), (61, 43), (21, 34)])
def test_jpeg_equals_libjpegs(size):
    """Integer rounding sometimes moves a coefficient of a photograph by a whole step."""
    qualities = [10, 30, 49, 50, 75, 95, 100]
    photograph = np.asarray(Image.open(PHOTOGRAPH).convert("RGB"))[: size[0], : size[1]]
    batch = torch.from_numpy(photograph.copy()).permute(2, 0, 1).repeat(len(qualities), 1, 1, 1)
    ours = jpeg(batch.float(), torch.tensor(qualities, dtype=torch.float64))
    for one, quality in zip(ours, qualities, strict=True):
        difference = np.abs(image_of(one) - by_libjpeg(photograph, quality))
        assert difference.mean() < 0.5, quality
        assert np.mean(difference > 2) < 0.04, quality
        assert difference.max() <= 16, quality


def test_lower_quality_is_further_from_the_image():
    hr = photographs(4, 96, 96)
    qualities = [95.0, 75.0, 50.0, 25.0, 5.0]
    errors = [
        mean_difference(
            degraded(hr, only(**AT_LR | {"noise_probability": 0.0}, jpeg_probability=0.0)),
            degraded(
                hr,
                only(
                    **AT_LR | {"noise_probability": 0.0},
                    jpeg_probability=1.0,
                    jpeg_quality=(quality, quality),
                ),
            ),
        )
        for quality in qualities
    ]
    assert errors == sorted(errors)
    assert errors[0] > 0.3


# All together


@pytest.mark.parametrize(
    "degradation", [RealDegradation(), RealDegradation(resize_probability=0.5)]
)
def test_a_crop_is_degraded_the_same_in_any_batch(degradation):
    hr = photographs(8, 52, 44)
    whole = degrade(hr, degradation, SCALE, 1, 7, range(8))
    assert whole.shape == (8, 3, 13, 11)
    assert whole.dtype == torch.uint8
    for indices in (range(8), [6], [5, 2], range(3, 8)):
        part = degrade(hr[list(indices)], degradation, SCALE, 1, 7, indices)
        assert torch.equal(part, whole[list(indices)])
    assert not torch.equal(whole, degrade(hr, degradation, SCALE, 1, 8, range(8)))
    assert not torch.equal(whole, degrade(hr, degradation, SCALE, 2, 7, range(8)))


def test_the_same_crop_is_degraded_differently_at_each_step():
    hr = photographs(1, 48, 48)
    results = [degrade(hr, RealDegradation(), SCALE, 0, step, [0]) for step in range(20)]
    assert len({result.numpy().tobytes() for result in results}) == 20


def test_autocast_changes_nothing():
    hr = photographs(4, 48, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = degraded(hr, RealDegradation())
    assert torch.equal(inside, degraded(hr, RealDegradation()))


@pytest.fixture
def pack(tmp_path):
    hr = photographs(3, 70, 90)
    for number, one in enumerate(hr):
        Image.fromarray(image_of(one)).save(tmp_path / f"{number}.png")
    return PhotoPack.open([tmp_path], tmp_path / "cache", crop_px=48, scale=SCALE)


def test_real_crops_equal_the_packs_except_for_the_lr(pack):
    plain = pack.crops(3, 4, range(6))
    crops = real_crops(pack, RealDegradation(), 3, 4, range(6))
    assert torch.equal(crops.hr, plain.hr)
    assert crops.lr.shape == plain.lr.shape
    assert crops.teacher is None
    assert mean_difference(crops.lr, plain.lr) > 1
    taught = add_teacher(pack, lambda batch: batch.repeat(4, 1).repeat(4, 2), "n", halo_px=0)
    assert torch.equal(
        real_crops(taught, RealDegradation(), 3, 4, range(6)).teacher,
        taught.crops(3, 4, range(6)).teacher,
    )


def test_degradation_uses_the_pixels_around_a_crop(pack):
    """Without degradations, LR equals that of the whole photograph; but its rows were reduced
    before its columns, so a crop that exchanges the two is rounded differently."""
    crops, plain = real_crops(pack, only(), 3, 4, range(40)), pack.crops(3, 4, range(40))
    exchanged = np.random.default_rng((3, 4)).random((40, 4))[:, 3] * 8 >= 4
    assert 10 < exchanged.sum() < 30
    assert torch.equal(crops.lr[~exchanged], plain.lr[~exchanged])
    assert mean_difference(crops.lr, plain.lr) < 0.1
    alone = degrade(plain.hr, only(), SCALE, 3, 4, range(40))
    assert mean_difference(alone, plain.lr) > 0.3


def test_the_margin_holds_the_blur_and_is_a_multiple_of_the_scale():
    assert RealDegradation().margin_px(4) == 36
    assert RealDegradation(blur_sigma=(0.0, 1.0)).margin_px(4) == 28
    assert RealDegradation(blur_probability=0.0).margin_px(3) == 18


@pytest.mark.gpu
def test_the_gpu_degrades_like_the_cpu():
    """They agree except for noise, which has a different generator, and one rounding step."""
    hr = photographs(8, 96, 96)
    degradation = RealDegradation(noise_probability=0.0)
    here = degraded(hr, degradation)
    there = degraded(hr.cuda(), degradation).cpu()
    assert mean_difference(here, there) < 0.1
    off = degraded(hr.cuda(), only()).cpu()
    assert torch.equal(off, reduced(hr, (24, 24)))
    noisy = degraded(hr.cuda(), RealDegradation())
    assert torch.equal(noisy, degraded(hr.cuda(), RealDegradation()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blur_probability": 1.1}, r"blur_probability is 1.1; possible: 0 to 1"),
        ({"blur_sigma": (2.0, 1.0)}, "not falling, from 0 to 20"),
        ({"blur_sigma": (1.0,)}, "two numbers"),
        ({"resize_range": (0.0, 1.0)}, "from 0.1 to 8"),
        ({"jpeg_quality": (0.0, 90.0)}, "from 1 to 100"),
        ({"noise_sigma": (-1.0, 1.0)}, "from 0 to 255"),
        ({"noise_sigma": (0.0, float("nan"))}, "from 0 to 255"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        RealDegradation(**options)
