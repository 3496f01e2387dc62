"""The least that Ray Serve takes for a request: an ASGI function, a handle, and an echo."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray import serve
from ray.serve import Application

MOST_REQUESTS = 1000
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Echo:
    """Answers what it gets."""

    async def answer(self, body: bytes) -> bytes:
        """Return the body of a request."""
        return body


def build_echo(_options: Mapping[str, Any]) -> Application:
    """Return the application that stands in the place of a model's."""
    echo: Any = _deploy("Echo")(Echo)
    application: Application = echo.bind()
    return application


def build_front(_options: Mapping[str, Any]) -> Application:
    """Return the application that stands in the place of the gateway's."""
    deployed: Any = _deploy("Front")(serve.ingress(_make_front)())
    application: Application = deployed.bind()
    return application


def _deploy(name: str) -> Any:
    options = {"num_cpus": 0}
    return serve.deployment(
        name=name, max_ongoing_requests=MOST_REQUESTS, ray_actor_options=options
    )


def _make_front() -> Callable[[Message, Receive, Send], Awaitable[None]]:
    handle: Any = None

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal handle
        if scope["type"] != "http":
            return
        handle = handle or serve.get_deployment_handle("Echo", "echo")
        said = await handle.answer.remote(await _read(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said})

    return answer


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body
