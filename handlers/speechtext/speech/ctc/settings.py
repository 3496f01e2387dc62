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

    save_mode: Literal["pretrained", "openvino"] = "pretrained"
    quantization: Literal["int8_static"] | None = None
    # A folder of recordings that the builder chooses the scales of `int8_static` by.
    calibration: str | None = None
    language: str | None = None
    target_lang: str | None = None
    decoder: Literal["greedy", "beam"] = "greedy"
    beam_width: Annotated[int, KeyOptions(ge=1)] = 50
    beam_threshold: Annotated[float, KeyOptions(gt=0)] | None = None
    beam_processes: Annotated[int, KeyOptions(ge=1)] = 1
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
        if self.quantization and self.save_mode == "pretrained":
            raise ValueError("expected save_mode: openvino for quantization")
        if self.target_lang and self.save_mode == "openvino":
            raise ValueError("expected save_mode: pretrained for target_lang")
