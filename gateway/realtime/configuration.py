"""How a session listens: what clients may ask for, and what is in effect."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from gateway.encodings import Codec, Encoding

# OpenAI's names of formats, in which PCM has no other rate.
ENCODINGS = {
    "audio/pcm": Encoding(Codec.PCM, 24_000),
    "audio/pcmu": Encoding(Codec.MU_LAW, 8_000),
    "audio/pcma": Encoding(Codec.A_LAW, 8_000),
}
Milliseconds = Annotated[int, Field(ge=0)]


class Asked(BaseModel):
    """Fields of a client's event: no unknown ones, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Format(Asked):
    """The encoding of the audio."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: Literal[24_000] | None = None

    @model_validator(mode="after")
    def _only_pcm_has_a_rate(self) -> "Format":
        if self.rate is not None and self.type != "audio/pcm":
            raise PydanticCustomError("rate", "Format of G.711 should have no rate")
        return self


class Transcription(Asked):
    """The model; the other fields are taken and have no effect."""

    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    prompt: str | None = None
    keywords: list[str] | None = None


class TurnDetection(Asked):
    """Turns end at silences, which the recogniser finds its own way: numbers have no effect."""

    type: Literal["server_vad"]
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    prefix_padding_ms: Milliseconds | None = None
    silence_duration_ms: Milliseconds | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: None = None


class Input(Asked):
    """What is heard, and how."""

    format: Format = Format(type="audio/pcm")
    noise_reduction: None = None
    transcription: Transcription = Transcription()
    turn_detection: TurnDetection | None = None


class Audio(Asked):
    """The audio of a session."""

    input: Input = Input()


class AskedSession(Asked):
    """What an update asks for; what it does not name stays as it is."""

    type: Literal["transcription"]
    audio: Audio = Audio()
    include: Annotated[list[str], Field(max_length=0)] | None = None


@dataclass(frozen=True)
class Configuration:
    """What is in effect: without `detects_turns` they end where the client commits."""

    model: str | None = None
    format: str = "audio/pcm"
    detects_turns: bool = True

    @property
    def encoding(self) -> Encoding:
        """Return how appended audio is read."""
        return ENCODINGS[self.format]

    def update(self, asked: AskedSession) -> "Configuration":
        """Return what is in effect after an update."""
        heard = asked.audio.input
        changes: dict[str, Any] = {}
        if "format" in heard.model_fields_set:
            changes["format"] = heard.format.type
        if heard.transcription.model is not None:
            changes["model"] = heard.transcription.model
        if "turn_detection" in heard.model_fields_set:
            changes["detects_turns"] = heard.turn_detection is not None
        return replace(self, **changes)

    def describe(self, limits: Mapping[str, float]) -> dict[str, Any]:
        """Return it in the protocol's words; `limits` are those of the model.

        What has no effect is null, whatever the client asked for.
        """
        silence_s = limits.get("endpoint_silence_seconds")
        turn_detection = {
            "type": "server_vad",
            "threshold": None,
            "prefix_padding_ms": None,
            "silence_duration_ms": None if silence_s is None else round(silence_s * 1000),
        }
        rate = {"rate": self.encoding.rate_hz} if self.format == "audio/pcm" else {}
        heard = {
            "format": {"type": self.format, **rate},
            "noise_reduction": None,
            "transcription": {"model": self.model, "language": None, "prompt": None},
            "turn_detection": turn_detection if self.detects_turns else None,
        }
        return {"type": "transcription", "audio": {"input": heard}, "include": None}
