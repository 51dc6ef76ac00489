"""The command line as users meet it: whole runs, every kind of bad input, exit codes, one line."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import clips
import numpy as np
import pytest
import typer.main
from PIL import Image

from srgan_edge.bicubic import resize
from srgan_edge.cli import app
from srgan_edge.model.library import bundled_models, find_model
from srgan_edge.model.spec import ModelSpec

EDGE = str(find_model("edge-x4").file(".onnx"))


def photo(width=52, height=40):
    coarse = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    return resize(coarse, height, width)


def save(path, width=52, height=40, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(width, height)).save(path, **options)
    return path


def test_options_are_called_as_in_the_docs():
    """Some versions of typer take the name from a metavar that is its own in capitals."""
    pending = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        names = [name for option in command.params for name in option.opts]
        assert [name.lower() for name in names] == names
        pending += getattr(command, "commands", {}).values()


# Whole runs


@pytest.mark.parametrize("tile", ["0", "16", "auto"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (52, 41)])
def test_an_image_is_four_times_larger(cli, tmp_path, size, tile):
    save(tmp_path / "in.png", *size)
    assert cli("upscale", "in.png", "--tile", tile)[0] == 0
    with Image.open("in_x4.png") as result:
        assert result.size == (4 * size[0], 4 * size[1])


@pytest.mark.slow
def test_the_tile_changes_no_pixel_at_the_exact_halo(cli, tmp_path):
    save(tmp_path / "in.png", 90, 70)
    arguments = ("upscale", "in.png", "--engine", "torch", "--overlap", "exact")
    assert cli(*arguments, "--tile", 0, "-o", "whole.png")[0] == 0
    assert cli(*arguments, "--tile", 24, "--batch", 3, "-o", "tiled.png")[0] == 0
    np.testing.assert_array_equal(Image.open("whole.png"), Image.open("tiled.png"))


@pytest.mark.parametrize(
    ("outscale", "size"), [("2", (104, 80)), ("3", (156, 120)), ("1", (52, 40))]
)
def test_another_final_scale(cli, tmp_path, outscale, size):
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "-s", outscale, "-o", "out.png")[0] == 0
    with Image.open("out.png") as result:
        assert result.size == size


def test_a_result_looks_like_its_input(cli, tmp_path):
    save(tmp_path / "in.png")
    cli("upscale", "in.png")
    shrunk = resize(np.asarray(Image.open("in_x4.png")), 40, 52)
    assert np.abs(shrunk.astype(int) - photo()).mean() < 2


@pytest.mark.parametrize(
    ("arguments", "locked"),
    [((), True), (("--no-color-lock",), False), (("-n", EDGE), False)],
)
def test_colors_are_locked_for_gans_unless_told_not_to(cli, tmp_path, arguments, locked):
    save(tmp_path / "in.png")
    code, _, err = cli("upscale", "in.png", *arguments)
    assert code == 0
    assert (", colors locked" in err) == locked
    shift = np.asarray(Image.open("in_x4.png")).mean((0, 1)) - photo().mean((0, 1))
    assert not locked or np.abs(shift).max() < 0.1


def test_a_video_of_ten_bits_stays_one(cli, tmp_path):
    source = clips.make(tmp_path / "in.mkv", frames=3, pixel_format="yuv420p10le")
    code, _, err = cli("upscale", source, "-n", EDGE)
    assert code == 0, err
    with av.open(str(tmp_path / "in_x4.mkv")) as video:
        assert next(video.decode(video=0)).format.name == "yuv420p10le"


def test_a_video_keeps_its_frames_times_and_audio(cli, tmp_path):
    source = clips.make(tmp_path / "in.mp4", frames=10, size=(64, 48), audio=["eng", "deu"])
    code, _, err = cli("upscale", "in.mp4", "--tile", 32)
    assert code == 0, err
    before, after = clips.see_frames(source), clips.see_frames(tmp_path / "in_x4.mp4")
    assert after == before  # barcode, start and end of every frame
    assert [frame.number for frame in after] == list(range(10))
    assert "in.mp4: states no color matrix and range: taken as smpte170m, limited" in err
    assert clips.see_packets(tmp_path / "in_x4.mp4", "audio") == clips.see_packets(source, "audio")


def test_a_video_at_another_scale(cli, tmp_path):
    clips.make(tmp_path / "in.mkv", frames=3, size=(64, 48))
    assert cli("upscale", "in.mkv", "-s", "2", "--crf", 20, "--preset", "ultrafast")[0] == 0
    assert len(clips.see_frames(tmp_path / "in_x4.mkv")) == 3


def test_a_folder_goes_on_past_a_bad_file_and_names_it(cli, tmp_path):
    save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("hello")
    save(tmp_path / "in/deep/c.jpg")
    clips.make(tmp_path / "in/d.mp4", frames=2, size=(32, 32))
    code, _, err = cli("upscale", "in", "-o", "out")
    assert code == 3
    assert err.count("error:") == 1
    assert "in/b.png" in err
    results = sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/**/*.*")
    )
    assert results == ["a_x4.png", "d_x4.mp4", "deep/c_x4.jpg"]


def test_existing_results_are_refused_kept_or_replaced(cli, tmp_path):
    save(tmp_path / "in.png")
    (tmp_path / "in_x4.png").write_text("old")
    code, _, err = cli("upscale", "in.png")
    assert code == 2
    assert "--overwrite" in err
    assert cli("upscale", "in.png", "--skip-existing")[0] == 0
    assert (tmp_path / "in_x4.png").read_text() == "old"
    assert cli("upscale", "in.png", "--overwrite")[0] == 0
    assert Image.open("in_x4.png").size == (208, 160)


def test_quiet_says_nothing_and_json_events_are_json(cli, tmp_path):
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "-q", "-o", "a.png") == (0, "", "")
    code, out, err = cli("upscale", "in.png", "--json-events", "-o", "b.png")
    events = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    kinds = [event["event"] for event in events if event["event"] != "progress"]  # once a second
    assert kinds == ["began", "started", "ended", "closed"]
    assert events[2]["size"] == "208x160"
    code, out, _ = cli("upscale", "in.png", "--json-events", "-o", "b.png")
    assert json.loads(out.splitlines()[-1]) == {"event": "closed", "exit_code": 2}


# Bad input: the exit code, one line that says what was got and what to do, nothing left behind


def nothing(path):
    pass


def text(path):
    path.write_text("this is no image\n")


def empty(path):
    path.touch()


def truncated_image(path):
    save(path, 300, 200)
    path.write_bytes(path.read_bytes()[:-300])


def truncated_video(path):
    clips.make(path, frames=20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_faststart(path):
    clips.make(path, frames=60, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def audio_only(path):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100)
        silence = av.AudioFrame("fltp", "mono", 1024)
        silence.planes[0].update(bytes(4096))
        silence.sample_rate = 44100
        output.mux([*stream.encode(silence), *stream.encode(None)])


BAD_INPUTS = [
    ("in.png", nothing, 3, "no such file"),
    ("in", lambda path: path.mkdir(), 3, "no image or video in it"),
    ("in.png", text, 3, "not a PNG"),
    ("in.mp4", text, 3, "in.mp4"),
    ("in.jxl", text, 3, "not an image or video by its name"),
    ("in.png", empty, 3, "0 bytes"),
    ("in.jpg", empty, 3, "0 bytes"),
    ("in.mp4", empty, 3, "empty|0 bytes"),
    ("in.png", truncated_image, 4, "cut short"),
    ("in.jpg", truncated_image, 4, "cut short"),
    ("in.mp4", truncated_video, 4, "in.mp4"),
    ("in.mp4", truncated_faststart, 4, "cut off|ends at"),
    ("in.mp4", audio_only, 3, "no video"),
    ("in.png", lambda path: os.mkfifo(path), 3, "not a regular file"),
    ("in.mp4", lambda path: os.mkfifo(path), 3, "is not a file"),
]


@pytest.mark.parametrize(("name", "make", "code", "said"), BAD_INPUTS)
def test_bad_input(cli, tmp_path, name, make, code, said):
    make(tmp_path / name)
    target = "out.mp4" if name.endswith("mp4") else "out.png"
    before = snapshot(tmp_path)
    got, _, err = cli("upscale", name, "-o", target)
    assert got == code, err
    errors = [line for line in err.splitlines() if line.startswith("srgan-edge: error: ")]
    assert len(errors) == 1, err
    assert "Traceback" not in err
    assert re.search(said, errors[0]), errors[0]
    assert not (tmp_path / target).exists()
    kept = {"out.partial.mp4"} if make is truncated_faststart else set()
    assert snapshot(tmp_path).keys() == before.keys() | kept
    assert {name: snapshot(tmp_path)[name] for name in before} == before


def snapshot(folder):
    """Every file's name and content; a FIFO has none."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_what_was_saved_of_a_cut_video_is_whole_and_named(cli, tmp_path):
    truncated_faststart(tmp_path / "in.mp4")
    code, _, err = cli("upscale", "in.mp4", "-o", "out.mp4")
    assert code == 4
    assert "out.partial.mp4" in err
    frames = clips.see_frames(tmp_path / "out.partial.mp4")
    assert 5 < len(frames) < 60
    assert [frame.number for frame in frames] == list(range(len(frames)))


BAD_OPTIONS = [
    (["--tile", "7"], 2, "--tile 7 is too small; possible: 0"),
    (["--tile", "big"], 2, "--tile 'big'; possible"),
    (["--overlap", "-3"], 2, "--overlap -3"),
    (["--batch", "0"], 2, "--batch 0"),
    (["-n", "edge-4x"], 2, "did you mean 'edge-x4'"),
    (["-n", "nothing-like-it.pth"], 2, "no model"),
    (["--engine", "tensorflow"], 2, "possible: auto, openvino"),
    (["-s", "0"], 2, "--outscale 0"),
    (["-o", "in.png"], 2, "is the input itself"),
    (["-o", "out.xyz"], 2, "possible: .png"),
    (["-o", "out.jp2"], 2, "possible: .png"),
    (["-o", "/proc/out.png"], 5, "cannot write /proc/out.png"),
    (["-o", "file.txt/out.png"], 5, "cannot write"),
    (["--device", "cuda", "--engine", "openvino"], 2, "runs on cpu"),
    (["-e", "tune"], 2, "key=value"),
]


@pytest.mark.parametrize(("options", "code", "said"), BAD_OPTIONS)
def test_bad_options(cli, tmp_path, options, code, said):
    save(tmp_path / "in.png")
    (tmp_path / "file.txt").touch()
    before = snapshot(tmp_path)
    got, _, err = cli("upscale", "in.png", *options)
    assert got == code, err
    assert err.splitlines()[-1].startswith("srgan-edge: error: ")
    assert said in err
    assert snapshot(tmp_path) == before


BAD_ENCODINGS = [
    (["-c", "libx265x"], "libx265"),
    (["-c", "libx264", "-o", "out.webm"], "out.webm"),
    (["--pix-fmt", "yuv999p"], "yuv999p"),
    (["-s", "1.02"], "yuv444p"),
    (["--preset", "warp"], "warp"),
]


@pytest.mark.parametrize(("options", "said"), BAD_ENCODINGS)
def test_bad_encodings_are_refused_before_the_first_frame(cli, tmp_path, options, said):
    clips.make(tmp_path / "in.mp4", frames=3, size=(64, 48))
    before = snapshot(tmp_path)
    got, _, err = cli("upscale", "in.mp4", *options)
    assert got == 2, err
    assert said in err
    assert snapshot(tmp_path) == before


def test_a_tile_larger_than_the_frame_is_fine(cli, tmp_path):
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "--tile", 5000, "--overlap", 3)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("in.png", "--suffix", "/x"), 2, "a part of a name, without /"),
        (("in.png", "--overwrite", "--skip-existing"), 2, "possible: one of them"),
        (("in.png", "in.png", "-o", "new.png"), 2, "possible: a folder, without a suffix"),
        (("in.png", "--report", "in.png"), 2, "is not a report; name another file"),
        (("in.png", "--report", "none/r.json"), 5, "name another place with --report"),
        (("a" * 300 + ".png",), 3, "File name too long"),
        (("in.png", "-o", "b" * 300 + ".png"), 3, "File name too long"),
    ],
)
def test_what_contradicts_itself_is_refused_before_any_work(cli, tmp_path, arguments, code, said):
    image = save(tmp_path / "in.png").read_bytes()
    found, out, err = cli("upscale", *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["in.png"]
    assert (tmp_path / "in.png").read_bytes() == image


def test_nothing_to_upscale(cli):
    code, _, err = cli("upscale")
    assert code == 2
    assert "srgan-edge upscale FILE" in err


def test_unknown_commands_and_options_are_usage_errors(cli):
    assert cli("upscael")[0] == 2
    assert cli("upscale", "--no-such-option")[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_within_two_seconds_and_leaves_nothing(tmp_path, number, code):
    clips.make(tmp_path / "in.mp4", frames=400, size=(160, 120))
    command = [sys.executable, "-m", "srgan_edge", "upscale", "in.mp4", "--json-events"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            events = map(json.loads, process.stdout)
            assert any(event["event"] == "progress" for event in events)
            process.send_signal(number)
            assert process.wait(timeout=20) == code  # two seconds where nothing else runs
        finally:
            process.kill()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]


# The other commands


def test_info_describes_models_and_files(cli):
    code, out, _ = cli("info", "--json")
    assert code == 0
    assert [spec["name"] for spec in json.loads(out)] == list(bundled_models())
    code, out, _ = cli("info", EDGE)
    assert "receptive radius" in out
    assert cli("info", "nothing")[0] == 2


def test_doctor_runs_every_engine(cli):
    code, out, _ = cli("doctor", "--json")
    findings = {(f["group"], f["name"]): f for f in json.loads(out)}
    assert code == 0, out
    assert findings["engines", "openvino"]["status"] == "ok"
    assert "self-test" in findings["engines", "openvino"]["detail"]
    assert findings["models", "edge-x4"]["status"] == "ok"
    assert "openvino" in cli("doctor")[1]


def test_eval_scores_models_and_the_baseline(cli, tmp_path):
    for name, size in [("HR", (128, 96)), ("LRx4", (32, 24))]:
        save(tmp_path / "bench" / name / "a.png", *size)
    code, out, _ = cli("eval", "bench", "--bicubic", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["benchmarks"]["bench"]["mean"]["psnr_y"] > 20
    assert "PSNR-Y" in cli("eval", "bench")[1]
    assert cli("eval", tmp_path)[0] == 3


def test_compare_makes_a_image(cli, tmp_path):
    save(tmp_path / "in.png")
    cli("upscale", "in.png")
    code, _, err = cli("compare", "in.png", "in_x4.png", "--crop", "10,10,60,40", "-o", "both.png")
    assert code == 0, err
    assert Image.open("both.png").width > 2 * 208


@pytest.mark.slow
def test_train_export_upscale_and_eval_follow_each_other(cli, tmp_path):
    """The three verbs on a tiny scale: photographs to weights to ONNX to an image."""
    for number in range(2):
        save(tmp_path / "photos" / f"{number}.png", 64, 48)
    tiny = ["pixel.steps=3", "data.crop_px=32", "data.batch=1", "model.channels=4"]
    settings = [part for value in tiny for part in ("--set", value)]
    arguments = ("train", "--recipe", "edge", "--data", "photos", "-o", "run", *settings)
    code, out, err = cli(*arguments)
    assert code == 0, err
    assert "wrote run/edge-x4.safetensors" in out
    code, out, err = cli("export", "run/edge-x4.safetensors", "--onnx", "-o", "tiny.onnx")
    assert code == 0, err
    assert "openvino" in out
    assert "dB" in out or "inf" in out
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "-n", "tiny.onnx")[0] == 0
    assert cli("upscale", "in.png", "-n", "run/edge-x4.safetensors", "-o", "b.png")[0] == 0
    first, second = (np.asarray(Image.open(name)) for name in ("in_x4.png", "b.png"))
    assert np.abs(first.astype(int) - second).max() <= 1
    code, _, err = cli("export", "run/edge-x4.safetensors")
    assert code == 2
    assert "--onnx" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--onnx", "--rtx"], "--onnx and --rtx; possible: one of them at a time"),
        (["--rtx", "--fp16", "--bf16"], "--fp16 and --bf16; possible: one of them"),
        (["--rtx", "--tile", "0"], "--tile 0; possible: 1 or more"),
        (["--rtx", "--io", "float"], "--io float with --rtx; possible: with --onnx"),
        (["--triton", "models", "--onnx"], "--onnx and --triton; possible: one of them at a time"),
        (
            ["--triton", "models", "-o", "x"],
            "-o with --triton; possible: with --onnx or --openvino",
        ),
        (["--onnx", "--bf16"], "--bf16 with --onnx; possible: with --tensorrt or --rtx"),
        (
            ["--openvino", "--fp16"],
            "--fp16 with --openvino; possible: with --onnx or --tensorrt or",
        ),
        (["--onnx", "--io", "float", "--fp16"], "--io float and --fp16; possible: one of them"),
        (["--openvino", "--batch", "2"], "--batch with --openvino; possible: with --tensorrt or"),
        (["--rtx", "--workspace", "512"], "--workspace with --rtx; possible: with --tensorrt"),
        (["--tensorrt", "--compute-capability", "8.9"], "possible: with --rtx"),
        (["--onnx", "-o", "x.engine"], "-o x.engine; possible: a name that ends in .onnx"),
        (["--openvino", "-o", "x.bin"], "-o x.bin; possible: a name that ends in .xml"),
    ],
)
def test_an_export_that_contradicts_itself_is_refused(cli, options, message):
    code, _, err = cli("export", "edge-x4", *options)
    assert code == 2
    assert message in err


def test_without_tensorrt_a_target_has_to_be_named(cli):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is here")
    code, _, err = cli("export", "edge-x4", "--fp16")
    assert code == 2
    assert "as TensorRT is not installed; possible: --onnx, --rtx, --openvino, --triton" in err


@pytest.mark.slow
def test_openvinos_own_form_computes_the_same(cli):
    openvino = pytest.importorskip("openvino")
    code, out, err = cli("export", "edge-x4", "--openvino")
    assert code == 0, err
    assert "wrote edge-x4.xml and edge-x4.bin\n  openvino against torch fp32: max " in out
    model = openvino.Core().read_model("edge-x4.xml")
    spec = ModelSpec.from_json(model.get_rt_info(["srgan_edge", "spec"]).astype(str))
    assert spec == find_model("edge-x4").spec


@pytest.mark.slow
def test_a_float_onnx_is_for_other_programs(cli, tmp_path):
    code, out, err = cli("export", "edge-x4", "--onnx", "--io", "float")
    assert code == 0, err
    assert "wrote edge-x4-float.onnx (" in out
    assert re.search(r"openvino \S+ against torch fp32: max \d\.\de-0[6-9] of 1\n", out)
    save(tmp_path / "in.png")
    code, _, err = cli("upscale", "in.png", "-n", "edge-x4-float.onnx")
    assert code == 6
    assert "the float form of edge-x4" in err
    assert "type: srgan-edge export MODEL --onnx" in err


@pytest.mark.slow
def test_a_model_is_added_to_a_triton_repository(cli, tmp_path):
    code, out, err = cli("export", "edge-x4", "--triton", "models")
    assert code == 0, err
    assert "openvino" in out
    assert f"wrote models/edge-x4; type: tritonserver --model-repository {tmp_path}/models" in out
    assert cli("upscale", save(tmp_path / "in.png"), "-n", "models/edge-x4/1/model.onnx")[0] == 0
    code, _, err = cli("export", "edge-x4", "--triton", "models")
    assert code == 5
    assert "models/edge-x4 is there already; type: rm -r models/edge-x4, or name" in err
    code, _, err = cli("export", "none.engine", "--triton", "models")
    assert code == 6
    assert "none.engine has no passport" in err


def test_an_engine_is_exported_without_a_gpu(cli):
    pytest.importorskip("tensorrt_rtx")
    options = (
        "--rtx",
        "--fp16",
        "--shape",
        "1x9x7",
        "--compute-capability",
        "8.9",
        "-o",
        "e.engine",
    )
    code, out, _ = cli("export", "edge-x4", *options)
    assert code == 0
    assert "every convolution in fp16; built for 1x9x7" in out
    assert "file      e.engine (" in out


def test_version(cli):
    assert cli("--version")[1].startswith("srgan-edge 0.")


def test_the_halo_of_a_bundled_model_is_not_overwritten(cli):
    before = find_model("edge-x4").file(".safetensors").read_bytes()
    code, _, err = cli("verify-tiles", "in.png", "-n", "edge-x4", "--write")
    assert code == 2
    assert "edge-x4 is bundled, and its halo measured; copy " in err
    assert find_model("edge-x4").file(".safetensors").read_bytes() == before


def test_quantizing_into_the_model_itself_is_refused(cli, tmp_path):
    shutil.copy(find_model("edge-x4").file(".safetensors"), tmp_path / "m.safetensors")
    before = (tmp_path / "m.safetensors").read_bytes()
    for name, message in [("m.safetensors", "is the model itself"), ("m.onnx", "ends in .safeten")]:
        code, _, err = cli("quantize", "m.safetensors", "--data", ".", "-o", name)
        assert code == 2
        assert message in err
    assert (tmp_path / "m.safetensors").read_bytes() == before


def test_verify_says_what_to_compare_with(cli):
    code, _, err = cli("verify", EDGE)
    assert code == 2
    assert "has no checkpoint to compare with; type --against" in err


@pytest.mark.slow
def test_the_error_of_a_halo_is_drawn(cli, tmp_path):
    pytest.importorskip("matplotlib")
    save(tmp_path / "in.png")
    code, out, err = cli("verify-tiles", "in.png", "-n", "edge-x4", "--plot", "halo.png")
    assert code == 0, err
    assert "wrote halo.png" in out
    with Image.open(tmp_path / "halo.png") as plot:
        assert plot.size[0] > 600
        assert len(plot.convert("RGB").getcolors(1 << 20)) > 20
    code, _, err = cli("verify-tiles", "in.png", "-n", "edge-x4", "--plot", "no/halo.png")
    assert code == 5


def test_an_engine_is_not_taken_for_a_model(cli, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    (tmp_path / "a.engine").write_bytes(b"vtrt")
    code, _, err = cli("upscale", "in.png", "-n", "a.engine")
    assert code == 6
    assert "a.engine has no passport (a.engine.json)" in err
