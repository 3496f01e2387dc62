"""Who gets in, with what, and what a server refuses to load."""

import json
import os
import re
import ssl
import stat
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import httpx2
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

import serve
from serving.archives_server import serve_archives, stop_serving
from serving.configuration import (
    check_management,
    free_port,
    free_properties,
    read_ports,
    read_properties,
)
from serving.diagnosis import examine_server
from serving.errors import ServerError
from serving.logs import log_path
from serving.status import authorization, wait_until_ready
from serving.torchserve import start_server, stop_server
from support.common import write_free_config, write_free_gateway
from trials.good_traffic import TEXT
from trials.servers import TrialServer, run_server

MODEL = "bert_seq_classification"
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def archives(model_store: Path) -> list[Path]:
    return [model_store / f"{MODEL}.mar"]


def ask(url: str, headers: dict[str, str] | None = None, **options: object) -> httpx2.Response:
    return httpx2.post(
        f"{url}/predictions/{MODEL}",
        content=b"Great",
        headers={"Content-Type": TEXT, **(headers or {})},
        timeout=TIMEOUT_S,
        **options,  # type: ignore[arg-type]
    )


class Tls(NamedTuple):
    """Keys of config.properties that turn TLS on, and what trusts the certificate."""

    properties: dict[str, str]
    context: ssl.SSLContext


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
    # As openssl req -newkey writes it: TorchServe reads no other form.
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(key_pem)
    for blob in (*certificate.cert_chain_pems, authority.cert_pem):
        blob.write_to_path(str(tmp_path / "certificate.pem"), append=True)
    properties = {
        "inference_address": free_properties()["inference_address"].replace("http:", "https:"),
        "private_key_file": str(tmp_path / "key.pem"),
        "certificate_file": str(tmp_path / "certificate.pem"),
    }
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return Tls(properties, context)


def test_tls_with_a_certificate_of_ones_own(
    archives: list[Path], model_store: Path, tls: Tls
) -> None:
    with run_server(archives=archives, store=model_store, changes=tls.properties) as server:
        url = server.properties["inference_address"]
        assert ask(url, verify=tls.context).text == "Accepted"
        with pytest.raises(httpx2.ConnectError):
            ask(url)
        assert ask(url.replace("https:", "http:")).status_code >= 400


def test_make_serve_works_with_tls_and_tokens(
    tls: Tls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**tls.properties, "disable_token_authorization": "false"}
    properties = write_free_config(tmp_path / "config.properties", **settings)
    folder = tmp_path / "server"
    gateway = write_free_gateway(tmp_path / "free.yaml")
    serve_archives([MODEL], folder, tmp_path / "config.properties", gateway_config=gateway)
    try:
        said = capsys.readouterr().out
        curl = re.search(r"\$ curl .* --cacert (\S+) .*-H '(Authorization: Bearer \S+)' .*", said)
        assert curl
        assert Path(curl[1]).samefile(tls.properties["certificate_file"])
        assert f"\nRequests need the header {curl[2]}\n" in said
        url = properties["inference_address"]
        name, value = curl[2].split(": ")
        assert ask(url, {name: value}, verify=tls.context).text == "Accepted"
        assert ask(url, verify=tls.context).status_code == 400
    finally:
        assert stop_serving(folder)


def test_tokens_are_asked_for_where_they_are_turned_on(
    archives: list[Path], model_store: Path
) -> None:
    tokens = {"disable_token_authorization": "false"}
    with run_server(archives=archives, store=model_store, changes=tokens) as server:
        url = server.properties["inference_address"]
        assert ask(url).status_code == 400
        assert ask(url, {"Authorization": "Bearer wrong"}).status_code == 400
        header = authorization(server.folder, "inference")
        assert ask(url, header).text == "Accepted"
        key_file = server.folder / "key_file.json"
        assert stat.S_IMODE(key_file.stat().st_mode) & 0o077 == 0
        keys = [each["key"] for each in json.loads(key_file.read_text()).values()]
        log = log_path(server.folder).read_text(errors="replace")
        assert not [key for key in keys if key in log]
        assert_half_written_tokens_are_waited_for(server.folder)


def assert_half_written_tokens_are_waited_for(folder: Path) -> None:
    """TorchServe makes the file first and fills it afterwards."""
    key_file = folder / "key_file.json"
    tokens = key_file.read_text()
    for part in ("", tokens[:-5]):
        key_file.write_text(part)
        with pytest.raises(ServerError, match="has not written its tokens"):
            authorization(folder, "inference")
    filling = threading.Timer(1.0, key_file.write_text, [tokens])
    filling.start()
    wait_until_ready(folder, [MODEL], TIMEOUT_S, print)
    filling.join()


@pytest.fixture(scope="module")
def limited(archives: list[Path], model_store: Path) -> Iterator[TrialServer]:
    """Return a server of small sizes, whose models may come and go."""
    limits = {"max_request_size": "1000", "max_response_size": "2000", "enable_model_api": "true"}
    with run_server(archives=archives, store=model_store, changes=limits) as server:
        yield server


def test_sizes_are_limited(limited: TrialServer) -> None:
    url = limited.properties["inference_address"]
    refused = httpx2.post(f"{url}/predictions/{MODEL}", content=b"x" * 1001, timeout=TIMEOUT_S)
    assert refused.status_code == 413
    assert ask(url).text == "Accepted"
    long = {"text": "good " * 100}
    explained = httpx2.post(f"{url}/explanations/{MODEL}", json=long, timeout=TIMEOUT_S)
    assert explained.status_code >= 500
    assert ask(url).text == "Accepted"


def test_models_come_from_the_store_only(limited: TrialServer, archives: list[Path]) -> None:
    management = limited.properties["management_address"]
    elsewhere = Path(limited.folder, "elsewhere.mar")
    elsewhere.write_bytes(archives[0].read_bytes())
    for url in (
        "http://127.0.0.1:9/model.mar",
        "https://example.com/model.mar",
        f"file://{elsewhere}",
        f"../{limited.folder.name}/elsewhere.mar",
        str(elsewhere),
    ):
        reply = httpx2.post(f"{management}/models?url={quote(url, safe='')}", timeout=TIMEOUT_S)
        assert reply.status_code in (400, 404), url
    assert len(httpx2.get(f"{management}/models").json()["models"]) == 1


OTHERS = ["0.0.0.0", "0", "::", "192.168.1.2", "example.com", "localhost.example.com", ""]  # noqa: S104
OWN = ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST"]


@pytest.mark.parametrize("host", OTHERS)
@pytest.mark.parametrize("scheme", ["http", "https", "grpc"])
def test_management_is_never_let_off_the_machine(scheme: str, host: str, tmp_path: Path) -> None:
    changes = management_address(scheme, host)
    sentence = f"properties: {next(iter(changes))}: expected the host 127.0.0.1, ::1 or localhost"
    with pytest.raises(ServerError, match=sentence):
        start_server(tmp_path, tmp_path, [], free_properties() | changes)


@pytest.mark.parametrize("host", OWN)
@pytest.mark.parametrize("scheme", ["http", "https", "grpc"])
def test_management_is_for_this_machine(scheme: str, host: str) -> None:
    check_management(management_address(scheme, host))


def test_addresses_that_nobody_names_are_torchserves_own(tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text("job_queue_size=100\n")
    properties = read_properties(tmp_path / "config.properties")
    check_management(properties)
    assert set(read_ports(properties).values()) == {8080, 8081, 8082, 7070, 7071}


@pytest.mark.parametrize("key", ["management_address", "grpc_management_port"])
def test_port_that_is_none_is_named(key: str) -> None:
    with pytest.raises(ServerError, match=f"config.properties: {key}: expected a port"):
        read_ports({key: "http://127.0.0.1:eighty"})


def management_address(scheme: str, host: str) -> dict[str, str]:
    """Return the key of config.properties that lets a host in by a scheme."""
    bracketed = f"[{host}]" if ":" in host else host
    if scheme == "grpc":
        return {"grpc_management_address": host}
    return {"management_address": f"{scheme}://{bracketed}:{free_port()}"}


@pytest.mark.parametrize("content", [b"", b'{"pid": 12', b"[]", b'{"pid": 1}', bytes(range(256))])
def test_damaged_record_of_a_server_says_what_to_do(
    content: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = tmp_path / "server.json"
    record.write_bytes(content)
    sentence = (
        f"{record} is damaged, so that it does not tell which server runs: stop what "
        f"`pgrep -af {tmp_path / 'config.properties'}` lists, if anything, and remove that file."
    )
    monkeypatch.setattr(serve, "SERVER_FOLDER", tmp_path)
    assert serve.main(["stop"]) == 1
    assert capsys.readouterr().err == f"error: {sentence}\n"
    with pytest.raises(ServerError, match=re.escape(sentence)):
        serve_archives([MODEL], tmp_path)
    (found,) = examine_server(tmp_path, free_properties())
    assert found.problem == sentence
    assert record.exists()


def test_server_of_a_damaged_record_is_found_as_it_says(limited: TrialServer) -> None:
    config = str(limited.folder / "config.properties")
    listed = subprocess.run(["pgrep", "-f", config], capture_output=True, text=True).stdout
    assert str(limited.record.pid) in listed.split()


def test_archive_that_reaches_out_of_its_folder_is_refused(
    archives: list[Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    hostile = store / "hostile.mar"
    hostile.write_bytes(archives[0].read_bytes())
    with zipfile.ZipFile(hostile, "a") as archive:
        for depth in range(1, 8):
            archive.writestr("../" * depth + "evil.txt", "evil")
    folder = tmp_path / "server"
    record = start_server(folder, store, [hostile.name], free_properties())
    try:
        with pytest.raises(ServerError):
            wait_until_ready(folder, ["hostile"], 10, print)
        reached = Path(record.temporary_folder)
        found = [path for each in (reached, tmp_path) for path in each.rglob("evil.txt")]
        assert found == []
        assert not Path(os.sep, "evil.txt").exists()
    finally:
        stop_server(folder)
