"""The cache of engines and kernels built on this machine.

Each engine is stored under a key over everything that determines its bytes, with its passport
beside it. The folder holds native code, so one user alone owns it and may write to it. A process
that builds an engine holds its lock; a second process waits and then finds the engine built.
"""

import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from srgan_edge.errors import ModelRefused, OutputFailed, UsageError
from srgan_edge.files import cache_folder, file_locked, replace_when_whole
from srgan_edge.kernels.source import compile_with_nvrtc, nvrtc_digest
from srgan_edge.machine import Gpu, installed_version
from srgan_edge.model.passport import ENGINE_SUFFIX, EngineKey, Passport, passport_path, read_engine

CACHE_VARIABLE = "SRGAN_EDGE_CACHE"
"""Environment variable that names another cache folder."""


@dataclass(frozen=True)
class CachedEngine:
    """One engine in the cache."""

    path: Path
    passport: Passport | None
    """None: the engine cannot be read; `trouble` has the reason."""
    trouble: str
    """The reason why it cannot be used on this machine; empty if it can."""

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size


class EngineCache:
    """A cache in one folder, by default `~/.cache/srgan-edge/engines`."""

    def __init__(self, folder: Path | None = None) -> None:
        """Open the cache and create its folder if it is missing.

        Args:
            folder: the folder; default: `SRGAN_EDGE_CACHE`, else a folder in `XDG_CACHE_HOME`.

        Raises:
            OutputFailed: the folder cannot be created.
            ModelRefused: another user owns the folder or may write to it.
        """
        self.folder = folder or cache_folder(CACHE_VARIABLE, "engines")
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
        """Return the path for the engine with this key; `name` only helps people find it."""
        return self.folder / f"{name}-{key.digest}{ENGINE_SUFFIX}"

    def timings_path(self, version: str, gpu: str) -> Path:
        """Return the path of TensorRT's kernel timings, which all models on that GPU share."""
        name = re.sub(r"[^\w.]+", "-", f"{version}-{gpu}")
        return self.folder / f"timings-{name}.cache"

    def compiled_path(self, version: str, gpu: Gpu) -> Path:
        """Return the path of the kernels that TensorRT-RTX compiled for that GPU and driver."""
        name = re.sub(r"[^\w.]+", "-", f"{version}-{gpu}-{gpu.driver}")
        return self.folder / f"compiled-{name}.cache"

    def machine_code_path(self, name: str, digest: str) -> Path:
        """Return the path for one of our compiled kernels; `name` only helps people find it."""
        return self.folder / f"kernels-{name}-{digest[:32]}.cubin"

    @contextmanager
    def locked(self, path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock of one engine; call `on_wait` first if another process holds it."""
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
        """Return the passport of the engine at `path` if it is intact and has this key."""
        try:
            _, passport = read_engine(path)
        except ModelRefused:
            return None
        return passport if passport.key == key else None

    def engines(self) -> list[CachedEngine]:
        """Return all engines, sorted by name; each is read and checked against its passport."""
        found = sorted(self.folder.glob(f"[!.]*{ENGINE_SUFFIX}"))
        return [_examine(path) for path in found if path.is_file()]

    def remove(self, name: str) -> Path:
        """Remove one engine by file name, with its passport.

        Raises:
            UsageError: there is no engine of this name.
        """
        path = self.folder / (name if name.endswith(ENGINE_SUFFIX) else name + ENGINE_SUFFIX)
        if path.parent != self.folder or not path.is_file():
            raise UsageError(f"no engine {name!r} in {self.folder}; type: srgan-edge engines list")
        with self.locked(path):
            _unlink(path)
        return path

    def prune(self) -> list[CachedEngine]:
        """Remove and return the engines that cannot be used here, and files of dead builders."""
        useless = [engine for engine in self.engines() if engine.trouble]
        for engine in useless:
            with self.locked(engine.path):
                _unlink(engine.path)
        for lock in self.folder.glob("[!.]*.lock"):
            self._sweep_after(lock)
        return useless

    def _sweep_after(self, lock: Path) -> None:
        """Remove the partial files of a builder that died, and a lock without an engine."""
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return  # the builder is still at work
            for partial in self.folder.glob(f".{lock.stem[:40]}*.partial-*"):
                partial.unlink(missing_ok=True)
            if not lock.with_suffix(ENGINE_SUFFIX).exists():
                lock.unlink(missing_ok=True)


def why_not_here(passport: Passport) -> str:
    """Return why an engine cannot run on this machine, judged by its passport; empty if it can."""
    distribution = passport.key.module.replace("_", "-")
    version = installed_version(distribution)
    if version is None:
        return f"{distribution} is not installed"
    if version != passport.key.version:
        return f"built by {distribution} {passport.key.version}, here is {version}"
    if passport.key.gpu and passport.key.gpu != (here := str(Gpu.find() or "no GPU")):
        return f"built on {passport.key.gpu}, here is {here}"
    gpu = Gpu.find()  # a machine that only builds engines may have none
    if gpu is not None and gpu.compute_capability not in passport.key.compute_capabilities:
        there = ", ".join(passport.key.compute_capabilities)
        return (
            f"built for compute capability {there}, and the GPU here has {gpu.compute_capability}"
        )
    return ""


@cache
def machine_code(source: Path, compute_capability: str) -> bytes:
    """Return `compile_with_nvrtc` of a source, cached beside the engines.

    Compiling the convolutions takes seconds. If the cache cannot be written, each process compiles
    again, to the same bytes.

    Raises:
        ExtraMissing, UsageError: as `compile_with_nvrtc`.
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


def _examine(path: Path) -> CachedEngine:
    try:
        _, passport = read_engine(path)
    except ModelRefused:
        trouble = "damaged" if passport_path(path).exists() else "has no passport"
        return CachedEngine(path, None, trouble)
    return CachedEngine(path, passport, why_not_here(passport))


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _unlink(path: Path) -> None:
    """Remove an engine whose lock we hold; the passport first: no engine loads without one."""
    for file in (passport_path(path), path, _lock_path(path)):
        file.unlink(missing_ok=True)
