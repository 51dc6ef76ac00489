"""Find the child processes that a test started, but not those of libraries."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


def children() -> list[psutil.Process]:
    """Return the living child processes that read untrusted files, and workers."""
    return [process for process in psutil.Process().children() if _is_ours(process)]


def ran(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with this tree in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )


def stopped(command: subprocess.Popen[str], signum: int) -> str:
    """Stop a command by a signal, check that it leaves no process, and return its stderr."""
    members = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(signum)
    _, err = command.communicate()
    _, alive = psutil.wait_procs(members, timeout=20)
    assert alive == [], err
    return err


def _is_ours(process: psutil.Process) -> bool:
    try:
        return any(
            "child.main()" in word or "processes.main()" in word for word in process.cmdline()
        )
    except psutil.Error:  # it has just ended
        return False
