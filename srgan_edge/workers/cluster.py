"""The Ray cluster of a command: one that others run, or one of its own, of this machine alone."""

import logging
import os
import signal
import socket
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

from srgan_edge.errors import (
    ExtraMissing,
    Interrupted,
    ResourcesExhausted,
    UsageError,
    causes_of,
    typed,
)
from srgan_edge.signals import last_steps

LOCAL = "local"
"""Instead of an address: a cluster of this machine alone, for this command."""

_CONNECT_SECONDS = 5.0


class Cluster:
    """A connection to a cluster. There is one in a process at a time.

    Args:
        address: `HOST:PORT` of a cluster, `auto` for the one that this machine is part of, or
            `local`.

    Raises:
        ExtraMissing: Ray is not installed.
        UsageError: the address is of a kind that does not suit.
        ResourcesExhausted: there is no such cluster.
    """

    ray: Any
    """The module, which is imported late."""

    def __init__(self, address: str) -> None:
        if find_spec("ray") is None:
            raise ExtraMissing("ray", "srgan-edge[ray]", f"--ray {address}")
        if address.startswith("ray://"):
            raise UsageError(
                f"--ray {address}; possible: HOST:PORT or auto, on a machine of the cluster"
            )
        if address not in (LOCAL, "auto"):
            _refuse_nobody(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "."  # it would print losses to our stdout
        if address == LOCAL:  # or Ray makes a token in the home folder, for all later clusters
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))
        import ray

        self.ray, self.is_own = ray, address == LOCAL
        self._others = _children(os.getpid())
        if self.is_own:
            last_steps.append(self._kill)
        self._connect(address)

    def leave(self) -> None:
        """Disconnect; a cluster of its own ends, in order."""
        self.ray.shutdown()
        if self.is_own:
            last_steps.remove(self._kill)

    def _connect(self, address: str) -> None:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.ray.init(
                address,
                include_dashboard=False if self.is_own else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except SystemExit as ended:  # Ray's handler of SIGTERM
            raise Interrupted(signal.SIGTERM) from ended
        except Exception as error:  # Ray raises bare ones where its processes do not start in time
            line = line_of(error)
            if self.is_own:
                raise ResourcesExhausted(f"no Ray cluster starts here ({line})") from error
            if any("InvalidAuthToken" in str(it) for it in causes_of(error)):
                raise ResourcesExhausted(
                    f"the Ray cluster at {address} asks for its token: copy ~/.ray/auth_token from "
                    "its first machine to this one, type: export RAY_AUTH_MODE=token, and repeat "
                    "the command"
                ) from error
            raise _no_cluster(address, line) from error
        finally:
            for number, handler in handlers.items():  # Ray has its own for SIGTERM
                signal.signal(number, handler)

    def _kill(self) -> None:
        """End the processes of a cluster of its own now, and their descendants.

        They have nothing to lose. Some would outlive the others by a minute.
        """
        processes = [it for it in _children(os.getpid()) if it not in self._others]
        for process in processes:
            _send(signal.SIGSTOP, process)  # so that it starts no others meanwhile
        for process in _with_descendants(processes):
            _send(signal.SIGKILL, process)


def line_of(error: BaseException) -> str:
    """Return the first line of an error of Ray."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def _refuse_nobody(address: str) -> None:
    """Raise at once if nobody listens at an address, which Ray takes half a minute to find out."""
    host, _, port = address.rpartition(":")
    try:
        number = int(port)
    except ValueError:
        raise UsageError(f"--ray {address}; possible: HOST:PORT, auto or local") from None
    try:
        socket.create_connection((host, number), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, line_of(error)) from error


def _no_cluster(address: str, why: str) -> ResourcesExhausted:
    begin = typed(["ray", "start", "--head"])
    return ResourcesExhausted(
        f"no Ray cluster at {address} ({why}); begin one with: {begin}, or type --ray local"
    )


def _with_descendants(processes: Iterable[int]) -> list[int]:
    return [it for process in processes for it in (process, *_with_descendants(_children(process)))]


def _children(process: int) -> list[int]:
    """Return the child processes of all threads of a process."""
    found: list[int] = []
    with suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def _send(number: signal.Signals, process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)
