"""Hugging Face's client through the gateway, as before TorchServe itself."""

from huggingface_hub import InferenceClient

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


def test_hub_client_streams_tokens(gateway_url: str) -> None:
    hub = InferenceClient(model=f"{gateway_url}/predictions/gpt2_text_generation")
    whole = hub.text_generation("Once upon a time", max_new_tokens=6, return_full_text=False)
    pieces = list(hub.text_generation("Once upon a time", max_new_tokens=6, stream=True))
    assert len(pieces) == 6
    assert "".join(pieces) == whole
