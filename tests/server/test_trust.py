"""Broken requests, secrets in logs, and changes while requests run, on a real server."""

import io
import json
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import soundfile

from serving.configuration import free_properties
from serving.torchserve import stop_server
from support.waiting import until
from trials.corpus import make_cases
from trials.fuzzing import fuzz, fuzz_grpc, learn_answers
from trials.good_traffic import AUDIO, TEXT, post
from trials.http_client import Client, Outcome, Request, send_alone
from trials.servers import TrialServer, run_server, start_archives

MODEL = "bert_seq_classification"
TIMEOUT_S = 60.0
# Of audio, which takes some seconds.
LONG_S = 300


def test_hundreds_of_broken_requests_harm_nobody(server: TrialServer) -> None:
    workers = {name: worker.pid for name, worker in server.workers().items()}
    assert len(workers) == 7
    learned = learn_answers(server.address)
    results = fuzz(server, list(make_cases(330, 7)), learned, print)
    fuzz_grpc(server, 60, 8, results)
    assert results.faults == []
    assert (results.sent, results.good) == (390, 390)
    assert {name: worker.pid for name, worker in server.workers().items()} == workers


def keep_asking(
    server: TrialServer, requests: Sequence[Request], ended: threading.Event
) -> tuple[list[Outcome], threading.Thread]:
    outcomes: list[Outcome] = []

    def ask() -> None:
        client = Client(server.address, TIMEOUT_S)
        while not ended.is_set():
            outcomes.extend(client.send(request) for request in requests)
        client.close()

    thread = threading.Thread(target=ask)
    thread.start()
    return outcomes, thread


@contextmanager
def asking(server: TrialServer, connections: int) -> Iterator[Callable[[], list[Outcome]]]:
    """Ask from several connections while the block runs; yield what gives all outcomes so far."""
    ended = threading.Event()
    requests = [post(f"/predictions/{MODEL}", "Great", TEXT)]
    started = [keep_asking(server, requests, ended) for _ in range(connections)]
    try:
        yield lambda: [each for outcomes, _ in started for each in outcomes]
    finally:
        ended.set()
        for _, thread in started:
            thread.join()


def write_version(archive: Path, path: Path, version: str, labels: dict[str, str]) -> None:
    """Write an archive again with another version and other names for its labels."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        # Without the digests, as one that was packaged by hand.
        for name in set(old.namelist()) - {"provenance.json"}:
            content = old.read(name)
            if name.endswith("MANIFEST.json"):
                manifest = json.loads(content)
                manifest["model"]["modelVersion"] = version
                content = json.dumps(manifest).encode()
            new.writestr(name, json.dumps(labels) if name == "index_to_name.json" else content)


def test_model_is_replaced_without_losing_a_request(model_store: Path, tmp_path: Path) -> None:
    first, second = tmp_path / f"{MODEL}.mar", tmp_path / "second.mar"
    write_version(model_store / first.name, first, "1.0", {"0": "old", "1": "old"})
    write_version(model_store / first.name, second, "2.0", {"0": "new", "1": "new"})
    api = {"enable_model_api": "true"}
    with run_server(archives=[first], store=tmp_path, changes=api) as running:
        models = f"{running.properties['management_address']}/models"
        with asking(running, 8) as outcomes:
            until(lambda: bool(outcomes()))
            options = {"url": second.name, "initial_workers": "1", "synchronous": "true"}
            assert httpx2.post(models, params=options, timeout=TIMEOUT_S).status_code == 200
            assert {each.body for each in outcomes()} == {b"old"}
            default = httpx2.put(f"{models}/{MODEL}/2.0/set-default", timeout=TIMEOUT_S)
            assert default.status_code == 200
            time.sleep(1)
            assert httpx2.delete(f"{models}/{MODEL}/1.0", timeout=TIMEOUT_S).status_code == 200
            time.sleep(1)
            since = len(outcomes())
            time.sleep(1)
        assert {each.status for each in outcomes()} == {200}
        assert {each.body for each in outcomes()} == {b"old", b"new"}
        last = send_alone(running.address, post(f"/predictions/{MODEL}", "Great", TEXT), TIMEOUT_S)
        assert last.body == b"new"
        assert len(outcomes()) > since > 50


def test_stop_lets_running_requests_end(model_store: Path, tmp_path: Path) -> None:
    archive = model_store / "wav2vec2.mar"
    properties = free_properties()
    start_archives(tmp_path, model_store, [archive], properties, print)
    running = TrialServer(tmp_path, model_store, [archive], properties)
    target = "/predictions/wav2vec2"
    noise = io.BytesIO()
    samples = np.random.default_rng(1).normal(0, 0.1, 16_000 * LONG_S)
    soundfile.write(noise, samples, 16_000, format="WAV", subtype="PCM_16")
    long = post(target, noise.getvalue(), AUDIO)
    outcomes: list[Outcome] = []
    asked = [
        threading.Thread(
            target=lambda: outcomes.append(send_alone(running.address, long, TIMEOUT_S))
        )
        for _ in range(3)
    ]
    try:
        for thread in asked:
            thread.start()
            # The first is a batch of its own; the others wait behind it.
            time.sleep(0.3)
        assert outcomes == []
    finally:
        assert stop_server(tmp_path)
    for thread in asked:
        thread.join()
    statuses = Counter((each.status, each.retry_after_s) for each in outcomes)
    assert statuses == {(200, None): 1, (503, 5.0): 2}
    late = send_alone(running.address, long, TIMEOUT_S)
    assert late.failure == "refused"


def test_request_to_a_server_that_is_being_stopped_learns_when_to_try_again(
    model_store: Path, tmp_path: Path
) -> None:
    archive = model_store / f"{MODEL}.mar"
    properties = free_properties()
    start_archives(tmp_path, model_store, [archive], properties, print)
    running = TrialServer(tmp_path, model_store, [archive], properties)
    try:
        Path(running.record.temporary_folder, "gate").write_text("closed")
        refused = send_alone(
            running.address, post(f"/predictions/{MODEL}", "Great", TEXT), TIMEOUT_S
        )
        assert (refused.status, refused.retry_after_s) == (503, 5)
        assert json.loads(refused.body)["type"] == "ServerStopping"
    finally:
        stop_server(tmp_path)
