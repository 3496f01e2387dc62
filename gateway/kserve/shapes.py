"""What the bodies of requests have to be: open_inference_rest.yaml, and KServe's protocol v1."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

# Fields that are unknown are left alone; numbers are not read out of strings.
SHAPE = ConfigDict(extra="ignore", strict=True)
# More than any model has, so that little is read in vain.
MOST = 8
Parameters = dict[str, Any]
Size = Annotated[int, Field(ge=-(2**63), lt=2**63)]


@dataclass(frozen=True, config=SHAPE)
class Tensor:
    """`request_input`; `data` is missing where binary data follows the JSON."""

    name: str
    shape: Annotated[list[Size], Field(max_length=MOST)]
    datatype: str
    parameters: Parameters | None = None
    data: list[Any] | None = None


@dataclass(frozen=True, config=SHAPE)
class RequestedOutput:
    """`request_output`."""

    name: str
    parameters: Parameters | None = None


@dataclass(frozen=True, config=SHAPE)
class InferRequest:
    """`inference_request`."""

    inputs: Annotated[list[Tensor], Field(min_length=1, max_length=MOST)]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: Annotated[list[RequestedOutput], Field(max_length=MOST)] | None = None


@dataclass(frozen=True, config=SHAPE)
class PredictRequest:
    """A request of protocol v1."""

    instances: list[Any]


INFER_REQUEST = TypeAdapter(InferRequest)
PREDICT_REQUEST = TypeAdapter(PredictRequest)
