"""Evaluations: metrics by name, the comparison of systems, and the command `srgan-edge eval`."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from srgan_edge.bicubic import resize
from srgan_edge.cli import app
from srgan_edge.cli.tables import evaluation_record, evaluation_table
from srgan_edge.errors import ExtraMissing, InputRefused, ResourcesExhausted, UsageError
from srgan_edge.evaluation.evaluate import (
    GROUPS,
    MEASURES,
    METRICS,
    Scores,
    evaluate_folder,
    evaluate_systems,
    mean_scores,
    metrics_from_text,
)
from srgan_edge.evaluation.metrics import lr_psnr
from srgan_edge.evaluation.systems import (
    BICUBIC,
    NEAREST,
    System,
    bicubic_upscale,
    open_models,
    ready_made,
)
from srgan_edge.model.library import DEFAULT_MODEL, find_model


def photo(height=128, width=224, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return resize(coarse, height, width)


def make_benchmark(folder, images=("a.png", "b.png"), size=(128, 224)):
    for seed, name in enumerate(images):
        hr = photo(*size, seed)
        for side, pixels in [("HR", hr), ("LRx4", resize(hr, size[0] // 4, size[1] // 4))]:
            (folder / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / side / name)
    return folder


@pytest.fixture
def bench(tmp_path):
    return make_benchmark(tmp_path / "bench")


# Metrics by name


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("psnr_y", ("psnr_y",)),
        (" dists, psnr_y ,dists", ("dists", "psnr_y")),
        ("niqe,basic", ("niqe", *(name for name in GROUPS["basic"] if name != "niqe"))),
        ("all", tuple(METRICS)),
    ],
)
def test_names_are_kept_in_order_and_once(text, names):
    assert metrics_from_text(text) == names


def test_the_groups_are_without_torch_without_downloads_and_all():
    assert set(GROUPS["basic"]) == set(MEASURES)
    assert set(GROUPS["offline"]) - set(GROUPS["basic"]) == {"gmsd", "haarpsi"}
    assert set(GROUPS["all"]) - set(GROUPS["offline"]) == {
        "lpips_alex",
        "lpips_vgg",
        "dists",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("psnr", "did you mean 'psnr_y'"),
        ("lpips", "did you mean 'lpips_"),
        ("PSNR", "possible: psnr_y.*, all"),
        ("psnr_y,harpsi", "did you mean 'haarpsi'"),
        ("", "names no metric"),
        (" , ", "names no metric"),
    ],
)
def test_other_names_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        metrics_from_text(text)


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("psnr_y", [28.4, float("inf"), 30], "inf"),
        ("niqe", [7.5, 3.25], "3.25"),
        ("shift_red", [0.2, -0.1], "-0.10"),
        ("shift_red", [-0.001, 0.1], "+0.00"),
        ("ssim_y", [0.80004, 0.8], "0.8000"),
        ("niqe", [float("nan"), 4], "4.00"),
        ("niqe", [float("nan")], None),
    ],
)
def test_the_best_is_the_highest_the_lowest_or_the_nearest_to_zero(name, values, best):
    assert METRICS[name].best(values) == best


def test_a_mean_is_undefined_where_a_part_of_it_is():
    whole = Scores({"psnr_y": 30.0, "niqe": 4.0})
    partly = Scores({"psnr_y": 20.0, "niqe": float("nan")}, {"niqe": "b.png: too small"})
    mean = mean_scores([whole, partly])
    assert mean.psnr_y == 25
    assert np.isnan(mean["niqe"])
    assert mean.undefined == {"niqe": "b.png: too small"}


# Evaluations


def test_a_folder_is_scored_pixel_by_pixel_by_default(bench):
    evaluation = evaluate_folder(bicubic_upscale(4), bench, 4)
    assert list(evaluation.images) == ["a.png", "b.png"]
    assert evaluation.mean.psnr_y == pytest.approx(38.560, abs=0.001)
    assert evaluation.mean.color_shift == pytest.approx(0.0219, abs=0.0001)
    first, second = evaluation.images.values()
    assert evaluation.mean.psnr_y == pytest.approx((first.psnr_y + second.psnr_y) / 2)


def test_systems_are_scored_on_the_same_images_by_every_measure(bench):
    perfect = System("perfect", "", lambda pair: pair.hr)
    seen = []
    evaluations = evaluate_systems([BICUBIC, perfect, NEAREST], [bench], 4, MEASURES, seen.append)
    assert list(evaluations) == ["bicubic", "perfect", "nearest"]
    means = {name: of_system[0].mean for name, of_system in evaluations.items()}
    assert means["perfect"].psnr_y == float("inf")
    assert means["perfect"].color_shift == 0
    assert means["perfect"]["ssim_y"] > means["bicubic"]["ssim_y"] > means["nearest"]["ssim_y"]
    assert list(means["bicubic"].values) == list(MEASURES)
    assert [comparison.pair.name for comparison in seen] == ["a.png", "b.png"]
    assert seen[1].scores["bicubic"] == evaluations["bicubic"][0].images["b.png"]


def test_lr_psnr_shows_whether_a_result_is_an_image_of_its_lr():
    hr = photo()
    lr = resize(hr, 32, 56)
    assert lr_psnr(hr, lr) == float("inf")
    brighter = (hr.clip(0, 254) + 1).astype(np.uint8)
    assert lr_psnr(brighter, lr) == pytest.approx(48.171, abs=0.001)
    assert lr_psnr(hr[::-1], lr) == pytest.approx(9.311, abs=0.001)


def test_an_undefined_metric_is_not_a_number_and_has_a_reason(tmp_path):
    bench = make_benchmark(tmp_path / "small", size=(40, 48))
    evaluation = evaluate_systems([BICUBIC], [bench], 4, MEASURES)["bicubic"][0]
    assert np.isnan(evaluation.mean["niqe"])
    assert evaluation.mean.undefined["niqe"].startswith("a.png: NIQE needs two 96x96 blocks")
    assert evaluation.mean.psnr_y == pytest.approx(38.787, abs=0.001)
    record = evaluation_record(BICUBIC, [evaluation])
    assert record["benchmarks"]["small"]["mean"]["niqe"] is None
    text = printed(evaluation_table([BICUBIC], {"bicubic": [evaluation]}))
    assert " --" in text
    assert "niqe: a.png" in text


def test_two_of_one_name_are_refused(bench, tmp_path):
    with pytest.raises(UsageError, match="two systems are called 'bicubic'"):
        evaluate_systems([BICUBIC, BICUBIC], [bench], 4, MEASURES)
    other = make_benchmark(tmp_path / "elsewhere" / "bench")
    with pytest.raises(UsageError, match="two benchmarks are called 'bench'"):
        evaluate_systems([BICUBIC], [bench, other], 4, MEASURES)


# Systems


def test_models_go_by_their_name_unless_two_share_it():
    file = str(find_model("edge-x4").file(".onnx"))
    with open_models(["edge-x4", file], "openvino", "cpu", fp32=True) as systems:
        assert [system.name for system in systems] == ["edge-x4", file]
    with open_models([file], "openvino", "cpu", fp32=True) as systems:
        assert systems[0].name == "edge-x4"
        assert systems[0].description.startswith("edge-x4, openvino ")


@pytest.mark.parametrize("place", ["made", "made/bench"])
@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_ready_made_images_are_found_by_benchmark_and_name(bench, tmp_path, place, suffix):
    (tmp_path / place).mkdir(parents=True)
    for seed, name in enumerate("ab"):
        larger = np.pad(photo(seed=seed), ((0, 2), (0, 3), (0, 0)))  # cropped as the HR is
        Image.fromarray(larger).save(tmp_path / place / f"{name}{suffix}")
    system = ready_made(f"theirs={tmp_path / 'made'}", [bench])
    evaluation = evaluate_systems([system], [bench], 4, MEASURES)["theirs"][0]
    assert evaluation.mean.psnr_y == float("inf")


def test_results_of_several_benchmarks_lie_in_folders_of_their_names(bench, tmp_path):
    other = make_benchmark(tmp_path / "other")
    (tmp_path / "made" / "bench").mkdir(parents=True)
    with pytest.raises(InputRefused, match="made/other: no such folder"):
        ready_made(f"theirs={tmp_path / 'made'}", [bench, other])


@pytest.mark.parametrize("text", ["", "made", "=made", "theirs="])
def test_results_are_typed_as_name_and_folder(bench, text):
    with pytest.raises(UsageError, match="NAME=DIR"):
        ready_made(text, [bench])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "found nothing for a.png"),
        (["a.png", "a.bmp"], "found a.png and a.bmp for a.png"),
        (["b.png"], "found nothing for a.png"),
    ],
)
def test_each_image_needs_one_result(bench, tmp_path, files, message):
    (tmp_path / "made").mkdir()
    for name in files:
        Image.fromarray(photo()).save(tmp_path / "made" / name)
    system = ready_made(f"theirs={tmp_path / 'made'}", [bench])
    with pytest.raises(InputRefused, match=message):
        evaluate_systems([system], [bench], 4, MEASURES)


def test_a_result_of_another_size_is_refused(bench, tmp_path):
    (tmp_path / "made").mkdir()
    Image.fromarray(photo(64, 112)).save(tmp_path / "made" / "a.png")
    system = ready_made(f"theirs={tmp_path / 'made'}", [bench])
    with pytest.raises(InputRefused, match=r"a\.png: it is 112x64, which is not 4 times"):
        evaluate_systems([system], [bench], 4, MEASURES)


# The command


def run(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def printed(table):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text(styles=True)


def test_one_system_is_an_object_and_several_are_a_list(bench):
    alone = json.loads(run(bench, "--bicubic", "--json").stdout)
    assert alone["system"] == "bicubic (MATLAB)"
    several = json.loads(run(bench, "--bicubic", "-n", "edge-x4", "--json").stdout)
    assert [record["name"] for record in several] == ["bicubic", "edge-x4"]
    assert several[0] == alone
    assert set(alone["benchmarks"]["bench"]["images"]) == {"a.png", "b.png"}
    assert set(alone["benchmarks"]["bench"]["mean"]) == set(GROUPS["basic"])


def test_several_systems_are_rows_of_one_table(bench, tmp_path):
    other = make_benchmark(tmp_path / "other", ["c.png"])
    done = run(bench, other, "--bicubic", "-n", "edge-x4", "--metrics", "psnr_y,niqe")
    assert done.exit_code == 0, done.exception
    rows = [line.split() for line in done.stdout.splitlines() if "bicubic  " in line]
    assert [row[0] for row in rows] == ["bench", "other"]
    assert "PSNR-Y" in done.stdout
    assert "SSIM" not in done.stdout


def test_the_best_of_each_benchmark_is_bold(bench):
    perfect = System("perfect", "", lambda pair: pair.hr)
    evaluations = evaluate_systems([BICUBIC, perfect], [bench], 4, MEASURES)
    text = printed(evaluation_table([BICUBIC, perfect], evaluations))
    bold = [line for line in text.splitlines() if "\x1b[1minf\x1b" in line]
    assert len(bold) == 1
    assert "perfect" in bold[0]


def test_a_table_is_never_folded(bench):
    done = run(bench, "--bicubic", "-n", "edge-x4", "--metrics", "offline")
    assert "…" not in done.stdout


def test_a_figure_is_written_with_the_baselines_in_the_table(bench, tmp_path):
    done = run(bench, "--figure", tmp_path / "out.png", "--crops", 2, "--metrics", "psnr_y")
    assert done.exit_code == 0, done.exception
    assert all(name in done.stdout for name in ("nearest", "bicubic", DEFAULT_MODEL, "wrote"))
    assert Image.open(tmp_path / "out.png").width == 24 + 224 + 4 * (8 + 240) + 24
    done = run(
        bench, "--figure", tmp_path / "out.png", "--metrics", "psnr_y", "--json", "--overwrite"
    )
    assert len(json.loads(done.stdout)) == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--metrics", "psnr"], UsageError, "did you mean"),
        (["-n", "edge-x5"], UsageError, "did you mean 'edge-x4'"),
        (["-n", "edge-x4", "-n", "edge-x4"], UsageError, "two systems"),
        (["--results", "x"], UsageError, "NAME=DIR"),
        (["--results", "x=/nowhere"], InputRefused, "/nowhere: no such folder"),
        (["--crops", "2"], UsageError, "--figure"),
        (["--crops", "0", "--figure", "a.png"], UsageError, "1 or more"),
        (["--figure", "a.jxl"], UsageError, "possible: .png"),
    ],
)
def test_bad_options_are_refused_before_any_work(bench, options, error, message):
    done = run(bench, *options)
    assert isinstance(done.exception, error)
    assert message in str(done.exception)


@pytest.mark.parametrize("module", ["torch", "piq", "torchmetrics"])
def test_without_a_package_a_metric_costs_one_line(bench, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else name)
    done = run(bench, "--bicubic", "--metrics", "gmsd")
    assert isinstance(done.exception, ExtraMissing)
    assert f"--metrics gmsd needs the package `{module}`" in str(done.exception)
    assert "pip install 'srgan-edge[train]'" in str(done.exception)
    assert run(bench, "--bicubic").exit_code == 0


def test_offline_a_metric_that_needs_a_download_is_refused_and_not_left_out(
    bench, monkeypatch, tmp_path
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    done = run(bench, "--bicubic", "--metrics", "all")
    assert isinstance(done.exception, ResourcesExhausted)
    assert "type --metrics offline" in str(done.exception)
