"""Subtitles that people can follow: the words of a transcript as WebVTT or SubRip."""

import html
import textwrap
from collections.abc import Callable, Iterator, Sequence

from speechtext.speech.transcripts import Transcript, Word

# Two lines of 42 letters, at most 7 s, cut where speech pauses.
LINE_LETTERS = 42
CUE_LETTERS = 2 * LINE_LETTERS
CUE_S = 7.0
PAUSE_S = 0.8


def write_vtt(transcript: Transcript) -> str:
    """Return subtitles as WebVTT: W3C, "WebVTT: The Web Video Text Tracks Format"."""
    return "\n".join(["WEBVTT\n", *_write_cues(transcript.words, ".", _voice_span, _escape)])


def write_srt(transcript: Transcript) -> str:
    """Return subtitles as SubRip: numbered cues, a comma before the milliseconds."""
    cues = _write_cues(transcript.words, ",", "{}: ".format, _drop_arrows)
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))


def _voice_span(speaker: str) -> str:
    """Return what says whose words follow, in characters that do not end it."""
    return f"<v {''.join(' ' if each in '<>&' else each for each in speaker)}>"


def _escape(lines: str) -> str:
    """Return lines as the text of a WebVTT cue: nothing in them is a tag, an entity or an arrow."""
    return html.escape(lines, quote=False)


def _drop_arrows(lines: str) -> str:
    """Return lines as the text of a SubRip cue, which has no escapes."""
    return lines.replace("-->", "->")


def _write_cues(
    words: Sequence[Word],
    decimal_mark: str,
    introduce: Callable[[str], str],
    escape: Callable[[str], str],
) -> Iterator[str]:
    for cue in cut_cues(words):
        start, end = (_clock(time_s, decimal_mark) for time_s in (cue[0].start_s, cue[-1].end_s))
        lines = textwrap.fill(" ".join(word.text for word in cue), LINE_LETTERS)
        who = introduce(cue[0].speaker) if cue[0].speaker else ""
        yield f"{start} --> {end}\n{who}{escape(lines)}\n"


def cut_cues(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield the words of each subtitle, of one speaker, cut at pauses and where it is too long."""
    cue: list[Word] = []
    for word in words:
        if cue and not _fits(cue, word):
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue


def _fits(cue: Sequence[Word], word: Word) -> bool:
    texts = [*(each.text for each in cue), word.text]
    return (
        len(textwrap.wrap(" ".join(texts), LINE_LETTERS)) <= CUE_LETTERS // LINE_LETTERS
        and word.end_s - cue[0].start_s <= CUE_S
        and word.start_s - cue[-1].end_s <= PAUSE_S
        and word.speaker == cue[-1].speaker
    )


def _clock(time_s: float, decimal_mark: str) -> str:
    milliseconds = round(time_s * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{seconds:02}{decimal_mark}{milliseconds:03}"
