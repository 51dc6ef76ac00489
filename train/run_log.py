"""What a run writes down: one JSON object a line, and the same with pictures for TensorBoard.

`log.jsonl` holds nothing that depends on the clock, so that a run that was killed and resumed ends
with the same bytes as one that was not.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from srgan_edge.files import replace_when_whole
from srgan_edge.pixels import Pixels

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """The log of one run folder, opened at the step that the run goes on from."""

    def __init__(self, folder: Path, step: int, say: Callable[[str], None]) -> None:
        self._path = folder / "log.jsonl"
        self.cut(step)
        self._board = _open_board(folder, step)
        if self._board is None:
            say("no events for TensorBoard, only log.jsonl; type: pip install tensorboard")

    def cut(self, step: int) -> None:
        """Forget what came after `step`: it is going to happen again."""
        kept = [entry for entry in read_log(self._path) if entry["step"] <= step]
        with replace_when_whole(self._path) as temporary:
            temporary.write_text("".join(_line(entry) for entry in kept))

    def write(self, step: int, values: dict[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(_line({"step": step} | values))
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def write_speed(self, step: int, steps_per_second: float) -> None:
        """For TensorBoard alone: it depends on the clock."""
        if self._board is not None:
            self._board.add_scalar("steps_per_second", steps_per_second, step)

    def write_pictures(self, step: int, grid: Pixels) -> None:
        if self._board is not None:
            self._board.add_image("LR, bicubic, generator, HR", grid, step, dataformats="HWC")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a `log.jsonl`; none if there is no such file.

    A last line that was cut off, as by SIGKILL, is passed over.
    """
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [
        json.loads(line) for line in lines[:-1]
    ]  # after the last newline: nothing, or a torn one


def _open_board(folder: Path, step: int) -> "SummaryWriter | None":
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=step)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
