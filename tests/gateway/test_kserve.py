"""KServe's protocols through the gateway: the shapes of the specification, and every model."""

import base64
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway.engine import not_ready
from gateway.errors import ErrorShapes, Failure
from gateway.kserve import v1, v2
from support.common import EXAMPLES
from support.gateway import run_relay
from support.kserve import packed, unpacked_tensor
from trials.gateways import run_gateway
from trials.servers import TrialServer

SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()
SPOKEN = [
    (EXAMPLES / f"{name}.wav").read_bytes()
    for name in ("turn_on_the_kitchen_lights", "close_the_bathroom_window")
]
QUESTION = json.loads((EXAMPLES / "question.json").read_text())
Json = dict[str, Any]


class Spec(BaseModel):
    """A schema of open_inference_rest.yaml, version 2.0, with nothing beside what it names."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class ServerMetadata(Spec):
    """components/schemas/metadata_server_response."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Spec):
    """components/schemas/metadata_tensor; -1 is a size that varies."""

    name: str
    datatype: str
    shape: list[Annotated[int, Field(ge=-1)]]


class ModelMetadata(Spec):
    """components/schemas/metadata_model_response."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ResponseOutput(Spec):
    """components/schemas/response_output; `data` is left out for binary data."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: str
    parameters: dict[str, str | int | float | bool] | None = None
    data: list[str] | None = None


class InferenceResponse(Spec):
    """components/schemas/inference_response."""

    model_name: str
    outputs: list[ResponseOutput]
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


class ModelReady(Spec):
    """inference_rest.md, "Model Ready Response JSON Object"."""

    name: str
    ready: bool


class ErrorResponse(Spec):
    """components/schemas/inference_error_response, metadata_model_error_response."""

    error: str


def post(url: str, content: Json) -> httpx2.Response:
    return httpx2.post(url, json=content, timeout=120)


def tensor(name: str, *data: str) -> Json:
    return {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": list(data)}


def test_server_and_models_describe_themselves(gateway_url: str) -> None:
    about = ServerMetadata.model_validate(httpx2.get(f"{gateway_url}/v2").json())
    assert about.extensions == ["binary_tensor_data"]
    assert httpx2.get(f"{gateway_url}/v2/health/live").json() == {"live": True}
    assert httpx2.get(f"{gateway_url}/v2/health/ready", timeout=60).json() == {"ready": True}
    url = f"{gateway_url}/v2/models/bert_question_answering"
    for address in (url, f"{url}/versions/1.0"):
        found = ModelMetadata.model_validate(httpx2.get(address).json())
        assert (found.name, found.versions) == ("bert_question_answering", ["1.0"])
        assert [(each.name, each.shape) for each in found.inputs] == [
            ("question", [-1]),
            ("context", [-1]),
        ]
        assert [(each.name, each.datatype) for each in found.outputs] == [("output", "BYTES")]
        ready = ModelReady.model_validate(httpx2.get(f"{address}/ready").json())
        assert (ready.name, ready.ready) == ("bert_question_answering", True)


def test_readiness_is_that_of_now(server: TrialServer, tmp_path: Path) -> None:
    port = urlsplit(server.properties["management_address"]).port or 0
    with ExitStack() as management:
        relay = management.enter_context(run_relay(port))
        properties = {**server.properties, "management_address": f"http://127.0.0.1:{relay.port}"}
        with run_gateway(tmp_path, properties, models_refresh_s=0.001) as gateway:
            urls = [
                f"{gateway.url}/{each}"
                for each in ("v2/models/wav2vec2/ready", "v1/models/wav2vec2")
            ]
            assert [httpx2.get(each, timeout=60).status_code for each in urls] == [200, 200]
            management.close()
            assert [httpx2.get(each, timeout=60).status_code for each in urls] == [503, 503]


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/whisper",
        "/v2/models/wav2vec2/versions/9",
        "/v2/models/wav2vec2/versions/9/ready",
        "/v2/nowhere",
    ],
)
def test_what_is_not_there_gets_the_error_of_the_protocol(gateway_url: str, path: str) -> None:
    response = httpx2.get(f"{gateway_url}{path}")
    assert response.status_code == 404
    assert ErrorResponse.model_validate(response.json()).error.startswith("Expected ")


WHOLE_SESSION = {
    "ts_request_sequence_id": "kserve-whole",
    "ts_request_sequence_start": "true",
    "ts_request_sequence_end": "true",
}
# What each model is asked: an instance as inputs, and as /predictions has it.
ASKED: dict[str, tuple[dict[str, bytes], bytes, dict[str, str]]] = {
    "wav2vec2": ({"audio": SPEECH}, SPEECH, {}),
    "emformer_asr": ({"audio": SPEECH}, SPEECH, {}),
    "emformer_asr_live": ({"audio": SPEECH}, SPEECH, WHOLE_SESSION),
    "bert_seq_classification": ({"text": b"Great."}, b"Great.", {"Content-Type": "text/plain"}),
    "bert_token_classification": (
        {"text": "Maria Rossi works in Zürich.".encode()},
        "Maria Rossi works in Zürich.".encode(),
        {"Content-Type": "text/plain"},
    ),
    "bert_question_answering": (
        {name: text.encode() for name, text in QUESTION.items()},
        json.dumps(QUESTION).encode(),
        {"Content-Type": "application/json"},
    ),
    "gpt2_text_generation": (
        {"text": b"Once upon a time"},
        b"Once upon a time",
        {"Content-Type": "text/plain"},
    ),
}


def without_session(text: str) -> Any:
    """Return an answer, that of live speech without what is of each session alone."""
    try:
        content = json.loads(text)
    except ValueError:
        return text
    return {**content, "session": None} if isinstance(content, dict) else content


@pytest.mark.parametrize("model", ASKED)
def test_every_model_answers_alike_in_every_form(
    model: str, gateway_url: str, inference_url: str
) -> None:
    inputs, body, headers = ASKED[model]
    direct = httpx2.post(
        f"{inference_url}/predictions/{model}", content=body, headers=headers, timeout=120
    )
    assert direct.status_code == 200
    expected = without_session(direct.text)
    assert without_session(infer_json(gateway_url, model, inputs)) == expected
    assert without_session(infer_binary(gateway_url, model, inputs)) == expected
    texts = {name: each.decode("latin-1") for name, each in inputs.items()}
    instance: Any = {name: each.decode() for name, each in inputs.items() if name != "audio"}
    if "audio" in texts:
        instance = {"b64": base64.b64encode(SPEECH).decode()}
    response = post(f"{gateway_url}/v1/models/{model}:predict", {"instances": [instance]})
    (prediction,) = response.json()["predictions"]
    if isinstance(prediction, dict):
        prediction["session"] = None
    assert prediction == expected


def infer_json(gateway_url: str, model: str, inputs: dict[str, bytes]) -> str:
    """Return the answer to an instance that comes and goes as JSON."""
    tensors = [
        tensor(name, base64.b64encode(each).decode() if name == "audio" else each.decode())
        for name, each in inputs.items()
    ]
    asked = {"id": "mine", "inputs": tensors}
    response = post(f"{gateway_url}/v2/models/{model}/infer", asked)
    answer = InferenceResponse.model_validate(response.json())
    assert (answer.model_name, answer.model_version, answer.id) == (model, "1.0", "mine")
    (output,) = answer.outputs
    assert (output.name, output.datatype, output.shape) == ("output", "BYTES", [1])
    assert output.data
    return output.data[0]


def infer_binary(gateway_url: str, model: str, inputs: dict[str, bytes]) -> str:
    """Return the answer to an instance that comes and goes as binary data."""
    parts = [packed([each]) for each in inputs.values()]
    tensors = [
        {
            "name": name,
            "shape": [1, 1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(part)},
        }
        for name, part in zip(inputs, parts, strict=True)
    ]
    outputs = [{"name": "output", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": tensors, "outputs": outputs}).encode()
    response = httpx2.post(
        f"{gateway_url}/v2/models/{model}/versions/1.0/infer",
        content=head + b"".join(parts),
        headers={"Inference-Header-Content-Length": str(len(head))},
        timeout=120,
    )
    length = int(response.headers["inference-header-content-length"])
    answer = InferenceResponse.model_validate_json(response.content[:length])
    (output,) = answer.outputs
    assert (output.data, answer.id) == (None, None)
    assert output.parameters
    assert output.parameters["binary_data_size"] == len(response.content) - length
    (element,) = unpacked_tensor(response.content[length:])
    return element.decode()


def test_batches_are_answered_in_order(gateway_url: str) -> None:
    texts = [f"Maria lives in room {number}." for number in range(40)]
    url = f"{gateway_url}/v2/models/bert_token_classification/infer"
    (output,) = post(url, {"inputs": [tensor("text", *texts)]}).json()["outputs"]
    assert output["shape"] == [40]
    assert output["parameters"] == {"content_type": "application/json"}
    for number, answer in enumerate(output["data"]):
        assert str(number) in "".join(token for token, _ in json.loads(answer)).replace("##", "")
    url = f"{gateway_url}/v1/models/wav2vec2:predict"
    instances = [{"b64": base64.b64encode(each).decode()} for each in SPOKEN]
    assert post(url, {"instances": instances}).json() == {
        "predictions": ["TURN ON THE KITCHEN LIGHTS", "CLOSE THE BATHROOM WINDOW"]
    }


def test_parameters_reach_the_model(gateway_url: str, inference_url: str) -> None:
    url = f"{gateway_url}/v2/models/bert_seq_classification/infer"
    asked = {"inputs": [tensor("text", "Great.")], "parameters": {"top_k": 2}}
    (output,) = post(url, asked).json()["outputs"]
    direct = post(
        f"{inference_url}/predictions/bert_seq_classification",
        {"inputs": "Great.", "parameters": {"top_k": 2}},
    )
    assert json.loads(output["data"][0]) == direct.json()
    assert [each["label"] for each in direct.json()] == ["Accepted", "Not Accepted"]
    speech = {
        "inputs": [tensor("audio", base64.b64encode(SPEECH).decode())],
        "outputs": [{"name": "output", "parameters": {"content_type": "text/vtt"}}],
    }
    (output,) = post(f"{gateway_url}/v2/models/wav2vec2/infer", speech).json()["outputs"]
    assert output["parameters"] == {"content_type": "text/vtt"}
    assert output["data"][0].startswith("WEBVTT")
    samples = (np.frombuffer(SPEECH, "<i2")[22:]).astype(">i2").tobytes()
    bare = tensor("audio", base64.b64encode(samples).decode())
    bare["parameters"] = {"content_type": "audio/L16; rate=16000"}
    (output,) = post(f"{gateway_url}/v2/models/wav2vec2/infer", {"inputs": [bare]}).json()[
        "outputs"
    ]
    assert output["data"] == ["TURN ON THE KITCHEN LIGHTS"]


@pytest.mark.parametrize(
    ("model", "asked", "status", "said"),
    [
        (
            "bert_seq_classification",
            {"inputs": [tensor("text", "Great.", "", "Bad.", "")]},
            400,
            "Instance 1, counted from 0, of 4: Expected a JSON object with text",
        ),
        ("wav2vec2", {"inputs": [tensor("audio", "AAAA")]}, 415, "Expected a recording"),
        (
            "bert_seq_classification",
            {"inputs": [tensor("text", "a")], "parameters": {"no_such": 1}},
            422,
            "Expected parameters among",
        ),
        (
            "bert_seq_classification",
            {"inputs": [tensor("text", "a")], "outputs": [{"name": "canary"}]},
            400,
            "outputs.0.name: expected output, got another.",
        ),
        (
            "bert_seq_classification",
            {
                "inputs": [tensor("text", "a")],
                "outputs": [{"name": "output", "parameters": {"classification": 2}}],
            },
            422,
            "outputs.0.parameters: expected binary_data or content_type.",
        ),
        ("whisper", {"inputs": [tensor("text", "a")]}, 404, "Expected the name of a model"),
        ("wav2vec2", {"instances": ["a"]}, 400, "inputs: field required."),
    ],
)
def test_errors_have_the_shape_of_v2(
    gateway_url: str, model: str, asked: Json, status: int, said: str
) -> None:
    response = post(f"{gateway_url}/v2/models/{model}/infer", asked)
    assert response.status_code == status
    message = ErrorResponse.model_validate(response.json()).error
    assert said in message
    assert "canary" not in message


def test_bad_instance_of_v1_stands_beside_the_good_answers(gateway_url: str) -> None:
    url = f"{gateway_url}/v1/models/bert_seq_classification"
    response = post(f"{url}:predict", {"instances": ["Great.", "", {"text": "Great."}, 3]})
    assert response.status_code == 200
    first, empty, same, number = response.json()["predictions"]
    assert first == same == "Accepted"
    assert (empty["error"]["code"], empty["error"]["type"]) == (400, "MissingField")
    assert (number["error"]["code"], number["error"]["type"]) == (400, "UnexpectedJson")
    spoken = [{"b64": base64.b64encode(SPEECH).decode()}, {"b64": "no base64"}, "no", {"b64": 1}]
    response = post(f"{gateway_url}/v1/models/emformer_asr:predict", {"instances": spoken})
    first, *others = response.json()["predictions"]
    assert first == "turn on the kitchen lights"
    kinds = [each["error"]["type"] for each in others]
    assert kinds == ["InvalidBase64", "InvalidInstance", "InvalidInstance"]


def test_live_speech_of_v1_leaves_no_session_open(gateway_url: str) -> None:
    url = f"{gateway_url}/v1/models/emformer_asr_live"
    (model,) = [
        each
        for each in httpx2.get(f"{gateway_url}/page/models.json").json()["models"]
        if each["name"] == "emformer_asr_live"
    ]
    coded = base64.b64encode(SPEECH).decode()
    instances = [{"data": coded}] * (int(model["limits"]["max_sessions"]) + 1) + [{"b64": coded}]
    for instance in instances:
        (answer,) = post(f"{url}:predict", {"instances": [instance]}).json()["predictions"]
        assert answer["text"] == "turn on the kitchen lights"


def test_all_bad_instances_of_v1_are_an_error(gateway_url: str) -> None:
    url = f"{gateway_url}/v1/models/wav2vec2:predict"
    response = post(url, {"instances": [{"b64": "AAAA"}, "no"]})
    assert response.status_code == 415
    assert ErrorResponse.model_validate(response.json()).error.startswith("Instance 0, counted")
    url = f"{gateway_url}/v1/models/gpt2_text_generation:predict"
    streamed = {"inputs": "a", "parameters": {"stream": True}}
    for asked, status in (({"instances": [streamed]}, 422), ({}, 400), ({"instances": []}, 400)):
        response = post(url, asked)
        assert response.status_code == status
        assert TypeAdapter(ErrorResponse).validate_python(response.json())


def test_explanations_of_v1_are_those_of_the_engine(gateway_url: str, inference_url: str) -> None:
    direct = post(f"{inference_url}/explanations/bert_seq_classification", {"text": "Great."})
    url = f"{gateway_url}/v1/models/bert_seq_classification:explain"
    (first, _) = post(url, {"instances": ["Great.", {"text": "Bad."}]}).json()["explanations"]
    expected = direct.json()
    # Alone and beside another text, sums are added up in another order.
    for name in ("delta", "importances"):
        assert first.pop(name) == pytest.approx(expected.pop(name), abs=1e-5)
    assert first == expected
    unexplained = post(
        f"{gateway_url}/v1/models/emformer_asr_live:explain", {"instances": [{"b64": "AAAA"}]}
    )
    assert unexplained.status_code == 422


def test_errors_of_the_protocols_reach_no_other_address() -> None:
    def write_other(failure: Failure) -> Any:
        raise LookupError

    writers = {"/v1": write_other, "/v1/models": write_other}
    shapes = ErrorShapes({**writers, **v1.PROTOCOL.error_writers, **v2.PROTOCOL.error_writers})
    error = not_ready()
    for path in ("/v1/models/a:predict", "/v1/models/a:explain", "/v2", "/v2/models/a"):
        assert b"error" in bytes(shapes.respond(path, error).body)
    for path in ("/v1/models", "/v1/models/a", "/v1/audio/transcriptions"):
        with pytest.raises(LookupError):
            shapes.respond(path, error)
