"""Who spoke when by OpenAI's protocol, asked by its official client."""

import base64
import io
import itertools
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from openai.types.audio import TranscriptionDiarized, TranscriptionTextSegmentEvent
from starlette.datastructures import FormData, UploadFile

from gateway.engine import Description, ImpossibleRequestError
from gateway.openai.speakers import find_speakers, letter
from gateway.openai.transcription_request import TranscriptionRequest, read_form
from support.recordings import RATE_HZ, join_turns

TALK = ("talk.wav", join_turns(0, 1, 2, 3))
REFERENCE = "data:audio/wav;base64," + base64.b64encode(join_turns(1)).decode()
TWO: dict[str, Any] = {"extra_body": {"num_speakers": 2}}


def engine_words(gateway_url: str, **fields: str) -> list[dict[str, Any]]:
    """Return the words of the engine's own answer."""
    reply = httpx2.post(
        f"{gateway_url}/predictions/emformer_asr",
        data={"diarize": "true", "num_speakers": "2", "response_format": "json", **fields},
        files={"file": TALK},
    )
    words: list[dict[str, Any]] = reply.json()["words"]
    return words


def test_diarized_json_is_the_words_of_the_engine(openai_client: OpenAI, gateway_url: str) -> None:
    found = openai_client.audio.transcriptions.create(
        model="emformer_asr", file=TALK, response_format="diarized_json", **TWO
    )
    assert isinstance(found, TranscriptionDiarized)
    TranscriptionDiarized.model_validate(found.model_dump(), strict=True)
    assert (found.task, found.usage and found.usage.type) == ("transcribe", "duration")
    assert found.duration == pytest.approx(len(TALK[1]) / 2 / RATE_HZ, abs=0.01)
    words = engine_words(gateway_url)
    turns = [
        (who, list(said))
        for who, said in itertools.groupby(words, key=lambda each: each["speaker"])
    ]
    assert [who for who, _ in turns] == ["Speaker 1", "Speaker 2"] * 2
    assert [each.speaker for each in found.segments] == ["A", "B"] * 2
    for segment, (_, said) in zip(found.segments, turns, strict=True):
        assert segment.text == " ".join(each["word"] for each in said)
        assert (segment.start, segment.end) == (said[0]["start"], said[-1]["end"])
    assert len({each.id for each in found.segments}) == 4
    assert found.text == " ".join(each.text for each in found.segments)


def test_known_speakers_have_their_names(openai_client: OpenAI) -> None:
    known: dict[str, Any] = {
        "known_speaker_names": ["agent"],
        "known_speaker_references": [REFERENCE],
        "chunking_strategy": "auto",
    }
    found = openai_client.audio.transcriptions.create(
        model="emformer_asr", file=TALK, response_format="diarized_json", **known, **TWO
    )
    assert isinstance(found, TranscriptionDiarized)
    assert [each.speaker for each in found.segments] == ["A", "agent"] * 2


def test_stream_tells_the_segments_and_then_the_text(openai_client: OpenAI) -> None:
    options: dict[str, Any] = {"response_format": "diarized_json", **TWO}
    whole = openai_client.audio.transcriptions.create(model="emformer_asr", file=TALK, **options)
    *segments, done = openai_client.audio.transcriptions.create(
        model="emformer_asr", file=TALK, stream=True, **options
    )
    assert all(isinstance(each, TranscriptionTextSegmentEvent) for each in segments)
    assert [each.model_dump() for each in segments] == [
        each.model_dump() for each in whole.segments
    ]
    assert (done.type, done.text) == ("transcript.text.done", whole.text)


@pytest.mark.parametrize(
    ("answer_format", "spoken"), [("vtt", "<v Speaker 2>close"), ("srt", "Speaker 2: close")]
)
def test_subtitles_have_speakers(answer_format: Any, spoken: str, openai_client: OpenAI) -> None:
    body = {"diarize": True, "num_speakers": 2}
    found = openai_client.audio.transcriptions.create(
        model="emformer_asr", file=TALK, response_format=answer_format, extra_body=body
    )
    assert spoken in str(found)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"known_speaker_names": ["agent"]}, "known_speaker_references"),
        ({"known_speaker_references": [REFERENCE]}, "known_speaker_references"),
        (
            {"known_speaker_names": ["a", "a"], "known_speaker_references": [REFERENCE] * 2},
            "known_speaker_names",
        ),
        ({"known_speaker_names": ["x" * 101]}, "known_speaker_names"),
    ],
)
def test_speakers_that_cannot_be_are_refused_by_their_field(
    options: dict[str, Any], param: str, openai_client: OpenAI
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        openai_client.audio.transcriptions.create(model="emformer_asr", file=TALK, **options)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("name", "recording", "status", "param", "said"),
    [
        ("agent", b"no recording at all", 415, "known_speaker_references", "got 19 bytes that no"),
        ("agent", join_turns(1)[:44], 400, "known_speaker_references", "a file of 0 samples"),
        ("agent", join_turns(1)[:2000], 422, "known_speaker_references", "voices can be heard"),
        ("agent", None, 422, "known_speaker_references", "to be recordings in base64"),
        ("a\nb", join_turns(1), 422, "known_speaker_names", "characters in one line"),
    ],
)
def test_known_speaker_that_cannot_be_is_refused_by_its_field(
    name: str, recording: bytes | None, status: int, param: str, said: str, openai_client: OpenAI
) -> None:
    encoded = "%%%" if recording is None else base64.b64encode(recording).decode()
    with pytest.raises(openai.APIStatusError) as caught:
        openai_client.audio.transcriptions.create(
            model="emformer_asr",
            file=TALK,
            response_format="diarized_json",
            known_speaker_names=[name],
            known_speaker_references=[f"data:audio/wav;base64,{encoded}"],
        )
    assert (caught.value.status_code, caught.value.param) == (status, param)
    assert f"Expected {param} " in caught.value.message or f" in {param}" in caught.value.message
    assert said in caught.value.message
    assert "known_speakers" not in caught.value.message


@pytest.mark.parametrize("field", ["diarize", "num_speakers"])
@pytest.mark.parametrize(
    ("answer_format", "stream", "takes"),
    [
        ("json", False, False),
        ("verbose_json", False, False),
        ("text", False, True),
        ("srt", False, True),
        ("vtt", False, True),
        ("diarized_json", False, True),
        ("json", True, False),
        ("text", True, False),
        ("diarized_json", True, True),
    ],
)
def test_formats_without_room_for_speakers_are_refused(
    field: str, answer_format: str, stream: bool, takes: bool
) -> None:
    asked = {"model": "m", "response_format": answer_format, field: "1", "stream": str(stream)}
    recording = UploadFile(io.BytesIO(TALK[1]), size=len(TALK[1]), filename=TALK[0])
    form = FormData([*asked.items(), ("file", recording)])
    if takes:
        assert read_form(form)[0].tells_speakers
        return
    with pytest.raises(ImpossibleRequestError, match="does not tell speakers") as caught:
        read_form(form)
    assert (caught.value.kind, caught.value.field) == ("SpeakersUnsupported", field)
    # OpenAI takes its own fields with any format.
    known = [("known_speaker_names", "a"), ("known_speaker_references", REFERENCE)]
    others = [each for each in form.multi_items() if each[0] != field]
    assert read_form(FormData([*others, *known]))[0].known_speaker_names == ("a",)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"num_speakers": 2}, "num_speakers"),
        ({"diarize": True}, "diarize"),
        (
            {"known_speaker_names": ["a"], "known_speaker_references": [REFERENCE]},
            "known_speaker_names",
        ),
    ],
)
def test_model_that_does_not_tell_speakers_apart_says_so(
    fields: dict[str, Any], field: str
) -> None:
    request = TranscriptionRequest.model_validate({"model": "any", **fields})
    with pytest.raises(ImpossibleRequestError, match="speaker_model") as caught:
        find_speakers(request, Description())
    assert caught.value.field == field
    assert find_speakers(TranscriptionRequest.model_validate({"model": "any"}), Description()) == {}


def test_speakers_have_letters_in_their_order() -> None:
    named = [letter(f"Speaker {number}") for number in (1, 2, 26, 27, 52, 53, 702, 703)]
    assert named == ["A", "B", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
    assert [letter(name) for name in ("Ann", "Speaker x", "Speaker 0")] == [
        "Ann",
        "Speaker x",
        "Speaker 0",
    ]


def test_nobody_gets_the_name_of_a_known_speaker() -> None:
    known = ("A", "Speaker 7", "C")
    named = [letter(each, known) for each in ("A", "Speaker 7", "Speaker 1", "Speaker 2")]
    assert named == ["A", "Speaker 7", "B", "D"]
