"""The page that `compare` writes: what is in it, without a browser. `tests/browser` opens it."""

import base64
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from srgan_edge import bicubic
from srgan_edge.compare.images import compare_images
from srgan_edge.compare.layers import image_layer
from srgan_edge.compare.page import MAX_BYTES, page_of, write_page
from srgan_edge.errors import InputRefused, UsageError
from srgan_edge.evaluation import metrics
from srgan_edge.evaluation.drawing import Crop


def texture(height, width, seed=0):
    rough = np.random.default_rng(seed).integers(0, 256, (height // 4 + 2, width // 4 + 2, 3))
    return bicubic.resize(rough.astype(np.uint8), height, width)


def saved(folder, name, pixels):
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.fixture
def files(tmp_path):
    """An input of an odd size, an original and a result."""
    original = texture(44 * 3, 36 * 3)
    result = np.clip(original.astype(int) + 3, 0, 255).astype(np.uint8)
    source = bicubic.resize(original, 44, 36)
    names = {"in.png": source, "out.png": result, "ideal.png": original}
    return {name: saved(tmp_path, name, pixels) for name, pixels in names.items()}


def compared(files, crop=None, original=None, models=None, results=("out.png",)):
    paths = [files[name] for name in results]
    ideal = None if original is None else files[original]
    return compare_images(files["in.png"], paths, models or {}, ideal, crop, {})


def decoded(layer):
    with Image.open(io.BytesIO(layer.content)) as image:
        return np.asarray(image.convert("RGB"))


def facts_of(page):
    return json.loads(re.search(r'id="facts-json">(.*?)</script>', page, re.DOTALL)[1])


def test_layers_hold_the_very_pixels(files):
    found = compared(files, original="ideal.png")
    assert [layer.name for layer in found.layers] == ["input", "bicubic", "out.png", "original"]
    assert (found.width, found.height, found.start) == (108, 132, (1, 2))
    blocks, smooth, result, original = map(decoded, found.layers)
    source = np.asarray(Image.open(files["in.png"]))
    assert np.array_equal(blocks, source.repeat(3, 0).repeat(3, 1))
    assert np.array_equal(smooth, bicubic.resize(source, 132, 108))
    assert np.array_equal(result, np.asarray(Image.open(files["out.png"])))
    assert np.array_equal(original, np.asarray(Image.open(files["ideal.png"])))


def test_scores_are_those_of_eval(files):
    found = compared(files, original="ideal.png")
    result, original = (np.asarray(Image.open(files[name])) for name in ("out.png", "ideal.png"))
    scores = found.layers[2].scores
    assert scores["psnr_y"] == metrics.psnr_y(result, original, 3)
    assert scores["ssim_y"] == metrics.ssim_y(result, original, 3)
    assert scores["lr_psnr"] == metrics.lr_psnr(result, np.asarray(Image.open(files["in.png"])))
    assert not found.layers[0].scores and not found.layers[3].scores


def test_without_an_original_only_what_needs_none_is_scored(files):
    assert set(compared(files).layers[2].scores) == {"lr_psnr", "niqe"}


def test_a_first_image_of_the_same_size_is_the_original(files):
    found = compare_images(files["ideal.png"], [files["out.png"]], {}, None, None, {})
    assert [layer.name for layer in found.layers] == ["original", "out.png"]
    assert found.start == (0, 1)
    assert set(found.layers[1].scores) == {"psnr_y", "ssim_y", "niqe"}


def test_models_make_further_results(files):
    def tripled(pixels):
        return pixels.repeat(3, 0).repeat(3, 1)

    found = compared(files, models={"tripled": tripled})
    assert [layer.name for layer in found.layers] == ["input", "bicubic", "out.png", "tripled"]
    assert np.array_equal(decoded(found.layers[3]), decoded(found.layers[0]))


def test_a_crop_cuts_every_layer_alike(files):
    whole, part = compared(files), compared(files, crop=Crop(7, 11, 50, 31))
    assert (part.width, part.height) == (50, 31)
    for cut, layer in zip(part.layers, whole.layers, strict=True):
        assert np.array_equal(decoded(cut), decoded(layer)[11:42, 7:57])


@pytest.mark.parametrize(
    "crop", [Crop(0, 0, 109, 132), Crop(-1, 0, 5, 5), Crop(0, 0, 0, 5)], ids=str
)
def test_a_crop_outside_is_refused(files, crop):
    with pytest.raises(UsageError, match=r"is not inside 108x132"):
        compared(files, crop=crop)


def test_sizes_that_do_not_fit_are_refused(files, tmp_path):
    files["other.png"] = saved(tmp_path, "other.png", texture(88, 72))
    with pytest.raises(InputRefused, match=r"out\.png is 108x132 and other\.png 72x88"):
        compared(files, results=("out.png", "other.png"))
    files["wide.png"] = saved(tmp_path, "wide.png", texture(132, 140))
    with pytest.raises(InputRefused, match=r"wide\.png is 140x132, no enlargement of in\.png"):
        compared(files, results=("wide.png",))
    with pytest.raises(InputRefused, match="is 72x88, and the results 108x132"):
        compared(files, original="other.png")


def test_what_a_page_cannot_show_is_said(files, tmp_path):
    deep = np.asarray(Image.open(files["out.png"])).astype(np.uint16) * 257
    alpha = np.full((132, 108), 128, np.uint8)
    see_through = np.dstack([np.asarray(Image.open(files["out.png"])), alpha])
    Image.fromarray(see_through).save(tmp_path / "alpha.png")
    Image.fromarray(deep[..., 0]).save(tmp_path / "deep.png")
    files |= {name: tmp_path / name for name in ("alpha.png", "deep.png")}
    found = compared(files, results=("alpha.png", "deep.png"))
    assert list(found.notes) == [
        "alpha.png: transparency is shown over gray",
        "deep.png: 16 bits are shown as 8",
    ]
    assert facts_of(page_of(found, "x"))["notes"] == list(found.notes)


def test_the_page_holds_everything_and_loads_nothing(files):
    page = page_of(compared(files), "in.png")
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?http|url\(|@import|fetch\(|https?://", page)
    facts = facts_of(page)
    assert [layer["name"] for layer in facts["layers"]] == ["input", "bicubic", "out.png"]
    for number, layer in enumerate(compared(files).layers):
        text = re.search(rf'id="media-{number}">(.*?)</script>', page)[1]
        assert base64.b64decode(text) == layer.content


def test_names_cannot_leave_the_text(files, tmp_path):
    name = "</script><img src=x onerror=alert(1)>&.png"
    name = name.replace("/", "\u2215")
    files[name] = tmp_path / name
    shutil.copy(files["out.png"], files[name])
    page = page_of(compared(files, results=(name,)), f"{name}</title><b>")
    assert page.count("<img src=x") == 0 and "</title><b>" not in page
    assert facts_of(page)["layers"][2]["name"] == name
    hostile = image_layer("</script><script>alert(1)</script>", texture(8, 8), {})
    found = compared(files)
    found = type(found)(8, 8, [hostile], (0, 0))
    assert "<script>alert(1)" not in page_of(found, "x")


def test_names_that_are_not_utf_8_are_escaped(files, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    files[name] = tmp_path / name
    shutil.copy(files["out.png"], files[name])
    write_page(tmp_path / "page.html", compared(files, results=(name,)), name)
    page = (tmp_path / "page.html").read_text()
    assert r"<title>caf\xe9.png" in page
    assert facts_of(page)["layers"][-1]["name"] == r"caf\xe9.png"


def test_the_best_scores_are_marked(files):
    rows = {
        row["label"]: row
        for row in facts_of(page_of(compared(files, original="ideal.png"), ""))["rows"]
    }
    psnr = rows["PSNR-Y dB ↑"]
    assert psnr["values"][0] == psnr["values"][3] == ""
    assert psnr["best"] == [max((1, 2), key=lambda n: float(psnr["values"][n]))]


def test_a_page_too_large_for_browsers_is_refused(files, tmp_path, monkeypatch):
    monkeypatch.setattr("srgan_edge.compare.page.MAX_BYTES", 1000)
    with pytest.raises(UsageError, match=r"Show less: --crop"):
        write_page(tmp_path / "page.html", compared(files), "x")
    assert not (tmp_path / "page.html").exists() and MAX_BYTES > 1000
