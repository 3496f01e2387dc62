"""The example of an archive: any file there is, sent as what it is, and shown as a command."""

import http.server
import shlex
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from archives.configs import read_configs
from repository import CONFIG_FOLDER
from serving.archives_server import serve_archives
from serving.errors import ServerError
from serving.examples import try_example
from support.common import write_free_config, write_free_gateway

Received = list[tuple[str, bytes]]
MODEL = "wav2vec2"


@pytest.fixture
def listening() -> Iterator[tuple[str, Received]]:
    """Return the address of a server that answers anything, and what it has received."""
    received: Received = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.headers["Content-Type"], body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"HEARD")

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("one.wav", "audio/wav"),
        ("one.txt", "text/plain"),
        ("one.json", "application/json"),
        ("my song.mp3", "audio/mpeg"),
        ("ONE.MP3", "audio/mpeg"),
        ("one.nobody-knows", "application/octet-stream"),
        ("one", "application/octet-stream"),
    ],
)
def test_example_of_any_type_and_place_is_sent_and_shown(
    name: str,
    content_type: str,
    listening: tuple[str, Received],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, received = listening
    example = tmp_path / name
    example.write_bytes(b"content")
    try_example(replace(read_configs()[MODEL], example=example), url, {}, None)
    assert received == [(content_type, b"content")]
    _, shown, answer = capsys.readouterr().out.splitlines()
    assert answer == "HEARD"
    command = shlex.split(shown)
    assert f"Content-Type: {content_type}" in command
    assert Path(command[-1]).resolve() == example.resolve()


def test_example_that_is_missing_is_told_before_anything_is_built(tmp_path: Path) -> None:
    configs, store = tmp_path / "configs", tmp_path / "store"
    configs.mkdir()
    content = yaml.safe_load((CONFIG_FOLDER / f"{MODEL}.yaml").read_text())
    content["archive"]["example"] = "examples/missing.wav"
    (configs / f"{MODEL}.yaml").write_text(yaml.safe_dump(content))
    write_free_config(tmp_path / "config.properties")
    with pytest.raises(ServerError, match=r"archive\.example: expected a file .*missing\.wav"):
        serve_archives(
            [MODEL],
            tmp_path / "server",
            tmp_path / "config.properties",
            configs,
            store,
            write_free_gateway(tmp_path / "gateway.yaml"),
        )
    assert not store.exists()
