"""Transcripts as text, JSON and subtitles, and which of them a client asked for."""

import io
import itertools
import re
from typing import Any

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batches import status_of
from request_fields import fields_of
from speech_requests import choose_media_type
from speechtext.errors import RequestError
from speechtext.speech.subtitles import cut_cues, write_srt, write_vtt
from speechtext.speech.transcripts import (
    Segment,
    Token,
    Transcript,
    Word,
    cut_turns,
    time_words,
    write_json,
    write_plain,
    write_segment,
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


TALK = Transcript(
    "hello you hi what --> now",
    5.0,
    [
        Word("hello", 0.0, 0.4, 1.0, "Xia"),
        Word("you", 0.5, 0.8, 1.0, "Xia"),
        Word("hi", 0.9, 1.0, 1.0, "<Bob> & co"),
        Word("what", 1.1, 1.3, 1.0, "Xia"),
        Word("-->", 1.4, 1.5, 1.0, "Xia"),
        Word("now", 1.6, 1.7, 1.0, "Xia"),
    ],
)


def test_text_has_a_line_for_each_turn() -> None:
    assert write_plain(TALK) == "Xia: hello you\n<Bob> & co: hi\nXia: what --> now"
    assert write_plain(Transcript("no words", 1.0, [])) == "no words"
    one = Transcript("hello", 1.0, [Word("hello", 0.0, 0.4, 1.0, "Xia")])
    assert write_plain(one) == "Xia: hello"
    assert write_plain(Transcript("Hello!", 1.0, [Word("hello", 0, 1, 1)])) == "Hello!"


def test_turns_are_words_of_one_speaker_in_a_row() -> None:
    assert [[word.text for word in turn] for turn in cut_turns(TALK.words)] == [
        ["hello", "you"],
        ["hi"],
        ["what", "-->", "now"],
    ]
    assert list(cut_turns(HELLO.words)) == [list(HELLO.words)]


def test_subtitles_say_who_speaks() -> None:
    """In WebVTT as a voice span, which nothing in a name or a text ends; SubRip has no escapes."""
    assert write_vtt(TALK) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.800\n<v Xia>hello you\n"
        "\n00:00:00.900 --> 00:00:01.000\n<v  Bob    co>hi\n"
        "\n00:00:01.100 --> 00:00:01.700\n<v Xia>what --&gt; now\n"
    )
    assert write_srt(TALK) == (
        "1\n00:00:00,000 --> 00:00:00,800\nXia: hello you\n"
        "\n2\n00:00:00,900 --> 00:00:01,000\n<Bob> & co: hi\n"
        "\n3\n00:00:01,100 --> 00:00:01,700\nXia: what -> now\n"
    )


MARKUP = ["say", "a<b", "AT&T", "<unk>", "&amp;", "1<2>0", "<b>bold</b>", "-->", "a&lt"]


def test_text_of_webvtt_is_what_ffmpeg_reads() -> None:
    """Words that look like tags and entities; lines are as long as they are read."""
    words = [Word(text, place / 4, place / 4 + 0.2, 1.0) for place, text in enumerate(MARKUP)]
    written = write_vtt(Transcript(" ".join(MARKUP), 3.0, words))
    with av.open(io.BytesIO(written.encode()), "r", format="webvtt") as container:
        packets = container.demux(container.streams.subtitles[0])
        events: list[Any] = [event for packet in packets for event in packet.decode()]
        # Nine fields, the last of which is the text; FFmpeg writes `\N` between lines.
        texts = [event.ass.decode().split(",", 8)[8] for event in events]
        lines = [line for text in texts for line in text.split(r"\N")]
    assert " ".join(lines).split() == MARKUP
    assert [len(line) for line in lines] == [42, 8]
    assert "<unk> &amp;" in write_srt(Transcript("", 3.0, words)).replace("\n", " ")


@pytest.mark.parametrize(
    ("letters", "words", "sizes"),
    [(42, 3, [2, 1]), (43, 2, [1, 1]), (20, 9, [4, 4, 1]), (21, 3, [2, 1]), (10, 8, [6, 2])],
)
def test_cue_has_two_lines_of_42_letters(letters: int, words: int, sizes: list[int]) -> None:
    spoken = [Word("a" * letters, place / 9, place / 9 + 0.1, 1.0) for place in range(words)]
    assert [len(cue) for cue in cut_cues(spoken)] == sizes


@pytest.mark.parametrize(
    ("times_s", "sizes"),
    [
        # As long as a cue may be, and longer.
        ([(1.0, 4.5), (4.5, 8.0)], [2]),
        ([(1.0, 4.5), (4.5, 8.001)], [1, 1]),
        ([(9.0, 9.5), (9.5, 16.0), (16.0, 16.5)], [2, 1]),
        ([(1.0, 9.0), (9.0, 9.5)], [1, 1]),
        # As long as a pause may be, and longer.
        ([(0.5, 1.0), (1.8, 2.0)], [2]),
        ([(0.5, 1.0), (1.801, 2.0)], [1, 1]),
    ],
)
def test_cue_ends_after_seven_seconds_and_at_pauses(
    times_s: list[tuple[float, float]], sizes: list[int]
) -> None:
    spoken = [Word("a", *times, 1.0) for times in times_s]
    assert [len(cue) for cue in cut_cues(spoken)] == sizes


@pytest.mark.parametrize(
    ("end_s", "written"),
    [
        (59.9994, "00:00:59.999"),
        (59.9996, "00:01:00.000"),
        (3_599.9996, "01:00:00.000"),
        (360_000.0, "100:00:00.000"),
    ],
)
def test_times_of_subtitles_are_rounded_to_milliseconds(end_s: float, written: str) -> None:
    said = write_vtt(Transcript("a", end_s, [Word("a", 0.0, end_s, 1.0)]))
    assert said == f"WEBVTT\n\n00:00:00.000 --> {written}\na\n"


def test_word_has_the_times_and_the_mean_confidence_of_its_tokens() -> None:
    long = [Token(1, 3, 4, 0.5), Token(2, 6, 8, 1.0), Token(3, 9, 12, 0.75)]
    short = [Token(1, 20, 22, 0.25)]
    assert time_words([long, short], ["hello", "a"], 0.02) == [
        Word("hello", pytest.approx(0.06), pytest.approx(0.24), 0.75),  # type: ignore[arg-type]
        Word("a", 0.4, 0.44, 0.25),
    ]
    with pytest.raises(ValueError, match="argument"):
        time_words([long, short], ["hello"], 0.02)


def test_speaker_is_told_of_words_that_have_one() -> None:
    words = write_json(TALK)["words"]
    assert words[2] == {
        "word": "hi",
        "start": 0.9,
        "end": 1.0,
        "confidence": 1.0,
        "speaker": "<Bob> & co",
    }
    assert all("speaker" not in word for word in write_json(HELLO)["words"])


def test_numbers_of_words_are_rounded() -> None:
    transcript = Transcript("a", 1.23456, [Word("a", 0.12345, 0.98765, 0.123456)])
    word = {"word": "a", "start": 0.123, "end": 0.988, "confidence": 0.1235}
    assert write_json(transcript) == {"text": "a", "duration": 1.235, "words": [word]}


def test_segment_is_told_with_its_times() -> None:
    words = [
        Word("hello", 0.12345, 0.5, 0.25),
        Word("to", 0.5, 0.75, 1.0),
        Word("you", 0.75, 1.98765, 0.5, "Xia"),
    ]
    assert write_segment(Segment("Hello to you", words)) == {
        "text": "Hello to you",
        "start": 0.123,
        "end": 1.988,
        "words": [
            {"word": "hello", "start": 0.123, "end": 0.5, "confidence": 0.25},
            {"word": "to", "start": 0.5, "end": 0.75, "confidence": 1.0},
            {"word": "you", "start": 0.75, "end": 1.988, "confidence": 0.5, "speaker": "Xia"},
        ],
    }
    nothing: dict[str, Any] = {"text": "", "start": None, "end": None, "words": []}
    assert write_segment(Segment("", [])) == nothing


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
