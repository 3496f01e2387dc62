"""What a request for a transcript may say: the fields of its form, and which go together."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile

from gateway.engine import ImpossibleRequestError, MalformedRequestError
from gateway.openai.fields import missing, read_fields, refusal
from gateway.openai.hotwords import MOST_CHARACTERS, MOST_HOTWORDS

# Fields of which a form may have several.
LISTS = {
    "keywords",
    "languages",
    "timestamp_granularities",
    "include",
    "known_speaker_names",
    "known_speaker_references",
}
DIARIZED = "diarized_json"
# The formats that tell who speaks.
TOLD_APART = ("text", "srt", "vtt", DIARIZED)
# What the engine takes.
MOST_SPEAKERS, LONGEST_NAME = 20, 100


def _check_chunking(given: Any) -> Any:
    if given != "auto":
        raise ValueError("Expected auto: the model itself finds where speech pauses")
    return given


class TranscriptionRequest(BaseModel):
    """A request, without its recording; docs/openai.md says what the fields do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = "json"
    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str = ""
    keywords: tuple[Annotated[str, Field(max_length=MOST_CHARACTERS)], ...] = Field(
        (), max_length=MOST_HOTWORDS
    )
    temperature: float = 0.0
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    include: tuple[Literal["logprobs"], ...] = ()
    stream: bool = False
    chunking_strategy: Annotated[str, BeforeValidator(_check_chunking)] | None = None
    known_speaker_names: tuple[
        Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)], ...
    ] = Field((), max_length=MOST_SPEAKERS)
    known_speaker_references: tuple[str, ...] = Field((), max_length=MOST_SPEAKERS)
    # Not of OpenAI's: speakers in the other formats, too, and how many there are.
    diarize: bool = False
    num_speakers: Annotated[int, Field(ge=1, le=MOST_SPEAKERS)] | None = None

    @property
    def tells_speakers(self) -> bool:
        """Tell whether the words are to have speakers."""
        asked = self.diarize or self.num_speakers or self.known_speaker_names
        return bool(asked) or self.response_format == DIARIZED

    @property
    def speakers_field(self) -> str:
        """Return the name of the field that asks for speakers."""
        if self.response_format == DIARIZED:
            return "response_format"
        names = ("known_speaker_names", "num_speakers", "diarize")
        return next((name for name in names if getattr(self, name)), "")


def read_form(form: FormData) -> tuple[TranscriptionRequest, UploadFile]:
    """Return what a form asks for, and its recording; raises `EngineError`.

    Names of fields may end with brackets. An empty field says nothing.
    """
    fields: dict[str, list[Any]] = {}
    for name, value in form.multi_items():
        fields.setdefault(name.partition("[")[0], []).append(value)
    recording = fields.pop("file", [None])[0]
    if not isinstance(recording, UploadFile):
        raise missing("file")
    if not recording.size:
        raise MalformedRequestError(
            "EmptyAudio", "Expected a recording in file, got an empty one.", field="file"
        )
    request = read_fields(TranscriptionRequest, _single(fields))
    _check_together(request)
    return request, recording


def _single(fields: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the fields with one value, or with a list where they may have several."""
    single: dict[str, Any] = {}
    for name, values in fields.items():
        if not all(isinstance(each, str) for each in values):
            raise refusal(name, "text", "a file")
        said = [each for each in values if each != ""]
        if name in LISTS:
            single[name] = said
        elif len(said) > 1 and name != "chunking_strategy":
            raise refusal(name, "one value", str(len(said)))
        elif said:
            # If a strategy has several fields, any of them is as wrong as the others.
            single[name] = said[-1]
    return single


def _check_together(request: TranscriptionRequest) -> None:
    """Raise for fields of which one makes the other impossible."""
    answer = request.response_format
    if request.temperature != 0:
        raise refusal("temperature", "0, as no model here draws words by chance", "another number")
    if request.timestamp_granularities and answer != "verbose_json":
        raise refusal("timestamp_granularities", "absent without verbose_json", answer)
    if request.include and answer != "json":
        raise refusal("include", "absent without json as response_format", answer)
    if request.stream and answer not in ("json", "text", DIARIZED):
        raise refusal("response_format", f"json, text or {DIARIZED} for a stream", answer)
    _check_speakers(request)


def _check_speakers(request: TranscriptionRequest) -> None:
    """Raise for speakers that an answer has no room for, or who are not known by one voice each.

    OpenAI's own fields are taken with any format, as OpenAI does.
    """
    formats = (DIARIZED,) if request.stream else TOLD_APART
    field = "num_speakers" if request.num_speakers else "diarize"
    if getattr(request, field) and request.response_format not in formats:
        told = f"{'a stream of ' if request.stream else ''}{request.response_format}"
        message = f"Expected {field} with {' or '.join(formats)}; {told} does not tell speakers."
        raise ImpossibleRequestError("SpeakersUnsupported", message, field=field)
    names, references = request.known_speaker_names, request.known_speaker_references
    if len(names) != len(references):
        several = f"{len(names)}, one for each of known_speaker_names"
        raise refusal("known_speaker_references", several, str(len(references)))
    if len(set(names)) != len(names):
        raise refusal("known_speaker_names", "names that differ", "one twice")
