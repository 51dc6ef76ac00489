"""Networks of one channel: luma is theirs, chroma is interpolated, in images and video alike."""

import av
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("spandrel")

import onnx  # noqa: E402
from clips import make  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact  # noqa: E402
from spandrel.architectures.DnCNN.__arch.network_dncnn import DnCNN  # noqa: E402

from srgan_edge import bicubic  # noqa: E402
from srgan_edge.engines import KINDS  # noqa: E402
from srgan_edge.errors import ModelRefused  # noqa: E402
from srgan_edge.export.foreign import (  # noqa: E402
    Origin,
    deployment_of,
    deployment_of_graph,
    onnx_from_weights,
)
from srgan_edge.export.luma import (  # noqa: E402
    TO_CHROMA,
    TO_LUMA,
    TO_RGB,
    enlarged_by_luma,
)
from srgan_edge.export.verify import PHOTO, natural_batches  # noqa: E402
from srgan_edge.image.reader import read_pixels  # noqa: E402
from srgan_edge.model.onnx_file import read_onnx  # noqa: E402
from srgan_edge.tiling import Tiling  # noqa: E402
from srgan_edge.upscaler import FrameUpscaler  # noqa: E402

ORIGIN = Origin("tiny", "MIT", "a test")
RUNTIMES = [it for it in KINDS.values() if it.suffix == ".onnx" and it.installed]


def sharpening(scale, sides=("h", "w")):
    """A float graph of one channel: a sharpened image, each pixel repeated."""
    kernel = np.zeros((scale**2, 1, 3, 3), np.float32)
    kernel[:, :, 1], kernel[:, :, :, 1], kernel[:, :, 1, 1] = -0.1, -0.1, 1.4
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["deep"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["deep"], ["y"], blocksize=scale, mode="CRD"),
    ]
    if scale == 1:
        nodes[1:] = [helper.make_node("Identity", ["deep"], ["y"])]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g",
        [info("x", 1, ["n", 1, *sides])], [info("y", 1, ["n", 1, "r", "c"])],
        [numpy_helper.from_array(kernel, "kernel")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def sharpened(scale):
    """The same in numpy: float32 [N, 1, H, W] to [N, 1, sH, sW]."""

    def network(luma):
        padded = np.pad(luma, ((0, 0), (0, 0), (1, 1), (1, 1)))
        inner = (..., slice(1, -1))
        cross = padded[..., :-2, :][inner] + padded[..., 2:, :][inner]
        cross += padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
        return (1.4 * luma - 0.1 * cross).repeat(scale, 2).repeat(scale, 3)

    return network


def converted(tmp_path, scale, **options):
    onnx.save(sharpening(scale, **options), tmp_path / "f.onnx")
    return onnx_from_weights(tmp_path / "f.onnx", tmp_path / "m.onnx", ORIGIN)


def to_bytes(values):
    return (values.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)


def luma(pixels):
    return np.einsum("c,...c->...", TO_LUMA[0], pixels.astype(np.float32))


def chroma(pixels):
    return np.einsum("dc,...c->...d", TO_CHROMA, pixels.astype(np.float32))


def test_luma_and_chroma_are_the_whole_color():
    both = np.concatenate([TO_LUMA, TO_CHROMA])
    assert np.allclose(TO_RGB @ both, np.eye(3), atol=1e-6)
    assert (TO_CHROMA.sum(1) == 0).all()


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_every_runtime_computes_the_definition(tmp_path, scale):
    spec = converted(tmp_path, scale)
    foreign = spec.foreign
    assert (foreign.is_luma, foreign.is_traced, spec.scale) == (True, True, scale)
    assert foreign.radius_px == (1 if scale == 1 else 2)  # of the cubic
    for kind in RUNTIMES:
        with kind.open(tmp_path / "m.onnx", "cpu", True, 1) as engine:
            for batch in natural_batches():
                values = batch[:, :40, :40].transpose(0, 3, 1, 2).astype(np.float32) / 255
                expected = to_bytes(enlarged_by_luma(sharpened(scale), values, scale))
                got = engine.upscale(np.ascontiguousarray(batch[:, :40, :40]))
                assert np.abs(got.astype(int) - expected).max() <= 1
            frame = read_pixels(PHOTO)[:70, :90]
            whole = engine.upscale(frame[None])[0]
            tiles = FrameUpscaler(engine, Tiling(tile=24, overlap="exact"), color_lock=False)
            assert np.abs(tiles.upscale(frame).astype(int) - whole).max() <= 1


def test_gray_stays_gray_and_the_network_alone_decides(tmp_path):
    converted(tmp_path, 2)
    gray = np.repeat(read_pixels(PHOTO)[:40, :50, 1:2], 3, axis=2)
    with KINDS["openvino"].open(tmp_path / "m.onnx", "cpu", True, 1) as engine:
        made = engine.upscale(gray[None])[0]
    assert (made == made[..., :1]).all()
    alone = to_bytes(sharpened(2)(gray[None, None, ..., 0].astype(np.float32) / 255))[0]
    assert np.abs(made[..., :1].astype(int) - alone).max() <= 1


def test_a_network_for_squares_gets_them(tmp_path):
    assert converted(tmp_path, 2, sides=(48, 48)).foreign.window_px == 48
    frame = read_pixels(PHOTO)[:70, :61]
    values = frame[None].transpose(0, 3, 1, 2).astype(np.float32) / 255
    expected = to_bytes(enlarged_by_luma(sharpened(2), values, 2))[0]
    with KINDS["openvino"].open(tmp_path / "m.onnx", "cpu", True, 1) as engine:
        made = FrameUpscaler(engine, Tiling(), color_lock=False).upscale(frame)
    inner = (slice(0, -4), slice(0, -4))  # the convolution has zeros at the end, windows pixels
    assert np.abs(made[inner].astype(int) - expected[inner]).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "scale"),
    [
        (lambda: SRVGGNetCompact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2, upscale=3), 3),
        (lambda: DnCNN(in_nc=1, out_nc=1, nc=8, act_mode="R"), 1),
    ],
    ids=["Compact x3", "DnCNN"],
)
def test_weights_of_one_channel_are_converted(tmp_path, network, scale):
    torch.manual_seed(0)
    torch.save(network().state_dict(), tmp_path / "w.pth")
    made = deployment_of(tmp_path / "w.pth", ORIGIN)
    assert (made.spec.foreign.is_luma, made.spec.scale) == (True, scale)
    assert made.parity.max_levels <= 1
    (tmp_path / "w.onnx").write_bytes(made.content)
    assert read_onnx(tmp_path / "w.onnx").spec == made.spec


@pytest.mark.slow
def test_other_numbers_of_channels_are_refused(tmp_path):
    torch.save(
        SRVGGNetCompact(num_in_ch=4, num_feat=8, num_conv=2).state_dict(), tmp_path / "w.pth"
    )
    with pytest.raises(ModelRefused, match=r"4 channels in and \d+ out; possible: 3 of RGB, or 1"):
        deployment_of(tmp_path / "w.pth", ORIGIN)


def test_a_graph_from_luma_to_rgb_is_refused(tmp_path):
    model = sharpening(1)
    kernel = np.repeat(numpy_helper.to_array(model.graph.initializer[0]), 3, axis=0)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(kernel, "kernel"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(model, tmp_path / "f.onnx")
    with pytest.raises(ModelRefused, match="its result is not the image"):
        deployment_of_graph(tmp_path / "f.onnx", ORIGIN)


def test_an_image_keeps_its_colors(cli, tmp_path):
    converted(tmp_path, 2)
    (tmp_path / "p.png").write_bytes(PHOTO.read_bytes())
    code, out, _ = cli("info", "m.onnx")
    assert (code, "luma, and chroma by bicubic interpolation" in out) == (0, True)
    code, _, err = cli("upscale", "p.png", "-n", "m.onnx", "--fp32")
    assert code == 0, err
    source, made = read_pixels(PHOTO), read_pixels(tmp_path / "p_x2.png")
    enlarged = bicubic.resize(source, *made.shape[:2])
    lost = np.abs(chroma(made) - chroma(enlarged))
    assert np.quantile(lost, 0.99) < 3  # what is clipped to RGB's range, and rounding
    assert luma(made).std() > luma(enlarged).std()  # the network sharpens


@pytest.mark.slow
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_a_video_keeps_its_colors_and_depth(cli, tmp_path, pixel_format):
    converted(tmp_path, 2)
    make(tmp_path / "v.mkv", frames=3, codec="ffv1", options={}, pixel_format=pixel_format)
    for option in ("--color-lock", "--no-color-lock"):
        code, _, err = cli(
            *("upscale", "v.mkv", "-n", "m.onnx", "--fp32", "--codec", "ffv1", option),
            *("--tile", "32", "-o", f"v{option}.mkv"),
        )
        assert code == 0, err
        with av.open(str(tmp_path / f"v{option}.mkv")) as video:
            stream = video.streams.video[0]
            assert (stream.width, stream.height, stream.format.name) == (128, 96, pixel_format)
            frames = [it.to_ndarray(format="rgb24") for it in video.decode(stream)]
        with av.open(str(tmp_path / "v.mkv")) as video:
            given = [it.to_ndarray(format="rgb24") for it in video.decode(video=0)]
        assert len(frames) == len(given) == 3
        for one, other in zip(frames, given, strict=True):
            apart = chroma(one).mean((0, 1)) - chroma(other).mean((0, 1))
            assert np.abs(apart).max() < 1
