"""A sandboxed process has lost its rights, on old and new kernels."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from srgan_edge.isolation import sandbox

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = range(1, sandbox.landlock_version() + 1)

PROGRAM = """
import json, os, socket, sys
from pathlib import Path
from srgan_edge.isolation import sandbox

version, allowed, other, port = sys.argv[1:]
sandbox.landlock_version = lambda: int(version)
done = sandbox.keep_to_files([os.open(allowed, os.O_PATH)])

def can(attempt):
    try:
        attempt()
    except PermissionError:
        return False
    except OSError:
        pass
    return True

import decimal, wave  # libraries can still be loaded
print(json.dumps({
    "done": done,
    "read the one": can(Path(allowed).read_bytes),
    "read another": can(Path(other).read_bytes),
    "write the one": can(lambda: Path(allowed).open("r+b")),
    "create": can(Path(other + ".new").touch),
    "connect": can(lambda: socket.create_connection(("127.0.0.1", int(port)), 2)),
}))
"""


def can_still(version, folder):
    (folder / "one").write_text("1")
    (folder / "other").write_text("2")
    arguments = [str(version), str(folder / "one"), str(folder / "other"), "9"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", VERSIONS)
def test_one_file_is_left_whatever_the_kernel_knows(tmp_path, version):
    can = can_still(version, tmp_path)
    assert can.pop("connect") == (version < 4)
    assert can == {
        "done": True,
        "read the one": True,
        "read another": False,
        "write the one": False,
        "create": False,
    }


def test_without_landlock_nothing_is_lost_and_false_is_returned(tmp_path):
    can = can_still(0, tmp_path)
    assert not can.pop("done")
    assert all(can.values())


def test_a_process_whose_parent_has_ended_before_it_began_ends_too():
    program = "from srgan_edge.isolation import sandbox; sandbox.die_with(2**22); print('alive')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
