"""Broken requests, secrets in logs, and changes while requests run, on a real server."""

import base64
import io
import itertools
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

from serving.configuration import LOG_CONFIG, free_properties
from serving.process import stop_server
from support.common import SCRIPTS, traces
from trials.corpus import TEXT_MODELS, make_cases
from trials.fuzzing import fuzz, fuzz_grpc, learn_answers
from trials.good_traffic import AUDIO, JSON, SPEECH, TEXT, Session, cut_speech, post
from trials.grpc_client import GrpcClient
from trials.http_client import Client, Outcome, Request, send_alone
from trials.servers import TrialServer, run_server, start_archives

MODEL = "bert_seq_classification"
TIMEOUT_S = 60.0
# Of audio, which takes some seconds.
LONG_S = 300
# The words that the models hear in the example, and a part of it in base64.
HEARD = ("KITCHEN", "kitchen", base64.b64encode(SPEECH[44:80]).decode()[4:40])


def test_hundreds_of_broken_requests_harm_nobody(server: TrialServer) -> None:
    workers = {name: worker.pid for name, worker in server.workers().items()}
    assert len(workers) == 7
    learned = learn_answers(server.address)
    results = fuzz(server, list(make_cases(330, 7)), learned, print)
    fuzz_grpc(server, 60, 8, results)
    assert results.faults == []
    assert (results.sent, results.good) == (390, 390)
    assert {name: worker.pid for name, worker in server.workers().items()} == workers


def telling(text: str) -> Iterator[Request]:
    """Yield requests of every kind that hold `text` in every place that content may have."""
    secret_wav = io.BytesIO()
    samples = np.frombuffer(text.encode() * 400, np.int16)
    soundfile.write(secret_wav, samples, 16_000, format="WAV", subtype="PCM_16")
    for verb in ("predictions", "explanations"):
        for model in TEXT_MODELS:
            target = f"/{verb}/{model}"
            both = {"question": f"Who is {text}?", "context": f"{text} works.", "text": text}
            for value in (text, both, {"inputs": both}, {"inputs": f"{text} is"}):
                yield Request(target, json.dumps(value).encode(), (("Content-Type", JSON),))
            yield post(target, text, TEXT)
            yield post(target, f'{{"inputs": "{text}', JSON)
            yield post(target, text.encode() + b"\xff", TEXT)
            yield post(
                target, {"inputs": text, "parameters": {"stop": [text], "top_k": text}}, JSON
            )
            yield post(target, {"text": text, "target": text, "parameters": {text: text}}, JSON)
            yield post(target, {"inputs": [text]}, JSON)
            yield post(target, f"--b\r\n{text}", "multipart/form-data; boundary=b")
        for model in ("wav2vec2", "emformer_asr"):
            target = f"/{verb}/{model}"
            encoded = base64.b64encode(SPEECH).decode()
            for kind in ("application/json", "text/vtt", "text/plain"):
                yield post(target, SPEECH, AUDIO, Accept=kind)
            yield post(target, {"data": encoded}, JSON)
            yield post(target, {"data": encoded[:-3] + "?" + text}, JSON)
            yield post(target, secret_wav.getvalue(), AUDIO)
            yield post(target, secret_wav.getvalue()[:300], AUDIO)
            yield post(target, text, AUDIO)
    prompt = {"inputs": text, "parameters": {"max_new_tokens": 3, "stream": True}}
    yield post("/predictions/gpt2_text_generation", prompt, JSON)
    yield post("/predictions/emformer_asr", SPEECH, AUDIO, Accept="application/x-ndjson")
    yield from Session("open", cut_speech(3)).requests()
    headers = (("Authorization", f"Bearer {text}"), ("X-Api-Key", text), ("Accept", text))
    yield Request(f"/predictions/{MODEL}", text.encode(), headers)
    form = f'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n{text}\r\n--b--\r\n'
    yield post(f"/predictions/{MODEL}", form, "multipart/form-data; boundary=b")


def telling_elsewhere(text: str) -> Iterator[Request]:
    """Yield requests that hold `text` in pictures, literals, and what comes beside a body."""
    for model in TEXT_MODELS:
        both = {"question": f"Who is {text}?", "context": f"{text} works.", "text": text}
        few = {"parameters": {"max_new_tokens": 2} if "gpt2" in model else {"n_steps": 2}}
        for accept in ("image/png", "text/html"):
            yield post(f"/explanations/{model}", {**both, **few}, JSON, Accept=accept)
        for body in (f"{{'text': '\\{text}'", f"{{'text': '\\{text}', 'n': 1if 1 else 2}}"):
            yield post(f"/predictions/{model}", body, JSON)
            yield post(f"/predictions/{model}", body, TEXT)
    for model in (MODEL, "wav2vec2"):
        for kind in ("", "Content-Type: application/json\r\n", f"Content-Type: {text}\r\n"):
            part = f'Content-Disposition: form-data; name="data"; filename="{text}"\r\n{kind}'
            other = f'Content-Disposition: form-data; name="{text}"\r\n'
            body = f"--b\r\n{part}\r\n{text}\r\n--b\r\n{other}\r\n{text}\r\n--b--\r\n"
            yield post(f"/predictions/{model}", body, "multipart/form-data; boundary=b")
        for name in ("Accept", "Content-Type", "User-Agent", "ts_request_sequence_id"):
            yield Request(f"/predictions/{model}", text.encode(), ((name, text),))
        yield post(f"/predictions/{model}", text, f"audio/L16; rate={text}")
    yield Request("/predictions/emformer_asr_live", SPEECH, (("ts_request_sequence_id", text),))


def test_no_log_tells_what_was_said(model_store: Path, tmp_path: Path) -> None:
    """With TorchServe as talkative as it can be."""
    everything = LOG_CONFIG.read_text()
    for level in ("info", "warn"):
        everything = everything.replace(f'level="{level}"', 'level="all"')
    (tmp_path / "log4j2.xml").write_text(everything)
    archives = sorted(model_store.glob("*.mar"))
    with run_server(
        archives=archives, store=model_store, log_config=tmp_path / "log4j2.xml"
    ) as running:
        client = Client(running.address, TIMEOUT_S)
        latin, *others = SCRIPTS.values()
        asked = [*telling(latin), *telling_elsewhere(latin)]
        asked += itertools.chain.from_iterable(map(telling_elsewhere, others))
        statuses = [client.send(request).status for request in asked]
        client.close()
        grpc = GrpcClient(int(running.properties["grpc_inference_port"]), TIMEOUT_S)
        for model in TEXT_MODELS:
            for text in SCRIPTS.values():
                grpc.call(model, {"data": text.encode()})
            grpc.call(model, {latin: latin.encode()}, stream=True)
        grpc.close()
        assert {200, 400, 415, 422} <= set(statuses)
        assert not {None, 503} & set(statuses)
        folders = (running.folder, Path(running.record.temporary_folder))
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        logs = [path for path in files if "models" not in path.parts]
        read = {path: path.read_text(errors="replace") for path in logs}
        assert any("DEBUG" in text and "request_id" in text for text in read.values())
        canaries = set(HEARD).union(*map(traces, SCRIPTS.values()))
        told = [
            (path.name, word) for path, text in read.items() for word in canaries if word in text
        ]
        assert told == []


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
        for name in old.namelist():
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
