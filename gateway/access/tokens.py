"""Tokens of the gateway's own, each with its client's name."""

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.access.refusals import AccessPolicy
from gateway.engine import UnauthorizedError
from gateway.request_context import authorization, client_name
from gateway.settings import SettingsError

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# No blanks, and long enough that nobody finds it by trying: RFC 6750, section 2.1.
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,256}")
CHALLENGE = {"www-authenticate": "Bearer"}


class Tokens:
    """The tokens of a file, `name: token` as YAML or JSON, read again when it changes.

    Only their digests are kept. Raises `SettingsError` for a file that cannot be read at first; one
    that becomes so later changes nothing.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._stamp = self._read_stamp()
        self._digests = read_tokens(self._path)

    def client_of(self, token: str) -> str | None:
        """Return whose token it is, None for a wrong one; the time does not tell which is near."""
        self._read_again()
        given, found = _digest(token), None
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found

    def _read_again(self) -> None:
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests = read_tokens(self._path)
        except SettingsError as error:
            logger.error("The tokens stay as they were: %s", error)
        else:
            logger.info("The tokens of %d clients were read.", len(self._digests))

    def _read_stamp(self) -> Any:
        """Return what is another when the file was written or replaced."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_tokens(path: Path) -> Mapping[str, bytes]:
    """Return the digest of each client's token; raises `SettingsError`, which shows none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise SettingsError(
            "tokens_file: expected a YAML file, got none that can be read."
        ) from None
    if not isinstance(content, dict) or not content:
        raise SettingsError("tokens_file: expected a line `name: token` for each client.")
    digests = {}
    for number, (name, token) in enumerate(content.items(), 1):
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise SettingsError(
                f"tokens_file: client {number}: expected a name of up to 64 letters, digits, "
                "points, dashes and underscores."
            )
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise SettingsError(
                f"tokens_file: {name}: expected 16 to 256 letters, digits and -._~+/= in quotes."
            )
        digests[name] = _digest(token)
    if len(set(digests.values())) < len(digests):
        raise SettingsError("tokens_file: expected a token of its own for each client.")
    return digests


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class CheckToken:
    """Lets those pass who have a token, and notes whose it is."""

    def __init__(self, app: ASGIApp, tokens: Tokens, policy: AccessPolicy) -> None:
        self._app = app
        self._tokens = tokens
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or hold a WebSocket."""
        if not self._policy.guards(scope):
            await self._app(scope, receive, send)
            return
        scheme, _, token = authorization.get().partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else ""
        if name := self._tokens.client_of(given):
            client_name.set(name)
            await self._app(scope, receive, send)
            return
        said = "another" if given else "none"
        error = UnauthorizedError(
            "WrongToken",
            f"Expected a token of this gateway in the header Authorization, got {said}.",
        )
        await self._policy.refuse(error, scope, receive, send, CHALLENGE)
