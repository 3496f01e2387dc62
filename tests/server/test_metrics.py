"""What an operator sees of a real server: /metrics, and the dashboard that draws it."""

import json
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import httpx2
import promql_parser
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from repository import ROOT
from serving.logs import log_path
from trials.good_traffic import AUDIO, JSON, Session, cut_speech, explanations, post, predictions
from trials.http_client import Client, Request
from trials.servers import TrialServer

DASHBOARD = json.loads((ROOT / "docs" / "dashboard.json").read_text())
METRICS_DELAY_S = 2.0
ON_GPUS = ("GPUMemoryUsed", "GpuMemoryReserved")


class Series(NamedTuple):
    """A line of /metrics."""

    name: str
    labels: dict[str, str]
    value: float


def scrape(server: TrialServer) -> list[Series]:
    """Return what /metrics says; the parser also checks its format."""
    text = httpx2.get(f"{server.properties['metrics_address']}/metrics").text
    families: Iterable[Metric] = text_string_to_metric_families(text)
    # The parser writes the names of counters as newer formats have them.
    return [
        Series(
            each.name if f"{each.name}{{" in text else each.name.removesuffix("_total"),
            each.labels,
            each.value,
        )
        for one in families
        for each in one.samples
    ]


def total(series: list[Series], name: str, **labels: str) -> float:
    found = [
        each.value for each in series if each.name == name and labels.items() <= each.labels.items()
    ]
    return sum(found)


@pytest.fixture(scope="module")
def busy_server(server: TrialServer) -> TrialServer:
    """Return the server after it has answered a request of every kind."""
    client = Client(server.address, 60)
    session = Session("metrics", cut_speech(3))
    for request in (*predictions(), *explanations(), *session.requests()):
        assert client.send(request).status == 200
    assert client.send(post("/predictions/wav2vec2", b"no recording", AUDIO)).status == 415
    prompt = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 3}}
    assert client.send(post("/predictions/gpt2_text_generation", prompt, JSON)).status == 200
    # What TorchServe itself answers with 500.
    assert client.send(Request("*")).status == 500
    client.close()
    # TorchServe reads metrics from what its workers print.
    time.sleep(METRICS_DELAY_S)
    return server


def test_counters_add_up(busy_server: TrialServer) -> None:
    before = scrape(busy_server)
    client = Client(busy_server.address, 60)
    speech, vtt, *_ = predictions()
    prompt = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 5}}
    sent = [speech, vtt, post("/predictions/wav2vec2", b"no recording", AUDIO)]
    sent.append(post("/predictions/gpt2_text_generation", prompt, JSON))
    assert [client.send(each).status for each in sent] == [200, 200, 415, 200]
    client.close()
    time.sleep(METRICS_DELAY_S)
    after = scrape(busy_server)

    def added(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert added("Answers", ModelName="wav2vec2", Status="200") == 2
    assert added("Answers", ModelName="wav2vec2", Status="415") == 1
    assert added("AudioSeconds", ModelName="wav2vec2") == pytest.approx(2 * 1.583, abs=0.01)
    assert added("ModelMilliseconds", ModelName="wav2vec2") > 0
    assert added("TokensIn", ModelName="gpt2_text_generation") == 4
    assert added("TokensOut", ModelName="gpt2_text_generation") == 5
    assert added("Answers", ModelName="emformer_asr") == 0


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def parts(node: Any) -> Iterator[Any]:
    """Yield a parsed query and everything within it."""
    yield node
    inner = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector")]
    for each in (*inner, *getattr(node, "args", ())):
        if each is not None:
            yield from parts(each)


def groupings(query: Any) -> set[str]:
    """Return the labels that a parsed query groups by."""
    sums = [each for each in parts(query) if isinstance(each, promql_parser.AggregateExpr)]
    return {label for each in sums if each.modifier for label in each.modifier.labels}


@pytest.mark.parametrize("query", queries())
def test_every_query_of_the_dashboard_finds_its_series(
    busy_server: TrialServer, query: str
) -> None:
    parsed = promql_parser.parse(query.replace("$__rate_interval", "5m").replace("$model", ".*"))
    series = scrape(busy_server)
    found = [each for each in parts(parsed) if isinstance(each, promql_parser.VectorSelector)]
    assert found
    for selector in found:
        if selector.name in ON_GPUS:
            assert selector.name in (ROOT / "metrics.yaml").read_text()
            continue
        matching = [
            each
            for each in series
            if each.name == selector.name
            and all(matches(each, m) for m in selector.matchers.matchers)
        ]
        assert matching
        assert all(groupings(parsed) <= set(each.labels) for each in matching)


def matches(series: Series, matcher: Any) -> bool:
    assert matcher.op in (promql_parser.MatchOp.Equal, promql_parser.MatchOp.Re)
    return re.fullmatch(matcher.value, series.labels.get(matcher.name, "")) is not None


def test_dashboard_shows_every_metric_of_the_handlers(busy_server: TrialServer) -> None:
    drawn = " ".join(queries())
    named = yaml.safe_load((ROOT / "metrics.yaml").read_text())["model_metrics"]
    ours = {each["name"] for kind in named.values() for each in kind}
    assert {name for name in ours if name not in drawn} == {"HandlerTime", "PredictionTime"}


def test_log_has_a_line_for_each_request(busy_server: TrialServer) -> None:
    log = log_path(busy_server.folder).read_text(errors="replace")
    lines = [json.loads(each) for each in re.findall(r'MODEL_LOG - (\{"request_id".*\})', log)]
    speech = [each for each in lines if each["model"] == "wav2vec2" and each["status"] == 200]
    # A model that was asked what it is had no recording.
    recordings = [each for each in speech if "audio_s" in each]
    assert len(recordings) >= 2
    for each in recordings:
        assert {"request_id", "batch_size", "parse_ms", "model_ms", "decode_ms", "audio_s"} <= set(
            each
        )
    assert any(each["status"] == 415 for each in lines)
