"""Bearer tokens: random, kept as hashes, compared in constant time; guesses are slowed down.

A token has 256 random bits, so a plain SHA-256 of it cannot be turned back. A session is a token
with an end, which a browser keeps as a cookie that no script can read.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict

from srgan_edge.errors import UsageError
from srgan_edge.serve.database import Database
from srgan_edge.serve.problems import Problem

PREFIX = "sge_"
SESSION_SECONDS = 12 * 3600.0
FAILURES = 10
"""Wrong tokens that one address may send within `FAILURE_SECONDS`."""
FAILURE_SECONDS = 60.0
REREAD_SECONDS = 1.0
"""Time after which a token that another process made or revoked counts."""
_ADDRESSES_KEPT = 10_000
_MAX_TOKEN = 200
_MAX_NAME = 100


class Tokens:
    """The tokens of one data folder. Any thread may call any method."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._known: list[tuple[str, str]] = []
        self._known_until = 0.0

    @property
    def are_required(self) -> bool:
        """True if there is any token, so that requests need one."""
        return bool(self._tokens())

    def make(self, name: str) -> str:
        """Return a new token for a client; only its hash is kept.

        Raises:
            UsageError: the name cannot be shown in a line.
        """
        if not name.isprintable() or len(name) > _MAX_NAME:
            raise UsageError(
                f"the name of a token is {name[:_MAX_NAME]!r}; possible: up to {_MAX_NAME} "
                "characters that can be printed"
            )
        token = PREFIX + secrets.token_urlsafe(32)
        self._add(token, name)
        return token

    def begin_session(self, name: str) -> str:
        """Return the value of a cookie that stands for a client's token for some hours."""
        session = PREFIX + secrets.token_urlsafe(32)
        self._add(session, name, time.time() + SESSION_SECONDS)
        return session

    def end(self, token: str) -> None:
        """Forget one token or session."""
        self._remove("hash = ?", _digest(token))

    @property
    def names(self) -> list[str]:
        """The names that have a token which does not expire."""
        rows = self._database.rows(
            "SELECT DISTINCT name FROM tokens WHERE expires IS NULL ORDER BY name"
        )
        return [row["name"] for row in rows]

    def revoke(self, name: str) -> None:
        """Forget all tokens of a name, and the sessions begun with them."""
        self._remove("name = ?", name)

    def client_of(self, token: str | None, address: str) -> str:
        """Return the name that a token was made for.

        Args:
            token: as sent; None: none was.
            address: where the request comes from, which wrong tokens are counted by.

        Raises:
            Problem: there is no token, or not this one; or the address has sent too many.
        """
        if token is None:
            raise Problem(
                "token-required",
                "got no token",
                "send: Authorization: Bearer TOKEN; `srgan-edge serve --new-token NAME` makes one",
            )
        self._refuse_guessing(address)
        sought, found = _digest(token[:_MAX_TOKEN]), ""
        for digest, name in self._tokens():  # all of them, whichever fits
            if hmac.compare_digest(digest, sought):
                found = name
        if found:
            return found
        self._count_failure(address)
        raise Problem("token-required", "this token is not known", "a token that was not revoked")

    def _tokens(self) -> list[tuple[str, str]]:
        """Return hashes and names, read again after a second, so that requests rarely wait."""
        with self._lock:
            now = time.monotonic()
            if now >= self._known_until:
                rows = self._database.rows(
                    "SELECT hash, name FROM tokens WHERE expires IS NULL OR expires > ?",
                    (time.time(),),
                )
                self._known = [(row["hash"], row["name"]) for row in rows]
                self._known_until = now + REREAD_SECONDS
            return self._known

    def _add(self, token: str, name: str, expires: float | None = None) -> None:
        now = time.time()
        self._database.write(
            "INSERT INTO tokens VALUES (?, ?, ?, ?)", (_digest(token), name, now, expires)
        )
        self._remove("expires < ?", now)

    def _remove(self, where: str, value: str | float) -> None:
        self._database.write(f"DELETE FROM tokens WHERE {where}", (value,))
        self._known_until = 0.0

    def _refuse_guessing(self, address: str) -> None:
        now = time.monotonic()
        with self._lock:
            times = [it for it in self._failures.get(address, []) if it > now - FAILURE_SECONDS]
        if len(times) >= FAILURES:
            wait = max(1, round(times[0] + FAILURE_SECONDS - now))
            raise Problem(
                "too-many", f"{len(times)} wrong tokens from here", retry_after_seconds=wait
            )

    def _count_failure(self, address: str) -> None:
        now = time.monotonic()
        with self._lock:
            times = [it for it in self._failures.pop(address, []) if it > now - FAILURE_SECONDS]
            self._failures[address] = [*times, now][-FAILURES:]
            while len(self._failures) > _ADDRESSES_KEPT:
                self._failures.popitem(last=False)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
