"""Models beside the bundled ones: registered by the user, or downloaded once and kept.

An address names its content: `https://...#sha256=HEX`, or `hf://owner/repo/file@revision#sha256=HEX`
for Hugging Face. It is downloaded when that is allowed, hashed before anything opens it, and from
then on it is a file of this machine.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from srgan_edge.errors import ModelRefused, ResourcesExhausted, UsageError, printable, quoted
from srgan_edge.files import cache_folder, output_failed, replace_when_whole, sha256_of

if TYPE_CHECKING:
    from http.client import HTTPResponse

CACHE_VARIABLE = "SRGAN_EDGE_MODELS"
"""Environment variable that names another folder than `~/.cache/srgan-edge/models`."""

SUFFIXES = (".onnx", ".safetensors")

MAX_BYTES = 1 << 30
MAX_REDIRECTS = 5
SECONDS = 30.0
"""Longest wait for a server's next bytes."""

HUGGING_FACE = "https://huggingface.co"

_BLOCK_BYTES = 1 << 20
_HASH = re.compile(r"sha256=([0-9a-fA-F]{64})")
_HF = re.compile(r"hf://([^/@#]+)/([^/@#]+)/([^@#]+)@([^@#]+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_model_address(text: str) -> bool:
    """Return True for the address of a model, as `-n` accepts it."""
    return text.lower().startswith(("https://", "http://", "hf://"))


@dataclass(frozen=True)
class ModelAddress:
    """The address of a model file, with the hash of its content."""

    url: str
    sha256: str
    """In hexadecimal digits, lower case."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Parse an address.

        Raises:
            UsageError: it has no hash, is no address, has a password, or is not one of Hugging
                Face's.
        """
        address, _, fragment = text.partition("#")
        address = address.partition(":")[0].lower() + address[address.index(":") :]
        found = _HASH.fullmatch(fragment)
        if found is None:
            raise UsageError(
                f"{text}: names no content; type {address}#sha256=HEX, with the 64 digits that "
                "sha256sum prints for the file"
            )
        if address.startswith("hf://"):
            named = _HF.fullmatch(address)
            if named is None:
                raise UsageError(f"{text}; possible: hf://OWNER/REPO/FILE@REVISION#sha256=HEX")
            owner, repo, file, revision = (quote(part) for part in named.groups())
            address = f"{HUGGING_FACE}/{owner}/{repo}/resolve/{revision}/{file}"
        try:
            split = _parts(address)
        except ValueError as error:
            raise UsageError(f"{address}: {error}; possible: https://HOST/FILE") from None
        if "@" in split.netloc:
            raise UsageError(
                f"an address with a user name or password, which are not sent: "
                f"{address.replace(split.netloc, split.netloc.rpartition('@')[2])}; "
                "download the file and name that"
            )
        return cls(address, found.group(1).lower())

    @property
    def path(self) -> Path:
        """The place of the file in the cache, whether it is there or not.

        Raises:
            UsageError: the address does not end in the name of a model file.
        """
        name = Path(urlsplit(self.url).path).name
        if not _NAME.fullmatch(name) or Path(name).suffix not in SUFFIXES:
            raise UsageError(
                f"{self.url}: ends in {name!r}; possible: a name in {' or '.join(SUFFIXES)}; files "
                "of other kinds are for srgan-edge convert"
            )
        return store_folder() / "downloaded" / self.sha256 / name


def downloaded(text: str, *, allow_network: bool) -> Path:
    """Return the file at an address, from the cache or, once, from the network.

    Raises:
        UsageError: not an address with a hash, or not in the cache and `allow_network` is False.
        ModelRefused: the content has another hash, or is too large.
        ResourcesExhausted: the server does not answer, or not with the file.
        OutputFailed: the cache cannot be written.
    """
    address = ModelAddress.of(text)
    path = address.path
    if path.is_file() and sha256_of(path) == address.sha256:
        return path
    if not allow_network:
        raise UsageError(
            f"{text} is on the network and not in the cache; to download it once, type: "
            f"srgan-edge upscale IMAGE -n {quoted(text)} --allow-network"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_failed(path, error, CACHE_VARIABLE) from error
    digest = hashlib.sha256()
    with replace_when_whole(path, option=CACHE_VARIABLE) as partial:
        with partial.open("wb") as file:
            for block in _content(address.url):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != address.sha256:
            raise ModelRefused(
                f"{address.url} has the SHA-256 {digest.hexdigest()}, not {address.sha256}: "
                "another file, or one that was changed; it was not kept"
            )
    return path


def register(path: Path, name: str) -> Path:
    """Copy a model file into the store under a name; returns the copy.

    Raises:
        UsageError: the name or the suffix is impossible, or the name is taken.
        OutputFailed: the store cannot be written.
    """
    if not _NAME.fullmatch(name) or path.suffix not in SUFFIXES:
        raise UsageError(
            f"{path} as {name!r}; possible: a file in {' or '.join(SUFFIXES)}, and a name of "
            "letters, digits, '.', '_' and '-'"
        )
    target = _registered_folder() / f"{name}{path.suffix}"
    if name in registered_models():
        raise UsageError(f"{name} is registered; type: srgan-edge models rm {name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(target, option=CACHE_VARIABLE) as partial:
            shutil.copyfile(path, partial)
    except OSError as error:
        raise output_failed(target, error, CACHE_VARIABLE) from error
    return target


def remove(name: str) -> list[Path]:
    """Delete a registered or downloaded model by its name; returns the files that are gone.

    Raises:
        UsageError: there is none.
    """
    found = [*registered_models().get(name, {}).values()]
    found += [path for path in downloaded_files() if path.stem == name]
    if not found:
        raise UsageError(f"no registered or downloaded model {name!r}; type: srgan-edge models")
    for path in found:
        path.unlink()
    return found


def registered_models() -> dict[str, dict[str, Path]]:
    """Return the files of registered models, by name and suffix."""
    models: dict[str, dict[str, Path]] = {}
    for path in _files_of(_registered_folder()):
        models.setdefault(path.stem, {})[path.suffix] = path
    return models


def downloaded_files() -> list[Path]:
    """Return the model files in the cache of downloads."""
    folder = store_folder() / "downloaded"
    folders = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for one in folders if one.is_dir() for path in _files_of(one)]


def store_folder() -> Path:
    return cache_folder(CACHE_VARIABLE, "models")


def _registered_folder() -> Path:
    return store_folder() / "registered"


def _files_of(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.suffix in SUFFIXES and path.is_file()]


def _parts(url: str) -> SplitResult:
    """Split an address.

    Raises:
        ValueError: it has no host or an impossible one, or a port that is none.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("it names no host")
    _ = parts.port, parts.hostname.encode("idna")  # either raises at what is none
    return parts


def _content(url: str) -> Iterator[bytes]:
    """Yield the content at an address, following redirects."""
    import http.client  # 15 ms that only downloads need

    for _ in range(MAX_REDIRECTS + 1):
        kind = http.client.HTTPSConnection
        try:
            parts = _parts(url)
            if parts.scheme not in ("http", "https") or parts.hostname is None:
                raise ValueError("possible: addresses of http and https")
            connect = kind if parts.scheme == "https" else http.client.HTTPConnection
            with closing(connect(parts.hostname, parts.port, timeout=SECONDS)) as connection:
                target = parts.path + (f"?{parts.query}" if parts.query else "")
                connection.request("GET", target or "/", headers={"User-Agent": "srgan-edge"})
                response = connection.getresponse()
                if response.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, response.getheader("Location", ""))
                    continue
                if response.status != 200:
                    raise ResourcesExhausted(
                        f"{printable(url)}: the server answers {response.status} "
                        f"{printable(response.reason)}; check the address"
                    )
                yield from _blocks(response, url)
                return
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ResourcesExhausted(
                f"{printable(url)}: {printable(str(error) or type(error).__name__)}; "
                "check the address and the network, and try again"
            ) from error
    raise ResourcesExhausted(f"{printable(url)}: more than {MAX_REDIRECTS} redirects")


def _blocks(response: "HTTPResponse", url: str) -> Iterator[bytes]:
    size = 0
    while block := response.read(_BLOCK_BYTES):
        size += len(block)
        if size > MAX_BYTES:
            raise ModelRefused(f"{printable(url)}: larger than {MAX_BYTES} bytes; it was not kept")
        yield block
    stated = response.getheader("Content-Length")
    if stated is not None and stated.isdecimal() and int(stated) != size:
        raise ResourcesExhausted(
            f"{printable(url)}: ended after {size} of {stated} bytes; try again"
        )
