"""Too little memory is exit code 7 and one line, in whichever library it runs out."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import clips
import pytest
from command_inputs import EDGE, save

from srgan_edge.errors import HostMemoryExhausted, OutputFailed, UsageError, lacks_memory
from srgan_edge.files import output_failed

ROOT = Path(__file__).resolve().parents[2]

TORCH = ("export", "edge-x4", "--onnx", "-o", "out.onnx", "--overwrite")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    save(folder / "a.png")
    clips.make(folder / "v.mkv", frames=3, size=(48, 32))
    return folder


def under_limit(folder, limit_mb, *command, path=(ROOT,)):
    """Run a command under `ulimit -v`; return its exit code and the lines on stderr."""
    limit = limit_mb * 1000 if limit_mb else "unlimited"
    shell = f"ulimit -v {limit}; exec {sys.executable} -m srgan_edge {' '.join(command)}"
    done = subprocess.run(
        ["bash", "-c", shell],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("limit_mb", [200, 300, 308, 360, 420, 500, 580, 640, 720, 900])
@pytest.mark.parametrize(
    "command",
    [
        ("upscale", "a.png", "-n", EDGE, "--overwrite"),
        ("upscale", "v.mkv", "-n", EDGE, "--overwrite", "--restart"),
        ("upscale", "v.mkv", "-n", EDGE, "--overwrite", "--restart", "--engine", "onnxruntime"),
    ],
    ids=["image", "video", "onnxruntime"],
)
def test_an_upscale_succeeds_or_ends_with_one_line(inputs, limit_mb, command):
    """Between loading Python's own libraries and running the network, in every stage."""
    code, lines = under_limit(inputs, limit_mb, *command)
    assert code in ((7,) if limit_mb <= 400 else (0, 7) if limit_mb < 900 else (0,)), lines
    assert not any("Traceback" in line for line in lines), lines
    if code == 7:
        assert lines[-1].startswith("srgan-edge: error: "), lines
        assert "raise the limit (ulimit -v" in lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize("limit_mb", [400, 800, 1600])
def test_pytorch_that_does_not_fit_is_one_line(inputs, limit_mb):
    pytest.importorskip("torch")
    code, lines = under_limit(inputs, limit_mb, *TORCH)
    assert (code, len(lines)) == (7, 1), lines
    assert "raise the limit (ulimit -v" in lines[0]


@pytest.mark.parametrize(("limit_mb", "expected"), [(700, 7), (None, 1)])
def test_a_library_that_fails_in_its_own_way_near_the_limit_is_one_line(
    inputs, tmp_path, limit_mb, expected
):
    """Half-loaded libraries raise anything; with memory to spare, that is a bug."""
    (tmp_path / "av.py").write_text("held = bytearray(400 << 20)\nraise KeyError('half loaded')")
    command = ("upscale", "v.mkv", "-n", EDGE, "--overwrite", "--restart")
    code, lines = under_limit(inputs, limit_mb, *command, path=(tmp_path, ROOT))
    assert code == expected, lines
    assert "KeyError: 'half loaded'" in lines[-1]
    assert ("raise the limit (ulimit -v" in lines[-1]) == (len(lines) == 1) == (expected == 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks", "code", "said"),
    [
        *(("a.png", 1_000_000, 0, "wrote"), ("a.png", 2, 7, "raise the limit (ulimit -f)")),
        *(
            ("v.mkv", 1_000_000, 0, "wrote"),
            ("v.mkv", 2, 5, "v.mkv: File too large; raise the limit"),
        ),
    ],
)
def test_a_limit_on_the_size_of_files(inputs, tmp_path, name, blocks, code, said):
    words = f"upscale {inputs / name} -n {EDGE} -o {tmp_path / name}"
    shell = f"ulimit -f {blocks}; exec {sys.executable} -m srgan_edge {words}"
    done = subprocess.run(
        ["bash", "-c", shell], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr.decode().splitlines()[-1]


def test_a_current_folder_that_is_gone_is_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    shell = f"cd gone && rmdir ../gone && {sys.executable} -m srgan_edge upscale a.png"
    done = subprocess.run(
        ["bash", "-c", shell],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == 3
    assert b"error: the current folder no longer exists; type: cd" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        ImportError("libtorch.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] not enough memory"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:40],
)
def test_errors_for_want_of_memory_are_known(error):
    later = ValueError("while loading")
    later.__cause__ = error
    assert lacks_memory(error)
    assert lacks_memory(later)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        ImportError("No module named 'x'"),
        OSError(errno.ENOSPC, "No space left on device"),
        UsageError("memory.png: out of memory.png"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_taken_for_it(error):
    assert not lacks_memory(error)


def test_a_write_that_lacks_memory_is_no_fault_of_the_disk():
    full, short = OSError(errno.ENOSPC, "full"), OSError(errno.ENOMEM, "no memory")
    assert isinstance(output_failed(Path("a"), full), OutputFailed)
    assert isinstance(output_failed(Path("a"), short), HostMemoryExhausted)
