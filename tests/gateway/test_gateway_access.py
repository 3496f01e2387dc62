"""Access to the gateway: tokens, limits of each client, origins, TLS."""

import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import trustme
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from gateway.access.limits import MOST_CLIENTS, AtOnce, Rate, client_of
from gateway.access.tokens import Tokens, read_tokens
from gateway.command import main
from gateway.request_context import client_name
from gateway.settings import SettingsError, parse_settings
from support.gateway import properties_of
from support.served_gateway import ServedGateway, run_listener, say_headers, serve_gateway
from support.waiting import until
from trials.gateways import run_gateway

TOKENS = {"desk": "desk-0123456789abcdef", "phone": "phone+0123456789/abc=="}
NOBODY = "http://127.0.0.1:9"


def settings_of(address: str = NOBODY, **keys: Any) -> Any:
    addresses = {"inference_address": address, "management_address": None}
    return parse_settings({"torchserve": {**addresses, **keys.pop("torchserve", {})}, **keys})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.yaml"
    path.write_text(yaml.safe_dump(TOKENS))
    return path


@pytest.fixture
def guarded(tokens_file: Path) -> Iterator[ServedGateway]:
    """Return an application with tokens."""
    with serve_gateway(settings_of(tokens_file=str(tokens_file))) as served:
        yield served


def test_token_opens_and_nothing_else_does(guarded: ServedGateway) -> None:
    def status(path: str, headers: dict[str, str]) -> int:
        return guarded.client.get(f"{path}", headers=headers).status_code

    for token in TOKENS.values():
        assert status("/nowhere", bearer(token)) == 404
        assert status("/nowhere", {"Authorization": f"bearer  {token}"}) == 404
    for headers in (
        {},
        {"Authorization": "Bearer"},
        bearer("desk"),
        bearer(TOKENS["desk"] + "0"),
        bearer(TOKENS["desk"][:-1]),
        {"Authorization": TOKENS["desk"]},
        {"Authorization": f"Basic {TOKENS['desk']}"},
    ):
        assert status("/nowhere", headers) == 401
        assert status("/metrics", headers) == 401
    opened = {"/livez": 200, "/v2/health/live": 200, "/ping": 503, "/": 200, "/openapi.json": 200}
    for path, expected in opened.items():
        assert status(path, {}) == expected
    assert status("/v2/models/a/ready", {}) == 401


def test_refusals_have_the_shape_of_each_protocol(guarded: ServedGateway) -> None:
    said = "Expected a token of this gateway in the header Authorization, got none."
    plain = guarded.client.post("/predictions/a", content=b"a" * 100_000)
    assert plain.json() == {"code": 401, "type": "WrongToken", "message": said}
    assert plain.headers["www-authenticate"] == "Bearer"
    assert len(plain.headers["x-request-id"]) == 32
    assert guarded.client.get("/v2/models/a").json() == {"error": said}
    assert guarded.client.post("/v1/models/a:predict").json() == {"error": said}


def test_openai_s_client_has_its_own_errors(tokens_file: Path) -> None:
    limits = {"requests_per_minute": 1}
    settings = settings_of(models={}, tokens_file=str(tokens_file), limits=limits)
    with serve_gateway(settings) as served:

        def list_models(token: str) -> list[str]:
            url = f"{served.url}/v1"
            with openai.OpenAI(base_url=url, api_key=token, max_retries=0) as client:
                return [each.id for each in client.models.list()]

        with pytest.raises(openai.AuthenticationError) as refused:
            list_models("wrong")
        assert refused.value.type == "authentication_error"
        assert refused.value.code == "wrong_token"
        assert list_models(TOKENS["desk"]) == []
        with pytest.raises(openai.RateLimitError) as limited:
            list_models(TOKENS["desk"])
        assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60


def say(served: ServedGateway, headers: dict[str, str] | None = None, protocols: Any = None) -> str:
    with connect(served.socket_url, additional_headers=headers, subprotocols=protocols) as there:
        there.send("hello")
        assert there.recv() == "hello"
        return there.subprotocol or ""


def refused_with(served: ServedGateway, **options: Any) -> httpx2.Response:
    with pytest.raises(InvalidStatus) as caught:
        connect(served.socket_url, **options)
    answer = caught.value.response
    headers = list(answer.headers.raw_items())
    return httpx2.Response(answer.status_code, headers=headers, content=bytes(answer.body))


def test_websockets_have_tokens_as_openai_s_clients_send_them(guarded: ServedGateway) -> None:
    assert say(guarded, bearer(TOKENS["phone"])) == ""
    offered = ["realtime", f"openai-insecure-api-key.{TOKENS['desk']}"]
    assert say(guarded, protocols=offered) == "realtime"
    for wrong in (None, ["realtime"], ["realtime", "openai-insecure-api-key.wrong"]):
        answer = refused_with(guarded, subprotocols=wrong)
        assert (answer.status_code, answer.json()["type"]) == (401, "WrongToken")
        assert len(answer.headers["x-request-id"]) == 32


def test_tokens_are_read_again_when_their_file_changes(
    tokens_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tokens = Tokens(str(tokens_file))
    assert tokens.client_of(TOKENS["desk"]) == "desk"
    tokens_file.write_text(json.dumps({"new": "new-0123456789abcdef"}))
    assert tokens.client_of(TOKENS["desk"]) is None
    assert tokens.client_of("new-0123456789abcdef") == "new"
    for broken in ("new: [", "new: short", ""):
        tokens_file.write_text(broken)
        assert tokens.client_of("new-0123456789abcdef") == "new"
    tokens_file.unlink()
    assert tokens.client_of("new-0123456789abcdef") == "new"
    assert "The tokens stay as they were: tokens_file: new: expected 16 to" in caplog.text
    assert "0123456789" not in caplog.text
    assert "short" not in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- canary-0123456789", "expected a line `name: token`"),
        ("{}", "expected a line `name: token`"),
        ("a: {", "expected a YAML file"),
        ("a b: canary-0123456789", "client 1: expected a name"),
        ("a: 1234567890123456", "a: expected 16 to 256 letters"),
        ("a: canary 0123456789", "a: expected 16 to 256 letters"),
        ("a: canary-0123456789\nb: canary-0123456789", "expected a token of its own"),
    ],
)
def test_mistakes_in_the_file_of_tokens_are_told_without_them(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        read_tokens(path)
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)
    assert "1234567890123456" not in str(caught.value)


def test_missing_file_of_tokens_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="tokens_file: expected a YAML file"):
        serve_gateway(settings_of(tokens_file=str(tmp_path / "none"))).__enter__()


def test_token_of_a_client_goes_no_further_than_the_gateway(
    tokens_file: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "key_file.json"
    keys.write_text(json.dumps({"inference": {"key": "engine"}, "management": {"key": "other"}}))
    mine = bearer(TOKENS["desk"])
    with run_listener(say_headers) as engine:
        for changes, expected in (
            ({}, mine["Authorization"]),
            ({"tokens_file": str(tokens_file)}, None),
            (
                {"tokens_file": str(tokens_file), "torchserve": {"key_file": str(keys)}},
                "Bearer engine",
            ),
        ):
            settings = settings_of(engine, models={"m": "text_generation"}, **changes)
            with serve_gateway(settings) as served:
                heard = served.client.post("/predictions/m", headers=mine).json()
                assert heard.get("authorization") == expected
                answer = served.client.post(
                    "/v1/models/m:predict", json={"instances": ["a"]}, headers=mine
                )
                heard = json.loads(answer.json()["predictions"][0])
                assert heard.get("authorization") == expected


class Clock:
    """Time that passes when it is told to."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_minute_s_requests_come_back_evenly() -> None:
    clock = Clock()
    rate = Rate(3, clock)
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 20]
    assert rate.take("b") == 0
    clock.now_s += 19
    assert rate.take("a") == pytest.approx(1)
    clock.now_s += 1
    assert [rate.take("a"), rate.take("a")] == [0, pytest.approx(20)]
    clock.now_s += 1000
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 20]


@settings(deadline=None)
@given(st.integers(1, 300), st.lists(st.floats(0, 50), max_size=60))
def test_nobody_gets_more_than_there_is_and_who_waits_as_told_gets_it(
    per_minute: int, pauses: list[float]
) -> None:
    clock = Clock()
    rate, begun_s = Rate(per_minute, clock), clock.now_s
    for taken, pause_s in enumerate(pauses, 1):
        clock.now_s += pause_s
        wait_s = rate.take("a")
        clock.now_s += wait_s
        if wait_s:
            assert rate.take("a") == 0
        assert taken <= per_minute * (1 + (clock.now_s - begun_s) / 60) + 1e-3


def test_memory_of_the_limits_is_bounded() -> None:
    clock = Clock()
    rate, places = Rate(1, clock), AtOnce(2)
    for number in range(MOST_CLIENTS + 500):
        assert rate.take(str(number)) == 0
        with places.take(str(number)) as free:
            assert free
    assert len(rate) == MOST_CLIENTS
    assert rate.take(str(MOST_CLIENTS)) > 0
    assert not places._taken


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_client_is_an_address_or_the_network_of_a_subscriber(host: str, client: str) -> None:
    assert client_of({"type": "http", "client": (host, 1)}) == client
    named = client_name.set("desk")
    try:
        assert client_of({"type": "http", "client": (host, 1)}) == "token desk"
    finally:
        client_name.reset(named)


def statuses(served: ServedGateway, path: str, count: int, **options: Any) -> list[int]:
    return [served.client.get(path, **options).status_code for _ in range(count)]


def test_requests_a_minute(tokens_file: Path) -> None:
    limits = {"requests_per_minute": 2}
    with serve_gateway(settings_of(limits=limits, tokens_file=str(tokens_file))) as served:
        assert statuses(served, "/nowhere", 3, headers=bearer(TOKENS["desk"])) == [404, 404, 429]
        assert statuses(served, "/nowhere", 3, headers=bearer(TOKENS["phone"])) == [404, 404, 429]
        # Who has no token takes nobody's share.
        assert statuses(served, "/nowhere", 3) == [401, 401, 401]
        assert statuses(served, "/livez", 3) == [200, 200, 200]
        refused = served.client.get("/v2", headers=bearer(TOKENS["desk"]))
        assert refused.json() == {
            "error": "Expected at most 2 requests a minute of a client. Try again later."
        }
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        answer = refused_with(served, additional_headers=bearer(TOKENS["desk"]))
        assert (answer.status_code, answer.json()["type"]) == (429, "TooManyRequests")


def test_requests_and_sessions_at_once() -> None:
    limits = {"requests_at_once": 2, "sessions": 1}
    with serve_gateway(settings_of(limits=limits)) as served, ThreadPoolExecutor(2) as pool:
        running = [pool.submit(served.client.get, f"/wait/{name}") for name in "ab"]
        assert {served.waiting.get(timeout=10), served.waiting.get(timeout=10)} == {"a", "b"}
        refused = served.client.get("/wait/c")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["message"].startswith("Expected at most 2 requests at once")
        assert statuses(served, "/livez", 1) == [200]
        with connect(served.socket_url):
            answer = refused_with(served)
            assert answer.status_code == 429
            assert "Expected at most 1 live sessions at once" in answer.text
        assert say(served) == ""
        served.go.set()
        assert [each.result().json() for each in running] == ["a", "b"]
        assert statuses(served, "/wait/d", 2) == [200, 200]


def test_sessions_end_after_their_seconds() -> None:
    with serve_gateway(settings_of(limits={"session_seconds": 0.3})) as served:
        with connect(served.socket_url) as there:
            there.send("hello")
            assert there.recv() == "hello"
            with pytest.raises(ConnectionClosed) as caught:
                there.recv(timeout=10)
        closed = caught.value.rcvd
        assert closed
        assert (closed.code, closed.reason) == (1008, "Expected a session of at most 0.3 s.")


PAGE = "https://page.example"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def cors_headers(response: httpx2.Response) -> dict[str, str]:
    return {
        name: value
        for name, value in response.headers.items()
        if name.startswith("access-control-")
    }


def test_pages_of_other_addresses_may_ask_where_they_are_named(tokens_file: Path) -> None:
    asked = settings_of(cors_origins=[PAGE], tokens_file=str(tokens_file))
    with serve_gateway(asked) as served:
        allowed = served.client.options("/v2", headers=PREFLIGHT)
        assert allowed.status_code == 200
        assert cors_headers(allowed)["access-control-allow-origin"] == PAGE
        assert "authorization" in cors_headers(allowed)["access-control-allow-headers"]
        refused = served.client.options("/v2", headers=PREFLIGHT | {"Origin": "https://a.b"})
        assert "access-control-allow-origin" not in cors_headers(refused)
        # The page may read why it was refused.
        answer = served.client.get("/v2", headers={"Origin": PAGE})
        assert answer.status_code == 401
        assert cors_headers(answer)["access-control-allow-origin"] == PAGE
        exposed = cors_headers(answer)["access-control-expose-headers"]
        assert "x-request-id" in exposed
        assert "retry-after" in exposed
    with serve_gateway(settings_of()) as served:
        for response in (
            served.client.options("/v2", headers=PREFLIGHT),
            served.client.get("/v2", headers={"Origin": PAGE}),
        ):
            assert cors_headers(response) == {}


def write_certificate(folder: Path) -> tuple[ssl.SSLContext, dict[str, str]]:
    """Return who trusts a new certificate for 127.0.0.1, and the settings that name it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return trust, {"certificate_file": str(certificate), "private_key_file": str(key)}


def test_tls_of_requests_and_websockets(tmp_path: Path) -> None:
    trust, files = write_certificate(tmp_path)
    with run_gateway(tmp_path / "gateway", properties_of(NOBODY), **files) as gateway:
        assert gateway.url.startswith("https://")
        assert httpx2.get(f"{gateway.url}/livez", verify=trust).json() == {"status": "alive"}
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{gateway.url}/livez")
        with pytest.raises(InvalidStatus):
            connect(f"wss://127.0.0.1:{gateway.port}/nowhere", ssl=trust)
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(f"wss://127.0.0.1:{gateway.port}/nowhere")
        until(lambda: "WEBSOCKET /nowhere" in gateway.log())


def test_broken_tokens_end_the_command_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokens").write_text("desk: short")
    (tmp_path / "gateway.yaml").write_text("tokens_file: tokens\n")
    assert main(["--config", str(tmp_path / "gateway.yaml")]) == 1
    assert capsys.readouterr().err == (
        "error: tokens_file: desk: expected 16 to 256 letters, digits and -._~+/= in quotes.\n"
    )
