"""Any engine that speaks the contract of `/predictions`, over whatever carries its requests."""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Protocol
from urllib.parse import quote

from gateway.contract.errors import read_error
from gateway.contract.live import ContractLiveSession
from gateway.engine import (
    Answer,
    AnswerStream,
    AudioFormat,
    ForwardedRequest,
    Headers,
    Model,
    Request,
)
from gateway.settings import Settings

Content = bytes | AsyncIterator[bytes] | None


class Transport(Protocol):
    """What carries requests of the contract to an engine."""

    async def request(
        self, method: str, target: bytes, headers: Headers, content: Content
    ) -> AnswerStream:
        """Return the answer to a request, whatever its status; `target` is the path and query.

        Raises `EngineError` where there is no answer.
        """

    async def aclose(self) -> None:
        """Close the connections."""


class Catalogue(Protocol):
    """What is known of an engine's models."""

    async def models(self) -> list[Model]:
        """Return the models there are, by name, as they are now."""

    async def model(self, name: str) -> Model:
        """Return one of them, as it was last known; raises `ModelNotFoundError`."""

    async def aclose(self) -> None:
        """Stop looking models up."""


class ContractEngine:
    """An engine: the addresses of the contract, and what the engine says of its models."""

    def __init__(
        self,
        transport: Transport,
        catalogue: Catalogue,
        session_answer_timeout_s: float = Settings.session_answer_timeout_s,
    ) -> None:
        self._transport = transport
        self._catalogue = catalogue
        self._session_answer_timeout_s = session_answer_timeout_s

    async def answer(self, model: str, request: Request, version: str | None = None) -> Answer:
        """Return the answer to a request."""
        return await self._ask(target_of("predictions", model, version), request)

    async def explain(self, model: str, request: Request, version: str | None = None) -> Answer:
        """Return the explanation of the answer to a request."""
        return await self._ask(target_of("explanations", model, version), request)

    async def stream(
        self, model: str, request: Request, version: str | None = None
    ) -> AnswerStream:
        """Return the answer to a request in parts, once its first header is there."""
        target = target_of("predictions", model, version)
        found = await self._transport.request("POST", target, request.all_headers(), request.body)
        if found.status >= HTTPStatus.BAD_REQUEST:
            await read_answer(found)
        return found

    async def forward(self, request: ForwardedRequest) -> AnswerStream:
        """Return the answer to a request of the contract unchanged, errors too."""
        return await self._transport.request(
            request.method, request.target, request.headers, request.body
        )

    async def open_live(self, model: str, audio_format: AudioFormat) -> ContractLiveSession:
        """Return a session of live speech; the engine opens it with the first chunk."""

        async def ask(request: Request) -> Answer:
            return await self.answer(model, request)

        return ContractLiveSession(ask, audio_format, self._session_answer_timeout_s)

    async def models(self) -> list[Model]:
        """Return the models there are, by name."""
        return await self._catalogue.models()

    async def model(self, name: str) -> Model:
        """Return one of them; raises `ModelNotFoundError`."""
        return await self._catalogue.model(name)

    async def check_alive(self) -> None:
        """Return: an engine outside this process is no better after this one's restart."""

    async def aclose(self) -> None:
        """Close the connections."""
        await self._catalogue.aclose()
        await self._transport.aclose()

    async def _ask(self, target: bytes, request: Request) -> Answer:
        return await read_answer(
            await self._transport.request("POST", target, request.all_headers(), request.body)
        )


def target_of(api: str, model: str, version: str | None = None) -> bytes:
    """Return the path of a model at `predictions` or `explanations`, percent-encoded."""
    names = [api, model] if version is None else [api, model, version]
    return "".join(f"/{quote(each, safe='')}" for each in names).encode()


async def read_answer(found: AnswerStream) -> Answer:
    """Return a good answer whole; raises `EngineError` for any other."""
    async with found:
        body = b"".join([part async for part in found])
    if found.status >= HTTPStatus.BAD_REQUEST:
        raise read_error(found.status, found.headers, body)
    return Answer(found.status, found.headers, body)
