"""The settings of a Wav2Vec2 model."""

from typing import Annotated, Literal

from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass

from speechtext.settings import STRICT
from speechtext.speech.audio_checkpoints import AudioSettings
from speechtext.speech.diarization import SpeakerSettings
from speechtext.speech.hotwords import HotwordBoost, HotwordPhrases


@dataclass(frozen=True, config=STRICT)
class Wav2Vec2Settings(SpeakerSettings, AudioSettings):
    """How a CTC model recognises speech: the `handler` keys of its archive's YAML."""

    language: str | None = None
    target_lang: str | None = None
    decoder: Literal["greedy", "beam"] = "greedy"
    beam_width: Annotated[int, KeyOptions(ge=1)] = 50
    lm: str | None = None
    lexicon: str | None = None
    lm_weight: float | None = None
    word_score: float | None = None
    hotwords: HotwordPhrases | None = None
    hotword_boost: HotwordBoost = 1.0
    endpoint_silence_s: Annotated[float, KeyOptions(gt=0)] = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hotwords and self.decoder == "greedy":
            raise ValueError("expected decoder: beam for hotwords")
