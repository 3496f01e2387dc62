"""The application around the protocols: its errors, its settings, its command, its imports."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from gateway.command import read_options
from gateway.engine import EngineError, RequestTooLargeError, UnavailableError
from gateway.errors import STATUSES, ErrorShapes, Failure, status_of
from gateway.middleware import AnswerMistakes, NameAndLog
from gateway.settings import CONFIG_FILE, Settings, SettingsError, parse_settings, read_settings
from repository import ROOT
from trials.gateways import RunningGateway, run_gateway
from trials.servers import TrialServer


def test_gateway_imports_no_pytorch_and_nothing_of_the_handlers() -> None:
    code = (
        "import sys, gateway.app, gateway.command; "
        "print({'torch', 'transformers', 'ts', 'batches', 'speechtext'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout == "set()\n"


def test_missing_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(name='uvicorn')")
    command = [sys.executable, "-m", "gateway", "--help"]
    paths = f"{tmp_path}:{ROOT}"
    ran = subprocess.run(
        command, env={"PYTHONPATH": paths}, cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 1
    assert ran.stderr == (
        "error: expected the extra gateway, got no uvicorn; make setup installs it.\n"
    )


def test_settings_of_the_repository_are_the_defaults() -> None:
    assert read_settings(CONFIG_FILE) == Settings()


def test_every_mistake_in_settings_gets_its_sentence() -> None:
    wrong: dict[str, Any] = {
        "port": "many",
        "prot": 1,
        "torchserve": {"inference_address": "127.0.0.1:8080", "timeout": 1},
        "models": {"mine": "cooking"},
    }
    with pytest.raises(SettingsError) as caught:
        parse_settings(wrong)
    said = str(caught.value)
    assert "gateway.yaml: port: input should be a valid integer, got 'many'." in said
    assert "prot: expected one of the keys host, port, " in said
    assert "torchserve.timeout: expected one of the keys inference_address, " in said
    assert "torchserve.inference_address: string should match pattern" in said
    assert "models.mine: input should be 'speech_recognition', " in said
    with pytest.raises(SettingsError, match="expected private_key_file with it"):
        parse_settings({"certificate_file": "a"})


def test_paths_are_relative_to_the_file_and_options_come_over_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("port: 1\ntokens_file: tokens\ntorchserve: {key_file: keys}\n")
    settings = read_options(
        ["--config", str(path), "--port", "9", "--torchserve-certificate-file", "here.pem"]
    )
    assert (settings.port, settings.tokens_file) == (9, str(tmp_path / "tokens"))
    assert settings.torchserve.key_file == str(tmp_path / "keys")
    assert settings.torchserve.certificate_file == str(Path("here.pem").resolve())
    with pytest.raises(SettingsError, match="expected a file"):
        read_settings(tmp_path / "none.yaml")


@pytest.mark.parametrize("error_class", EngineError.__subclasses__())
def test_every_error_has_a_status(error_class: type[EngineError]) -> None:
    assert error_class in STATUSES
    assert status_of(error_class("Kind", "message")) == STATUSES[error_class]


def write_mine(failure: Failure) -> Response:
    return JSONResponse({"mine": failure.error.kind, "id": failure.request_id}, failure.status)


async def ask(app: FastAPI, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://gateway"
    ) as client:
        return await client.get(path, headers={"x-request-id": "one"})


@pytest.fixture
def broken_app() -> FastAPI:
    """Return an application with a protocol of its own errors below /mine."""
    app, shapes = FastAPI(), ErrorShapes({"/mine": write_mine})
    shapes.install(app)

    @app.get("/{where}/busy")
    async def busy(where: str) -> None:
        raise UnavailableError("Busy", "Expected room.", 1.2)

    @app.get("/{where}/number")
    async def number(where: str, count: int) -> None:
        raise RequestTooLargeError("TooLarge", "Expected less.")

    @app.get("/{where}/mistake")
    async def mistake(where: str, given: str) -> None:
        raise ValueError(given)

    app.add_middleware(AnswerMistakes, shapes=shapes)
    app.add_middleware(NameAndLog)
    return app


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("busy", 503, "Busy"),
        ("number?count=1", 413, "TooLarge"),
        ("number?count=canary", 422, "InvalidParameter"),
        ("nowhere", 404, "NotFound"),
        ("mistake?given=canary", 503, "InternalError"),
    ],
)
async def test_each_protocol_writes_its_errors(
    broken_app: FastAPI, path: str, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    mine = await ask(broken_app, f"/mine/{path}")
    others = await ask(broken_app, f"/others/{path}")
    assert (mine.status_code, others.status_code) == (status, status)
    assert mine.json() == {"mine": kind, "id": "one"}
    assert others.json()["code"] == status
    assert others.json()["type"] == kind
    assert mine.headers["x-request-id"] == others.headers["x-request-id"] == "one"
    assert mine.headers.get("retry-after") == ("2" if kind == "Busy" else None)
    for text in (others.text, caplog.text):
        assert "canary" not in text


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_probes(gateway_url: str) -> None:
    assert httpx2.get(f"{gateway_url}/livez").json() == {"status": "alive"}
    ready = httpx2.get(f"{gateway_url}/readyz", timeout=60)
    assert ready.status_code == 200
    assert len(ready.json()["models"]) == 7


def test_stopped_gateway_lets_streams_end(server: TrialServer, tmp_path: Path) -> None:
    story = {
        "inputs": "Once upon a time",
        "parameters": {"max_new_tokens": 60, "do_sample": False},
        "stream": True,
    }
    with run_gateway(tmp_path, server.properties) as gateway:
        url = f"{gateway.url}/predictions/gpt2_text_generation"
        with httpx2.stream("POST", url, json=story, timeout=60) as response:
            lines = response.iter_lines()
            first = next(lines)
            process = gateway.process
            process.terminate()
            rest = [line for line in lines if line]
        assert first.startswith("data:")
        assert '"finish_reason"' in rest[-1]
        assert psutil.wait_procs([process], timeout=30)[1] == []


def test_gateway_is_a_process_without_pytorch(gateway: RunningGateway) -> None:
    libraries = {Path(each.path).name for each in gateway.process.memory_maps()}
    assert any(name.startswith("libpython") or "python" in name for name in libraries)
    assert not [name for name in libraries if name.startswith("libtorch")]


@pytest.mark.parametrize(
    "path",
    ["/livez", "/readyz", "/v2", "/v2/health/live", "/v2/models/wav2vec2", "/v1/models"],
)
def test_whatever_may_be_got_has_a_head(path: str, gateway_url: str) -> None:
    got, head = httpx2.get(f"{gateway_url}{path}"), httpx2.head(f"{gateway_url}{path}")
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
