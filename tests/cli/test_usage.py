"""How commands are called: help, completion, and one line for what cannot be understood."""

import os
import re
import subprocess
import sys
from pathlib import Path

import clips
import pytest
import typer.main
from command_inputs import save

from srgan_edge.cli import app
from srgan_edge.model.library import bundled_models

PATHS = [[]]
for name, command in typer.main.get_command(app).commands.items():
    PATHS.append([name])
    PATHS += [[name, inner] for inner in getattr(command, "commands", {})]


def test_options_are_called_as_in_the_docs():
    """Some versions of typer take the name from a metavar that is its own in capitals."""
    pending = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        names = [name for option in command.params for name in option.opts]
        assert [name.lower() for name in names] == names
        pending += getattr(command, "commands", {}).values()


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_fits_eighty_columns(cli, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = cli(*path, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: {' '.join(['srgan-edge', *path])}")
    assert max(map(len, out.splitlines())) <= 80
    assert not re.search(r"\w-$", out, re.MULTILINE)  # no name is broken at a hyphen


def test_common_options_come_first(cli):
    _, out, _ = cli("upscale", "--help")
    panels = [line for line in out.splitlines() if re.fullmatch(r"[A-Z][a-z]+", line)]
    assert panels == ["Arguments", "Options", "Output", "Model", "Video", "Streams"]
    options = out.partition("Options\n")[2].partition("Output\n")[0]
    assert "-n, --model NAME|FILE|URL|auto" in options
    assert "[default: auto]" in options


@pytest.mark.parametrize("path", [(), ("engines",), ("data",)])
def test_a_group_without_a_command_prints_its_help(cli, path):
    code, out, err = cli(*path)
    assert (code, err) == (2, "")
    assert "COMMAND [ARGS]..." in out


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["upscale", ""], "INPUT"),
        (["upscale", "a.png", "-o", ""], "--output"),
        (["upscale", "a.png", "--report="], "--report"),
        (["upscale", "a.png", "-i", "b.png", "-i", ""], "--input"),
        (["compare", "", "a.png"], "BEFORE"),
        (["train", "--data", ""], "--data"),
        (["data", "check", ""], "DIR"),
        (["info", ""], "NAME|FILE"),
        (["models", "rm", ""], "NAME"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(cli, tmp_path, command, name):
    """As from `srgan-edge upscale "$UNSET"`, which upscaled everything that lay there."""
    save(tmp_path / "a.png")
    code, out, err = cli(*command)
    assert (code, out) == (2, "")
    assert err.startswith(f"srgan-edge: error: {name} is empty; name something")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_suffix_may_be_empty(cli, tmp_path):
    save(tmp_path / "a.png")
    assert cli("upscale", "a.png", "-n", "edge-x4", "--suffix", "", "-o", "out/")[0] == 0
    assert (tmp_path / "out/a.png").exists()


@pytest.mark.parametrize("command", [["train", "--max-minutes"], ["blend", "a", "b", "--alpha"]])
def test_a_number_that_is_none_is_refused(cli, command):
    code, _, err = cli(*command, "nan")
    assert code == 2
    assert f"{command[-1]} nan; possible: a number" in err


@pytest.mark.parametrize("minutes", ["0", "-1"])
def test_a_training_without_time_releases_nothing(cli, tmp_path, minutes):
    code, _, err = cli("train", "--max-minutes", minutes)
    assert code == 2
    assert f"--max-minutes {minutes}; possible: above 0" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        *("upscale NAME.png", "upscale a.png -n NAME", "upscale a.png -n NAME.onnx"),
        *("info NAME", "compare NAME.png a.png", "check NAME.mkv a.mkv", "eval NAME"),
        *("eval a --results x=NAME", "data check NAME", "engines rm NAME", "blend edge-x4 NAME"),
        *("convert NAME.pth", "bench NAME", "verify NAME", "models add NAME.onnx"),
        *("export edge-x4 --onnx -o NAME.onnx", "train --data NAME --recipe edge"),
    ],
)
def test_a_name_that_is_too_long_is_one_line(cli, tmp_path, command):
    save(tmp_path / "a.png")
    code, _, err = cli(*command.replace("NAME", "n" * 300).split())
    assert code in (2, 3, 5, 6)
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("srgan-edge: error: ")


RESULTS = ["info edge-x4 --json", "info edge-x4", "models", "models --json", "data check . --json"]


@pytest.mark.slow
@pytest.mark.parametrize("command", RESULTS)
@pytest.mark.parametrize(("redirected", "code"), [(">/dev/full", 5), (">&-", 5), ("| head -c1", 0)])
def test_a_result_that_cannot_be_printed_is_a_failure(tmp_path, command, redirected, code):
    save(tmp_path / "a.png", 120, 104)
    shell = f"{sys.executable} -m srgan_edge {command} {redirected}; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code
    assert ("cannot write to standard output" in done.stderr) == (code == 5)


def test_version(cli):
    assert cli("--version")[1].startswith("srgan-edge 0.")


def test_models_are_completed(cli, monkeypatch):
    monkeypatch.setenv("_SRGAN_EDGE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "srgan-edge upscale -n s")
    monkeypatch.setenv("COMP_CWORD", "3")
    _, out, _ = cli()
    assert out.split() == [name for name in bundled_models() if name.startswith("s")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("in.png", "'in.png' is no command; type: srgan-edge upscale in.png"),
        ("in.png -o b.png", "type: srgan-edge upscale in.png -o b.png"),
        ("-i in.png", "-i comes after a command; type: srgan-edge upscale -i in.png"),
        ("upscael in.png", "no command 'upscael'; did you mean: srgan-edge upscale in.png"),
        ("engines lst", "no command 'lst'; did you mean: srgan-edge engines list"),
        ("nonsense", "no command 'nonsense'; possible: upscale, check, compare, train"),
        ("--nonsense", "no option --nonsense; type: srgan-edge --help"),
        ("upscale in.png --zzz", "upscale has no --zzz; type: srgan-edge upscale --help"),
        ("upscale in.png --outscael 2", "upscale has no --outscael; did you mean --outscale?"),
        ("upscale in.png --tile_pad 10", "upscale has no --tile_pad; did you mean --tile-pad?"),
        ("upscale in.png --fp16", "upscale has no --fp16; an engine has its own precision"),
        ("upscale in.png -g 0", "upscale has no -g; type --device cuda:N"),
        ("upscale in.png --gpu-id 0", "upscale has no --gpu-id; type --device cuda:N"),
        ("upscale in.png --face_enhance", "upscale has no --face_enhance; leave it out: faces"),
        ("upscale in.png -dn 0.5", "type --denoise X, from 0 to 1, with -n srgan-real-x4"),
        ("upscale in.png --scale 2", "upscale has no --scale; type -s X, or --outscale X"),
        ("upscale in.png --batch many", "invalid value for '--batch'"),
        ("upscale in.png --decode tpu", "'tpu' is not one of 'auto', 'cpu', 'gpu'"),
        ("upscale in.png -o", "option '-o' requires an argument; type: srgan-edge"),
        ("train --fp16", "train has no --fp16; type --precision fp16"),
        ("export --int8", "type: srgan-edge quantize MODEL --data IMAGES/"),
        ("export a b", "got unexpected extra arguments (b); type: srgan-edge export --help"),
        ("verify", "missing argument 'MODEL'; type: srgan-edge verify --help"),
        ("upscale", "nothing to upscale; type: srgan-edge upscale FILE"),
    ],
)
def test_every_usage_error_is_one_line(cli, tmp_path, arguments, message):
    save(tmp_path / "in.png")
    code, out, err = cli(*arguments.split())
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("srgan-edge: error: ")
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("in.png out.png", "type: srgan-edge upscale in.png -o out.png"),
        ("in.png out.png -n edge-x4", "type: srgan-edge upscale in.png -o out.png -n edge-x4"),
        ("in.png large/", "type: srgan-edge upscale in.png -o large/"),
        ("photos large", "type: srgan-edge upscale photos -o large"),
    ],
)
def test_a_result_without_its_option_is_recognized(cli, tmp_path, arguments, message):
    save(tmp_path / "in.png")
    save(tmp_path / "photos/a.png")
    code, _, err = cli("upscale", *arguments.split())
    assert code == 2
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "photos"]


def test_f_is_the_type_of_a_file(cli, tmp_path):
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "-n", "edge-x4", "-f", "jpg")[0] == 0
    assert (tmp_path / "in.png_x4.jpg").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("in.png -f jpg -o z.png", "-f jpg and -o z.png; possible: one of them"),
        ("in.mp4 -f mkv -o z.mp4", "-f mkv and -o z.mp4; possible: one of them"),
        ("in.png --crf 20", "--crf is for videos, and the inputs are images; leave it out"),
        ("in.png --audio copy", "--audio is for videos"),
        ("in.png --steady 0.5", "--steady is for videos"),
        ("in.png -c libx265", "--codec is for videos"),
        ("in.png --pix-fmt rgb24", "--pix-fmt is for videos"),
        ("in.png -e bf=0", "-e is for videos"),
        ("in.png --grain", "--grain is for videos"),
        ("photos -o out --deinterlace", "--deinterlace is for videos"),
        ("in.png --ray local", "--ray is for videos"),
        ("in.mp4 --max-pixels 100", "--max-pixels is for images, and the inputs are videos"),
    ],
)
def test_what_no_input_has_a_use_for_is_refused(cli, tmp_path, arguments, message):
    save(tmp_path / "in.png")
    save(tmp_path / "photos/a.png")
    (tmp_path / "in.mp4").touch()
    code, _, err = cli("upscale", *arguments.split())
    assert (code, message in err) == (2, True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "in.png", "photos"]


def test_a_folder_of_both_kinds_takes_options_of_each(cli, tmp_path):
    save(tmp_path / "in/a.png")
    clips.make(tmp_path / "in/b.mp4", frames=2)
    options = ("--crf", "30", "--max-pixels", "1000000", "-f", "jpg")
    code, _, err = cli("upscale", "in", "-n", "edge-x4", *options)
    assert code == 0, err
    made = sorted(path.name for path in (tmp_path / "in_x4").iterdir())
    assert made == ["a.png_x4.jpg", "b_x4.mp4"]


@pytest.mark.parametrize("name", ["z.jpeg", "z.jpg", "out/"])
def test_a_type_and_a_name_of_that_type_are_no_contradiction(cli, tmp_path, name):
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "-n", "edge-x4", "-f", "jpg", "-o", name)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-f nut", "-f nut is no file type; for a pipe type -o - --pipe-format nut"),
        ("-f nut -o -", "-f nut is for files; for -o - type --pipe-format nut"),
        ("-f mkv -o -", "for -o - type --pipe-format matroska|nut|yuv4mpegpipe"),
    ],
)
def test_f_is_not_the_container_of_a_pipe(cli, tmp_path, arguments, message):
    save(tmp_path / "in.png")
    code, _, err = cli("upscale", "in.png", *arguments.split())
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    "words",
    [
        "convert m.onnx --licence MIT",
        "convert m.pth",
        "convert m.pth -o m.onnx --licence MIT",
        "export edge-x4 --onnx",
        "quantize edge-x4 --data .",
        "blend srresnet-x4 srgan-x4",
        "train --recipe edge --data . -o run",
        "degrade in.png -o out.png",
    ],
)
def test_an_installation_without_pytorch_is_told_the_extra(tmp_path, words):
    for name in ("m.onnx", "m.pth", "in.png"):
        (tmp_path / name).write_bytes(b"x")
    run = "import sys; sys.modules['torch'] = None; import srgan_edge.cli as cli; cli.main()"
    found = subprocess.run(
        [sys.executable, "-c", run, *words.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 6, found.stderr
    assert "needs the package `torch`" in found.stderr
    assert "pip install" in found.stderr
    assert found.stderr.count("\n") == 1
