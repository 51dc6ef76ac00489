"""The Python API: the same kind back, the bytes of the command, our errors, and its page."""

import inspect
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import av
import clips
import numpy as np
import pytest
import torch
from PIL import Image
from processes import ran

import srgan_edge
from srgan_edge import Progress, Upscaler, api, models, upscale
from srgan_edge.engines.base import AFTER_FORK
from srgan_edge.errors import InputDamaged, InputRefused, ResourcesExhausted, UsageError
from srgan_edge.image import in_memory

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def up():
    with Upscaler("edge-x4", device="cpu") as upscaler:
        yield upscaler


def image(seed=0, height=9, width=14, channels=3, dtype=np.uint8):
    shape = (height, width, channels)[: 3 if channels else 2]
    high = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, high, shape, dtype, endpoint=True)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_of_the_page_run(example, tmp_path):
    Image.fromarray(image(0, 12, 16)).save(tmp_path / "photo.jpg")
    clips.make(tmp_path / "in.mp4", frames=4, size=(32, 24), audio=["eng"])
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_names_every_option():
    text = PAGE.read_text()
    for function in (Upscaler, Upscaler.file):
        names = set(inspect.signature(function).parameters) - {"self", "model", "source", "target"}
        assert {name for name in names if f"`{name}`" not in text} == set()


def test_names_of_the_package():
    assert all(hasattr(srgan_edge, name) for name in srgan_edge.__all__)
    assert srgan_edge.Upscaler is Upscaler
    assert set(srgan_edge.__all__) <= set(dir(srgan_edge))
    with pytest.raises(AttributeError, match="no attribute 'upscaled'"):
        srgan_edge.upscaled  # noqa: B018 - the attribute is looked up


def test_works_without_torch(tmp_path):
    Image.fromarray(image(0, 12, 16)).save(tmp_path / "a.png")
    lines = [
        "import sys; sys.modules['torch'] = None",
        "import numpy as np, srgan_edge",
        "with srgan_edge.Upscaler('edge-x4', device='cpu') as up:",
        "    assert up(np.zeros((4, 5), np.uint8)).shape == (16, 20)",
        "assert srgan_edge.upscale('a.png', model='edge-x4').name == 'a_x4.png'",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, check=True, env=environment
    )


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pil_images_keep_their_mode(up, mode):
    channels = {"L": 0, "I;16": 0, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    dtype = np.uint16 if mode == "I;16" else np.uint8
    small = Image.fromarray(image(1, channels=channels, dtype=dtype))
    small.info["dpi"] = (300, 300)
    large = up(small)
    assert (small.mode, large.mode, large.size) == (mode, mode, (56, 36))
    assert large.info == small.info


@pytest.mark.parametrize(
    ("mode", "transparent", "expected"),
    [("P", False, "RGB"), ("P", True, "RGBA"), ("1", False, "L"), ("RGB", True, "RGBA")],
)
def test_pil_images_of_other_modes_become_what_the_reader_makes_of_them(
    up, mode, transparent, expected
):
    small = Image.fromarray(image(2)).convert(mode)
    if transparent:
        small.info["transparency"] = 0 if mode == "P" else (0, 0, 0)
    plain = small.convert(expected)
    large = up(small)
    assert large.mode == expected
    assert "transparency" not in large.info
    assert np.array_equal(np.asarray(large), np.asarray(up(plain)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_arrays_keep_their_shape_and_type(up, channels, dtype):
    small = image(3, channels=channels, dtype=dtype)
    kept = small.copy()
    large = up(small)
    assert large.shape == (36, 56, channels)[: large.ndim]
    assert (large.ndim, large.dtype) == (small.ndim, dtype)
    assert np.array_equal(small, kept)


def test_arrays_may_lie_in_memory_in_any_way(up):
    small = image(4, dtype=np.uint16)
    expected = up(small)
    assert np.array_equal(up(small.astype(">u2")), expected)
    assert np.array_equal(up(np.asfortranarray(small)), expected)
    assert np.array_equal(up(small[::-1][::-1]), expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "float16", "bfloat16"])
def test_tensors_keep_their_shape_type_and_device(up, channels, kind):
    dtype = getattr(torch, kind)
    levels = torch.from_numpy(image(5, channels=channels)).movedim(-1, 0)
    small = levels if dtype == torch.uint8 else (levels / 255).to(dtype).requires_grad_()
    large = up(small)
    assert (large.shape, large.dtype) == ((channels, 36, 56), dtype)
    assert (large.device, large.requires_grad) == (small.device, False)
    several = up(torch.stack([small, small.flip(-1)]))
    assert torch.equal(several[0], large)
    assert several.shape == (2, channels, 36, 56)


def test_all_kinds_agree(up):
    small = image(6)
    large = up(small)
    assert np.array_equal(np.asarray(up(Image.fromarray(small))), large)
    assert np.array_equal(up(torch.from_numpy(small).movedim(-1, 0)).movedim(0, -1), large)
    deep = up(small.astype(np.uint16) * 257)
    floats = up(torch.from_numpy(small).movedim(-1, 0) / 255).movedim(0, -1)
    assert np.array_equal(np.rint(floats.numpy() * 65535), deep)
    assert np.abs(deep / 257 - large).max() < 3


def test_video_frames_keep_their_time(up):
    frame = av.VideoFrame.from_ndarray(image(7), format="rgb24")
    frame.pts, frame.time_base = 42, clips.MS
    large = up(frame)
    assert (large.format.name, large.pts, large.time_base) == ("rgb24", 42, clips.MS)
    assert np.array_equal(large.to_ndarray(), up(image(7)))
    with pytest.raises(UsageError, match="yuv420p10le; possible: 8 bits"):
        up(frame.reformat(format="yuv420p10le"))


def test_a_video_frame_without_a_time_stays_without_one(up):
    large = up(av.VideoFrame.from_ndarray(image(7), format="rgb24"))
    assert (large.format.name, large.pts, large.time_base) == ("rgb24", None, None)


def _brief(value):
    """A name that is the same in every process: no address of an object."""
    return re.sub(" at 0x[0-9A-F]+", "", str(value))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1, 2], "got list; possible: a PIL image"),
        (None, "got NoneType"),
        ("photo.jpg", r"got a path.* type up\.file\('photo\.jpg'\)"),
        (Path("photo.jpg"), "got a path"),
        (np.zeros((4, 4, 2), np.uint8), r"got an array of shape \[4, 4, 2\]; possible: \[H, W\]"),
        (np.zeros((3, 5, 6), np.uint8), r"type numpy\.moveaxis\(image, 0, -1\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"up\.frames\(images\)"),
        (np.zeros(4, np.uint8), r"shape \[4\]"),
        (np.zeros((4, 4, 3)), r"got an array of float64; possible: uint8 and uint16; .*rint"),
        (np.zeros((4, 4, 3), bool), "got an array of bool"),
        (np.ma.zeros((4, 4, 3), np.uint8), r"got a masked array.*; type image\.filled\(\)"),
        (np.zeros((4, 4), np.uint32), "got an array of uint32"),
        (np.zeros((4, 4), object), "got an array of object"),
        (np.zeros((0, 4, 3), np.uint8), "empty: 4x0 pixels"),
        (torch.zeros(4, 4), r"got a tensor of shape \[4, 4\]; possible: \[C, H, W\]"),
        (torch.zeros(2, 4, 4), r"shape \[2, 4, 4\]"),
        (torch.zeros(0, 3, 4, 4), "empty tensor"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"got a tensor of torch\.int64"),
        (torch.zeros(3, 4, 4).to_sparse(), r"got a tensor of torch\.sparse_coo; .*to_dense\(\)"),
        (torch.zeros(3, 4, 4, device="meta"), "on the meta device, which has no values"),
        (torch.full((3, 4, 4), torch.nan), r"from nan to nan; .*nan_to_num\(\)\.clamp\(0, 1\)"),
        (torch.full((3, 4, 4), 255.0), r"values from 255 to 255; .*clamp"),
        (torch.full((3, 4, 4), float("nan")), "values from nan"),
        (Image.new("LAB", (4, 4)), r"mode LAB; possible: .*convert\('RGB'\)"),
        (Image.new("YCbCr", (4, 4)), "mode YCbCr"),
        (Image.new("RGB", (0, 4)), "empty: 0x4 pixels"),
    ],
    ids=_brief,
)
def test_what_cannot_be_upscaled_is_refused_with_advice(up, wrong, message):
    with pytest.raises(UsageError, match=message):
        up(wrong)
    with pytest.raises(UsageError, match=message):
        list(up.frames([wrong]))


def test_a_matrix_is_an_array(up):
    gray = np.asmatrix(image()[..., 0])
    np.testing.assert_array_equal(up(gray), up(np.asarray(gray)))


def test_numbers_of_numpy_are_numbers(up, tmp_path):
    Image.fromarray(image()).save(tmp_path / "a.png")
    assert up.file(tmp_path / "a.png", height=np.int64(30)).size.endswith("x30")
    with pytest.raises(UsageError, match="steady='on'; possible: a number or 'auto'"):
        Upscaler("edge-x4", steady="on")
    with pytest.raises(UsageError, match="device=0; possible: a str"):
        Upscaler("edge-x4", device=0)


def test_an_image_that_is_too_large_is_our_error(up, monkeypatch):
    def upscaled(still, network):
        raise MemoryError

    monkeypatch.setattr(api, "upscaled", upscaled)
    with pytest.raises(ResourcesExhausted, match="no memory for the result of 1 x 14x9 pixels"):
        up(image())


def test_a_pil_image_of_a_damaged_file_is_damaged(up, tmp_path):
    Image.fromarray(image(8, 60, 60)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    with pytest.raises(InputDamaged, match="broken or cut short"):
        up(Image.open(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": "128"}, "tile='128'; possible: a whole number or 'auto'"),
        ({"tile": True}, "tile=True"),
        ({"tile": 5}, "5 is too small"),
        ({"overlap": "most"}, "overlap='most'"),
        ({"overlap": -1}, "-1 is negative"),
        ({"batch": 0}, "batch=0"),
        ({"batch": "2"}, "batch='2'"),
        ({"engine": "caffe"}, "no engine 'caffe'"),
        ({"device": "abacus"}, "abacus"),
        ({"model": "edge"}, "did you mean 'edge-.*x4'"),
    ],
    ids=str,
)
def test_impossible_options_are_refused_at_once(options, message):
    with pytest.raises(UsageError, match=message):
        Upscaler(**({"model": "edge-x4"} | options))


FORKED = """
import os
import numpy as np
from srgan_edge import Upscaler
from srgan_edge.errors import UsageError

small = np.zeros((5, 6, 3), np.uint8)
used, unused = Upscaler("edge-x4", device="cpu"), Upscaler("edge-x4", device="cpu")
used(small)
child = os.fork()
if not child:
    for up in (used, unused):
        try:
            up(small)
        except UsageError as error:
            print(error, flush=True)
        up.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(used(small).shape)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_upscaling_in_a_process_that_lacks_the_threads_of_the_engine_is_refused():
    run = [sys.executable, "-W", "ignore", "-c", FORKED]  # Python 3.12 warns about such forks
    done = subprocess.run(run, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stderr) == (0, "")
    *refused, in_the_parent = done.stdout.splitlines()
    assert refused == [AFTER_FORK] * 2
    assert in_the_parent == "(20, 24, 3)"


def test_a_closed_upscaler_says_so():
    with Upscaler("edge-x4", device="cpu") as up:
        up(image())
    for call in (lambda: up(image()), lambda: up.frames([]), lambda: list(up.frames([image()]))):
        with pytest.raises(UsageError, match="closed"):
            call()
    up.close()  # again


def test_images_are_the_bytes_of_the_command(up, cli, tmp_path):
    files = {
        "gray.png": image(9, channels=0),
        "gray_alpha.png": image(9, channels=2),
        "rgb.png": image(9, 40, 50),
        "rgba.png": image(9, 40, 50, channels=4),
        "deep.png": image(9, channels=0, dtype=np.uint16),
    }
    for name, pixels in files.items():
        Image.fromarray(pixels).save(tmp_path / name)
    code, *_ = cli("upscale", *files, "-n", "edge-x4", "--device", "cpu", "-o", "command", "-q")
    assert code == 0
    for name in files:
        report = up.file(name, tmp_path / "api" / name)
        stem, command = Path(name).stem, tmp_path / "command"
        assert report.path.read_bytes() == (command / f"{stem}_x4.png").read_bytes()
        with Image.open(name) as small, Image.open(report.path) as large:
            assert np.array_equal(np.asarray(up(small)), np.asarray(large))


@pytest.fixture
def clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return clips.make(tmp_path / "in.mp4", frames=9, size=(32, 24), audio=["eng"])


def test_a_video_is_the_bytes_of_the_command_and_the_report_its_record(up, cli, clip):
    seen = []
    report = up.file("in.mp4", "api.mkv", crf=20, progress=seen.append)
    options = ("-n", "edge-x4", "--device", "cpu", "--crf", "20", "-q", "--report", "r.json")
    assert cli("upscale", "in.mp4", "-o", "command.mkv", *options)[0] == 0
    assert Path("api.mkv").read_bytes() == Path("command.mkv").read_bytes()
    whole = json.loads(Path("r.json").read_text())
    (record,) = whole["jobs"]
    assert report.made_by == whole["made_by"]
    assert (report.size, report.frames) == (record["size"], record["frames"]) == ("128x96", 9)
    assert (report.sha256, list(report.notes)) == (record["sha256"], record["notes"])
    video = report.video.record() | {"saved_as": "command.mkv"}
    assert video == {name: record[name] for name in video}
    assert [(it.frames, it.total) for it in seen] == [(n, 9) for n in range(1, 10)]
    assert all(isinstance(it, Progress) and it.fps > 0 for it in seen)


def test_an_excerpt_of_another_size_is_the_bytes_of_the_command(up, cli, clip):
    report = up.file("in.mp4", height=72, start=0.04, duration="0.2", dedup="strict")
    options = ("--height", "72", "--start", "0.04", "--duration", "0.2", "--dedup", "strict")
    assert cli("upscale", "in.mp4", "-o", "c.mp4", "-n", "edge-x4", "-q", *options)[0] == 0
    assert report.path.name == "in_72p_excerpt.mp4"
    assert report.path.read_bytes() == Path("c.mp4").read_bytes()


def test_fidelity_names_the_mixture_of_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("SRGAN_EDGE_MIXTURES", str(tmp_path))
    with Upscaler("srgan-x4", device="cpu", fidelity=0.5) as mixed:
        assert [file.name for file in tmp_path.iterdir()] == [Path(repr(mixed).split()[1]).name]
    with Upscaler("srgan-x4", device="cpu", fidelity=1) as faithful:
        assert "srresnet-x4" in repr(faithful)
    with pytest.raises(UsageError, match="possible: -n srgan-x4"):
        Upscaler("edge-x4", device="cpu", fidelity=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 1}, "is an image"),
        ({"height": 100, "outscale": 2}, "possible: one of them"),
        ({"fit": "5k"}, "--fit 5k; possible"),
        ({"dedup": "all"}, "dedup='all'"),
        ({"sample": "2"}, "--sample 2; possible"),
    ],
    ids=str,
)
def test_impossible_options_of_a_file_are_refused(up, tmp_path, options, message):
    Image.fromarray(image()).save(tmp_path / "in.png")
    with pytest.raises(UsageError, match=message):
        up.file(tmp_path / "in.png", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ""}, r"^target=''; possible: a str or a path or None$"),
        ({"target": np.zeros((64, 64, 3))}, r"^target=<ndarray>; possible: .*$"),
        ({"progress": 5}, r"^progress=5; possible: a function or None$"),
        ({"max_pixels": 10}, "max_pixels=10 is for images"),
    ],
    ids=str,
)
def test_impossible_options_of_a_video_are_refused_in_one_line(up, clip, options, message):
    with pytest.raises(UsageError, match=message):
        up.file(clip, **options)


def test_a_video_resumes_after_its_callback_raised(up, clip, monkeypatch):
    monkeypatch.setattr("srgan_edge.transcode.recipe.segment_frames", lambda *_, **__: 2)
    whole = up.file(clip, "whole.mp4")

    def stop(progress):
        if progress.frames == 7:
            raise OSError("enough")

    with pytest.raises(OSError, match=r"^enough$"):
        up.file(clip, "out.mp4", progress=stop)
    assert not Path("out.mp4").exists()
    seen = []
    report = up.file(clip, "out.mp4", progress=seen.append)
    assert 0 < report.video.frames_resumed == seen[0].frames - 1
    assert report.sha256 == whole.sha256


def test_an_existing_result_is_replaced_only_if_asked(up, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(image()).save("a.png")
    first = up.file("a.png")
    assert (first.path, first.kind, first.video) == (Path("a_x4.png"), "image", None)
    with pytest.raises(UsageError, match=r"a_x4\.png exists; type overwrite=True to replace it"):
        up.file("a.png")
    assert up.file("a.png", overwrite=True).sha256 == first.sha256
    Path("link.png").symlink_to("nowhere.png")
    with pytest.raises(UsageError, match=r"link\.png exists; type overwrite=True"):
        up.file("a.png", "link.png")
    assert upscale("a.png", "b/", "edge-x4", device="cpu") == Path("b/a_x4.png")
    assert up.file("a.png", "half.png", outscale=0.5).size == "7x4"


@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        ("missing.png", {}, InputRefused, r"missing\.png: No such file"),
        (300 * "a" + ".png", {}, InputRefused, "name too long; check"),
        ("*.png", {}, InputRefused, "No such file"),
        (".", {}, UsageError, "is a folder; possible: one file"),
        ("a.txt", {}, InputRefused, "not an image or video by its name"),
        ("b.png", {}, InputRefused, "not a PNG"),
        ("a.png", {"target": "a.png", "overwrite": True}, UsageError, "is the input itself"),
        ("a.png", {"target": "a.xyz"}, UsageError, "xyz"),
        ("a.png", {"outscale": 17}, UsageError, "up to 16"),
        ("a.png", {"decode": "nvdec"}, UsageError, "decode='nvdec'; possible: 'auto' or"),
        ("a.png", {"on_damage": "stop"}, UsageError, "possible: 'skip' or 'conceal'"),
        ("a.png", {"max_pixels": 10}, InputRefused, "10 is the limit"),
        ("a.png", {"crf": 20}, UsageError, r"crf=20 is for videos, and a\.png is an image"),
        ("a.png", {"audio": "drop"}, UsageError, "audio='drop' is for videos"),
        ("a.png", {"crf": "20"}, UsageError, "crf='20'; possible: a whole number or None"),
        ("a.png", {"crf": 20.5}, UsageError, r"crf=20\.5; possible: a whole number or None"),
        ("a.png", {"height": True}, UsageError, "height=True; possible: a whole number or None"),
        ("a.png", {"outscale": "2"}, UsageError, "outscale='2'; possible: a number or None"),
        ("a.png", {"encoder_options": {"g": 2}}, UsageError, "possible: a dict of str or None"),
        ("a.png", {"deinterlace": "yes"}, UsageError, "deinterlace='yes'; possible: True or Fal"),
        (7, {}, UsageError, "source=7; possible: a str or a path"),
    ],
)
def test_errors_of_files_are_raised_and_never_printed(
    up, tmp_path, monkeypatch, capfd, source, options, kind, message
):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(image()).save("a.png")
    for name in ("a.txt", "b.png"):
        Path(name).write_text("hello")
    with pytest.raises(kind, match=message):
        up.file(source, **options)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_video_says_where_its_rest_is(up, clip):
    clips.make(Path("in.mkv"), frames=40, size=(32, 24))
    Path("in.mkv").write_bytes(Path("in.mkv").read_bytes()[:-2000])
    with pytest.raises(InputDamaged) as raised:
        up.file("in.mkv")
    assert Path(raised.value.video.saved_as).name == "in_x4.partial.mkv"
    assert Path(raised.value.video.saved_as).is_file()


def test_signals_stay_the_callers(up, clip):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    during = []

    def look(progress):
        descriptor = signal.set_wakeup_fd(-1)
        during.append((descriptor, [signal.getsignal(number) for number in numbers]))

    up.file(clip, "out.mp4", progress=look)
    assert during == [(-1, before)] * 9


def test_frames_come_in_order_however_they_are_given(up):
    arrays = [image(seed) for seed in range(12)]
    expected = [up(array) for array in arrays]
    shared = np.empty_like(arrays[0])

    def reusing():
        for array in arrays:
            shared[:] = array  # as a decoder that has one buffer
            yield shared

    for frames in (arrays, iter(arrays), reusing()):
        results = list(up.frames(frames))
        assert all(np.array_equal(*pair) for pair in zip(results, expected, strict=True))
    mixed = list(up.frames([arrays[0], Image.fromarray(arrays[1])]))
    assert [type(it) for it in mixed] == [np.ndarray, Image.Image]
    assert list(up.frames([])) == []
    with pytest.raises(UsageError, match="got int; possible: an iterable"):
        up.frames(3)


def test_frames_keep_the_slots_busy_and_look_ahead_no_further(up, monkeypatch):
    taken, at_once, most = 0, 0, []
    lock, slots = threading.Lock(), None
    met = threading.Event()

    def counted(still, network):
        nonlocal at_once
        with lock:
            at_once += 1
            most.append(at_once)
            if at_once == network.slots:
                met.set()
        met.wait(20)
        with lock:
            at_once -= 1
        return still

    def frames():
        nonlocal taken
        for seed in range(30):
            taken += 1
            yield image(seed)

    monkeypatch.setattr(api, "upscaled", counted)
    for done, _ in enumerate(up.frames(frames())):
        slots = slots or up._engines._opened[api.video_slots()].upscaler.slots
        assert taken - done <= slots + 1
    assert max(most) == slots


def test_an_error_of_the_iterable_comes_after_the_frames_before_it(up):
    def failing():
        yield from (image(seed) for seed in range(5))
        raise KeyError("cable")

    results = []
    with pytest.raises(KeyError, match="cable"):
        results.extend(up.frames(failing()))
    got = []
    with pytest.raises(KeyError, match="cable"):
        for frame in up.frames(failing()):
            got.append(frame)
    assert len(got) == 5
    with pytest.raises(UsageError, match="float64"):
        for frame in up.frames([image(), np.zeros((4, 4)), image()]):
            got.append(frame)
    assert len(got) == 6


def test_a_consumer_may_stop_and_the_source_stays_open():
    source = (image(seed) for seed in range(100))
    with Upscaler("edge-x4", device="cpu") as up:
        frames = up.frames(source)
        for _ in frames:
            break
        held = up.frames(source)
        next(held)  # and is left as it is while the upscaler closes
    assert next(source).shape == (9, 14, 3)
    frames.close()
    held.close()
    for thread in threading.enumerate():
        if thread.name.startswith("upscale"):
            thread.join(20)
            assert not thread.is_alive()


def test_a_program_may_end_while_it_holds_results():
    held = """
import numpy as np
from srgan_edge import Upscaler
images = (np.zeros((9, 14, 3), np.uint8) for _ in range(99))
results = Upscaler("edge-x4", device="cpu").frames(images)
print(next(results).shape)
"""
    ended = ran(held)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "(36, 56, 3)\n", "")


def test_threads_share_an_upscaler(up, tmp_path):
    arrays = [image(seed, 8 + seed % 2, 11) for seed in range(12)]
    expected = [up(array) for array in arrays]
    Image.fromarray(arrays[0]).save(tmp_path / "a.png")
    with Upscaler("edge-x4", device="cpu") as shared, ThreadPoolExecutor(6) as executor:
        streamed = executor.submit(lambda: list(shared.frames(arrays)))
        files = [
            executor.submit(shared.file, tmp_path / "a.png", tmp_path / f"{n}.png")
            for n in range(2)
        ]
        single = list(executor.map(shared, arrays))
        assert len({file.result().sha256 for file in files}) == 1
    for results in (single, streamed.result()):
        assert all(np.array_equal(*pair) for pair in zip(results, expected, strict=True))


def test_closing_waits_for_calls_that_have_begun(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    original = in_memory.upscaled

    def slow(still, network):
        begun.set()
        go_on.wait(20)
        return original(still, network)

    monkeypatch.setattr(api, "upscaled", slow)
    up = Upscaler("edge-x4", device="cpu")
    with ThreadPoolExecutor(2) as executor:
        call = executor.submit(up, image())
        begun.wait(20)
        closing = executor.submit(up.close)
        with pytest.raises(TimeoutError):
            closing.result(0.2)
        go_on.set()
        assert call.result().shape == (36, 56, 3)
        closing.result(20)


def test_closing_inside_a_call_is_refused(up, tmp_path):
    Image.fromarray(image()).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="inside a call"):
        up.file(tmp_path / "a.png", progress=lambda progress: up.close())


def test_notes_go_to_the_log_and_the_report(up, tmp_path, caplog):
    caplog.set_level(logging.INFO, "srgan_edge")
    Image.fromarray(image()).save(tmp_path / "a.png", dpi=(300, 300))
    report = up.file(tmp_path / "a.png", tmp_path / "a.gif")
    assert [note[:31] for note in report.notes] == [
        "a.png: left out: colors: GIF ha",
        "a.png: left out: dots per inch:",
    ]
    assert caplog.messages == list(report.notes)


def test_an_engine_that_is_replaced_is_in_the_log_and_the_report(up, tmp_path, caplog):
    Image.fromarray(image()).save(tmp_path / "a.png")
    report = up.file(
        tmp_path / "a.png", progress=lambda progress: up._engines._replaced("the GPU is lost")
    )
    assert report.notes == ("the GPU is lost",)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "the GPU is lost")
    ]


def test_models_are_those_in_the_package():
    found = models()
    assert [model.name for model in found] == sorted(model.name for model in found)
    assert {field.name for field in fields(found[0])} == {
        *("name", "scale", "licence", "scores", "bytes", "path")
    }
    for model in found:
        assert (f"-x{model.scale}", model.licence) == (model.name[-3:], "Apache-2.0")
        assert model.path.stat().st_size == model.bytes
        low, high = {2: (37, 39), 4: (29, 33)}[model.scale]
        assert low < model.scores["Set5"] < high
    assert "edge-x4" in {model.name for model in found}
