"""One kept HTTP client for all that is asked of a TorchServe."""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from gateway.contract.engine import Content, read_answer
from gateway.engine import Answer, AnswerStream, Headers, InternalError
from gateway.request_context import ID_HEADER, authorization, request_id, trace_headers
from gateway.settings import Settings
from gateway.torchserve.errors import as_engine_errors

# How long a connection without a request is kept.
KEEP_IDLE_S = 60.0
# Headers are the client's own: none is made up for it.
NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class TorchServeClient:
    """Connections to a TorchServe that are kept; the name of a request goes with it."""

    def __init__(self, all_settings: Settings) -> None:
        self._settings = settings = all_settings.torchserve
        self._has_tokens = all_settings.tokens_file is not None
        self._trusted = ssl.create_default_context(cafile=settings.certificate_file)
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            # For a free connection, too.
            connect=settings.answer_timeout_s,
            sock_connect=settings.connect_timeout_s,
            sock_read=settings.answer_timeout_s,
        )
        # It is made by the first request, in the event loop of all of them.
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def request(
        self, method: str, target: bytes, headers: Headers, content: Content
    ) -> AnswerStream:
        """Return the answer of the inference API to a request, whatever its status.

        `target` is the path and query; what opens the API is added. Raises `EngineError` where
        there is no answer.
        """
        given = [each for each in headers if each[0] != "authorization"]
        given += self._inference_token()
        url = f"{self._settings.inference_address}{target.decode('latin-1')}"
        return await self._send(method, url, given, content, self._timeout)

    async def manage(self, path: str, timeout_s: float) -> Answer:
        """Return a good answer of the management API; raises `EngineError`."""
        url = f"{self._settings.management_address}{path}"
        token, timeout = self._own_token("management"), aiohttp.ClientTimeout(timeout_s)
        return await read_answer(await self._send("GET", url, token, None, timeout))

    async def _send(
        self,
        method: str,
        url: str,
        headers: Headers,
        content: Content,
        timeout: aiohttp.ClientTimeout,
    ) -> AnswerStream:
        body = _Body(content) if isinstance(content, AsyncIterator) else content
        try:
            with as_engine_errors():
                response = await self._open().request(
                    method,
                    # As it is: what is encoded in it is the client's.
                    URL(url, encoded=True),
                    headers=_named(headers),
                    data=body,
                    timeout=timeout,
                    allow_redirects=False,
                )
        except Exception:
            if isinstance(body, _Body) and body.failure:
                raise body.failure from None
            raise
        raw = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in response.raw_headers
        ]
        return AnswerStream(response.status, raw, _parts(response), _closer(response))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._settings.max_connections,
                keepalive_timeout=KEEP_IDLE_S,
                ssl=self._trusted,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=NOT_ADDED,
            )
        return self._session

    def _inference_token(self) -> list[tuple[str, str]]:
        """Return the header that opens the inference API.

        It is the client's own, unless the gateway has tokens of its own for clients.
        """
        if self._has_tokens:
            return self._own_token("inference")
        return [("authorization", given)] if (given := authorization.get()) else []

    def _own_token(self, api: str) -> list[tuple[str, str]]:
        """Return the header with TorchServe's token for an API, none where it asks for none.

        Its file is read each time, as tokens expire. Raises `InternalError` without it.
        """
        if not self._settings.key_file:
            return []
        try:
            keys = json.loads(Path(self._settings.key_file).read_text(encoding="utf-8"))
            return [("authorization", f"Bearer {keys[api]['key']}")]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InternalError(
                "EngineTokens", "Expected TorchServe's tokens in torchserve.key_file."
            ) from error


class _Body:
    """A body in parts, which keeps why it ended before its end."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts
        self.failure: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._parts:
                yield part
        except Exception as error:
            self.failure = error
            raise


def _named(headers: Headers) -> CIMultiDict[str]:
    """Return headers with the request's name and those of its trace, and no others of these."""
    traced = trace_headers.get()
    own = {ID_HEADER, *(name for name, _ in traced)}
    kept = [(name, _as_sent(value)) for name, value in headers if name not in own]
    named = CIMultiDict([*kept, *traced])
    if name := request_id.get():
        named.add(ID_HEADER, name)
    return named


def _as_sent(value: str) -> str:
    """Return a header's value so that its bytes are those that came: aiohttp writes UTF-8."""
    return value if value.isascii() else value.encode("latin-1").decode("utf-8", "replace")


async def _parts(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    with as_engine_errors():
        async for part in response.content.iter_any():
            yield part


def _closer(response: aiohttp.ClientResponse) -> Callable[[], Awaitable[None]]:
    """Return what ends an answer; a connection whose answer was read whole is kept."""

    async def close() -> None:
        response.close()

    return close
