"""TorchServe as an engine: its inference API for requests, its management API for models."""

from urllib.parse import quote

from gateway.engine import (
    Answer,
    AnswerStream,
    AudioFormat,
    ForwardedRequest,
    Model,
    Request,
)
from gateway.settings import Settings
from gateway.torchserve.catalogue import Catalogue
from gateway.torchserve.client import TorchServeClient
from gateway.torchserve.live import TorchServeLiveSession


class TorchServeEngine:
    """A TorchServe, on this machine or another."""

    def __init__(self, settings: Settings) -> None:
        self._client = TorchServeClient(settings)
        self._catalogue = Catalogue(self._client, settings)

    async def answer(self, model: str, request: Request, version: str | None = None) -> Answer:
        """Return the answer to a request."""
        target = target_of("predictions", model, version)
        return await self._client.answer(target, request.all_headers(), request.body)

    async def explain(self, model: str, request: Request, version: str | None = None) -> Answer:
        """Return the explanation of the answer to a request."""
        target = target_of("explanations", model, version)
        return await self._client.answer(target, request.all_headers(), request.body)

    async def stream(
        self, model: str, request: Request, version: str | None = None
    ) -> AnswerStream:
        """Return the answer to a request in parts, once its first header is there."""
        target = target_of("predictions", model, version)
        return await self._client.stream(target, request.all_headers(), request.body)

    async def forward(self, request: ForwardedRequest) -> AnswerStream:
        """Return the answer to a request of the contract unchanged, errors too."""
        return await self._client.request(
            request.method, request.target, request.headers, request.body
        )

    async def open_live(self, model: str, audio_format: AudioFormat) -> TorchServeLiveSession:
        """Return a session of live speech; the engine opens it with the first chunk."""
        return TorchServeLiveSession(self._client, target_of("predictions", model), audio_format)

    async def models(self) -> list[Model]:
        """Return the models there are, by name."""
        return await self._catalogue.models()

    async def model(self, name: str) -> Model:
        """Return one of them; raises `ModelNotFoundError`."""
        return await self._catalogue.model(name)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._catalogue.aclose()
        await self._client.aclose()


def target_of(door: str, model: str, version: str | None = None) -> bytes:
    """Return the path of a model at `predictions` or `explanations`, percent-encoded."""
    names = [door, model] if version is None else [door, model, version]
    return "".join(f"/{quote(each, safe='')}" for each in names).encode()
