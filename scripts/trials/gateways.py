"""A gateway of one's own to put to the test, as the real process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import yaml

from serving.configuration import free_port
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
    def address(self) -> tuple[str, int]:
        """Return its host and port."""
        return "127.0.0.1", self.port

    @property
    def socket_url(self) -> str:
        """Return its address for WebSockets."""
        return self.url.replace("http", "ws", 1)

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
