"""The kind of a worker: everything that the bytes of its segments depend on, besides the frames."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from srgan_edge.errors import UsageError

Facts = Mapping[str, Any]
"""See `worker.facts_of`."""


@dataclass(frozen=True)
class Kind:
    """The kind of this process's engine, which is that of all its workers."""

    here: Facts
    """The facts of the engine of this process."""
    say: Callable[[str], None]
    """Called with a line for the user about each worker of another kind."""
    allow_mixed: bool = False
    """Let such a worker take part."""

    def members(self, found: Mapping[str, Facts]) -> list[str]:
        """Return the names of the workers that may work together.

        Args:
            found: the facts of each worker, by its name.

        Raises:
            UsageError: no worker is left.
        """
        kept, line = [], ""
        for name, facts in found.items():
            differing = "; ".join(_differences(self.here, facts))
            if differing and not self.allow_mixed:
                line = f"worker {name} is of another kind and left out: {differing}"
                self.say(line)
                continue
            if differing:
                self.say(
                    f"worker {name} is of another kind ({differing}): its segments may differ in "
                    "their last bits (--allow-mixed)"
                )
            kept.append(name)
        if not kept:
            raise UsageError(
                f"{line}; no worker remains: start this command on a machine like theirs, install "
                "the same versions, or type --allow-mixed"
            )
        return kept


def _differences(here: Facts, there: Facts, prefix: str = "") -> Iterator[str]:
    """Yield a line for each value of two nested records that differs."""
    for key in sorted(here.keys() | there.keys()):
        ours, theirs = here.get(key), there.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(ours, theirs, f"{prefix}{key}.")
        elif ours != theirs:
            yield f"{prefix}{key} is {theirs} instead of {ours}"
