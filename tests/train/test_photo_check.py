"""The check of a collection: every finding, the clean rest, and the command."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from srgan_edge import bicubic
from srgan_edge.cli import main
from srgan_edge.errors import InputRefused
from srgan_edge.train.photo_check import (
    MAX_BLOCKINESS,
    NEAR_BITS,
    blockiness,
    check_photos,
    difference_hash,
    jpeg_quality,
)


def photograph(height=80, width=100, seed=1):
    coarse = np.random.default_rng(seed).integers(0, 256, (13, 16, 3), np.uint8)
    return bicubic.resize(coarse, height, width)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def through_jpeg(tmp_path, pixels, quality):
    return np.asarray(Image.open(save(tmp_path / "coded.jpg", pixels, quality=quality)))


@pytest.fixture
def collection(tmp_path):
    """A good photograph, and one with each problem."""
    folder = tmp_path / "photos"
    folder.mkdir()
    good = photograph()
    save(folder / "a-good.png", good)
    save(folder / "b-same.bmp", good)
    save(folder / "c-near.png", bicubic.resize(good, 120, 150))
    save(folder / "d-coarse.jpg", photograph(seed=2), quality=60)
    damaged = through_jpeg(tmp_path, photograph(seed=3), quality=20)
    save(folder / "e-damaged.png", damaged[3:, 5:])
    save(folder / "f-tiny.png", photograph(47, 90))
    save(folder / "g-clear.png", np.dstack([good, np.zeros_like(good[..., :1])]))
    (folder / "h-broken.jpg").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("no image, and not called one")
    return folder


def test_every_kind_of_finding_and_the_clean_rest(collection):
    seen = []
    check = check_photos([collection], 48, lambda *done: seen.append(done))
    found = {(finding.path.name, finding.problem) for finding in check.findings}
    assert found == {
        ("b-same.bmp", "duplicate"),
        ("c-near.png", "near duplicate"),
        ("d-coarse.jpg", "JPEG damage"),
        ("e-damaged.png", "JPEG damage"),
        ("f-tiny.png", "tiny"),
        ("g-clear.png", "transparent"),
        ("h-broken.jpg", "unreadable"),
    }
    assert (check.files, check.usable, check.clean) == (8, 5, 1)
    assert check.clean_megapixels == pytest.approx(0.008)
    assert check.usable_megapixels == pytest.approx(0.008 * 3 + 0.018 + 77 * 95 / 1e6)
    assert check.counts["JPEG damage"] == 2
    assert sum(check.counts.values()) == 7
    assert seen[0] == (0, 8)
    assert seen[-1] == (8, 8)
    details = {finding.path.name: finding.detail for finding in check.findings}
    assert details["b-same.bmp"] == f"same pixels as {collection / 'a-good.png'}"
    assert "a-good.png" in details["c-near.png"]
    assert "quality 60" in details["d-coarse.jpg"]
    assert "8x8" in details["e-damaged.png"]


@pytest.mark.parametrize("quality", [1, 5, 30, 50, 74, 75, 90, 100])
def test_the_quality_of_a_jpeg_is_recovered(tmp_path, quality):
    path = save(tmp_path / "a.jpg", photograph(), quality=quality)
    # Table values are clamped to 255, which hides the lowest qualities.
    assert jpeg_quality(path) == pytest.approx(quality, abs=1 if quality > 20 else 12)


def test_only_a_jpeg_has_a_quality(tmp_path):
    assert jpeg_quality(save(tmp_path / "a.png", photograph())) is None


def test_blocks_show_wherever_their_grid_begins(tmp_path):
    pixels = photograph()
    coded = {quality: through_jpeg(tmp_path, pixels, quality) for quality in (10, 30, 95)}
    assert blockiness(coded[10]) > blockiness(coded[30]) > MAX_BLOCKINESS
    assert blockiness(coded[30][2:, 7:]) > MAX_BLOCKINESS
    assert blockiness(coded[95]) < MAX_BLOCKINESS
    assert blockiness(pixels) < MAX_BLOCKINESS
    assert blockiness(np.full((16, 16, 3), 9, np.uint8)) == 0


def test_hashes_of_one_photograph_are_near_and_of_two_far(tmp_path):
    pixels = photograph()
    variants = [
        bicubic.resize(pixels, 40, 50),
        through_jpeg(tmp_path, pixels, 75),
        (pixels * 0.8).astype(np.uint8),
    ]
    here = difference_hash(pixels)
    apart = [np.bitwise_count(here ^ difference_hash(variant)) for variant in variants]
    assert max(apart) <= NEAR_BITS, apart
    others = [difference_hash(photograph(seed=seed)) for seed in range(10, 30)]
    assert min(np.bitwise_count(here ^ other) for other in others) > 10


def test_a_collection_without_a_usable_photograph_is_refused(collection, tmp_path):
    with pytest.raises(
        InputRefused, match=r"at least 400x400.*8 files left out, the first because"
    ):
        check_photos([collection], 400)
    with pytest.raises(InputRefused, match="no such folder"):
        check_photos([tmp_path / "missing"], 48)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "argv", ["srgan-edge", "data", "check", *map(str, arguments)])
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_the_command_prints_a_table(monkeypatch, capsys, collection):
    code, out, err = run(monkeypatch, capsys, collection, "--crop", "48")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 7 + 3
    assert lines[0].split()[1:4] == ["duplicate", "same", "pixels"]
    assert "8 files: 1 unreadable, 1 transparent, 1 tiny, 1 duplicate" in out
    assert "without a finding 1 photographs, 0.0 megapixels" in out


def test_the_command_prints_json(monkeypatch, capsys, collection):
    code, out, _ = run(monkeypatch, capsys, collection, "--crop", "48", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["usable"] == 5
    assert record["counts"]["near duplicate"] == 1
    assert record["findings"][0] == {
        "path": str(collection / "b-same.bmp"),
        "problem": "duplicate",
        "detail": f"same pixels as {collection / 'a-good.png'}",
    }


def test_the_command_refuses_a_collection_without_usable_photographs(
    monkeypatch, capsys, collection
):
    code, out, err = run(monkeypatch, capsys, collection, "--crop", "128")
    assert (code, out) == (3, "")
    assert err.startswith("srgan-edge: error: no usable photograph of at least 128x128 in ")
    assert err.count("\n") == 1
