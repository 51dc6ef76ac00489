"""Find the child processes that a test started, but not those of libraries."""

import psutil


def children() -> list[psutil.Process]:
    """Return the living child processes that read untrusted files, and workers."""
    return [process for process in psutil.Process().children() if _is_ours(process)]


def _is_ours(process: psutil.Process) -> bool:
    try:
        return any(
            "child.main()" in word or "processes.main()" in word for word in process.cmdline()
        )
    except psutil.Error:  # it has just ended
        return False
