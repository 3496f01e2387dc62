"""Hugging Face's client through the gateway, as before TorchServe itself."""

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from support.common import EXAMPLES

SPEECH = EXAMPLES / "turn_on_the_kitchen_lights.wav"


def test_hub_client_transcribes(gateway_url: str) -> None:
    for model, text in (
        ("wav2vec2", "TURN ON THE KITCHEN LIGHTS"),
        ("emformer_asr", "turn on the kitchen lights"),
    ):
        hub = InferenceClient(model=f"{gateway_url}/predictions/{model}")
        assert hub.automatic_speech_recognition(SPEECH.read_bytes()).text == text
        assert hub.automatic_speech_recognition(str(SPEECH)).text == text


@pytest.mark.parametrize("model", ["wav2vec2", "emformer_asr"])
def test_hub_client_gets_times_where_it_asks(model: str, gateway_url: str) -> None:
    hub = InferenceClient(model=f"{gateway_url}/predictions/{model}")
    asked = {"return_timestamps": "word"}
    found = hub.automatic_speech_recognition(SPEECH.read_bytes(), extra_body=asked)
    assert found.chunks
    assert " ".join(each["text"] for each in found.chunks) == found.text
    times = [time for each in found.chunks for time in each["timestamp"]]
    assert times == sorted(times)
    with pytest.raises(HfHubHTTPError, match="422"):
        hub.automatic_speech_recognition(SPEECH.read_bytes(), extra_body={"nonsense": 1})


def test_hub_client_streams_tokens(gateway_url: str) -> None:
    hub = InferenceClient(model=f"{gateway_url}/predictions/gpt2_text_generation")
    whole = hub.text_generation("Once upon a time", max_new_tokens=6, return_full_text=False)
    pieces = list(hub.text_generation("Once upon a time", max_new_tokens=6, stream=True))
    assert len(pieces) == 6
    assert "".join(pieces) == whole
