"""uvicorn's server of WebSockets, which logs no queries, and holds little of who has to wait."""

import asyncio
import logging
import socket
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.engine import MalformedRequestError
from gateway.http_server import write_refusal

# What a client has sent and nobody has read: its pings wait behind that, so there is not much.
RECEIVE_BUFFER_BYTES = 131_072

_NO_HANDSHAKE = write_refusal(
    HTTPStatus.BAD_REQUEST,
    MalformedRequestError(
        "MalformedRequest",
        "Expected the handshake of a WebSocket: GET without a body, at most 128 headers of 8 KiB.",
    ),
)


class WebSocketServer(WebSocketsSansIOProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = logging.getLogger("gateway.websockets")
        # It would log every connection with its query.
        self.logger.setLevel(logging.WARNING)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a connection."""
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Read what came; answer what is no handshake, too, which uvicorn would only forget."""
        super().data_received(data)
        if self.conn.handshake_exc and not self.handshake_initiated:
            self.transport.write(_NO_HANDSHAKE)
            self.transport.close()

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the application says."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            # Without it uvicorn would log a mistake of an application that refused.
            self.handshake_complete = True
