"""config.properties: its keys, and the ports that they name."""

import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from repository import ROOT
from serving.errors import ServerError

CONFIG_FILE = ROOT / "config.properties"
LOG_CONFIG = ROOT / "log4j2.xml"
ADDRESS_KEYS = ("inference_address", "management_address", "metrics_address")
PATH_KEYS = ("metrics_config", "keystore", "private_key_file", "certificate_file")
PORT_KEYS = ("grpc_inference_port", "grpc_management_port")
# What TorchServe 0.12 takes for a key that is absent (org.pytorch.serve.util.ConfigManager).
DEFAULTS = {
    "inference_address": "http://127.0.0.1:8080",
    "management_address": "http://127.0.0.1:8081",
    "metrics_address": "http://127.0.0.1:8082",
    "grpc_management_address": "127.0.0.1",
    "grpc_inference_port": "7070",
    "grpc_management_port": "7071",
}

# Systems give none of these to a connection that is made meanwhile: those are from 32,768 on.
FREE_PORTS = range(15_000, 32_768)


def read_properties(path: Path = CONFIG_FILE) -> dict[str, str]:
    """Return the keys and values of a Java properties file, and paths in it as absolute ones.

    Addresses and ports that it does not name are TorchServe's own.
    """
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    properties = {key.strip(): value.strip() for key, _, value in pairs}
    paths = {key: str(path.parent / properties[key]) for key in PATH_KEYS if key in properties}
    return DEFAULTS | properties | paths


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    while True:
        port = secrets.choice(FREE_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def free_properties() -> dict[str, str]:
    """Return config.properties with ports that nobody uses."""
    keys = (*ADDRESS_KEYS, *PORT_KEYS)
    free: set[int] = set()
    while len(free) < len(keys):
        free.add(free_port())
    ports = dict(zip(keys, free, strict=True))
    addresses = {key: f"http://127.0.0.1:{ports[key]}" for key in ADDRESS_KEYS}
    return {**read_properties(), **addresses, **{key: str(ports[key]) for key in PORT_KEYS}}


def read_ports(properties: Mapping[str, str]) -> dict[str, int]:
    """Return the ports of a server, by the key that names each; raises `ServerError`."""
    given, ports = {**DEFAULTS, **properties}, {}
    for key in (*ADDRESS_KEYS, *PORT_KEYS):
        try:
            address = key in ADDRESS_KEYS
            ports[key] = urlsplit(given[key]).port or 0 if address else int(given[key])
        except ValueError as error:
            raise ServerError(
                f"config.properties: {key}: expected a port, as in {DEFAULTS[key]}, got "
                f"{given[key]}."
            ) from error
    return ports


def check_ports(properties: Mapping[str, str]) -> None:
    """Raise `ServerError` where a port that the server needs is in use."""
    for key, port in read_ports(properties).items():
        check_port(key, port)


def check_port(key: str, port: int, file: str = CONFIG_FILE.name) -> None:
    """Raise `ServerError` where a port is in use."""
    with socket.socket() as probe:
        # As TorchServe itself binds: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"Port {port} ({key} in {file}) is in use by another program; stop "
                "that one, or choose another port there."
            ) from error


def check_management(properties: Mapping[str, str]) -> None:
    """Raise `ServerError` where others than this machine would reach the management API.

    It is an address for HTTP and a host for gRPC. Those of other machines, those that mean all of
    this one's networks, and names that may be either are refused.
    """
    given = {**DEFAULTS, **properties}
    hosts = {
        "management_address": _host_of(given["management_address"]),
        "grpc_management_address": given["grpc_management_address"].strip("[]"),
    }
    for key, host in hosts.items():
        if not _is_loopback(host):
            raise ServerError(
                f"config.properties: {key}: expected the host 127.0.0.1, ::1 or localhost, got "
                f"{given[key]}: who reaches it can stop models, or run code."
            )


def _host_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
