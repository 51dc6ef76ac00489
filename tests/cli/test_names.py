"""Names of files are bytes, in any locale; what cannot be printed is escaped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import clips
import pytest
from command_inputs import EDGE, save

from srgan_edge.errors import printable, quoted, typed
from srgan_edge.model.library import find_model

ROOT = Path(__file__).resolve().parents[2]

LOCALES = {
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "ASCII": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "Latin-1": {"LC_ALL": "de_DE.ISO-8859-1"},
    "output": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
}
NAMES = {"Latin-1": b"gr\xfcn", "UTF-8": "日é".encode(), "none": b"\xff\xfe"}

COMMANDS = [
    ("upscale {}.mkv {}.png bad{}.png -n {}.onnx -o out{} --report {}.json", 3),
    ("check {}.mkv {}.mkv", 0),
    ("compare {}.png {}4.png -o pair{}.png", 0),
    ("info {}.safetensors", 0),
    ("eval bench{} -n {}.onnx --figure figure{}.png", 0),
    ("verify-tiles {}.png -n {}.safetensors --plot plot{}.png", 0),
    ("export {}.safetensors --onnx -o out{}.onnx", 0),
    ("export {}.safetensors --openvino -o out{}.xml", 0),
    ("blend {}.safetensors edge-x4 -o mixed{}.safetensors", 0),
    ("degrade {}.png -o small{}", 0),
    ("data check bench{}/HR --crop 32", 0),
    ("engines rm {}", 2),
    ("upscale {}.png none{}.png", 2),
    ("train --data bench{}/HR -o run{} --recipe srresnet --set model.channels=4 "
     "--set model.blocks=1 --set data.crop_px=32 --set data.batch=2 --set pixel.steps=2 "
     "--set run.precision=fp32 --set data.reduced=[]", 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory):
    """A folder with a locale of Latin-1, for LOCPATH."""
    if shutil.which("localedef") is None:
        pytest.skip("needs localedef, to make a locale")
    folder = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / "de_DE.ISO-8859-1")]
    if subprocess.run(command, capture_output=True).returncode not in (0, 1):
        pytest.skip("needs the sources of locales")
    return folder


def run(folder, command, **variables):
    """Run a command of bytes in another process; return its code, output and errors."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-m", "srgan_edge", *command],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
    )
    return done.returncode, done.stdout, done.stderr


def fill(folder, name):
    """Write a file of each kind, all with this name."""
    stem = os.fsdecode(name)
    save(folder / f"{stem}.png")
    save(folder / f"{stem}4.png", 208, 160)
    (folder / f"bad{stem}.png").write_text("no image")
    clips.make(folder / "a.mkv", frames=2, size=(48, 32)).rename(folder / f"{stem}.mkv")
    for suffix in (".onnx", ".safetensors"):
        content = find_model("edge-x4").file(suffix).read_bytes()
        (folder / f"{stem}{suffix}").write_bytes(content)
    save(folder / f"bench{stem}/HR/{stem}.png", 104, 80)
    save(folder / f"bench{stem}/LRx4/{stem}.png", 26, 20)


def check(folder, name, commands, **variables):
    fill(folder, name)
    for command, expected in commands:
        words = [word.encode().replace(b"{}", name) for word in command.split()]
        code, _, err = run(folder, words, **variables)
        assert code == expected, (command, err)
        assert b"Traceback" not in err, (command, err)
    stem = os.fsdecode(name)
    report = json.loads((folder / f"{stem}.json").read_text())
    assert [job["source"] for job in report["jobs"]] == [
        f"{stem}.mkv", f"{stem}.png", f"bad{stem}.png",
    ]  # fmt: skip
    made = [f"out{stem}/{stem}_x4.mkv", f"out{stem}/{stem}_x4.png", f"pair{stem}.png"]
    if len(commands) == len(COMMANDS):
        made += [
            f"plot{stem}.png", f"out{stem}.onnx", f"out{stem}.xml", f"mixed{stem}.safetensors",
            f"small{stem}/{stem}-1.png", f"run{stem}/srresnet-x4.safetensors",
        ]  # fmt: skip
    for path in made:
        assert (folder / path).stat().st_size > 100, path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("locale", "name"),
    [("UTF-8", "none"), ("ASCII", "UTF-8"), ("Latin-1", "Latin-1"), ("output", "UTF-8")],
)
def test_names_are_bytes_in_any_locale(tmp_path, request, locale, name):
    variables = LOCALES[locale]
    if locale == "Latin-1":
        variables = variables | {"LOCPATH": str(request.getfixturevalue("latin_1"))}
    check(tmp_path, NAMES[name], COMMANDS[:5], **variables)


@pytest.mark.slow
def test_every_verb_takes_any_name(tmp_path):
    check(tmp_path, NAMES["none"], COMMANDS, **LOCALES["ASCII"])


def test_a_locale_changes_the_output_and_not_the_names(tmp_path):
    """The name is found as bytes, and printed in the encoding of the terminal."""
    save(tmp_path / "日.png")
    command = ("upscale", "日.png".encode(), "-n", EDGE)
    code, _, err = run(tmp_path, command, **LOCALES["ASCII"])
    assert (code, (tmp_path / "日_x4.png").is_file()) == (0, True)
    assert rb"wrote \u65e5_x4.png" in err
    assert "wrote 日_x4.png".encode() in run(tmp_path, (*command, "--overwrite"))[2]


@pytest.mark.parametrize(
    "name", ["a b.png", "it's.png", "caf\udce9.png", "-x.png", "new\nline\\.png", "日\x1b[31m.png"]
)
def test_what_is_to_be_typed_can_be_typed(tmp_path, name):
    (tmp_path / name).write_text("here")
    command = typed(["cat", Path(name)])
    assert command == printable(command)
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("here", "")
    assert quoted("plain.png") == "plain.png"


def test_bytes_are_shown_as_bytes():
    assert printable(os.fsdecode(b"caf\xe9 \xff")) == r"caf\xe9 \xff"
    assert printable("日\x1b\n\ud800") == r"日\x1b\n\ud800"
