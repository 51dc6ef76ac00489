"""The engines built on this machine, each under a key over everything that decides its bytes.

A folder of engines with their passports, owned and written by one user alone: what lies there is
native code. Who builds an engine holds its lock, so that a second process waits and finds it made.
"""

import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from srgan_edge.errors import ModelRefused, OutputFailed, UsageError
from srgan_edge.files import file_locked, replace_when_whole
from srgan_edge.kernels.source import compile_with_nvrtc, nvrtc_digest
from srgan_edge.machine import Gpu, installed_version
from srgan_edge.model.passport import ENGINE_SUFFIX, Passport, Profile, passport_path, read_engine

CACHE_VARIABLE = "SRGAN_EDGE_CACHE"
"""Of the environment: names another folder."""


@dataclass(frozen=True)
class EngineKey:
    """What decides an engine's bytes; two engines with one key are the same engine."""

    module: str
    version: str
    graph_sha256: str
    """Of the typed graph: weights, rewrites and precision are all in it."""
    profile: Profile
    compute_capabilities: tuple[str, ...]
    gpu: str
    driver: str
    workspace_mib: int | None
    optimization_level: int | None
    platform: str

    @classmethod
    def of(cls, passport: Passport) -> "EngineKey":
        return cls(**{field.name: getattr(passport, field.name) for field in fields(cls)})

    @property
    def digest(self) -> str:
        """Hexadecimal, short enough for a file name."""
        record = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(record.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class CachedEngine:
    """One engine in the cache."""

    path: Path
    passport: Passport | None
    """None: it cannot be used, for `trouble`."""
    trouble: str
    """Why it cannot be used here; empty if it can."""

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size


class EngineCache:
    """The cache in one folder; by default `~/.cache/srgan-edge/engines`."""

    def __init__(self, folder: Path | None = None) -> None:
        """Open the cache, made if missing.

        Args:
            folder: where; else `SRGAN_EDGE_CACHE`, or as `XDG_CACHE_HOME` says.

        Raises:
            OutputFailed: it cannot be made.
            ModelRefused: others than its owner, who is us, may write to it.
        """
        self.folder = folder or _default_folder()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.folder.stat()
        except OSError as error:
            raise OutputFailed(
                f"cannot make the cache {self.folder}: {error.strerror}; "
                f"name another folder in {CACHE_VARIABLE}"
            ) from error
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ModelRefused(
                f"{self.folder} could be written to by others, and engines are native code; "
                f"type: chmod go-w {self.folder}, or name a folder of your own in {CACHE_VARIABLE}"
            )

    def path_of(self, key: EngineKey, name: str) -> Path:
        """Where the engine of that key lies, or would; `name` is for people."""
        return self.folder / f"{name}-{key.digest}{ENGINE_SUFFIX}"

    def timings_path(self, version: str, gpu: str) -> Path:
        """Where TensorRT's timings of kernels lie, which every model on that GPU can use."""
        name = re.sub(r"[^\w.]+", "-", f"{version}-{gpu}")
        return self.folder / f"timings-{name}.cache"

    def compiled_path(self, version: str, gpu: Gpu) -> Path:
        """Where TensorRT-RTX keeps the kernels that it compiled for that GPU and driver."""
        name = re.sub(r"[^\w.]+", "-", f"{version}-{gpu}-{gpu.driver}")
        return self.folder / f"compiled-{name}.cache"

    def machine_code_path(self, name: str, digest: str) -> Path:
        """Where a kernel of ours lies once it was compiled; `name` is for people."""
        return self.folder / f"kernels-{name}-{digest[:32]}.cubin"

    @contextmanager
    def locked(self, path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock of one engine; `on_wait` is called if another process has it now."""
        with file_locked(_lock_path(path), lambda: self._open_lock(path), on_wait):
            yield

    def _open_lock(self, path: Path) -> int:
        try:
            return os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise OutputFailed(
                f"cannot write to the cache {self.folder}: {error.strerror}; "
                f"name another folder in {CACHE_VARIABLE}"
            ) from error

    def find(self, path: Path, key: EngineKey) -> Passport | None:
        """The passport of the engine at `path` if it is whole and of that key, else None."""
        try:
            _, passport = read_engine(path)
        except ModelRefused:
            return None
        return passport if EngineKey.of(passport) == key else None

    def engines(self) -> list[CachedEngine]:
        """All of them, by name; each is read and proven whole."""
        found = sorted(self.folder.glob(f"[!.]*{ENGINE_SUFFIX}"))
        return [_examine(path) for path in found if path.is_file()]

    def remove(self, name: str) -> Path:
        """Remove one engine by file name, with its passport.

        Raises:
            UsageError: there is none of that name.
        """
        path = self.folder / (name if name.endswith(ENGINE_SUFFIX) else name + ENGINE_SUFFIX)
        if path.parent != self.folder or not path.is_file():
            raise UsageError(f"no engine {name!r} in {self.folder}; type: srgan-edge engines list")
        with self.locked(path):
            _unlink(path)
        return path

    def prune(self) -> list[CachedEngine]:
        """Remove and return what cannot be used here; dead builders' leavings go too."""
        useless = [engine for engine in self.engines() if engine.trouble]
        for engine in useless:
            with self.locked(engine.path):
                _unlink(engine.path)
        for lock in self.folder.glob("[!.]*.lock"):
            self._sweep_after(lock)
        return useless

    def _sweep_after(self, lock: Path) -> None:
        """Remove the half-written files of a builder that is no more, and a lock of nothing."""
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return  # it is at work
            for partial in self.folder.glob(f".{lock.stem[:40]}*.partial-*"):
                partial.unlink(missing_ok=True)
            if not lock.with_suffix(ENGINE_SUFFIX).exists():
                lock.unlink(missing_ok=True)


def _default_folder() -> Path:
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "srgan-edge" / "engines"


def _examine(path: Path) -> CachedEngine:
    try:
        _, passport = read_engine(path)
    except ModelRefused:
        trouble = "damaged" if passport_path(path).exists() else "has no passport"
        return CachedEngine(path, None, trouble)
    return CachedEngine(path, passport, why_not_here(passport))


def why_not_here(passport: Passport) -> str:
    """Why an engine cannot run on this machine; empty if it can, as far as its passport tells."""
    distribution = passport.module.replace("_", "-")
    version = installed_version(distribution)
    if version is None:
        return f"{distribution} is not installed"
    if version != passport.version:
        return f"built by {distribution} {passport.version}, here is {version}"
    if passport.gpu and passport.gpu != (here := str(Gpu.find() or "no GPU")):
        return f"built on {passport.gpu}, here is {here}"
    gpu = Gpu.find()  # a machine that only builds has none
    if gpu is not None and gpu.compute_capability not in passport.compute_capabilities:
        there = ", ".join(passport.compute_capabilities)
        return (
            f"built for compute capability {there}, and the GPU here has {gpu.compute_capability}"
        )
    return ""


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _unlink(path: Path) -> None:
    """Remove an engine of which we hold the lock, its passport first: without it nothing loads."""
    for file in (passport_path(path), path, _lock_path(path)):
        file.unlink(missing_ok=True)


# Our CUDA kernels as machine code: compiled by NVRTC once, and kept beside the engines.
@cache
def machine_code(source: Path, compute_capability: str) -> bytes:
    """What `compile_with_nvrtc` makes of a source: of the convolutions that takes seconds.

    Where nothing can be kept it is compiled each time, to the same bytes.

    Raises:
        ExtraMissing, UsageError: as there.
    """
    digest = nvrtc_digest(source, compute_capability)
    try:
        path = EngineCache().machine_code_path(source.stem, digest)
    except (OutputFailed, ModelRefused):
        return compile_with_nvrtc(source, compute_capability)
    if path.is_file():
        return path.read_bytes()
    image = compile_with_nvrtc(source, compute_capability)
    with suppress(OutputFailed), replace_when_whole(path) as temporary:
        temporary.write_bytes(image)
    return image
