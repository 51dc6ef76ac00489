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
sys.argv = ["srgan-edge", "upscale", "a.png", "-n", "edge-x4", "--engine", "openvino"]
from srgan_edge.cli import main
main()
"""


def test_openvino_reports_to_nobody(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    Image.new("RGB", (24, 16), (90, 120, 40)).save(tmp_path / "a.png")
    root = Path(__file__).resolve().parent.parent
    surroundings = os.environ | {"HOME": str(home), "PYTHONPATH": str(root)}
    surroundings.pop("CI", None)  # the reporter is quiet where it sees this
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a_x4.png").exists()
    assert "socket." not in done.stderr
    assert [path.name for path in home.iterdir() if path.name != ".cache"] == []


def test_onnx_runtime_reports_to_nobody(tmp_path):
    """Its reporter begins with an identifier in the folder for temporary files."""
    pytest.importorskip("onnxruntime")
    Image.new("RGB", (24, 16), (90, 120, 40)).save(tmp_path / "a.png")
    (tmp_path / "temporary").mkdir()
    root = Path(__file__).resolve().parent.parent
    surroundings = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(root)}
    for name in ("CI", "ORT_DISABLE_TELEMETRY"):
        surroundings.pop(name, None)
    words = ["upscale", "a.png", "-n", "edge-x4", "--engine", "onnxruntime"]
    done = subprocess.run(
        [sys.executable, "-m", "srgan_edge", *words],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "temporary").iterdir()) == []


def test_who_wants_to_report_may():
    words = "import os, srgan_edge; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert ran(words).stdout.strip() == os.environ.get("ORT_DISABLE_TELEMETRY", "1")


def test_the_reporter_of_openvino_cannot_be_imported():
    done = ran("import srgan_edge, openvino, sys; print(sys.modules['openvino_telemetry'])")
    assert done.stdout.strip() == "None", done.stderr
