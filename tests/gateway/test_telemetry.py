"""What the gateway tells those who run it: metrics, traces, and a log without content."""

import base64
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from gateway.app import build_app
from gateway.settings import SettingsError, parse_settings
from gateway.torchserve.engine import TorchServeEngine
from support.common import EXAMPLES
from support.served_gateway import ServedGateway, run_listener, say_headers, serve_gateway
from support.waiting import until
from trials.gateways import RunningGateway

CANARY = "zxqv-canary"
TIMEOUT_S = 10.0
SPEECH = (EXAMPLES / "turn_on_the_kitchen_lights.wav").read_bytes()


def settings_of(address: str = "http://127.0.0.1:9", **keys: Any) -> Any:
    engine = {"inference_address": address, "management_address": None}
    return parse_settings({"torchserve": engine, "models": {"m": "text_generation"}, **keys})


@pytest.fixture
def served() -> Iterator[ServedGateway]:
    with serve_gateway(settings_of()) as served:
        yield served


def samples(served: ServedGateway, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metric by those of its labels, in the order of their names."""
    text = served.client.get("/metrics").text
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_requests_are_counted_by_route_and_status(served: ServedGateway) -> None:
    for path in ("/v2/models/m", "/v2/models/n", f"/v2/models/{CANARY}/", f"/{CANARY}", "/livez"):
        served.client.get(f"{path}")
    served.client.post(f"/predictions/{CANARY}", content=b"a")
    assert samples(served, "http_requests_total") | {("/metrics", "GET", "200"): 0} == {
        ("/v2/models/{model}", "GET", "200"): 1,
        ("/v2/models/{model}", "GET", "404"): 1,
        ("/livez", "GET", "200"): 1,
        ("/predictions/{model}", "POST", "503"): 1,
        ("none", "GET", "404"): 2,
        ("/metrics", "GET", "200"): 0,
    }
    times = samples(served, "http_request_duration_seconds_count")
    assert times[("/v2/models/{model}", "GET")] == 2
    assert CANARY not in served.client.get("/metrics").text
    assert samples(served, "process_resident_memory_bytes")[()] > 1e6


def test_what_is_in_work_is_told_and_clients_that_went(served: ServedGateway) -> None:
    # Its own question is in work, too.
    assert samples(served, "http_requests_in_progress") == {(): 1}
    assert samples(served, "live_sessions") == {(): 0}
    with (
        connect(served.socket_url),
        socket.create_connection(("127.0.0.1", served.port)) as going,
    ):
        going.sendall(b"GET /wait/a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert served.waiting.get(timeout=TIMEOUT_S) == "a"
        assert samples(served, "http_requests_in_progress") == {(): 2}
        assert samples(served, "live_sessions") == {(): 1}
    gone = ("/wait/{name}", "GET", "499")
    until(lambda: samples(served, "http_requests_total").get(gone) == 1)
    until(lambda: samples(served, "live_sessions") == {(): 0})
    assert samples(served, "http_requests_in_progress") == {(): 1}


def test_refusals_are_counted_and_metrics_may_be_open(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(json.dumps({"desk": "desk-0123456789abcdef"}))
    keys: dict[str, Any] = {"tokens_file": str(tmp_path / "tokens"), "open_metrics": True}
    with serve_gateway(settings_of(**keys)) as served:
        served.client.get("/v2")
        assert samples(served, "http_requests_total")[("/v2", "GET", "401")] == 1


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Span]]:
    """Return the spans that a collector of OpenTelemetry's own protocol gets."""
    received: list[Span] = []

    def receive(_: Any, body: bytes) -> bytes:
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                received.extend(scope.spans)
        return b""

    with run_listener(receive) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield received


def test_span_of_a_request_is_between_its_client_and_the_engine(spans: list[Span]) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {
        "traceparent": f"00-{trace}-{parent}-01",
        "User-Agent": CANARY,
        "X-Canary": CANARY,
        "Authorization": f"Bearer {CANARY}",
    }
    with (
        run_listener(say_headers) as engine,
        serve_gateway(settings_of(engine, traces=True)) as served,
    ):
        heard = served.client.post(
            f"/predictions/m?text={CANARY}", content=CANARY.encode(), headers=headers
        ).json()
        new = served.client.get(f"/v2/models/m?text={CANARY}")
        with connect(f"{served.socket_url}?text={CANARY}") as there:
            there.send(CANARY)
            assert there.recv() == CANARY
    # The last spans are sent when the application ends.
    named = {span.name: span for span in spans}
    assert set(named) == {
        "POST /predictions/{model}",
        "GET /v2/models/{model}",
        "WEBSOCKET /again",
    }
    span = named["POST /predictions/{model}"]
    assert span.kind == Span.SPAN_KIND_SERVER
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, parent)
    assert heard["traceparent"] == f"00-{trace}-{span.span_id.hex()}-01"
    assert heard["x-canary"] == CANARY
    attributes = {each.key: each.value for each in span.attributes}
    assert attributes["http.route"].string_value == "/predictions/{model}"
    assert attributes["http.status_code"].int_value == 200
    assert new.status_code == 200
    assert named["GET /v2/models/{model}"].trace_id.hex() != trace
    for each in spans:
        assert CANARY not in str(each)


def test_missing_packages_of_traces_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError) as caught:
        build_app(settings := settings_of(traces=True), TorchServeEngine(settings))
    assert str(caught.value) == (
        "traces: expected the extra telemetry, got no opentelemetry.sdk.trace; "
        "make telemetry installs it."
    )


def tell(client: httpx2.Client, path: str, content: bytes, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    canaries = {"X-Canary": CANARY, CANARY: "a", "User-Agent": CANARY, "Referer": CANARY}
    return client.post(
        f"{path}?text={CANARY}&{CANARY}=a", content=content, headers=canaries | named
    ).status_code


def tell_forms(client: httpx2.Client, path: str) -> set[int]:
    """Post a canary in every place of a form, whole and cut; return the statuses."""
    part = (
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="{CANARY}.wav"\r\n\r\n'
        f'{CANARY}\r\n--b\r\nContent-Disposition: form-data; name="{CANARY}"\r\n\r\n{CANARY}\r\n'
        f'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n{CANARY}\r\n'
    )
    kind = "multipart/form-data; boundary=b"
    return {
        tell(client, path, content.encode(), Content_Type=kind)
        for content in (f"{part}--b--\r\n", part, part.replace("form-data", CANARY))
    }


def tell_tensors(client: httpx2.Client) -> set[int]:
    """Send canaries in every field of KServe's protocols; return the statuses."""
    good = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [CANARY]}
    asked: list[Any] = [
        {"inputs": [good], "id": CANARY},
        {"inputs": [{**good, "name": CANARY}, good]},
        {"inputs": [{**good, "datatype": CANARY}]},
        {"inputs": [{**good, "shape": [CANARY]}]},
        {"inputs": [{**good, "parameters": {CANARY: CANARY}}]},
        {"inputs": [good], "outputs": [{"name": CANARY}]},
        {"inputs": CANARY},
        {"instances": [CANARY, {CANARY: CANARY}, {"b64": CANARY}, [CANARY]]},
        {"instances": [{"b64": base64.b64encode(CANARY.encode()).decode()}]},
        CANARY,
    ]
    paths = [
        "/v2/models/bert_seq_classification/infer",
        "/v1/models/bert_seq_classification:predict",
        "/v1/models/wav2vec2:predict",
    ]
    bodies = [json.dumps(each).encode() for each in asked] + [f'{{"{CANARY}'.encode()]
    return {
        tell(client, path, body, Inference_Header_Content_Length=length or str(len(body)))
        for path in paths
        for body in bodies
        for length in ("", CANARY)
    }


def tell_sockets(url: str) -> None:
    """Send canaries over WebSockets, wherever one opens."""
    address = url.replace("http", "ws", 1)
    for path in ("/v1/realtime", "/v1/live", "/nowhere"):
        with (
            suppress(WebSocketException, OSError),
            connect(
                f"{address}{path}?text={CANARY}&model={CANARY}",
                subprotocols=["realtime", f"openai-insecure-api-key.{CANARY}"],  # type: ignore[list-item]
                additional_headers={"X-Canary": CANARY, "Origin": url},
            ) as there,
        ):
            there.send(json.dumps({"type": CANARY, "event_id": CANARY, "audio": CANARY}))
            there.send(CANARY)
            there.send(CANARY.encode())
            while there.recv(timeout=0.5):
                pass


def test_log_of_the_gateway_has_no_content(gateway: RunningGateway) -> None:
    with httpx2.Client(base_url=gateway.url, timeout=60) as client:
        statuses = tell_tensors(client)
        for path in ("/predictions/wav2vec2", "/v1/audio/transcriptions", "/nowhere"):
            statuses |= tell_forms(client, path)
            statuses.add(tell(client, path, CANARY.encode(), Content_Type=CANARY))
        for path in (
            "/predictions/bert_seq_classification",
            "/v1/completions",
            "/v2/models/a/infer",
        ):
            body = json.dumps({"inputs": CANARY, "parameters": {CANARY: 1}, "model": CANARY})
            statuses.add(tell(client, path, body.encode(), Authorization=f"Bearer {CANARY}"))
    tell_sockets(gateway.url)
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(f"GET /{'a' * 70_000} HTTP/1.1\r\n{CANARY}\r\n\r\n".encode())
        connection.sendall(f"{CANARY} {CANARY}\r\n\r\n".encode())
        with suppress(OSError):
            connection.recv(1000)
    assert {200, 400, 404} <= statuses
    # 500 is what TorchServe says of a form that is cut.
    assert 503 not in statuses
    for line in ("POST /v2/models/bert_seq_classification/infer 200", "WEBSOCKET /v1/realtime"):
        until(lambda: line in gateway.log())  # noqa: B023
    assert CANARY not in gateway.log()
