"""No verb replaces a file unasked, or an input ever; and no name reaches the terminal as it is."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import clips
import pytest
from command_inputs import EDGE, save, snapshot
from terminal import in_terminal

import srgan_edge
from srgan_edge.errors import ModelRefused
from srgan_edge.files import refuse_replacing
from srgan_edge.jobs.report_file import ReportFile
from srgan_edge.model.library import find_model

CHECKPOINT = find_model("edge-x4").file(".safetensors")
PHOTO = Path(srgan_edge.__file__).parent / "demo" / "photo.png"
ESCAPE = "\x1b]0;pwned\x07\x1b[31m"


@pytest.fixture
def files(tmp_path):
    """One file of each kind that commands read, and one that is in the way of their results."""
    save(tmp_path / "a.png")
    save(tmp_path / "a4.png", 208, 160)
    (tmp_path / "m.safetensors").write_bytes(CHECKPOINT.read_bytes())
    (tmp_path / "m.onnx").write_bytes(find_model("edge-x4").file(".onnx").read_bytes())
    foreign = CHECKPOINT.read_bytes().replace(b"srgan_edge.spec", b"another.program")
    (tmp_path / "w.safetensors").write_bytes(foreign)
    for folder in ("photos", "bench/HR", "bench/LRx4"):
        save(tmp_path / folder / "a.png", *((13, 10) if "LR" in folder else (52, 40)))
    (tmp_path / "typical").mkdir()
    (tmp_path / "typical" / "a.png").write_bytes(PHOTO.read_bytes())
    for name in (
        *("there.png", "there.html", "there.onnx", "there.xml", "there.safetensors"),
        *("free.bin", "free.engine.json", "examples/a-1.png"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("somebody's")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ("upscale", "a.png", "-n", EDGE, "-o", "there.png"),
        ("compare", "a.png", "a4.png", "-o", "there.png"),
        ("compare", "a.png", "-n", EDGE, "-o", "there.html"),
        ("bench", "m.onnx", "--plot", "there.png"),
        ("convert", "w.safetensors", "-o", "there.safetensors"),
        ("export", "m.safetensors", "--onnx", "-o", "there.onnx"),
        ("export", "m.safetensors", "--onnx", "--fp16", "-o", "there.onnx"),
        ("export", "m.safetensors", "--openvino", "-o", "there.xml"),
        ("export", "m.safetensors", "--openvino", "-o", "free.xml"),
        ("export", "m.safetensors", "--rtx", "-o", "free.engine"),
        ("quantize", "m.safetensors", "--data", "photos", "-o", "there.safetensors"),
        ("blend", "m.safetensors", "edge-x4", "-o", "there.safetensors"),
        ("eval", "bench", "-n", EDGE, "--figure", "there.png"),
        ("verify-tiles", "a.png", "-n", "m.safetensors", "--plot", "there.png"),
        ("degrade", "photos", "-o", "examples"),
    ],
    ids=" ".join,
)
def test_no_verb_replaces_a_file_unasked(cli, files, command):
    before = snapshot(files)
    code, out, err = cli(*command)
    assert (code, out) == (2, "")
    assert "exists; type --overwrite" in err
    assert snapshot(files) == before


@pytest.mark.parametrize(
    "command",
    [
        ("upscale", "a.png", "-n", EDGE, "-o", "a.png"),
        ("compare", "a.png", "a4.png", "-o", "a4.png"),
        ("quantize", "m.safetensors", "--data", "photos", "-o", "m.safetensors"),
        ("blend", "edge-x4", "m.safetensors", "-o", "m.safetensors"),
        ("verify-tiles", "a.png", "-n", "m.safetensors", "--plot", "a.png"),
        ("degrade", "photos", "a-1.png", "-o", "."),
    ],
    ids=lambda command: " ".join(command[:1]),
)
def test_no_verb_replaces_its_input_even_if_asked(cli, files, command):
    save(files / "a-1.png")
    before = snapshot(files)
    code, out, err = cli(*command, "--overwrite")
    assert (code, out) == (2, "")
    assert "input itself" in err
    assert snapshot(files) == before


AS_ANOTHER_NAME = {
    "itself": lambda path, name: name,
    "dotted": lambda path, name: f"./photos/../{name}",
    "hard link": lambda path, name: (path / "other").hardlink_to(path / name),
    "link": lambda path, name: (path / "other").symlink_to(path / name),
}


READ = [
    ("upscale a.png -n EDGE -o OUT", "a.png"),
    ("upscale a.png -n EDGE --report OUT", "a.png"),
    ("compare a.png a4.png -o OUT", "a.png"),
    ("compare a.png a4.png -o OUT", "a4.png"),
    ("compare a.png a4.png --reference a4.png -o OUT.html", "a4.png"),
    ("compare a.png a4.png --feature-weights m.safetensors -o OUT.html", "m.safetensors"),
    ("compare a.png -n m.onnx -o OUT.html", "m.onnx"),
    ("bench m.onnx --plot OUT.png", "m.onnx"),
    ("eval bench -n EDGE --figure OUT.png", "bench/HR/a.png"),
    ("eval bench -n EDGE --figure OUT.png", "bench/LRx4/a.png"),
    ("eval bench --results mine=photos --figure OUT.png", "photos/a.png"),
    ("eval bench -n m.onnx --figure OUT.png", "m.onnx"),
    ("verify-tiles a.png -n m.safetensors --plot OUT.png", "a.png"),
    ("verify-tiles a.png -n m.safetensors --plot OUT.png", "m.safetensors"),
    ("export m.safetensors --onnx -o OUT.onnx", "m.safetensors"),
    ("export m.safetensors --onnx --io float -o OUT.onnx", "m.safetensors"),
    ("export m.safetensors --openvino -o OUT.xml", "m.safetensors"),
    ("export m.safetensors --rtx -o OUT.engine", "m.safetensors"),
    ("quantize m.safetensors --data photos -o OUT.safetensors", "m.safetensors"),
    ("quantize m.safetensors --data photos -o OUT.safetensors", "photos/a.png"),
    ("blend edge-x4 m.safetensors -o OUT.safetensors", "m.safetensors"),
    ("convert w.safetensors -o OUT.safetensors", "w.safetensors"),
    ("convert m.onnx --licence MIT -o OUT.onnx", "m.onnx"),
]
"""Commands with OUT for their result, which has the suffix behind it, and a file that they read."""


def names_of_inputs():
    """Each command with each other name of its input; a name that is no link keeps its suffix."""
    for command, read in READ:
        suffix = command.partition("OUT")[2].partition(" ")[0]
        for how in AS_ANOTHER_NAME:
            if "link" in how or suffix in ("", Path(read).suffix):
                yield pytest.param(command, read, how, id=f"{command} {read} {how}")


@pytest.mark.parametrize(("command", "read", "how"), list(names_of_inputs()))
def test_an_input_is_known_by_any_name(cli, files, command, read, how):
    """By its file, and not by its text: results often have a suffix that the input has not."""
    out = command.partition("OUT")[2].partition(" ")[0]
    suffix = out or Path(read).suffix
    name = AS_ANOTHER_NAME[how](files, read)
    if name is None:
        name = (files / "other").rename(files / f"other{suffix}").name
    before = snapshot(files)
    typed = command.replace(f"OUT{out}", name).replace("EDGE", EDGE).split()
    code, out, err = cli(*typed, *([] if "--report" in typed else ["--overwrite"]))
    assert (code, out) == (2, "")
    assert "input itself" in err or "is an input" in err
    assert snapshot(files) == before


@pytest.mark.parametrize("written", ["m.bin", "m.engine.json"])
def test_the_second_file_of_a_result_is_no_input_either(cli, files, written):
    (files / written).hardlink_to(files / "m.safetensors")
    target = ("--openvino", "-o", "m.xml") if ".bin" in written else ("--rtx", "-o", "m.engine")
    code, _, err = cli("export", "m.safetensors", *target, "--overwrite")
    assert code == 2
    assert f"{written} is an input itself" in err


def test_a_folder_is_not_said_to_be_replaceable(cli, files):
    for options in ([], ["--overwrite"]):
        code, _, err = cli("compare", "a.png", "a4.png", "-o", "photos", *options)
        assert code == 5, err
        assert "photos: it is a folder; name a file in it with -o" in err


LATE = (
    "compare a.png -n EDGE -o OUT.html",
    "compare a.png a4.png -o OUT.png",
    "bench m.onnx --plot OUT.png",
    "eval bench -n EDGE --figure OUT.png",
    "verify-tiles a.png -n m.safetensors --plot OUT.png",
    "export m.safetensors --onnx -o OUT.onnx",
    "quantize m.safetensors --data typical -o OUT.safetensors",
    "blend m.safetensors edge-x4 -o OUT.safetensors",
    "convert w.safetensors -o OUT.safetensors",
)


@pytest.mark.parametrize("place", ["none/out", "pipe"])
@pytest.mark.parametrize("command", LATE)
def test_a_place_that_cannot_be_written_is_found_before_the_work(cli, files, command, place):
    os.mkfifo(files / f"pipe{command.rpartition('OUT')[2]}")
    typed = command.replace("OUT", place).replace("EDGE", EDGE).split()
    code, out, err = cli(*typed, "--overwrite")
    assert (code, out) == (5, ""), err
    assert err.startswith("srgan-edge: error: cannot write")  # nothing was said of any work


WRITING = (
    *(command for command in LATE if not command.startswith("bench")),  # which takes seconds
    "export m.safetensors --onnx --fp16 -o OUT.onnx",
    "export m.safetensors --onnx --io float -o OUT.onnx",
    "export m.safetensors --openvino -o OUT.xml",
    "degrade photos --variants 1 -o OUT",
)


@pytest.mark.parametrize("command", WRITING)
def test_a_file_that_appears_during_the_work_is_kept(cli, files, command, monkeypatch):
    """Somebody else writes it right after the command has found its name free."""
    made = []

    def refuse_then_appear(path, *given, **options):
        refuse_replacing(path, *given, **options)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"somebody's")
        made.append(path)

    for module in ("cli.common", "cli.compare", "cli.measure", "train.source_examples"):
        monkeypatch.setattr(f"srgan_edge.{module}.refuse_replacing", refuse_then_appear)
    code, _, err = cli(*command.replace("OUT", "out").replace("EDGE", EDGE).split())
    assert code == 5, err
    assert "appeared during the work and is kept; type --overwrite" in err
    assert made
    assert {path.read_bytes() for path in made} == {b"somebody's"}


@pytest.mark.parametrize(
    "command",
    [
        "upscale cut.png -n EDGE -o new/x/",
        "upscale cut.png -n EDGE -o new/x/out.png",
        "upscale bad -n EDGE -o new",
        "export none.safetensors --onnx -o new/x/",
        "export none.safetensors --triton new/x",
        "export m.safetensors --onnx --fp16 --io float -o new/",
        "convert none.safetensors -o new/",
        "quantize m.safetensors --data bad -o new/",
        "blend m.safetensors srgan-x4 -o new/",
        "degrade bad -o new/x",
        "train --recipe edge --data bad -o new/x",
        "train --recipe edge --data photos -o new/x",
        "train --recipe edge --data photos --init none.safetensors -o new/x",
    ],
)
def test_what_is_refused_leaves_no_folder(cli, files, command):
    """The photographs in `photos` are smaller than a crop."""
    (files / "none.safetensors").write_text("none")
    (files / "cut.png").write_bytes((files / "a.png").read_bytes()[:200])
    (files / "bad").mkdir()
    (files / "bad" / "a.png").write_bytes((files / "a.png").read_bytes()[:200])
    code, _, err = cli(*command.replace("EDGE", EDGE).split())
    assert code in (2, 3, 4, 6), err
    assert not (files / "new").exists()


@pytest.mark.parametrize("name", ["m.safetensors", "m.onnx"])
def test_a_model_of_ours_needs_no_conversion(cli, files, name):
    for other in {"m.safetensors", "m.onnx"} - {name}:
        (files / other).unlink()
    code, out, err = cli("convert", name, "-o", f"new{Path(name).suffix}", "--licence", "MIT")
    assert (code, out) == (2, "")
    assert f"{name} needs no conversion: it is edge-x4, a model of srgan-edge" in err
    (advice,) = re.findall("type: srgan-edge (.*)", err)
    code, _, err = cli(*shlex.split(advice.replace("IMAGE", "a.png")))
    assert code == 0, err


@pytest.mark.parametrize("form", [(), ("--io", "float")])
def test_an_export_that_computes_something_else_is_not_kept(cli, files, monkeypatch, form):
    def off(checkpoint, onnx, say):
        raise ModelRefused(f"{checkpoint.stem} as ONNX in torch: far off")

    monkeypatch.setattr("srgan_edge.export.verify.prove_onnx", off)
    monkeypatch.setattr("srgan_edge.export.float_onnx.prove_float_onnx", off)
    before = snapshot(files)
    code, out, err = cli("export", "m.safetensors", "--onnx", *form, "-o", "new/")
    assert (code, out) == (6, "")
    assert "m as ONNX in torch: far off" in err
    assert snapshot(files) == before


def test_a_folder_that_was_there_stays(cli, files):
    (files / "new").mkdir()
    (files / "none.safetensors").write_text("none")
    assert cli("export", "none.safetensors", "--onnx", "-o", "new/x/")[0] == 6
    assert cli("train", "--recipe", "edge", "--data", "photos", "-o", "new")[0] == 3
    assert list((files / "new").iterdir()) == []


def test_a_plot_of_another_kind_is_refused_before_the_work(cli, files):
    code, out, err = cli("verify-tiles", "a.png", "-n", "m.safetensors", "--plot", "p.txt")
    assert (code, out) == (2, "")
    assert "--plot p.txt; possible: a name that ends in .png" in err


def test_a_link_to_nothing_is_in_the_way_too(cli, files):
    (files / "link.png").symlink_to("elsewhere.png")
    code, _, err = cli("upscale", "a.png", "-n", EDGE, "-o", "link.png")
    assert code == 2
    assert "link.png exists; type --overwrite" in err
    assert (files / "link.png").is_symlink()


@pytest.mark.parametrize("content", ["{}", '{"schema": 1, "precious": 2}', "[" * 100_000, None])
def test_a_report_replaces_only_a_report(cli, files, content):
    report = files / "r.json"
    if content is None:
        os.mkfifo(report)  # opening one waits for a writer
    else:
        report.write_text(content)
    code, _, err = cli("upscale", "a.png", "-n", EDGE, "--report", "r.json", "--overwrite")
    assert code == 2
    assert "exists and is not a report" in err
    assert not (files / "a_x4.png").exists()


def test_a_report_does_not_replace_what_appears_during_the_work(cli, files, monkeypatch):
    ended = ReportFile.ended

    def appear(report, outcome):
        ended(report, outcome)
        (files / "r.json").write_text("somebody's")

    monkeypatch.setattr(ReportFile, "ended", appear)
    code, _, err = cli("upscale", "a.png", "-n", EDGE, "--report", "r.json")
    assert code == 2
    assert "--report r.json exists and is not a report" in err
    code, _, err = cli("upscale", "a.png", "-n", EDGE, "--report", "-")
    assert code == 2 and "--report - is no file; for lines on standard output" in err
    assert (files / "r.json").read_text() == "somebody's"
    assert (files / "a_x4.png").is_file()


def test_a_damaged_video_replaces_no_partial_result_of_another(cli, tmp_path):
    whole = clips.make(tmp_path / "whole.mkv", frames=30, size=(48, 32)).read_bytes()
    (tmp_path / "in.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "in_x4.partial.mkv").write_text("somebody's")
    code, _, err = cli("upscale", "in.mkv", "-n", EDGE)
    assert code == 4, err
    assert "in in_x4.partial-2.mkv" in err
    assert (tmp_path / "in_x4.partial.mkv").read_text() == "somebody's"
    assert clips.see_frames(tmp_path / "in_x4.partial-2.mkv")


def test_one_name_that_is_too_long_ends_one_job(cli, tmp_path):
    """In a folder with results from before, too, which every name is compared with."""
    name = "a" * 251 + ".png"
    save(tmp_path / "in/z.png")
    (tmp_path / "in" / name).write_bytes((tmp_path / "in/z.png").read_bytes())
    for _ in range(2):
        code, _, err = cli("upscale", "in", "-n", EDGE, "--skip-existing")
        assert code == 5, err
        assert "File name too long" in err
        assert (tmp_path / "in_x4/z_x4.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "redirected", "code"),
    [
        ("a.png a4.png --json-events", "> /dev/full", 0),
        ("a.png a4.png --json-events", "| head -n 1 > /dev/null", 0),
        ("a.png a4.png", "2> /dev/full", 0),
        ("a.png none.png a4.png", "2>&-", 3),
        ("a.png a4.png --json-events", "<&- >&- 2>&-", 0),
        ("a.mkv a4.png -o results", "<&- >&- 2>&-", 0),
        ("a.mkv -o -", ">&-", 5),
    ],
)
def test_the_work_is_done_whatever_becomes_of_the_standard_streams(
    files, options, redirected, code
):
    clips.make(files / "a.mkv", frames=3, size=(48, 32))
    command = f"{sys.executable} -m srgan_edge upscale {options} -n {EDGE} {redirected}"
    if "none.png" in options:  # which is missing: refused before any work
        (files / "none.png").write_text("no image")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    shell = f"{command}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], cwd=files, env=environment)
    assert done.returncode == code
    folder = files / "results" if "results" in options else files
    for name in ("a.png", "a4.png"):
        if name in options:
            assert (folder / name.replace(".png", "_x4.png")).stat().st_size > 500


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("upscale", "hostile", "-n", EDGE),
        ("compare", "a.png", "a4.png", "-o", f"{ESCAPE}.png"),
        ("info", "hostile.safetensors"),
        ("data", "check", "hostile"),
        ("engines", "list"),
        ("degrade", "hostile", "-o", ESCAPE),
    ],
    ids=lambda command: command[0],
)
def test_what_strangers_wrote_is_no_command_to_the_terminal(files, command, monkeypatch):
    monkeypatch.setenv("SRGAN_EDGE_CACHE", str(files / "cache"))
    save(files / "hostile" / f"{ESCAPE}[bold].png", 120, 104)
    (files / "hostile" / f"{ESCAPE}.jpg").write_text("no image")
    (files / "cache").mkdir()
    (files / "cache" / f"{ESCAPE}.engine").write_text("no engine")
    (files / "hostile.safetensors").write_bytes(with_name(CHECKPOINT.read_bytes(), ESCAPE))
    shown = in_terminal(files, *command)
    assert "pwned" in shown
    assert "\x1b]0;" not in shown
    assert "\x07" not in shown


def with_name(content: bytes, name: str) -> bytes:
    """Return a safetensors file whose spec has another name."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    key, text = next(iter(header["__metadata__"].items()))
    header["__metadata__"][key] = json.dumps(json.loads(text) | {"name": name})
    changed = json.dumps(header).encode()
    return len(changed).to_bytes(8, "little") + changed + content[8 + length :]
