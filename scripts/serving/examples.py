"""One real request to each archive that is served."""

import json
import mimetypes
import os
import shlex
import ssl
from collections.abc import Mapping
from http import HTTPStatus

import httpx2

from archives.configs import ArchiveConfig
from serving.errors import ServerError

# Those of other files are as this machine knows them: handlers tell recordings by their bytes.
CONTENT_TYPES = {".txt": "text/plain", ".json": "application/json", ".wav": "audio/wav"}
ANY_TYPE = "application/octet-stream"
REQUEST_TIMEOUT_S = 120.0


def check_example(config: ArchiveConfig) -> None:
    """Raise `ServerError` where the archive's example is no file."""
    if not config.example.is_file():
        raise ServerError(
            f"{config.path}: archive.example: expected a file that there is, got {config.example}."
        )


def try_example(
    config: ArchiveConfig, inference_url: str, token: Mapping[str, str], certificate: str | None
) -> None:
    """Send the archive's example and print the curl command and the answer.

    `token` is the header of a server that asks for one, `certificate` that of a server with TLS.
    Raises `ServerError` where there is no answer, or any status but 200.
    """
    guessed = mimetypes.guess_type(config.example.name)[0] or ANY_TYPE
    content_type = CONTENT_TYPES.get(config.example.suffix, guessed)
    headers = {"Content-Type": content_type, **config.example_headers, **token}
    options = " ".join(f"-H {shlex.quote(f'{key}: {value}')}" for key, value in headers.items())
    trusted = ssl.create_default_context(cafile=certificate)
    if certificate:
        options = f"--cacert {shlex.quote(os.path.relpath(certificate))} {options}"
    url = f"{inference_url}/predictions/{config.name}"
    example = shlex.quote(os.path.relpath(config.example))
    print(f"\n$ curl -X POST {url} {options} -T {example}", flush=True)
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
