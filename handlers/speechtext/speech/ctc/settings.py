"""The settings of a Wav2Vec2 model."""

from typing import Annotated, Literal

from pydantic import Field as KeyOptions
from pydantic.dataclasses import dataclass

from speechtext.devices import DtypeName
from speechtext.settings import STRICT
from speechtext.speech.hotwords import HotwordBoost, HotwordPhrases


@dataclass(frozen=True, config=STRICT)
class Wav2Vec2Settings:
    """How a Wav2Vec2 model recognises: the `handler` keys of its archive's YAML."""

    dtype: DtypeName = "float32"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    threads: int | None = None
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
    max_audio_seconds: float = 3600.0
    endpoint_silence_s: Annotated[float, KeyOptions(gt=0)] = 0.8
    chunk_length_s: Annotated[float, KeyOptions(gt=0)] = 20.0
    stride_length_s: Annotated[float, KeyOptions(ge=0)] = 2.0

    def __post_init__(self) -> None:
        if self.chunk_length_s <= 2 * self.stride_length_s:
            raise ValueError("expected chunk_length_s to be more than twice stride_length_s")
        if self.hotwords and self.decoder == "greedy":
            raise ValueError("expected decoder: beam for hotwords")
