"""How the workers of a server are, and the tokens that it asks for."""

import json
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import httpx2

from serving.errors import ServerError
from serving.logs import find_failure, last_lines
from serving.torchserve import KEY_FILE, ServerRecord, find_server, server_processes

START_TIMEOUT_S = 600.0
REPORT_EVERY_S, ASK_EVERY_S, ASK_TIMEOUT_S = 5.0, 0.5, 5.0


class Worker(NamedTuple):
    """A process that answers for a model, as the server sees it."""

    pid: int
    is_ready: bool


def wait_until_ready(
    folder: Path, models: Sequence[str], timeout_s: float, report: Callable[[str], None]
) -> None:
    """Return when every worker of every model is READY; `report` gets a line as models come up.

    Raises `ServerError`, with the last log lines, where the server ends, a worker cannot load its
    model, or the time is over.
    """
    record = find_server(folder)
    started_s = reported_s = time.monotonic()
    waiting = list(models)
    while waiting:
        _check_alive(folder, record)
        for model in [each for each in waiting if record and _is_ready(folder, record, each)]:
            waiting.remove(model)
            report(f"{model}: ready, {len(models) - len(waiting)} of {len(models)}")
        now_s = time.monotonic()
        if waiting and now_s - started_s > timeout_s:
            names = ", ".join(waiting)
            raise ServerError(f"{names}: not ready after {timeout_s:.0f} s.\n{last_lines(folder)}")
        if waiting and now_s - reported_s > REPORT_EVERY_S:
            report(f"{len(waiting)} of {len(models)} still loading, {now_s - started_s:.0f} s")
            reported_s = now_s
        time.sleep(ASK_EVERY_S)


def _is_ready(folder: Path, record: ServerRecord, model: str) -> bool:
    try:
        workers = read_workers(folder, record, model) or []
    except ServerError:
        return False
    return bool(workers) and all(worker.is_ready for worker in workers)


def read_workers(folder: Path, record: ServerRecord, model: str) -> list[Worker] | None:
    """Return the workers of a model, or None where the server of `folder` does not serve it.

    Raises `ServerError` where the server does not say.
    """
    url = f"{record.management_url}/models/{model}"
    headers = authorization(folder, "management")
    try:
        response = httpx2.get(url, headers=headers, timeout=ASK_TIMEOUT_S, trust_env=False)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        workers = response.raise_for_status().json()[0]["workers"]
    except (httpx2.HTTPError, ValueError) as error:
        reason = type(error).__name__
        raise ServerError(f"The server does not say how its workers are: {reason}") from error
    return [Worker(int(each["pid"]), each["status"] == "READY") for each in workers]


def authorization(folder: Path, api: str) -> dict[str, str]:
    """Return the header that opens an API of the server of `folder`, `inference` or `management`.

    There is none where config.properties turns tokens off. Raises `ServerError` while TorchServe,
    which makes the file first and fills it afterwards, has not written them.
    """
    try:
        keys = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ServerError(f"The server has not written its tokens to {KEY_FILE} yet.") from error
    return {"Authorization": f"Bearer {keys[api]['key']}"}


def _check_alive(folder: Path, record: ServerRecord | None) -> None:
    if record is None or not server_processes(record):
        raise ServerError(f"TorchServe ended while starting.\n{last_lines(folder)}")
    failure = find_failure(folder)
    if failure:
        raise ServerError(failure)
