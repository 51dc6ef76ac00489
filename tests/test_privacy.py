"""No run speaks to a network, or leaves traces of a library beside its result."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from processes import ran

WATCHED = """
import sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print(event, arguments, file=sys.stderr)

sys.addaudithook(watch)
sys.argv = ["srgan-edge", "upscale", "a.png", "-n", "edge-x4", "--engine", "ENGINE"]
from srgan_edge.cli import main
main()
"""


def upscaled(folder, code, variables):
    """Run code that upscales `a.png`, in a process that does not look like one of a CI."""
    Image.new("RGB", (24, 16), (90, 120, 40)).save(folder / "a.png")
    root = Path(__file__).resolve().parent.parent
    surroundings = os.environ | {"PYTHONPATH": str(root)} | variables
    for name in ("CI", "ORT_DISABLE_TELEMETRY"):  # reporters are quiet where they see one of these
        surroundings.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "a_x4.png").exists()
    return done.stderr


def test_openvino_reports_to_nobody(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = WATCHED.replace("ENGINE", "openvino")
    assert "socket." not in upscaled(tmp_path, code, {"HOME": str(home)})
    assert [path.name for path in home.iterdir() if path.name != ".cache"] == []


def test_onnx_runtime_reports_to_nobody(tmp_path):
    """Its reporter begins with an identifier in the folder for temporary files."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "temporary"
    folder.mkdir()
    upscaled(tmp_path, WATCHED.replace("ENGINE", "onnxruntime"), {"TMPDIR": str(folder)})
    assert list(folder.iterdir()) == []


def test_who_wants_to_report_may():
    words = "import os, srgan_edge; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert ran(words).stdout.strip() == os.environ.get("ORT_DISABLE_TELEMETRY", "1")


def test_the_reporter_of_openvino_cannot_be_imported():
    done = ran("import srgan_edge, openvino, sys; print(sys.modules['openvino_telemetry'])")
    assert done.stdout.strip() == "None", done.stderr
