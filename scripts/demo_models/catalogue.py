"""The demo models: which module trains and scores each."""

from typing import Any

from demo_models import (
    audio_commands,
    audio_speakers,
    audio_voiced,
    audio_voices,
    emformer,
    text_answers,
    text_classification,
    text_generation,
    text_tokens,
    wav2vec2,
)
from repository import ROOT

WORKSPACE = ROOT / ".build" / "demo_training"
"""Where spoken sentences and checkpoints of a training are kept."""

SPEECH_MODELS: dict[str, Any] = {"wav2vec2": wav2vec2, "emformer_asr": emformer}
TEXT_MODELS: dict[str, Any] = {
    "bert_seq_classification": text_classification,
    "bert_token_classification": text_tokens,
    "bert_question_answering": text_answers,
    "gpt2_text_generation": text_generation,
}
"""Each of these also writes held-out examples and scores the answers to them."""
AUDIO_MODELS: dict[str, Any] = {
    "wav2vec2_commands": audio_commands,
    "wav2vec2_voiced": audio_voiced,
    "wav2vec2_speakers": audio_speakers,
    "wav2vec2_voices": audio_voices,
}
"""These start from the Wav2Vec2 model of speech, and score what their archives answer."""
MODELS = SPEECH_MODELS | AUDIO_MODELS | TEXT_MODELS
