"""TorchServe as an engine: its inference API for requests, its management API for models."""

from gateway.contract.engine import ContractEngine
from gateway.settings import Settings
from gateway.torchserve.catalogue import TorchServeCatalogue
from gateway.torchserve.client import TorchServeClient


class TorchServeEngine(ContractEngine):
    """A TorchServe, on this machine or another."""

    def __init__(self, settings: Settings) -> None:
        client = TorchServeClient(settings)
        catalogue = TorchServeCatalogue(client, settings)
        super().__init__(client, catalogue, settings.session_answer_timeout_s)
