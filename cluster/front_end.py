"""TorchServe's front end in Python: from addresses of the contract to models, and back."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from cluster.requests import WorkerAnswer, WorkerRequest
from gateway.contract.engine import Catalogue, Content
from gateway.contract.errors import read_error
from gateway.engine import AnswerStream, Headers, ModelNotFoundError
from gateway.request_context import ID_HEADER, request_id, trace_headers

APIS = {"predictions": "False", "explanations": "True"}
STREAMED = ("text/event-stream", "application/x-ndjson")
# When to try again where every worker is busy.
BUSY_S = 1


class Models(Catalogue, Protocol):
    """Whoever knows models, and brings requests to them."""

    async def answer(self, model: str, request: WorkerRequest) -> WorkerAnswer:
        """Return an answer whole; raises `RefusalError` where there is none."""

    def stream(self, model: str, request: WorkerRequest) -> AsyncGenerator[WorkerAnswer]:
        """Yield the parts of an answer; raises `RefusalError` where there is none."""


class RefusalError(Exception):
    """Why the engine does not answer, in the words and statuses of TorchServe's front end."""

    def __init__(
        self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.headers = dict(headers or {})

    def as_answer(self) -> WorkerAnswer:
        """Return the answer that says so."""
        said = {"code": self.status, "type": self.kind, "message": self.message}
        headers = {"content-type": "application/json"} | self.headers
        return WorkerAnswer(self.status, list(headers.items()), json.dumps(said, indent=2).encode())


def full_queue() -> RefusalError:
    """Return why a request is refused when a model has too many already."""
    return RefusalError(
        503,
        "ServiceUnavailableException",
        "Expected a place in the model's queue; it is full. Try again.",
        {"retry-after": str(BUSY_S)},
    )


@dataclass(frozen=True)
class Address:
    """What a path of the contract asks: a model, perhaps a version, and further steps."""

    api: str
    model: str
    version: str | None
    rest: str


class FrontEnd:
    """Carries requests of the contract to models: a `Transport` of the gateway's."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def request(
        self, _method: str, target: bytes, headers: Headers, content: Content
    ) -> AnswerStream:
        """Return the answer to a request, whatever its status; `target` is the path and query.

        As before TorchServe, methods are all alike: what matters is the body.
        """
        body = await _read_whole(content)
        try:
            if target.partition(b"?")[0] == b"/ping":
                return _whole(await self._ping())
            address = read_address(target)
            await self._check_model(address)
            request = WorkerRequest(_worker_headers(headers, address), body)
            if _wants_parts(request):
                return await _in_parts(self._models.stream(address.model, request))
            return _whole(_refused(await self._models.answer(address.model, request)))
        except RefusalError as refusal:
            return _whole(refusal.as_answer())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._models.aclose()

    async def _ping(self) -> WorkerAnswer:
        healthy = all(model.ready for model in await self._models.models())
        said = json.dumps({"status": "Healthy" if healthy else "Partial Healthy"}, indent=2)
        return WorkerAnswer(200, [("content-type", "application/json")], said.encode())

    async def _check_model(self, address: Address) -> None:
        try:
            model = await self._models.model(address.model)
        except ModelNotFoundError as error:
            raise RefusalError(
                404, "ModelNotFoundException", f"Model not found: {address.model}"
            ) from error
        versions = [each.version for each in model.versions]
        # A busy model says its version later: until then, any may be its own.
        if address.version is not None and not {address.version, ""} & set(versions):
            raise RefusalError(
                404,
                "ModelVersionNotFoundException",
                f"Model version: {address.version} does not exist for model: {address.model}",
            )


def read_address(target: bytes) -> Address:
    """Return what a path asks; raises `RefusalError` for one of no model."""
    path = target.partition(b"?")[0].decode("latin-1")
    api, model, version, rest = (*path.lstrip("/").split("/", 3), "", "", "", "")[:4]
    if api not in APIS or not model:
        raise RefusalError(
            404,
            "ResourceNotFoundException",
            "Requested resource is not found, please refer to API document.",
        )
    return Address(api, unquote(model), unquote(version) or None, rest)


def _worker_headers(headers: Headers, address: Address) -> list[tuple[str, str]]:
    """Return a request's headers as a worker gets them: each name once, with the front end's."""
    given = {name: value for name, value in headers if name != ID_HEADER}
    traced = dict(trace_headers.get())
    named = {ID_HEADER: request_id.get()} if request_id.get() else {}
    own = {"explain": APIS[address.api]} | ({"url_path": address.rest} if address.rest else {})
    return list((given | traced | named | own).items())


def _wants_parts(request: WorkerRequest) -> bool:
    """Tell whether parts of an answer are of use before the rest of it."""
    accepted = next((value for name, value in request.headers if name.lower() == "accept"), "")
    return any(each in accepted for each in STREAMED) or b"stream" in request.body[:100_000]


async def _read_whole(content: Content) -> bytes:
    if content is None:
        return b""
    return content if isinstance(content, bytes) else b"".join([part async for part in content])


def _refused(answer: WorkerAnswer) -> WorkerAnswer:
    """Return an answer; raises `RefusalError` where the worker could not give one."""
    if answer.refusal:
        raise RefusalError(answer.status, "InternalServerException", answer.refusal)
    return answer


def _whole(answer: WorkerAnswer) -> AnswerStream:
    async def parts() -> AsyncIterator[bytes]:
        yield answer.body

    async def close() -> None:
        pass

    return AnswerStream(answer.status, answer.headers, parts(), close)


async def _in_parts(answers: AsyncGenerator[WorkerAnswer]) -> AnswerStream:
    """Return an answer of parts, once its first one is there."""
    first = _refused(await anext(answers))

    async def parts() -> AsyncIterator[bytes]:
        yield first.body
        try:
            async for answer in answers:
                yield _refused(answer).body
        except RefusalError as refusal:
            # Its status is sent already.
            lost = refusal.as_answer()
            raise read_error(lost.status, dict(lost.headers), lost.body) from refusal

    return AnswerStream(first.status, first.headers, parts(), answers.aclose)
