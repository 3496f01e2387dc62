"""Requests to TorchServe's gRPC API."""

from collections.abc import Mapping
from typing import Any

import grpc

# Compiles the file that is named when it is asked for, out of the folders of `sys.path`.
messages, services = grpc.protos_and_services("trials/inference.proto")


class GrpcClient:
    """A channel to a server; `call` gives a status code's name and the answer."""

    def __init__(self, port: int, timeout_s: float) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._stub = services.InferenceAPIsServiceStub(self._channel)
        self._timeout_s = timeout_s

    def call(
        self, model: str, inputs: Mapping[str, bytes], version: str = "", stream: bool = False
    ) -> tuple[str, bytes]:
        """Ask a model for a prediction, whole or as a stream of its parts."""
        request = messages.PredictionsRequest(
            model_name=model, model_version=version, input=dict(inputs)
        )
        method: Any = self._stub.StreamPredictions if stream else self._stub.Predictions
        try:
            reply = method(request, timeout=self._timeout_s)
            parts = list(reply) if stream else [reply]
        except grpc.RpcError as error:
            return error.code().name, (error.details() or "").encode()
        return "OK", b"".join(part.prediction for part in parts)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
