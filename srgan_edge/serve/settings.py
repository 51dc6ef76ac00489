"""The options of `srgan-edge serve`, checked once."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from srgan_edge.errors import UsageError

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Address, storage, and all limits of a service."""

    data: Path
    """Folder of the jobs, their files and the database."""
    host: str = "127.0.0.1"
    port: int = 8000
    root: Path | None = None
    """Folder whose files may be named instead of uploaded."""
    model: str = "auto"
    """Model of requests that name none."""
    models: tuple[str, ...] = ()
    """Models that requests may name; empty: all bundled and registered ones, and `auto`."""
    engine: str = "auto"
    device: str = "auto"
    batch_window_ms: float | None = None
    """Time for which an image waits for others to share a call; None: 5 on a GPU, 0 on a
    CPU, where shared calls gain nothing."""
    max_bytes: int = 2048 * MIB
    """Largest upload."""
    max_pixels: int = 100_000_000
    """Largest image."""
    max_seconds: float = 86_400.0
    """Longest time that one job may run."""
    max_jobs: int = 100
    """Jobs of one client that are queued or running."""
    max_queue: int = 1_000
    """Jobs of all clients that are queued or running."""
    max_waiting: int = 256
    """Requests of `/v1/upscale` under way."""
    max_connections: int = 512
    """Requests of all kinds under way."""
    keep_days: float = 7.0
    """Time for which results are kept."""
    keep_bytes: int = 50 << 30
    """Total size of all files; the oldest ended jobs are deleted first."""
    keep_free_bytes: int = 1 << 30
    """Room on the disk that no upload may take."""
    drain_seconds: float = 25.0
    """Time that requests and images get to end after SIGTERM."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names by which the service may be called."""
    behind_proxy: bool = False
    """Believe `X-Forwarded-For` and `X-Forwarded-Proto` from this machine."""

    def __post_init__(self) -> None:
        positive = {
            "--max-mb": self.max_bytes / MIB,
            "--max-pixels": self.max_pixels,
            "--max-seconds": self.max_seconds,
            "--max-jobs": self.max_jobs,
            "--max-queue": self.max_queue,
            "--max-waiting": self.max_waiting,
            "--max-connections": self.max_connections,
            "--keep-days": self.keep_days,
            "--keep-gb": self.keep_bytes / (1 << 30),
        }
        for option, value in positive.items():
            if not value > 0:
                raise UsageError(f"{option} {value:g}; possible: above 0")
        for option, seconds in {
            "--drain-seconds": self.drain_seconds,
            "--batch-window-ms": self.batch_window_ms or 0,
        }.items():
            if not 0 <= seconds <= 3600:
                raise UsageError(f"{option} {seconds:g}; possible: 0 to 3600")
        if self.keep_free_bytes < 0:
            raise UsageError(f"--keep-free-mb {self.keep_free_bytes / MIB:g}; possible: 0 or more")
        if self.root is not None and not self.root.is_dir():
            raise UsageError(f"--root {self.root} is no folder; name one that exists")

    @property
    def is_local(self) -> bool:
        """True if nobody outside of this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
