"""One real request to each archive that is served."""

import json
import os
import shlex
import ssl
from collections.abc import Mapping
from http import HTTPStatus

import httpx2

from archives.configs import ArchiveConfig
from repository import ROOT
from serving.errors import ServerError

CONTENT_TYPES = {".txt": "text/plain", ".json": "application/json", ".wav": "audio/wav"}
REQUEST_TIMEOUT_S = 120.0


def try_example(
    config: ArchiveConfig, inference_url: str, token: Mapping[str, str], certificate: str | None
) -> None:
    """Send the archive's example and print the curl command and the answer.

    `token` is the header of a server that asks for one, `certificate` that of a server with TLS.
    Raises `ServerError` where there is no answer, or any status but 200.
    """
    content_type = CONTENT_TYPES[config.example.suffix]
    headers = {"Content-Type": content_type, **config.example_headers, **token}
    options = " ".join(f"-H {shlex.quote(f'{key}: {value}')}" for key, value in headers.items())
    trusted = ssl.create_default_context(cafile=certificate)
    if certificate:
        options = f"--cacert {shlex.quote(os.path.relpath(certificate))} {options}"
    url = f"{inference_url}/predictions/{config.name}"
    print(f"\n$ curl -X POST {url} {options} -T {config.example.relative_to(ROOT)}", flush=True)
    content = config.example.read_bytes()
    try:
        # The server is on this machine: whatever proxy there is, is for others.
        with httpx2.Client(verify=trusted, timeout=REQUEST_TIMEOUT_S, trust_env=False) as client:
            reply = client.post(url, content=content, headers=headers)
    except httpx2.HTTPError as error:
        raise ServerError(f"{config.name} does not answer: {error}") from error
    if reply.status_code != HTTPStatus.OK:
        raise ServerError(f"{config.name} answered {reply.status_code}: {reply.text}")
    print(_in_one_line(reply.text), flush=True)


def _in_one_line(answer: str) -> str:
    """Return a JSON answer without TorchServe's indentation, and any other as it is."""
    try:
        return json.dumps(json.loads(answer), ensure_ascii=False)
    except ValueError:
        return answer
