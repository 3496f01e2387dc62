"""A gateway of one's own to put to the test, as the real process, and what stands around it."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import psutil
import yaml

from serving.gateway import GatewayRecord, gateway_log_path, start_gateway, stop_gateway


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that answers at `url`."""

    url: str
    folder: Path
    record: GatewayRecord

    @property
    def port(self) -> int:
        """Return its port."""
        return urlsplit(self.url).port or 0

    @property
    def process(self) -> psutil.Process:
        """Return its process."""
        return psutil.Process(self.record.pid)

    def log(self) -> str:
        """Return what it printed so far."""
        return gateway_log_path(self.folder).read_text(encoding="utf-8")


@contextmanager
def run_gateway(
    folder: Path, properties: Mapping[str, str], **settings: Any
) -> Iterator[RunningGateway]:
    """Run a gateway before the TorchServe with these properties, and stop it afterwards.

    `settings` are keys of gateway.yaml; those of its section `torchserve` are a dictionary. The
    addresses of TorchServe come from the properties.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "gateway.yaml"
    config.write_text(yaml.safe_dump({"port": free_port(), **settings}), encoding="utf-8")
    try:
        record = start_gateway(folder, properties, config)
        yield RunningGateway(record.url, folder, record)
    finally:
        stop_gateway(folder)


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
        self.made = 0
        self.open = 0
        self.port = 0
        self.cut: Callable[[], Any] = lambda: None
        self._ends: set[asyncio.StreamWriter] = set()

    def _cut_all(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self.open += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._ends |= {back, writer}
            tasks = [
                asyncio.create_task(_copy(reader, back)),
                asyncio.create_task(_copy(there, writer)),
            ]
            # Whichever end closes, closes the other.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for each in tasks:
                each.cancel()
            for end in (back, writer):
                end.close()
                self._ends.discard(end)
        finally:
            self.open -= 1

    async def serve(self, started: Callable[[Callable[[], Any]], None]) -> None:
        """Pass on until the function is called that `started` is given."""
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        self.cut = partial(loop.call_soon_threadsafe, self._cut_all)
        async with await asyncio.start_server(self._pass_on, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            started(partial(loop.call_soon_threadsafe, stopped.set))
            await stopped.wait()


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
