"""Transcripts as text, JSON and subtitles, and which of them a client asked for."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batches import status_of
from request_fields import fields_of
from speech_requests import choose_media_type
from speechtext.errors import RequestError
from speechtext.speech.subtitles import cut_cues, write_srt, write_vtt
from speechtext.speech.transcripts import (
    Transcript,
    Word,
    write_json,
    write_plain,
)

HELLO = Transcript(
    "HELLO WORLD AGAIN",
    3.6006,
    [
        Word("HELLO", 0.5, 0.9, 0.98765),
        Word("WORLD", 1.0, 1.5, 0.5),
        Word("AGAIN", 3661.0, 3661.5, 1),
    ],
)


def test_text_and_json() -> None:
    assert write_plain(HELLO) == "HELLO WORLD AGAIN"
    answer = write_json(HELLO)
    assert (answer["text"], answer["duration"]) == ("HELLO WORLD AGAIN", 3.601)
    assert answer["words"][0] == {"word": "HELLO", "start": 0.5, "end": 0.9, "confidence": 0.9877}


def test_subtitles() -> None:
    assert write_vtt(HELLO) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nHELLO WORLD\n"
        "\n01:01:01.000 --> 01:01:01.500\nAGAIN\n"
    )
    assert write_srt(HELLO) == (
        "1\n00:00:00,500 --> 00:00:01,500\nHELLO WORLD\n\n2\n01:01:01,000 --> 01:01:01,500\nAGAIN\n"
    )
    assert write_vtt(Transcript("", 1.0, [])) == "WEBVTT\n"


@st.composite
def spoken_words(draw: st.DrawFn) -> list[Word]:
    words, now_s = [], 0.0
    for text in draw(st.lists(st.text("abc", min_size=1, max_size=14), max_size=60)):
        start_s = now_s + draw(st.sampled_from([0.04, 0.3, 1.5]))
        now_s = start_s + draw(st.floats(0.02, 2.0))
        words.append(Word(text, start_s, now_s, 1.0))
    return words


@given(spoken_words())
def test_every_word_is_in_one_readable_cue(words: list[Word]) -> None:
    cues = list(cut_cues(words))
    assert [word for cue in cues for word in cue] == words
    for cue in cues:
        assert cue[-1].end_s - cue[0].start_s <= 7.0 or len(cue) == 1
        assert all(b.start_s - a.end_s <= 0.8 for a, b in itertools.pairwise(cue))
    for block in write_vtt(Transcript("", 0.0, words)).split("\n\n")[1:]:
        times, *lines = block.strip().split("\n")
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} --> \d\d:\d\d:\d\d\.\d{3}", times)
        assert 1 <= len(lines) <= 2
        assert all(len(line) <= 42 for line in lines)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "text/plain"),
        ("*/*", "text/plain"),
        ("application/json", "application/json"),
        ("Text/VTT", "text/vtt"),
        ("text/html, application/x-subrip;q=0.9, text/plain;q=0.2", "application/x-subrip"),
        ("application/json;q=0", "text/plain"),
        ("application/json;q=high", "text/plain"),
        ("image/png", "text/plain"),
    ],
)
def test_header_chooses_the_form(accept: str | None, media_type: str) -> None:
    assert choose_media_type(accept, None) == media_type


def test_field_goes_before_the_header() -> None:
    assert choose_media_type("application/json", b"srt") == "application/x-subrip"
    assert fields_of({"data": b"", "response_format": "vtt"})["response_format"] == "vtt"
    assert fields_of({"body": {"response_format": "vtt"}})["response_format"] == "vtt"
    assert "response_format" not in fields_of({"body": b""})
    for wrong in ("pdf", 7, b""):
        with pytest.raises(RequestError, match="one of text, json, vtt, srt") as caught:
            choose_media_type(None, wrong)
        assert status_of(caught.value) == 422
