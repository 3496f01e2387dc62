"""What stands around a gateway that is put to the test: relays, and servers that say nothing."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Queue
from threading import Thread
from typing import Any


def properties_of(address: str) -> dict[str, str]:
    """Return the properties of a server whose APIs all are at one address."""
    return {
        "inference_address": address,
        "management_address": address,
        "disable_token_authorization": "true",
    }


class Relay:
    """Passes TCP on to a server, and counts connections: `made`, and those that are `open`.

    `cut()` ends all that are open, as a server does that dies.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._ends: set[asyncio.StreamWriter] = set()
        self.made = 0
        self.open = 0
        self.port = 0
        self.cut: Callable[[], Any] = lambda: None

    def _cut_all(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self.open += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._ends |= {back, writer}
        # Whichever end closes, closes the other.
        copies = [asyncio.create_task(_copy(*each)) for each in ((reader, back), (there, writer))]
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        back.close()
        writer.close()
        await asyncio.wait(copies)
        self._ends -= {back, writer}
        self.open -= 1

    async def serve(self, started: Callable[[Callable[[], Any]], None]) -> None:
        """Pass on until the function is called that `started` is given."""
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.cut = partial(loop.call_soon_threadsafe, self._cut_all)
        started(partial(loop.call_soon_threadsafe, stopped.set))
        await stopped.wait()
        server.close()
        while self.open:
            self._cut_all()
            await asyncio.sleep(0.01)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextmanager
def run_relay(target_port: int) -> Iterator[Relay]:
    """Run a relay to a port of this machine."""
    relay = Relay(target_port)
    started: Queue[Callable[[], Any]] = Queue()
    thread = Thread(target=asyncio.run, args=(relay.serve(started.put),))
    thread.start()
    stop = started.get()
    try:
        yield relay
    finally:
        stop()
        thread.join()


@contextmanager
def run_silent_server() -> Iterator[socket.socket]:
    """Run a server that takes connections and requests, and answers nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server
