"""uvicorn's server of WebSockets, which logs no queries, and holds little of who has to wait."""

import asyncio
import logging
import socket
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# What a client has sent and nobody has read: its pings wait behind that, so there is not much.
RECEIVE_BUFFER_BYTES = 131_072


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
