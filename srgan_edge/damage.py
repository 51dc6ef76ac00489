"""What was found wrong with a film: each kind once, with where it is first and how often."""

from fractions import Fraction


class Damage:
    """The findings about one file. As text, it is what an error says after `damaged:`."""

    def __init__(self) -> None:
        self.is_repaired = True
        """Every finding so far is one that the frames shown make up for."""
        self._findings: dict[str, tuple[Fraction | None, int]] = {}

    def add(self, what: str, at_seconds: Fraction | None = None, *, repaired: bool = False) -> None:
        """Note a finding, at a place in the film or about all of it."""
        first, count = self._findings.get(what, (at_seconds, 0))
        self._findings[what] = first, count + 1
        self.is_repaired &= repaired

    def __bool__(self) -> bool:
        return bool(self._findings)

    def __str__(self) -> str:
        return "; ".join(
            what
            + ("" if first is None else f" at {float(first):.2f} s")
            + (f" and {count - 1} more" if count > 1 else "")
            for what, (first, count) in self._findings.items()
        )
