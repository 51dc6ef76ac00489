"""Reports to the operator: JSON lines on stderr. No token and no content of files is in them."""

import json
import logging
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any, TextIO

from srgan_edge.errors import printable


class LibraryLog(logging.Handler):
    """Passes warnings of libraries on to a `Log`."""

    def __init__(self, log: "Log") -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.warning("library", name=record.name, text=printable(record.getMessage()))


class Log:
    """Writes one JSON object a line: `time`, `level`, `event`, and what belongs to it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream, self._lock = stream or sys.stderr, threading.Lock()

    def info(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - JSON values
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - JSON values
        self._write("warning", event, fields)

    def failure(self, event: str, error: BaseException, **fields: Any) -> None:  # noqa: ANN401
        """Report a bug, with its traceback."""
        lines = traceback.format_exception(error)
        self._write("error", event, fields | {"traceback": "".join(lines)})

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        now = time.time()
        stamp = (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        )
        line = json.dumps({"time": stamp, "level": level, "event": event, **fields}, default=str)
        with self._lock, suppress(OSError):  # a full disk or a closed pipe ends no work
            self._stream.write(line + "\n")
            self._stream.flush()
