"""A terminal to run commands in."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def in_terminal(folder: Path, *command: str, columns: int = 80, **environment: str) -> str:
    """Return all that a command writes to a terminal of 24 lines."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | environment
    with subprocess.Popen(
        [sys.executable, "-m", "srgan_edge", *command],
        cwd=folder,
        env=variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        pieces = []
        while True:
            try:
                pieces.append(os.read(ours, 1 << 16))
            except OSError:  # the terminal has no writer left
                break
    os.close(ours)
    return b"".join(pieces).decode()


def lines_shown(output: str) -> list[str]:
    """Return the lines that were to be seen, one after the other, without codes and blanks."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
