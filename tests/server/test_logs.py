"""Logs that tell nothing of what was said, on a real server that is as talkative as it can be."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from support.common import SCRIPTS, traces
from trials.corpus import TEXT_MODELS
from trials.good_traffic import AUDIO, JSON, SPEECH, TEXT, Session, cut_speech, post
from trials.grpc_client import GrpcClient
from trials.http_client import Client, Request
from trials.servers import TrialServer

MODEL = "bert_seq_classification"
TIMEOUT_S = 60.0
# The words that the models hear in the example, and a part of it in base64.
HEARD = ("KITCHEN", "kitchen", base64.b64encode(SPEECH[44:80]).decode()[4:40])


def telling(text: str) -> Iterator[Request]:
    """Yield requests of every kind that hold `text` in every place that content may have."""
    secret_wav = io.BytesIO()
    samples = np.frombuffer(text.encode() * 400, np.int16)
    soundfile.write(secret_wav, samples, 16_000, format="WAV", subtype="PCM_16")
    for verb in ("predictions", "explanations"):
        for model in TEXT_MODELS:
            target = f"/{verb}/{model}"
            both = {"question": f"Who is {text}?", "context": f"{text} works.", "text": text}
            few = {"parameters": {"n_steps": 2} if verb == "explanations" else {}}
            for value in (text, {**both, **few}, {"inputs": both, **few}, {"inputs": f"{text} is"}):
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


def telling_elsewhere(text: str, models: Sequence[str] = TEXT_MODELS) -> Iterator[Request]:
    """Yield requests that hold `text` in pictures, literals, and what comes beside a body."""
    for model in models:
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


def test_no_log_tells_what_was_said(server: TrialServer) -> None:
    """With TorchServe as talkative as it can be."""
    client = Client(server.address, TIMEOUT_S)
    latin, *others = SCRIPTS.values()
    asked = [*telling(latin), *telling_elsewhere(latin)]
    # All models draw and read alike; each script has its own way through fonts and parsers.
    for number, text in enumerate(others):
        asked += telling_elsewhere(text, [TEXT_MODELS[number % len(TEXT_MODELS)]])
    statuses = [client.send(request).status for request in asked]
    client.close()
    grpc = GrpcClient(int(server.properties["grpc_inference_port"]), TIMEOUT_S)
    for model in TEXT_MODELS:
        for text in SCRIPTS.values():
            grpc.call(model, {"data": text.encode()})
        grpc.call(model, {latin: latin.encode()}, stream=True)
    grpc.close()
    assert {200, 400, 415, 422} <= set(statuses)
    assert not {None, 503} & set(statuses)
    folders = (server.folder, Path(server.record.temporary_folder))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    logs = [path for path in files if "models" not in path.parts]
    read = {path: path.read_text(errors="replace") for path in logs}
    assert any("DEBUG" in text and "request_id" in text for text in read.values())
    canaries = set(HEARD).union(*map(traces, SCRIPTS.values()))
    told = [(path.name, word) for path, text in read.items() for word in canaries if word in text]
    assert told == []
