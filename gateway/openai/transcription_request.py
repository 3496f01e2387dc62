"""What a request for a transcript may say: the fields of its form, and which go together."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile

from gateway.engine import MalformedRequestError
from gateway.openai.fields import missing, read_fields, refusal
from gateway.openai.hotwords import MOST_CHARACTERS, MOST_HOTWORDS

# Fields of which a form may have several.
LISTS = {"keywords", "languages", "timestamp_granularities", "include"}
# What needs a model that tells speakers apart.
SPEAKERS = {"known_speaker_names", "known_speaker_references"}


def _check_chunking(given: Any) -> Any:
    if given != "auto":
        raise ValueError("Expected auto: the model itself finds where speech pauses")
    return given


def _check_format(given: Any) -> Any:
    if given == "diarized_json":
        raise ValueError("Expected a format without speakers, which no model here tells apart")
    return given


class TranscriptionRequest(BaseModel):
    """A request, without its recording; docs/openai.md says what the fields do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    response_format: Annotated[
        Literal["json", "text", "srt", "verbose_json", "vtt"], BeforeValidator(_check_format)
    ] = "json"
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
        if name in SPEAKERS and said:
            raise refusal(name, "absent: no model here tells speakers apart", "a value")
        if name in LISTS:
            single[name] = said
        elif len(said) > 1 and name != "chunking_strategy":
            raise refusal(name, "one value", str(len(said)))
        elif said:
            # Of a strategy's own fields, any is as wrong as the others.
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
    if request.stream and answer not in ("json", "text"):
        raise refusal("response_format", "json or text for a stream", answer)
