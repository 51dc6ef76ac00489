"""The whole program with models of other scales than 4, which the other tests take."""

import av
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from clips import make  # noqa: E402
from PIL import Image  # noqa: E402

from srgan_edge.export.onnx import onnx_from_checkpoint  # noqa: E402
from srgan_edge.export.verify import PHOTO  # noqa: E402
from srgan_edge.image.reader import read_pixels  # noqa: E402
from srgan_edge.model.checkpoint import save_checkpoint  # noqa: E402
from srgan_edge.model.network import generator_from_spec  # noqa: E402
from srgan_edge.model.spec import ModelSpec  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[1, 2, 3, 8])
def scale(request):
    return request.param


@pytest.fixture(scope="module")
def model(scale, tmp_path_factory):
    """The ONNX of a tiny network, which sharpens at random."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    spec = ModelSpec("tiny", "edge", 6, 1, scale=scale, licence="Apache-2.0")
    save_checkpoint(folder / "tiny.safetensors", generator_from_spec(spec).eval(), spec)
    onnx_from_checkpoint(folder / "tiny.safetensors", folder / "tiny.onnx")
    return folder / "tiny.onnx"


def test_an_image_in_tiles_and_stripes_is_the_whole_one(cli, tmp_path, model, scale):
    photo = read_pixels(PHOTO)[:61, :75]
    Image.fromarray(photo).save(tmp_path / "p.png")
    common = ("-n", model, "--fp32", "--overlap", "exact")
    code, _, err = cli("upscale", "p.png", *common, "--tile", "0")
    assert code == 0, err
    code, _, err = cli("upscale", "p.png", *common, "--tile", "16", "-o", "tiles.png")
    assert code == 0, err
    whole, tiles = read_pixels(tmp_path / f"p_x{scale}.png"), read_pixels(tmp_path / "tiles.png")
    assert whole.shape == (61 * scale, 75 * scale, 3)
    assert np.abs(whole.astype(int) - tiles).max() <= 1
    means = np.abs(whole.mean((0, 1)) - photo.mean((0, 1)))  # held, as the recipe is unknown
    assert means.max() < 0.5


def test_transparency_and_sixteen_bits_keep_their_size(cli, tmp_path, model, scale):
    rgba = np.dstack([read_pixels(PHOTO)[:20, :30], np.full((20, 30), 77, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    deep = np.linspace(0, 65535, 20 * 30).astype(np.uint16).reshape(20, 30)
    Image.fromarray(deep).save(tmp_path / "d.png")
    code, _, err = cli("upscale", "a.png", "d.png", "-n", model)
    assert code == 0, err
    with Image.open(tmp_path / f"a_x{scale}.png") as image:
        assert (image.size, image.mode) == ((30 * scale, 20 * scale), "RGBA")
        assert (np.asarray(image)[..., 3] == 77).all()
    with Image.open(tmp_path / f"d_x{scale}.png") as image:
        assert (image.size, image.mode) == ((30 * scale, 20 * scale), "I;16")


@pytest.mark.parametrize("lock", ["--color-lock", "--no-color-lock"])
def test_a_video_of_ten_bits_is_the_source_upscaled(cli, tmp_path, model, scale, lock):
    pixel_format = "yuv420p10le"
    make(tmp_path / "v.mkv", frames=4, codec="ffv1", options={}, pixel_format=pixel_format)
    options = ("-n", model, "--fp32", "--codec", "ffv1", "--tile", "24", lock)
    code, _, err = cli("upscale", "v.mkv", *options, "--report", "r.json")
    assert code == 0, err
    result = tmp_path / f"v_x{scale}.mkv"
    with av.open(str(result)) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (64 * scale, 48 * scale)
        assert stream.format.name == pixel_format
        assert sum(1 for _ in video.decode(stream)) == 4
    code, out, err = cli("check", "v.mkv", result.name)
    assert code == 0, out + err


def test_another_size_is_made_of_its_result(cli, tmp_path, model, scale):
    Image.fromarray(read_pixels(PHOTO)[:40, :50]).save(tmp_path / "p.png")
    code, _, err = cli("upscale", "p.png", "-n", model, "-s", "1.5")
    assert code == 0, err
    assert read_pixels(tmp_path / "p_x1.5.png").shape == (60, 75, 3)


def test_a_page_shows_it_beside_its_source(cli, tmp_path, model, scale):
    Image.fromarray(read_pixels(PHOTO)[:40, :50]).save(tmp_path / "p.png")
    assert cli("upscale", "p.png", "-n", model)[0] == 0
    code, _, err = cli("compare", "p.png", f"p_x{scale}.png", "-o", "page.html")
    assert code == 0, err
    assert (tmp_path / "page.html").stat().st_size > 1000
