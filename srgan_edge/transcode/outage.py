"""Folders that go away for a while, as when a share is lost and found again."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from srgan_edge.errors import OutputFailed

AWAY_SECONDS = 60.0
"""Longest wait for a folder. Servers start again within a minute; a longer one ends the command."""

_LOOK_SECONDS = 0.25


class Place:
    """A folder that work depends on; made while it is there.

    Args:
        known_by: a file in it that shows that it is back; None: the folder itself.
    """

    def __init__(self, folder: Path, known_by: Path | None = None) -> None:
        self._folder, self._known_by = folder, known_by or folder
        self._identity = _identity(folder)
        self._ends: float | None = None
        """When the wait for it ends, or ended; None: it is not away."""

    @property
    def is_away(self) -> bool:
        """True if the folder is not there, or another one is, as an empty one where a share was."""
        return self._identity is not None and _identity(self._folder) != self._identity

    def waited_for(self, say: Callable[[str], None]) -> bool:
        """Wait for the folder if it is away; return True if it was, and is back.

        Args:
            say: called with a line for the user before the wait.

        Raises:
            OutputFailed: it stays away; at once, after an earlier wait in vain.
        """
        if not self.is_away:
            return False
        if self._ends is None:
            say(f"{self._folder} is away; waiting up to {AWAY_SECONDS:g} s for it")
            self._ends = time.monotonic() + AWAY_SECONDS
        while _identity(self._known_by) is None:
            if time.monotonic() > self._ends:
                raise OutputFailed(f"{self._folder} did not come back within {AWAY_SECONDS:g} s")
            time.sleep(_LOOK_SECONDS)
        self._identity, self._ends = _identity(self._folder), None
        return True


def were_away(places: Iterable[Place], say: Callable[[str], None]) -> bool:
    """Wait for all places; return True if one of them was away and is back.

    Raises:
        OutputFailed: one stays away.
    """
    back = [place.waited_for(say) for place in places]  # each one, also after one that was away
    return any(back)


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None
