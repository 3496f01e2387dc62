"""No NaN leaves a model as an answer: wherever an output becomes one, it is checked."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from archives.emformer import load_emformer
from batches import status_of
from repository import ROOT
from speechtext.errors import NonFiniteOutputError, RequestError
from speechtext.failures import run_isolated
from speechtext.finite import check_finite
from speechtext.ranges import LEAST_PENALTY, LEAST_TEMPERATURE
from speechtext.speech.audio import decode_audio
from speechtext.speech.audio_limits import MAX_AMPLITUDE
from speechtext.speech.chunks import Windows
from speechtext.speech.ctc.recognizer import Wav2Vec2Recognizer
from speechtext.speech.frame_models import compute_frames
from speechtext.speech.rnnt.features import load_features
from speechtext.speech.rnnt.torchscript.recognizer import save_recognizer
from speechtext.speech.rnnt.transducer import Transducer
from speechtext.text.base import Answer
from speechtext.text.predictor import TextPredictor
from speechtext.text.settings import TextSettings
from support.common import EXAMPLES

DEMO_MODELS = ROOT / "demo_models"
SPEECH = soundfile.read(EXAMPLES / "turn_on_the_kitchen_lights.wav", dtype="float32")[0]
BROKEN = float("nan")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_output_without_numbers_is_found(value: float) -> None:
    output = torch.zeros(3, 4)
    # A label that cannot be has a logit, too.
    output[1, 2] = -torch.inf
    check_finite(output)
    output[2, 1] = value
    with pytest.raises(NonFiniteOutputError):
        check_finite(output)
    with pytest.raises(NonFiniteOutputError):
        check_finite(torch.full((1, 4), -torch.inf))


def test_it_is_logged_once_for_a_request_and_spares_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run(rows: Any) -> list[float]:
        for row in rows:
            check_finite(torch.tensor([row]))
        return list(rows)

    with caplog.at_level(logging.ERROR):
        good, bad, other = run_isolated(run, [1.5, BROKEN, 2.5])
    assert (good, other) == (1.5, 2.5)
    assert (status_of(bad), bad.kind) == (503, "NonFiniteOutput")
    assert [record.message for record in caplog.records] == [
        "The model gave NaN or infinite numbers for a request."
    ]


def test_emissions() -> None:
    recognizer = Wav2Vec2Recognizer.load(DEMO_MODELS / "wav2vec2")
    recognizer.model.lm_head.bias.data[3] = BROKEN
    with pytest.raises(NonFiniteOutputError):
        recognizer.transcribe([torch.from_numpy(SPEECH)])


@pytest.fixture(scope="module")
def emformer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, folder = tmp_path_factory.mktemp("emformer") / "model.pt", DEMO_MODELS / "emformer_asr"
    save_recognizer(load_emformer(folder), load_features(folder / "global_stats.json"), path)
    return path


@pytest.mark.parametrize("width", [None, 4])
@pytest.mark.parametrize("part", ["encoder.norm.bias", "decoder.joiner"])
def test_transducer(emformer_path: Path, width: int | None, part: str) -> None:
    model = torch.jit.load(str(emformer_path))
    broken = [
        each
        for name, each in [*model.named_parameters(), *model.named_buffers()]
        if name.startswith(part) and each.is_floating_point()
    ]
    assert broken
    for each in broken:
        each.fill_(BROKEN)
    transducer = Transducer(model, torch.device("cpu"), "float32", 3, width)
    recording = transducer.start(torch.from_numpy(SPEECH))
    with pytest.raises(NonFiniteOutputError):
        transducer.recognize([recording])


TEXTS: dict[str, tuple[str, Any]] = {
    "bert_seq_classification": ("sequence_classification", "Great"),
    "bert_token_classification": ("token_classification", "Maria Rossi works for Acme."),
    "bert_question_answering": ("question_answering", {"question": "Who?", "context": "Maria."}),
    "gpt2_text_generation": ("text_generation", {"inputs": "Once", "parameters": {}}),
}


def break_weights(network: Any) -> None:
    for parameter in network.parameters():
        parameter.data.fill_(BROKEN)


@pytest.mark.parametrize("name", TEXTS)
def test_text_heads_and_tokens(name: str) -> None:
    mode, payload = TEXTS[name]
    predictor = TextPredictor.load(DEMO_MODELS / name, TextSettings(mode=mode))
    example = predictor.read(payload)
    assert predictor.answer([example])
    break_weights(predictor.task.model.network)
    with pytest.raises(NonFiniteOutputError):
        predictor.answer([example])


@pytest.mark.parametrize(
    "asked", [{}, {"details": True}, {"do_sample": True}, {"details": True, "do_sample": True}]
)
def test_generation_whatever_is_asked_for(asked: dict[str, Any]) -> None:
    settings = TextSettings(mode="text_generation")
    predictor = TextPredictor.load(DEMO_MODELS / "gpt2_text_generation", settings)
    example = predictor.read({"inputs": "Once", "parameters": {"max_new_tokens": 3, **asked}})
    break_weights(predictor.task.model.network)
    with pytest.raises(NonFiniteOutputError):
        predictor.answer([example])


def test_least_temperature_and_penalty_have_numbers() -> None:
    settings = TextSettings(mode="text_generation")
    predictor = TextPredictor.load(DEMO_MODELS / "gpt2_text_generation", settings)
    least = {
        "temperature": LEAST_TEMPERATURE,
        "repetition_penalty": LEAST_PENALTY,
        "top_p": 0.9,
    }
    asked = {"max_new_tokens": 5, "do_sample": True, "details": True, **least}
    example = predictor.read({"inputs": "Once upon", "parameters": asked})
    (answer,) = predictor.answer([example])
    assert isinstance(answer, Answer)
    for token in answer.content[0]["details"]["tokens"]:
        assert np.isfinite(token["logprob"])


@pytest.mark.parametrize("method", ["layer_integrated_gradients", "occlusion"])
def test_explanations(method: str) -> None:
    """The answer is one of numbers; on the way to it, gradients overflow, or other inputs do."""
    settings = TextSettings(mode="sequence_classification", captum_explanation=True)
    predictor = TextPredictor.load(DEMO_MODELS / "bert_seq_classification", settings)
    example = predictor.read({"inputs": "Great", "parameters": {"method": method}}, explain=True)
    (explanation,) = predictor.explain([example])
    assert not isinstance(explanation, RequestError)
    # The baseline of an explanation, which no text has.
    embeddings = predictor.task.model.network.get_input_embeddings()
    embeddings.weight.data[predictor.task.tokenizer.pad_token_id] = BROKEN
    assert predictor.answer([predictor.read("Great")])
    with pytest.raises(NonFiniteOutputError):
        predictor.explain([example])


def float_wav(amplitude: float, subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    samples = SPEECH.astype(np.float64) / np.abs(SPEECH).max() * amplitude
    soundfile.write(file, samples, 16_000, format="WAV", subtype=subtype)
    return file.getvalue()


@pytest.fixture(scope="module")
def wav2vec2() -> Wav2Vec2Recognizer:
    return Wav2Vec2Recognizer.load(DEMO_MODELS / "wav2vec2")


@pytest.fixture(scope="module")
def transducer(emformer_path: Path) -> Transducer:
    return Transducer(torch.jit.load(str(emformer_path)), torch.device("cpu"), "float32", 3)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("amplitude", [1.0, 10.0, 32_768.0, 1e6, MAX_AMPLITUDE * 0.999])
def test_amplitudes_that_occur_are_heard(
    wav2vec2: Wav2Vec2Recognizer, transducer: Transducer, amplitude: float, subtype: str
) -> None:
    waveform = decode_audio(float_wav(amplitude, subtype), 16_000, 60)
    assert float(waveform.abs().max()) == pytest.approx(amplitude, rel=1e-6)
    recording = transducer.start(waveform)
    transducer.recognize([recording])
    assert np.isfinite(recording.score())
    (normalized,) = compute_frames(wav2vec2.frame_model, [waveform], Windows(30, 5))
    assert normalized.isfinite().all()
    assert wav2vec2.frame_model.run([waveform])[0].isfinite().all()


@pytest.mark.parametrize(
    ("amplitude", "subtype"),
    [(2.0**31 * 1.01, "FLOAT"), (1e20, "FLOAT"), (1e20, "DOUBLE"), (1e300, "DOUBLE")],
)
def test_amplitudes_beyond_sense_are_refused(amplitude: float, subtype: str) -> None:
    with pytest.raises(RequestError, match=f"to {2**31} in body") as refusal:
        decode_audio(float_wav(amplitude, subtype), 16_000, 60)
    assert (status_of(refusal.value), refusal.value.kind) == (400, "InvalidAudio")
