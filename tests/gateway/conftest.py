"""The gateway before the server that all tests share."""

from collections.abc import Iterator

import pytest

from gateway.settings import Settings, parse_settings
from support.gateway import RunningGateway, run_gateway
from trials.servers import TrialServer


@pytest.fixture(scope="session")
def gateway(
    server: TrialServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """Return a gateway that runs before the server with the seven archives."""
    with run_gateway(tmp_path_factory.mktemp("gateway"), server.properties) as running:
        yield running


@pytest.fixture(scope="session")
def gateway_url(gateway: RunningGateway) -> str:
    """Return the address of that gateway."""
    return gateway.url


@pytest.fixture(scope="session")
def engine_settings(server: TrialServer) -> Settings:
    """Return settings for an engine of one's own before that server."""
    addresses = ("inference_address", "management_address")
    return parse_settings({"torchserve": {name: server.properties[name] for name in addresses}})
