"""One kept HTTP client for all that is asked of a TorchServe."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx2

from gateway.engine import Answer, AnswerStream, Headers, InternalError
from gateway.request_context import ID_HEADER, authorization, request_id, trace_headers
from gateway.settings import Settings
from gateway.torchserve.errors import as_engine_errors, read_error

# How long a connection without a request is kept.
KEEP_IDLE_S = 60.0
Content = bytes | AsyncIterator[bytes] | None


class TorchServeClient:
    """Connections to a TorchServe that are kept; the name of a request goes with it."""

    def __init__(self, all_settings: Settings) -> None:
        self._settings = settings = all_settings.torchserve
        self._has_tokens = all_settings.tokens_file is not None
        self._inference = httpx2.URL(settings.inference_address)
        self._timeout = httpx2.Timeout(
            settings.answer_timeout_s, connect=settings.connect_timeout_s
        ).as_dict()
        self._client = httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=settings.certificate_file),
            limits=httpx2.Limits(
                max_connections=settings.max_connections,
                max_keepalive_connections=settings.max_connections,
                keepalive_expiry=KEEP_IDLE_S,
            ),
            # The engine is ours: whatever proxy there is, is for others.
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def request(
        self, method: str, target: bytes, headers: Headers, content: Content
    ) -> AnswerStream:
        """Return the answer of the inference API to a request, whatever its status.

        `target` is the path and query; what opens the API is added. Raises `EngineError` where
        there is no answer.
        """
        url = self._inference.copy_with(raw_path=target)
        given = [each for each in headers if each[0] != "authorization"]
        given += self._inference_token()
        return await self._send(self._build(method, url, given, content))

    async def answer(self, target: bytes, headers: Headers, content: Content) -> Answer:
        """Return a good answer of the inference API; raises `EngineError`."""
        return await _read(await self.request("POST", target, headers, content))

    async def stream(self, target: bytes, headers: Headers, content: Content) -> AnswerStream:
        """Return a good answer of the inference API in parts; raises `EngineError`."""
        found = await self.request("POST", target, headers, content)
        if found.status >= httpx2.codes.BAD_REQUEST:
            await _read(found)
        return found

    async def manage(self, path: str, timeout_s: float) -> Answer:
        """Return a good answer of the management API; raises `EngineError`."""
        url = httpx2.URL(f"{self._settings.management_address}{path}")
        request = self._build("GET", url, self._own_token("management"), None)
        request.extensions["timeout"] = httpx2.Timeout(timeout_s).as_dict()
        return await _read(await self._send(request))

    def _build(
        self, method: str, url: httpx2.URL, headers: Headers, content: Content
    ) -> httpx2.Request:
        """Return a request with no other headers than those given, its host and its name."""
        traced = trace_headers.get()
        own = {ID_HEADER, *(name for name, _ in traced)}
        named = [*(each for each in headers if each[0] not in own), *traced]
        if name := request_id.get():
            named.append((ID_HEADER, name))
        encoded = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in named]
        extensions = {"timeout": self._timeout}
        return httpx2.Request(method, url, headers=encoded, content=content, extensions=extensions)

    async def _send(self, request: httpx2.Request) -> AnswerStream:
        with as_engine_errors():
            response = await self._client.send(request, stream=True)
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in response.headers.raw
        ]
        return AnswerStream(response.status_code, headers, _parts(response), response.aclose)

    def _inference_token(self) -> list[tuple[str, str]]:
        """Return the header that opens the inference API.

        It is the client's own, unless the gateway has tokens of its own for clients.
        """
        if self._has_tokens:
            return self._own_token("inference")
        return [("authorization", given)] if (given := authorization.get()) else []

    def _own_token(self, door: str) -> list[tuple[str, str]]:
        """Return the header with TorchServe's token for a door, none where it asks for none.

        Its file is read each time, as tokens expire. Raises `InternalError` without it.
        """
        if not self._settings.key_file:
            return []
        try:
            keys = json.loads(Path(self._settings.key_file).read_text(encoding="utf-8"))
            return [("authorization", f"Bearer {keys[door]['key']}")]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InternalError(
                "EngineTokens", "Expected TorchServe's tokens in torchserve.key_file."
            ) from error


async def _parts(response: httpx2.Response) -> AsyncIterator[bytes]:
    with as_engine_errors():
        async for part in response.aiter_raw():
            yield part


async def _read(found: AnswerStream) -> Answer:
    """Return a good answer whole; raises `EngineError` for any other."""
    async with found:
        body = b"".join([part async for part in found])
    headers: Mapping[str, str] = found.headers
    if found.status >= httpx2.codes.BAD_REQUEST:
        raise read_error(found.status, headers, body)
    return Answer(found.status, headers, body)
