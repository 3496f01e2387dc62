"""What tests of several kinds name."""

import socket
from collections.abc import Callable

from build_archives import ROOT
from local_serving import LocalModel
from torchserve_process import ADDRESS_KEYS, PORT_KEYS, read_properties

EXAMPLES = ROOT / "examples"
START_TIMEOUT_S = 300.0
LoadModel = Callable[[str], LocalModel]


def free_properties() -> dict[str, str]:
    """Return config.properties with ports that nobody uses."""
    keys = (*ADDRESS_KEYS, *PORT_KEYS)
    sockets = [socket.socket() for _ in keys]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = dict(zip(keys, (each.getsockname()[1] for each in sockets), strict=True))
    finally:
        for each in sockets:
            each.close()
    addresses = {key: f"http://127.0.0.1:{ports[key]}" for key in ADDRESS_KEYS}
    return {**read_properties(), **addresses, **{key: str(ports[key]) for key in PORT_KEYS}}
