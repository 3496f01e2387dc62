"""TorchServe on the device: every archive's answers beside those of the CPU; several workers."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from archives.building import build_archive
from archives.configs import known_configs
from gpu.parity import read
from gpu.plan import Plan, Result, ignore
from repository import ROOT
from serving.local import LocalModel, build_with_settings, load_archive
from trials.good_traffic import TIMEOUT_S, explanations, is_right, learn_script, predictions
from trials.http_client import Request, send_alone
from trials.servers import TrialServer, run_server

CONNECTIONS = 16
SHARED = "bert_seq_classification"
# Those that show that the section runs.
FEW = ["bert_seq_classification", "emformer_asr"]


def serve_archives(plan: Plan) -> Iterator[Result]:
    """Yield whether each archive answers in TorchServe, on the device, as on the CPU alone."""
    with tempfile.TemporaryDirectory() as name:
        folders = _unpacked(plan, Path(name))
        with run_server(ignore, list(folders.values()), Path(name), plan.server_keys) as server:
            yield from _compare(server, folders)


def _unpacked(plan: Plan, workspace: Path) -> dict[str, Path]:
    names = sorted({_name(request) for request in (*predictions(), *explanations())})
    configs = known_configs()
    return {
        name: build_archive(configs[name], workspace, configs[name].source, "no-archive")
        for name in plan.amount(names, FEW)
    }


def _name(request: Request) -> str:
    return request.target.split("/")[2]


def _compare(server: TrialServer, folders: Mapping[str, Path]) -> Iterator[Result]:
    wrong, asked = Counter[str](), Counter[str]()
    models = {name: load_archive(folder) for name, folder in folders.items()}
    asking = [each for each in (*predictions(), *explanations()) if _name(each) in folders]
    for request, _ in learn_script(server.address, asking):
        name = _name(request)
        outcome = send_alone(server.address, request, TIMEOUT_S)
        asked[name] += 1
        wrong[name] += not is_right(outcome, _expected(models[name], request))
    for name, count in sorted(asked.items()):
        what = f"{name} in TorchServe, {count} requests: other answers than on the CPU"
        yield Result(what, str(wrong[name]), "0", not wrong[name])
    expected, living = len(folders), len(server.workers())
    yield Result("workers that live", str(living), str(expected), living == expected)


def _expected(model: LocalModel, request: Request) -> bytes:
    """Return the body of the answer that a model gives on the CPU, without a server."""
    headers = dict(request.headers)
    if request.target.startswith("/explanations/"):
        headers["explain"] = "True"
    (reply,) = model.answer([{"body": _body(request, headers)}], [headers])
    answer: Any = reply.answer
    if isinstance(answer, bytes | bytearray):
        return bytes(answer)
    return (answer if isinstance(answer, str) else json.dumps(answer)).encode()


def _body(request: Request, headers: Mapping[str, str]) -> Any:
    """Return what TorchServe's worker makes of a body: it reads JSON, and leaves the rest."""
    return read(request.body) if headers["Content-Type"] == "application/json" else request.body


def share_device(plan: Plan) -> Iterator[Result]:
    """Yield whether several workers on one device answer right, asked at once."""
    workers, count = plan.amount(4, 2), plan.amount(2000, 100)
    config = known_configs()[SHARED]
    keys = {"minWorkers": workers, "maxWorkers": workers}
    with tempfile.TemporaryDirectory() as name:
        archive = build_with_settings(config, ROOT / config.source, Path(name), keys)
        with run_server(ignore, [archive], archive.parent, plan.server_keys) as server:
            asked = [each for each in predictions() if each.target.endswith(SHARED)]
            script = learn_script(server.address, asked)

            def ask(number: int) -> bool:
                request, expected = script[number % len(script)]
                return is_right(send_alone(server.address, request, TIMEOUT_S), expected)

            with ThreadPoolExecutor(CONNECTIONS) as pool:
                right = sum(pool.map(ask, range(count)))
    what = f"{workers} workers on one device, {count} requests from {CONNECTIONS} connections"
    yield Result(f"{what}: right", str(right), str(count), right == count)
